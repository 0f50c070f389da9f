//! Repairing a store from what is left of it, from the other stores, and from what history knows.
//!
//! Promises that nothing is deleted (damaged objects move to `quarantine/`), that nothing is put
//! back unverified, and that it can be interrupted at any point and run again.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::folder::Folder;
use super::hold;
use super::objects::{Lost, Small};
use super::remotes::{Remote, Remotes};
use crate::base::error::{Error, Result};
use crate::base::id::{OriginId, RecordId};
use crate::format::pack;
use crate::format::seal::{Opener, Sealed};
use crate::history::log;
use crate::model::entry::Body;
use crate::store::index::BAD;
use crate::store::packs::{PackInfo, move_away};
use crate::store::{Prune, Store, names};

/// What repair did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repaired {
    /// Records and objects that were put back.
    pub put: u64,
    /// Objects moved to quarantine.
    pub quarantined: u64,
}

/// Salvages damaged packs: good records are written anew, then the pack moves to quarantine.
pub fn packs<'a>(
    folder: &Folder,
    remote: &Remote,
    bad: impl Iterator<Item = &'a PackInfo>,
) -> Result<Repaired> {
    let mut done = Repaired::default();
    let mut opener = Opener::new(&folder.keys)?;
    for info in bad {
        let bytes = remote.packs.bucket().get(&info.object(), 0..u64::MAX)?;
        distrust(remote, info)?;
        for sealed in pack::salvage(&bytes) {
            if opener.verify(&sealed).is_ok() && !remote.packs.has(&[sealed.id])?[0] {
                remote.packs.put(sealed.id, sealed)?;
                done.put += 1;
            }
        }
        remote.packs.flush()?;
        remote.packs.quarantine(info.name)?;
        done.quarantined += 1;
        folder.context.cancel.check()?;
    }
    Ok(done)
}

/// The pack is about to leave: none of its records counts any more, so that the good ones are
/// written anew.
fn distrust(remote: &Remote, info: &PackInfo) -> Result<()> {
    let mut rows = Vec::new();
    let read = remote.packs.rows(info.num, &mut |row| {
        rows.push((row.id, info.num));
        Ok(())
    });
    match read {
        // Without a readable table of this folder none of them counted anyway.
        Err(e) if e.is_corruption() || matches!(e, Error::Refused(_)) => Ok(()),
        read => read.and_then(|()| remote.packs.mark_verified(&rows, BAD)),
    }
}

/// Moves damaged logs, holds and gc objects away; brings logs back from every other store; holds
/// everything that history knows in place of what a lost hold may have held.
pub fn small(folder: &Folder, remotes: &Remotes, remote: &Remote, found: &Small) -> Result<Repaired> {
    let mut done = Repaired::default();
    let bucket = remote.packs.bucket().as_ref();
    let mut holds: BTreeMap<OriginId, BTreeSet<u64>> = BTreeMap::new();
    for (name, _) in &found.damaged {
        move_away(bucket, name)?;
        done.quarantined += 1;
        if let Some((origin, number)) = names::parse_hold(name) {
            holds.entry(origin).or_default().insert(number);
        }
    }
    for lost in &found.lost {
        if let Lost::Hold(origin, number) = lost {
            holds.entry(*origin).or_default().insert(*number);
        }
    }
    // A lost mark is no more doubt: what it condemned counts again until gc says so anew.
    remote.packs.refresh()?;
    for other in others(remotes, remote) {
        done.put += log::copy_missing(other.packs.bucket().as_ref(), bucket, folder.id)?.objects;
    }
    if !holds.is_empty() {
        let bodies = known_bodies(folder)?;
        for (origin, numbers) in holds {
            done.put += hold::fill(remote, folder.id, origin, &numbers, &bodies)?;
        }
    }
    Ok(done)
}

fn others<'a>(remotes: &'a Remotes, remote: &'a Remote) -> impl Iterator<Item = &'a Remote> {
    remotes.online.iter().filter(|r| r.packs.id() != remote.packs.id())
}

fn known_bodies(folder: &Folder) -> Result<Vec<Body>> {
    let mut bodies = BTreeSet::new();
    folder.history.each_body(&mut |body, _| {
        bodies.insert(body);
        Ok(())
    })?;
    Ok(bodies.into_iter().collect())
}

/// Puts records back that other stores have; returns how many.
pub fn fetch(remotes: &Remotes, remote: &Remote, ids: &[RecordId], opener: &mut Opener) -> Result<u64> {
    let mut done = HashSet::new();
    for other in others(remotes, remote) {
        let wanted: Vec<RecordId> = ids.iter().copied().filter(|id| !done.contains(id)).collect();
        let mut found: Vec<Sealed> = Vec::new();
        other.packs.get(&wanted, &mut |_, got| {
            found.extend(got.ok().filter(|sealed| opener.verify(sealed).is_ok()));
            Ok(())
        })?;
        for sealed in found {
            done.insert(sealed.id);
            remote.packs.put(sealed.id, sealed)?;
        }
    }
    Ok(done.len() as u64)
}
