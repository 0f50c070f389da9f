//! Mending: what a crash left half done is finished or undone by the next command.
//!
//! Promises (I5, I6) that only what a durable intent names and its content explains is touched;
//! anything else is the user's and is reported. A file that cannot be judged yet, because no store
//! is reachable, stays as it is and is kept out of every commit until it can.

use std::collections::HashSet;

use super::content::Content;
use super::folder::Folder;
use super::rebuild;
use super::remotes::Remotes;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::progress::report;
use crate::base::units::count;
use crate::local::inode::Target;
use crate::local::intent::{self, Intent, Item, Task};
use crate::local::mend::{Verdict, judge, restore_mode, restub};

/// What mending did.
#[derive(Debug, Default)]
pub struct MendStats {
    /// Files that are whole.
    pub whole: u64,
    /// Files that are (again) proper stubs.
    pub stubs: u64,
    /// Files that the user changed meanwhile.
    pub theirs: u64,
    /// Files that must wait for a store.
    pub waiting: HashSet<RelPath>,
}

/// Whether anything waits to be mended.
pub fn is_needed(folder: &Folder) -> Result<bool> {
    Ok(rebuild::is_unfinished(folder) || !intent::pending(&folder.intents())?.is_empty())
}

/// Finishes an interrupted rebuild, then judges every file that a pending intent names.
pub fn mend(folder: &mut Folder) -> Result<MendStats> {
    let mut stats = MendStats::default();
    if rebuild::is_unfinished(folder) {
        rebuild::resume(folder)?;
        folder.context.progress.note("mended: took over what an interrupted rebuild had set aside");
    }
    let pending = intent::pending(&folder.intents())?;
    if pending.is_empty() {
        return Ok(stats);
    }
    let remotes = Remotes::open_all(folder)?;
    for (file, task, items) in pending {
        let mut waiting = false;
        for item in &items {
            match one(folder, &remotes, task, item, &mut stats) {
                Ok(()) => {}
                Err(e) => {
                    waiting = true;
                    stats.waiting.insert(item.path.clone());
                    report(folder.context.progress.as_ref(), &item.path, e);
                }
            }
        }
        if !waiting {
            crate::disk::sync_fs(folder.tree()?, folder.tree()?.path())?;
            Intent::resume(file).close()?;
        }
    }
    tell(folder, &stats);
    folder.waiting = stats.waiting.clone();
    Ok(stats)
}

fn tell(folder: &Folder, stats: &MendStats) {
    let progress = &folder.context.progress;
    progress.note(&format!(
        "mended what an interrupted run left: {} whole, {}",
        count(stats.whole, "file"),
        count(stats.stubs, "stub")
    ));
    if !stats.waiting.is_empty() {
        progress.note(&format!(
            "{} must wait until a store is reachable",
            count(stats.waiting.len() as u64, "file")
        ));
    }
}

fn one(folder: &Folder, remotes: &Remotes, task: Task, item: &Item, stats: &mut MendStats) -> Result<()> {
    let tree = folder.tree()?;
    // Opened only when bytes have to be compared: a proper stub needs no store.
    let mut content: Option<Content> = None;
    restore_mode(tree, &item.path, item.mode)?;
    let verdict = judge(tree, task, &item.path, &item.head, &folder.keys, &mut |offset, buffer| {
        if content.is_none() {
            content = Some(Content::open(remotes, &folder.keys, Some(item.head.body), item.head.size)?);
        }
        content.as_mut().map_or(Ok(()), |c| c.read(offset, buffer))
    })?;
    let target = Target { root: tree, path: &item.path, keys: &folder.keys, head: &item.head };
    match verdict {
        Verdict::Gone => {}
        Verdict::Intact => stats.whole += 1,
        Verdict::Stub => stats.stubs += 1,
        Verdict::Explained(seen) => {
            restub(&target, &seen)?;
            stats.stubs += 1;
        }
        Verdict::Theirs(why) => {
            stats.theirs += 1;
            report(folder.context.progress.as_ref(), &item.path, Error::Changed(why));
        }
    }
    Ok(())
}
