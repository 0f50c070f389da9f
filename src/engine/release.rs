//! Releasing the holds of contents that this peer no longer needs.
//!
//! Promises that only what the tree shows to be needed by no stub, and history not to have been
//! deleted lately (I11), is released, and nothing at all while any part of the tree cannot be seen
//! or an interrupted run is not mended. What is released history may still keep.

use std::sync::Arc;

use super::folder::Folder;
use super::hold;
use super::remotes::{Remote, Remotes};
use super::survey::{Change, Item, survey};
use crate::base::error::{Error, Result};
use crate::base::id::OriginId;
use crate::base::path::RelPath;
use crate::base::progress::Recorder;
use crate::base::units::Time;
use crate::format::key::origin_id;
use crate::format::stub::{MIN_STUB, StubHead};
use crate::local::inspect::{State, first_block, inspect};
use crate::local::root::Access;
use crate::local::stat::{FileType, Stat};
use crate::model::entry::Body;
use crate::model::release::{Needed, compacts, kept_since, releases};
use crate::model::residency::Residency;
use crate::store::holds;

/// Releases on every reachable store what is not needed any more; returns how many holds that were.
pub fn release(folder: &mut Folder, remotes: &Remotes) -> Result<u64> {
    let mut mine = Vec::new();
    for remote in &remotes.online {
        for origin in holds::numbers(remote.packs.bucket().as_ref())?.into_keys() {
            if is_me(folder, origin)? {
                mine.push((remote.clone(), origin));
            }
        }
    }
    if mine.is_empty() {
        return Ok(0);
    }
    let needed = match needed(folder) {
        Ok(needed) => needed,
        Err(Error::Refused(why)) => {
            folder.context.progress.note(&format!("nothing is released: {why}"));
            return Ok(0);
        }
        Err(e) => return Err(e),
    };
    let mut count = 0;
    for (remote, origin) in mine {
        match release_one(folder, &remote, origin, &needed) {
            // Nobody can write there; then nothing is freed there either.
            Err(e) if e.errno() == Some(libc::EROFS) => {}
            done => count += done?,
        }
    }
    Ok(count)
}

/// Whether an origin is this peer, now or under an epoch before.
fn is_me(folder: &Folder, origin: OriginId) -> Result<bool> {
    if origin == folder.origin() {
        return Ok(true);
    }
    let Some(instance) = &folder.instance else { return Ok(false) };
    let public = folder.identity.public();
    Ok(instance.epochs()?.into_iter().any(|epoch| origin_id(&public, epoch) == origin))
}

fn release_one(folder: &mut Folder, remote: &Remote, origin: OriginId, needed: &Needed) -> Result<u64> {
    let mut held = holds::held_by(remote.packs.bucket().as_ref(), origin)?;
    let gone = releases(&held.bodies, needed);
    held.bodies.retain(|body| needed.has(body));
    let count = gone.len() as u64;
    let changes = held.changes + count;
    let compact = compacts(held.batches + 1, changes, held.bodies.len() as u64)
        .then(|| held.bodies.into_iter().collect::<Vec<_>>());
    if count > 0 || compact.is_some() {
        hold::release(&mut folder.history, remote, folder.id, origin, gone, compact)?;
    }
    Ok(count)
}

/// What stubs here need, and what was deleted lately; `Refused` if that cannot be known.
pub fn needed(folder: &mut Folder) -> Result<Needed> {
    let mut needed = Needed::default();
    let since = kept_since(Time::now(), folder.config.keep_deleted()?);
    folder.history.deleted_since(since, &mut |_, _, version| {
        version.body.iter().for_each(|body| needed.add(body));
        Ok(())
    })?;
    if folder.tree.is_none() {
        return Ok(needed);
    }
    let pending = crate::local::intent::pending(&folder.intents())?;
    if !pending.is_empty() || !folder.waiting.is_empty() {
        return Err(Error::Refused("an interrupted run waits for its store".into()));
    }
    folder.history.each_local(&RelPath::root(), &mut |row| {
        if row.residency == Residency::Stub {
            row.body.iter().for_each(|body| needed.add(body));
        }
        Ok(())
    })?;
    add_unrecorded(folder, &mut needed)?;
    Ok(needed)
}

/// Adds stubs that the local table does not know: copied, moved, or made just before a crash.
fn add_unrecorded(folder: &mut Folder, needed: &mut Needed) -> Result<()> {
    // What `status` and `commit` report need not be said here again; what could not be seen matters.
    let quiet = Arc::new(Recorder::default());
    let loud = std::mem::replace(&mut folder.context.progress, quiet.clone());
    let seen = survey(folder, &[RelPath::root()], &mut |item| {
        if item.change != Change::Same
            && let Some(stat) = &item.stat
        {
            look(folder, &item, stat, needed)?;
        }
        Ok(())
    });
    folder.context.progress = loud;
    seen?;
    let problems = quiet.problems.lock().unwrap_or_else(|e| e.into_inner());
    match problems.iter().find(|p| matches!(p.error, Error::Io { .. })) {
        Some(p) => Err(Error::Refused(format!("{}: {}", p.path, p.error))),
        None => Ok(()),
    }
}

fn look(folder: &Folder, item: &Item, stat: &Stat, needed: &mut Needed) -> Result<()> {
    if stat.kind != FileType::File || stat.size < MIN_STUB {
        return Ok(());
    }
    let file = match folder.tree()?.open_file(&item.path, Access::Read) {
        Ok(file) => file,
        // Gone, or something else by now: whoever did that is not done yet.
        Err(e) => return Err(Error::Refused(format!("{}: {e}", item.path))),
    };
    match inspect(&file, stat, &folder.keys, folder.id)? {
        State::Full => {}
        State::Stub(head) => needed.add(&head.body),
        State::Filling(mark) => needed.add(&Body { kind: mark.kind, id: mark.body }),
        // Somebody wrote into it; until that is settled its content is needed.
        State::Odd(_) => {
            let head = StubHead::decode(&first_block(&file)?, &folder.keys, folder.id);
            head.iter().for_each(|head| needed.add(&head.body));
        }
    }
    Ok(())
}
