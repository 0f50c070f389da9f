//! Mending: what a crash left half done is finished or undone by the next command.
//!
//! Promises (I5, I6) that only what a durable intent, or its mark, names and its content explains is touched;
//! anything else is the user's and is reported. A file renamed meanwhile is found by its inode. A file
//! that cannot be judged yet, because no store is reachable, stays as it is and is kept out of every
//! commit until it can.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::content::Content;
use super::folder::Folder;
use super::held::{Held, PATIENCE, guard_now};
use super::materialise::began_in_this_mount;
use super::rebuild;
use super::remotes::Remotes;
use super::stash::head_of;
use super::survey::{Change, survey};
use super::trace;
use crate::base::error::{Error, Result};
use crate::base::id::{ContentId, FolderId};
use crate::base::path::RelPath;
use crate::base::progress::report;
use crate::base::units::count;
use crate::format::key::Keys;
use crate::format::stub::StubHead;
use crate::history::LocalRow;
use crate::local::guard::{Guard, Hold};
use crate::local::inode::{Target, clear_mark, doubt_mark};
use crate::local::inspect::{State, first_block, inspect, marked};
use crate::local::intent::{self, Intent, Item, Task};
use crate::local::mend::{Verdict, is_finished, judge, judge_open, refill, remove, restore_mode, restub};
use crate::local::root::{Access, Root};
use crate::local::scan::{Scan, ScanOptions, Seen};
use crate::local::stat::{FileType, Stat};
use crate::model::entry::Body;

/// What mending did.
#[derive(Debug, Default)]
pub struct MendStats {
    /// Files that are whole.
    pub whole: u64,
    /// Files that are (again) proper stubs.
    pub stubs: u64,
    /// Files that had not wholly appeared, and are to be made again.
    pub unmade: u64,
    /// Files that the user changed meanwhile.
    pub theirs: u64,
    /// Files that must wait for a store.
    pub waiting: HashSet<RelPath>,
}

impl MendStats {
    fn is_some(&self) -> bool {
        self.whole + self.stubs + self.unmade + self.theirs > 0 || !self.waiting.is_empty()
    }
}

/// Whether anything waits to be mended.
pub fn is_needed(folder: &Folder) -> Result<bool> {
    let pending = || Ok(!intent::pending(&folder.intents())?.is_empty());
    Ok(rebuild::is_unfinished(folder) || trace::is_left(&folder.dir)? || pending()?)
}

/// Finishes an interrupted rebuild, then judges every file that a pending intent names.
pub fn mend(folder: &mut Folder) -> Result<MendStats> {
    let mut stats = MendStats::default();
    if rebuild::is_unfinished(folder) {
        rebuild::resume(folder)?;
        folder.context.progress.note("mended: took over what an interrupted rebuild had set aside");
    }
    let pending = intent::pending(&folder.intents())?;
    if pending.is_empty() && !trace::is_left(&folder.dir)? {
        return Ok(stats);
    }
    let remotes = Remotes::open_all(folder)?;
    // To a guard that is just coming we must be known: else it would have us wait for the worker that waits for us.
    // One that refuses us, or does not answer, is not asked again: leases keep others out, too.
    let mut patience = PATIENCE;
    let known = guard_now(folder.guard.as_ref(), folder.id, &mut patience);
    let _known = if matches!(known, Ok(None)) { Guard::connect(folder.id) } else { None };
    // A worker that begins waits for this: stores that do not answer were waited for before.
    if let Some(trace) = trace::claim(&folder.dir)? {
        // To whom a guard serves, files that a worker left look as if it still looked after them.
        let guard = folder.guard.take();
        let swept = sweep(folder, &remotes, None, &mut stats);
        folder.guard = guard;
        if swept? {
            trace.end();
        }
    }
    let (mut open, mut stubs): (Vec<PathBuf>, Vec<RelPath>) = Default::default();
    let mut elsewhere: HashMap<u64, (Task, &Item, &Path)> = HashMap::new();
    let is_made = began_in_this_mount(folder)?;
    for (file, task, items) in &pending {
        if *task == Task::Create && is_made {
            continue;
        }
        let mut settled = true;
        for item in items {
            let at = item.path.clone();
            settled &= mend_named(folder, &remotes, (*task, item), &at, (&mut stats, &mut stubs));
            if let Some(ino) = item.ino.filter(|ino| !lies_at(folder, &at, *ino)) {
                elsewhere.insert(ino, (*task, item, file));
            }
        }
        if !settled {
            open.push(file.clone());
        }
    }
    for (ino, at) in find(folder, &elsewhere)? {
        let (task, item, file) = elsewhere[&ino];
        if !mend_named(folder, &remotes, (task, item), &at, (&mut stats, &mut stubs)) {
            open.push(file.to_path_buf());
        }
    }
    if let Err(e) = guard_all(folder, known, &stubs) {
        folder.context.progress.note(&format!("{} not guarded: {e}", count(stubs.len() as u64, "stub")));
    }
    crate::disk::sync_fs(folder.tree()?, folder.tree()?.path())?;
    for (file, ..) in pending.iter().filter(|(file, ..)| !open.contains(file)) {
        Intent::resume(file.clone()).close()?;
    }
    if !pending.is_empty() || stats.is_some() {
        tell(folder, &stats);
    }
    folder.waiting = stats.waiting.clone();
    Ok(stats)
}

/// Mends a file that an intent names; `stubs` hears if it ends as one.
fn mend_named(
    folder: &Folder,
    remotes: &Remotes,
    (task, item): (Task, &Item),
    at: &RelPath,
    (stats, stubs): (&mut MendStats, &mut Vec<RelPath>),
) -> bool {
    let before = stats.stubs;
    let settled = try_one(folder, remotes, Known { task, item, held: None }, at, stats);
    stubs.extend((stats.stubs > before).then(|| at.clone()));
    settled
}

/// Has files guarded that mending left as stubs: a guard that came meanwhile may never have heard of them.
fn guard_all(folder: &Folder, known: Result<Option<Arc<Guard>>>, stubs: &[RelPath]) -> Result<()> {
    if stubs.is_empty() {
        return Ok(());
    }
    let guard = guard_now(known?.as_ref(), folder.id, &mut Duration::default())?;
    Held::take(guard.as_ref(), folder.tree()?, stubs.iter())?.release(|_| true)
}

/// Mends the files that a worker was filling when it died; their marks tell. Those who wait for one of them are kept
/// waiting at `guard`. Whether that took care of all that was left: some may have to wait.
pub fn sweep(
    folder: &Folder,
    remotes: &Remotes,
    guard: Option<&Arc<Guard>>,
    stats: &mut MendStats,
) -> Result<bool> {
    let mut found = Vec::new();
    survey(folder, &[RelPath::root()], &mut |item| {
        let stat = item.stat.filter(|stat| stat.kind == FileType::File && item.change != Change::Same);
        // Whatever its row says: it may have been stashed by a command that died before it could note that,
        // renamed since, or be a copy that was never recorded.
        found.extend(stat.map(|stat| (item.path, stat, item.row)));
        Ok(())
    })?;
    let tree = folder.tree()?;
    // What is whole in memory becomes so on the disk before a mark goes. The next sync would not fail for the same
    // loss: then all of it is compared.
    if let Err(e) = crate::disk::sync_fs(tree, tree.path()) {
        let files = found.iter().filter_map(|(path, ..)| tree.open_file(path, Access::Read).ok());
        files.for_each(|file| drop(doubt_mark(&file)));
        return Err(e);
    }
    let mut settled = true;
    for (path, stat, row) in found {
        folder.context.cancel.check()?;
        let mended = sweep_one(folder, remotes, (&path, &stat, row.as_ref()), guard, stats);
        settled &= mended.unwrap_or_else(|e| {
            stats.waiting.insert(path.clone());
            report(folder.context.progress.as_ref(), &path, e);
            false
        });
    }
    crate::disk::sync_fs(tree, tree.path())?;
    Ok(settled)
}

fn sweep_one(
    folder: &Folder,
    remotes: &Remotes,
    (path, stat, row): (&RelPath, &Stat, Option<&LocalRow>),
    guard: Option<&Arc<Guard>>,
    stats: &mut MendStats,
) -> Result<bool> {
    let tree = folder.tree()?;
    let file = match tree.open_file(path, Access::Read) {
        // That it is leased, or that there is no descriptor left, says nothing of it.
        Err(e) if !e.is_missing() && e.errno() != Some(libc::EACCES) => return Err(e),
        Err(_) => return Ok(true),
        Ok(file) => file,
    };
    let State::Filling(mark) = inspect(&file, stat, &folder.keys, folder.id)? else { return Ok(true) };
    let block = first_block(&file)?;
    if is_finished(tree, &file, &mark) {
        clear_mark(&file)?;
        stats.whole += 1;
        return Ok(true);
    }
    let known = row.and_then(|row| head_of(folder.id, row)).filter(|head| head.body.id == mark.body);
    let Some(head) = known.or_else(|| StubHead::decode(&block, &folder.keys, folder.id).ok()) else {
        // Whoever opens it has it finished by its mark.
        stats.waiting.insert(path.clone());
        return Ok(false);
    };
    let item =
        Item { path: path.clone(), head, mode: row.map_or(stat.mode, |row| row.mode), ino: Some(stat.ino) };
    drop(file);
    let held = Held::take(guard, tree, std::iter::once(path))?;
    // Who had it open before it was guarded does not wait; only a lease tells of him.
    let is_ours = held.was_guarded(0);
    let known = Known { task: Task::Fill, item: &item, held: held.file(0)?.filter(|_| is_ours) };
    Ok(try_one(folder, remotes, known, path, stats))
}

/// Finishes an open file that a worker was filling, or a command freeing, when it died, wherever it lies by now:
/// outside of the folder, or nowhere. Its openers wait at the guard. What its bytes and its mark do not explain stays
/// as it is.
pub fn mend_open(
    (file, hold): (&File, Option<Hold>),
    (tree, keys, id): (&Root, &Keys, FolderId),
    remotes: &Remotes,
) -> Result<()> {
    let Some(mark) = marked(file)? else { return Ok(()) };
    let path = Path::new("a file");
    // A mark goes only when what it explains is durable.
    crate::disk::sync_file(file, path).or_else(|e| doubt_mark(file).and(Err(e)))?;
    let block = first_block(file)?;
    let stat = Stat::of(file).map_err(|e| Error::io("inspecting", path, e))?;
    let body = Body { kind: mark.kind, id: mark.body };
    let known =
        || StubHead { folder: id, content: ContentId([0; 32]), body, size: stat.size, mtime: mark.mtime };
    let head = StubHead::decode(&block, keys, id).unwrap_or_else(|_| known());
    let mut content = None;
    let mut original =
        |offset: u64, buffer: &mut [u8]| original(&mut content, (remotes, keys), &head, offset, buffer);
    match judge_open(file, tree, Task::Fill, &[], (&head, keys), &mut original)? {
        Verdict::Explained(seen) => refill((file, hold), &head, &seen, &mut original).map(|_| ()),
        _ => Ok(()),
    }
}

/// Reads what a file is to hold. The content is opened only when bytes have to be compared: a proper stub
/// needs no store.
fn original<'a>(
    content: &mut Option<Content<'a>>,
    (remotes, keys): (&'a Remotes, &'a Keys),
    head: &StubHead,
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    if content.is_none() {
        *content = Some(Content::open(remotes, keys, Some(head.body), head.size)?);
    }
    content.as_mut().map_or(Ok(()), |c| c.read(offset, buffer))
}

/// Whether a path still names this inode. What cannot be looked at is not looked for either.
fn lies_at(folder: &Folder, path: &RelPath, ino: u64) -> bool {
    folder.tree().and_then(|tree| tree.stat(path)).map_or(true, |stat| stat.is_some_and(|s| s.ino == ino))
}

/// Where inodes lie now that were renamed since their intent was written: one walk over the tree.
fn find(folder: &Folder, wanted: &HashMap<u64, (Task, &Item, &Path)>) -> Result<Vec<(u64, RelPath)>> {
    let mut found = Vec::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    let options = ScanOptions { cross_devices: folder.config.scan.cross_devices };
    for seen in Scan::new(folder.tree()?, &RelPath::root(), options)? {
        folder.context.cancel.check()?;
        let Seen::Entry(path, stat) = seen? else { continue };
        let fits = |item: &Item| stat.kind == FileType::File && stat.size == item.head.size;
        if wanted.get(&stat.ino).is_some_and(|(_, item, _)| fits(item) && item.path != path) {
            found.push((stat.ino, path));
        }
    }
    Ok(found)
}

/// Mends one file; `false` if it must wait.
fn try_one(folder: &Folder, remotes: &Remotes, known: Known, at: &RelPath, stats: &mut MendStats) -> bool {
    match one(folder, remotes, known, at, stats) {
        Ok(()) => true,
        Err(e) => {
            stats.waiting.insert(at.clone());
            report(folder.context.progress.as_ref(), at, e);
            false
        }
    }
}

fn tell(folder: &Folder, stats: &MendStats) {
    let progress = &folder.context.progress;
    progress.note(&format!(
        "mended what an interrupted run left: {} whole, {}",
        count(stats.whole, "file"),
        count(stats.stubs, "stub")
    ));
    if stats.unmade > 0 {
        progress.note(&format!("{} to be made again", count(stats.unmade, "file")));
    }
    if !stats.waiting.is_empty() {
        progress.note(&format!(
            "{} must wait until a store is reachable",
            count(stats.waiting.len() as u64, "file")
        ));
    }
}

/// What is known of a file that was left half done.
#[derive(Clone, Copy)]
struct Known<'a> {
    task: Task,
    item: &'a Item,
    /// The file whose openers wait at the guard, if it has them wait.
    held: Option<Hold<'a>>,
}

fn one(folder: &Folder, remotes: &Remotes, known: Known, at: &RelPath, stats: &mut MendStats) -> Result<()> {
    let Known { task, item, held } = known;
    let tree = folder.tree()?;
    let mut content = None;
    // Nothing is lent for making a file.
    if task != Task::Create && (*at == item.path || is_marked(folder, at, item)?) {
        restore_mode(tree, at, item.mode)?;
    }
    let known = (at, item.path.name());
    let verdict = judge(tree, task, known, &item.head, &folder.keys, &mut |offset, buffer| {
        original(&mut content, (remotes, &folder.keys), &item.head, offset, buffer)
    })?;
    let target = Target { root: tree, path: at, keys: &folder.keys, head: &item.head, held };
    match verdict {
        Verdict::Gone => {}
        Verdict::Explained(seen) if task == Task::Create => {
            remove(&target, &seen)?;
            stats.unmade += 1;
        }
        Verdict::Intact => stats.whole += 1,
        Verdict::Stub => stats.stubs += 1,
        Verdict::Explained(seen) => {
            restub(&target, &seen)?;
            stats.stubs += 1;
        }
        // Under another name it may be another file, to which the inode number was given anew.
        Verdict::Theirs(_) if *at != item.path && !is_marked(folder, at, item)? => {}
        Verdict::Theirs(why) => {
            stats.theirs += 1;
            report(folder.context.progress.as_ref(), at, Error::Changed(why));
        }
    }
    Ok(())
}

/// Whether the file carries the mark of this content's stub.
fn is_marked(folder: &Folder, at: &RelPath, item: &Item) -> Result<bool> {
    let file = folder.tree()?.open_file(at, Access::Read)?;
    Ok(marked(&file)?.is_some_and(|mark| mark.body == item.head.body.id))
}
