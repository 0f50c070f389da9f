//! Holds on stores for contents that stubs depend on.
//!
//! Promises that a hold is durable on return, and that batches which this peer has seen on a store
//! are missed when they are gone. Which stores must have one before bytes are freed is the caller's
//! decision.

use std::collections::{BTreeMap, BTreeSet};

use super::folder::Folder;
use super::remotes::{Remote, Remotes};
use crate::base::error::Result;
use crate::base::id::{FolderId, OriginId};
use crate::format::hold::Hold;
use crate::history::History;
use crate::model::entry::Body;
use crate::store::holds;

/// Contents in one batch that stands in for lost ones.
const BATCH: usize = 500_000;

/// Holds these contents on one store.
pub fn put(
    history: &mut History,
    remote: &Remote,
    folder: FolderId,
    origin: OriginId,
    bodies: &[Body],
) -> Result<()> {
    let adds: Vec<Body> = bodies.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    if adds.is_empty() {
        return Ok(());
    }
    let number = holds::next_number(remote.packs.bucket().as_ref(), origin)?;
    put_batch(remote, folder, origin, number, adds)?;
    let (low, high) = noted(history, remote, origin)?.unwrap_or((number, number));
    note(history, remote, origin, (low.min(number), high.max(number)))
}

/// Holds these contents on every reachable store, for stubs of what history knows. A store that
/// nobody can write to does not lose anything either.
pub fn add(folder: &mut Folder, remotes: &Remotes, bodies: &[Body]) -> Result<()> {
    let (id, origin) = (folder.id, folder.origin());
    for remote in &remotes.online {
        match put(&mut folder.history, remote, id, origin, bodies) {
            Err(e) if e.errno() == Some(libc::EROFS) => {
                folder.context.progress.note(&format!("{} is read-only: nothing is held there", remote.name));
            }
            done => done?,
        }
    }
    Ok(())
}

fn put_batch(
    remote: &Remote,
    folder: FolderId,
    origin: OriginId,
    number: u64,
    adds: Vec<Body>,
) -> Result<()> {
    let hold = Hold { requires: vec![], folder, origin, number, adds, releases: vec![] };
    holds::put_hold(remote.packs.bucket().as_ref(), &hold)
}

/// Puts batches in place of lost ones; returns how many. All numbers are filled, for a gap would keep
/// gc from ever running again; what does not fit into them follows behind.
pub fn fill(
    remote: &Remote,
    folder: FolderId,
    origin: OriginId,
    numbers: &BTreeSet<u64>,
    bodies: &[Body],
) -> Result<u64> {
    let mut parts = bodies.chunks(BATCH);
    for number in numbers {
        let adds = parts.next().unwrap_or_default().to_vec();
        put_batch(remote, folder, origin, *number, adds)?;
    }
    let mut done = numbers.len() as u64;
    for rest in parts {
        let number = holds::next_number(remote.packs.bucket().as_ref(), origin)?;
        put_batch(remote, folder, origin, number, rest.to_vec())?;
        done += 1;
    }
    Ok(done)
}

/// Batches that lie between others or were seen before, and are not there.
pub fn lost(folder: &Folder, remote: &Remote) -> Result<Vec<(OriginId, u64)>> {
    let mut there: BTreeMap<OriginId, Vec<u64>> = holds::numbers(remote.packs.bucket().as_ref())?;
    for dot in folder.history.knowledge()? {
        there.entry(dot.origin).or_default();
    }
    there.entry(folder.origin()).or_default();
    let mut out = Vec::new();
    for (origin, numbers) in there {
        let noted = noted(&folder.history, remote, origin)?;
        let ends = [numbers.first().copied().zip(numbers.last().copied()), noted];
        let Some(low) = ends.iter().flatten().map(|(low, _)| *low).min() else { continue };
        let high = ends.iter().flatten().map(|(_, high)| *high).max().unwrap_or(low);
        let numbers: BTreeSet<u64> = numbers.into_iter().collect();
        out.extend((low..=high).filter(|n| !numbers.contains(n)).map(|n| (origin, n)));
    }
    Ok(out)
}

/// Remembers which batches a store has, so that [`lost`] can tell.
pub fn note_all(history: &mut History, remote: &Remote) -> Result<()> {
    for (origin, numbers) in holds::numbers(remote.packs.bucket().as_ref())? {
        if let (Some(low), Some(high)) = (numbers.first(), numbers.last()) {
            note(history, remote, origin, (*low, *high))?;
        }
    }
    Ok(())
}

fn key(remote: &Remote, origin: OriginId) -> String {
    format!("holds {} {origin}", remote.packs.id())
}

fn noted(history: &History, remote: &Remote, origin: OriginId) -> Result<Option<(u64, u64)>> {
    let text = history.meta(&key(remote, origin))?.unwrap_or_default();
    Ok(text.split_once(' ').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?))))
}

fn note(history: &mut History, remote: &Remote, origin: OriginId, range: (u64, u64)) -> Result<()> {
    if noted(history, remote, origin)? == Some(range) {
        return Ok(());
    }
    history.set_meta(&key(remote, origin), &format!("{} {}", range.0, range.1))
}
