//! The slow check: a few packs of each store are read and hashed, and the next run goes on behind them.
//!
//! Promises that every pack of every reachable store gets its turn, that a store is gone through at
//! most once a day, and that what is found damaged no longer counts as a copy and is put back where
//! another store has it whole. What `fsck` alone can do (histories, holds, lost packs) it leaves to fsck.

use super::folder::Folder;
use super::fsck::{FsckStats, read_pack};
use super::heal::heal;
use super::remotes::{Remote, Remotes};
use crate::base::error::{Error, Result};
use crate::base::units::Time;
use crate::store::Store;
use crate::store::packs::PackInfo;

/// Seconds after which a store that was gone through begins anew.
const AGAIN: i64 = 86_400;

/// What one run did.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// Packs read.
    pub packs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Damaged packs and why.
    pub damaged: Vec<(String, Error)>,
    /// Records that were put back from other stores.
    pub healed: u64,
    /// Whether packs are left that were not read in the last day.
    pub more: bool,
}

/// Reads packs until so many bytes were read, at least one if any is due.
pub fn scrub(folder: &mut Folder, remotes: &Remotes, limit: u64) -> Result<Scrubbed> {
    let mut done = Scrubbed::default();
    for remote in &remotes.online {
        if done.bytes >= limit {
            done.more |= is_due(folder, remote)?;
        } else if is_due(folder, remote)? {
            one(folder, remote, limit, &mut done)?;
        }
    }
    if !done.damaged.is_empty() {
        done.healed = heal(folder, remotes)?;
    }
    Ok(done)
}

fn one(folder: &mut Folder, remote: &Remote, limit: u64, done: &mut Scrubbed) -> Result<()> {
    let after = folder.history.meta(&at_key(remote))?.unwrap_or_default();
    let mut left: Vec<PackInfo> = Vec::new();
    remote.packs.packs(&mut |info| {
        left.extend((info.object() > after).then_some(info));
        Ok(())
    })?;
    left.sort_by_key(PackInfo::object);
    for info in left {
        if done.bytes >= limit {
            done.more = true;
            return Ok(());
        }
        folder.context.cancel.check()?;
        let mut stats = FsckStats::default();
        let found = read_pack(folder, remote, &info, &mut stats);
        done.bytes += stats.read_bytes;
        match found {
            Ok(()) => {}
            // It is the store's turn again another day.
            Err(Error::Offline { .. }) => return Ok(()),
            // gc took it away meanwhile.
            Err(e) if e.is_missing() => {}
            Err(e @ (Error::Db(_) | Error::NoSpace(_) | Error::Interrupted)) => return Err(e),
            Err(e) => {
                note_bad(remote, &info)?;
                done.damaged.push((format!("{} in {}", info.object(), remote.name), e));
            }
        }
        done.packs += 1;
        folder.history.set_meta(&at_key(remote), &info.object())?;
    }
    folder.history.set_meta(&through_key(remote), &Time::now().secs.to_string())?;
    folder.history.clear_meta(&at_key(remote))
}

/// Remembers which records of a damaged pack are to be put back: those that no longer count, or all where
/// the pack as a whole is not what it should be.
fn note_bad(remote: &Remote, info: &PackInfo) -> Result<()> {
    let mut ids = Vec::new();
    remote.packs.rows(info.num, &mut |row| {
        ids.push(row.id);
        Ok(())
    })?;
    let has = remote.packs.has(&ids)?;
    let all = has.iter().all(|has| *has);
    let bad = ids.into_iter().zip(has).filter(|(_, has)| all || !has);
    bad.for_each(|(id, _)| remote.member.note_damaged(id));
    Ok(())
}

/// Whether a store was not gone through in the last day; a clock that was turned back makes it due.
fn is_due(folder: &Folder, remote: &Remote) -> Result<bool> {
    let through = folder.history.meta(&through_key(remote))?.and_then(|t| t.parse::<i64>().ok());
    let age = through.map(|t| Time::now().secs - t);
    Ok(!age.is_some_and(|age| (0..AGAIN).contains(&age)))
}

fn at_key(remote: &Remote) -> String {
    format!("scrub at {}", remote.packs.id())
}

fn through_key(remote: &Remote) -> String {
    format!("scrub through {}", remote.packs.id())
}
