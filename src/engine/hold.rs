//! Holds on stores for contents that stubs depend on.
//!
//! Promises that a hold is durable on return, and that batches which this peer has seen on a store
//! are missed when they are gone. Which stores must have one before bytes are freed, and what may be
//! released, are the callers' decisions.

use std::collections::{BTreeMap, BTreeSet};

use super::folder::Folder;
use super::remotes::{Remote, Remotes};
use crate::base::error::Result;
use crate::base::id::{FolderId, OriginId};
use crate::format::hold::Hold;
use crate::history::History;
use crate::model::entry::Body;
use crate::store::{holds, names};

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
    note(history, remote, origin, number)
}

/// Holds these contents on every reachable store, for stubs of what history knows. A store that
/// nobody can write to does not lose anything either.
pub fn add(folder: &mut Folder, remotes: &Remotes, bodies: &[Body]) -> Result<()> {
    let (id, origin) = (folder.id, folder.origin());
    for remote in remotes.online.iter().filter(|r| r.member.is_at_work()) {
        // One that cannot be written to is left out: its copies do not count.
        if !remote.member.write(|_| put(&mut folder.history, remote, id, origin, bodies))? {
            let why = remote.member.why_out().map_or_else(String::new, |e| e.to_string());
            folder.context.progress.note(&format!("{}: nothing is held there: {why}", remote.name));
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
    let hold = Hold { requires: vec![], folder, origin, number, adds, releases: vec![], since: None };
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

/// No longer holds these contents on one store, and writes everything that is still held anew where
/// `compact` says so. A crash leaves batches that say the same as before, or as after.
pub fn release(
    history: &mut History,
    remote: &Remote,
    folder: FolderId,
    origin: OriginId,
    releases: Vec<Body>,
    compact: Option<Vec<Body>>,
) -> Result<()> {
    let bucket = remote.packs.bucket().as_ref();
    let mut number = holds::next_number(bucket, origin)?;
    let hold = Hold { requires: vec![], folder, origin, number, adds: vec![], releases: vec![], since: None };
    let Some(held) = compact else {
        for part in releases.chunks(BATCH) {
            holds::put_hold(bucket, &Hold { number, releases: part.to_vec(), ..hold.clone() })?;
            number += 1;
        }
        return note(history, remote, origin, number - 1);
    };
    let since = number;
    let parts: Vec<&[Body]> = if held.is_empty() { vec![&[]] } else { held.chunks(BATCH).collect() };
    for (i, part) in parts.iter().enumerate() {
        // Only the last part voids what was before: until it is durable all of that counts.
        let since = (i + 1 == parts.len()).then_some(since);
        holds::put_hold(bucket, &Hold { number, adds: part.to_vec(), since, ..hold.clone() })?;
        number += 1;
    }
    note(history, remote, origin, number - 1)?;
    // In order, so that what is left is always without a gap.
    let void = holds::of_origin(bucket, origin)?;
    void.iter().filter(|n| **n < since).try_for_each(|n| bucket.delete(&names::hold(origin, *n)))
}

/// Batches that lie between others or were seen before, and are not there.
pub fn lost(folder: &Folder, remote: &Remote) -> Result<Vec<(OriginId, u64)>> {
    let bucket = remote.packs.bucket().as_ref();
    let mut there: BTreeMap<OriginId, Vec<u64>> = holds::numbers(bucket)?;
    for dot in folder.history.knowledge()? {
        there.entry(dot.origin).or_default();
    }
    there.entry(folder.origin()).or_default();
    for origin in noted_origins(&folder.history, remote)? {
        there.entry(origin).or_default();
    }
    let mut out = Vec::new();
    for (origin, numbers) in there {
        let low = holds::first_valid(bucket, origin, &numbers)?;
        let high = numbers.last().copied().unwrap_or(0).max(noted(&folder.history, remote, origin)?);
        let numbers: BTreeSet<u64> = numbers.into_iter().collect();
        out.extend((low..=high).filter(|n| !numbers.contains(n)).map(|n| (origin, n)));
    }
    Ok(out)
}

/// Remembers which batches a store has, so that [`lost`] can tell.
pub fn note_all(history: &mut History, remote: &Remote) -> Result<()> {
    for (origin, numbers) in holds::numbers(remote.packs.bucket().as_ref())? {
        note(history, remote, origin, numbers.last().copied().unwrap_or(0))?;
    }
    Ok(())
}

/// Where it is remembered which batches of a store were seen; an origin follows.
fn prefix(remote: &Remote) -> String {
    format!("holds {} ", remote.packs.id())
}

fn key(remote: &Remote, origin: OriginId) -> String {
    format!("{}{origin}", prefix(remote))
}

/// Origins that held something there once: one that only cloned has no entry in any log.
fn noted_origins(history: &History, remote: &Remote) -> Result<Vec<OriginId>> {
    let prefix = prefix(remote);
    let keys = history.meta_keys(&prefix)?;
    Ok(keys.iter().filter_map(|key| OriginId::from_hex(key.strip_prefix(&prefix)?).ok()).collect())
}

/// The highest number that was seen there.
fn noted(history: &History, remote: &Remote, origin: OriginId) -> Result<u64> {
    let text = history.meta(&key(remote, origin))?.unwrap_or_default();
    Ok(text.rsplit(' ').next().and_then(|high| high.parse().ok()).unwrap_or(0))
}

fn note(history: &mut History, remote: &Remote, origin: OriginId, high: u64) -> Result<()> {
    let known = noted(history, remote, origin)?;
    if known >= high { Ok(()) } else { history.set_meta(&key(remote, origin), &high.to_string()) }
}
