//! Making the tree of a clone: everything that history has and the local table lacks.
//!
//! Promises names, sizes, times, modes and links as recorded, and that nothing that exists is
//! overwritten. What is not made yet has no local row, so that it can never be taken for deleted. While
//! the files of one group are made, the group before is synced and recorded and the next one prepared.

use std::sync::{Arc, Mutex};

use super::ahead::Ahead;
use super::commit;
use super::fetch::{Sink, Wanted, fetch};
use super::folder::Folder;
use super::hold;
use super::remotes::Remotes;
use super::spread::spread;
use super::survey::local_row;
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::base::path::RelPath;
use crate::base::progress::report;
use crate::format::key::Keys;
use crate::format::stub::{MIN_STUB, StubHead};
use crate::history::{Head, History, LocalRow};
use crate::local::create;
use crate::local::inode::Target;
use crate::local::intent::{Intent, Item, Task};
use crate::local::root::Root;
use crate::local::stat::{FileType, Stat};
use crate::model::entry::{Body, FileKind, Version};
use crate::model::residency::Residency;

/// Files per intent.
const BATCH: usize = 1000;
/// Paths made together: one hold, and one sync before and after.
const GROUP: usize = 8 * BATCH;

/// What cloning made.
#[derive(Clone, Debug, Default)]
pub struct CloneStats {
    /// Directories, links and files made.
    pub made: u64,
    /// Of those, stubs.
    pub stubs: u64,
    /// Logical bytes of the stubs.
    pub stub_bytes: u64,
    /// Bytes written for files too small to be stubs.
    pub written_bytes: u64,
    /// Paths that had problems.
    pub problems: u64,
}

/// Makes everything that history has and the local table lacks.
pub fn materialise(folder: &mut Folder) -> Result<CloneStats> {
    let mut stats = CloneStats::default();
    let remotes = Remotes::open_all(folder)?;
    commit::sync_logs(folder, &remotes)?;
    let counts = folder.history.counts()?;
    folder.context.progress.stage("making the tree", counts.paths, false);
    folder.history.set_meta("materialising", "1")?;
    let site = Site {
        tree: Arc::clone(folder.tree()?),
        keys: folder.keys.clone(),
        cancel: folder.context.cancel.clone(),
        remotes: &remotes,
    };
    std::thread::scope(|scope| {
        let mut ahead = Ahead::new(scope);
        let walked = each_page(folder, History::absent_after, &mut |folder, page| {
            folder.context.cancel.check()?;
            let group = prepare(folder, &remotes, page, &mut stats)?;
            let site = &site;
            let last = ahead.start(move || site.make(group))?;
            settle(folder, last, &mut stats)
        });
        let last = ahead.wait().and_then(|last| settle(folder, last, &mut stats));
        walked.and(last)
    })?;
    // A stop in the last group left some of it out.
    folder.context.cancel.check()?;
    set_dir_times(folder)?;
    set_root_times(folder)?;
    crate::disk::sync_fs(folder.tree()?, folder.tree()?.path())?;
    folder.history.clear_meta("materialising")?;
    Ok(stats)
}

/// Some heads in path order.
type Page = Vec<(RelPath, Head)>;

/// Reads the heads behind a path, that many at most.
type Cursor = fn(&History, Option<&RelPath>, usize) -> Result<Page>;

/// Heads in path order, in pages, so that memory stays flat and rows can be written between.
fn each_page(
    folder: &mut Folder,
    cursor: Cursor,
    work: &mut dyn FnMut(&mut Folder, Page) -> Result<()>,
) -> Result<()> {
    let mut after: Option<RelPath> = None;
    loop {
        let page = cursor(&folder.history, after.as_ref(), GROUP)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        work(folder, page)?;
    }
}

/// One version to be made.
struct Job {
    path: RelPath,
    head: Head,
}

/// What is ready to be made: directories and links are there, contents held, intents durable.
#[derive(Default)]
struct Group {
    /// Rows of what is there.
    rows: Vec<LocalRow>,
    small: Vec<Job>,
    stubs: Vec<Job>,
    /// In step with `stubs`: what the intents say of them.
    items: Vec<Item>,
    intents: Vec<Intent>,
}

fn prepare(folder: &mut Folder, remotes: &Remotes, page: Page, stats: &mut CloneStats) -> Result<Group> {
    let min_size = folder.config.min_size()?.max(MIN_STUB);
    let mut group = Group::default();
    for (path, head) in page {
        match head.version.kind {
            FileKind::File if head.version.size >= min_size => match item(folder.id, &path, &head.version) {
                Some(item) => {
                    group.items.push(item);
                    group.stubs.push(Job { path, head });
                }
                None => tell(folder, stats, &path, Error::corrupt("history", "a file without content")),
            },
            FileKind::File => group.small.push(Job { path, head }),
            _ => match make_plain(folder.tree()?, &path, &head.version) {
                Ok(stat) => group.rows.push(row(Job { path, head }, &stat, Residency::Full)),
                Err(e) => tell(folder, stats, &path, e),
            },
        }
    }
    stats.made += group.rows.len() as u64;
    hold::add(folder, remotes, &group.items.iter().map(|i| i.head.body).collect::<Vec<Body>>())?;
    group.intents = Intent::begin_all(&folder.intents(), Task::Create, &group.items, BATCH)?;
    Ok(group)
}

fn row(job: Job, stat: &Stat, residency: Residency) -> LocalRow {
    let proven = residency == Residency::Full;
    local_row(job.path, job.head.dot, &job.head.version, stat, residency, proven)
}

fn tell(folder: &Folder, stats: &mut CloneStats, path: &RelPath, error: Error) {
    stats.problems += 1;
    report(folder.context.progress.as_ref(), path, error);
}

fn item(folder: FolderId, path: &RelPath, v: &Version) -> Option<Item> {
    let head = StubHead { folder, content: v.content?, body: v.body?, size: v.size, mtime: v.mtime };
    Some(Item { path: path.clone(), head, mode: v.mode, ino: None })
}

fn make_plain(tree: &Root, path: &RelPath, version: &Version) -> Result<Stat> {
    match (&version.target, version.kind) {
        (Some(target), FileKind::Symlink) => {
            match create::create_symlink(tree, path, target, version.mtime) {
                Err(_) if tree.read_link(path).is_ok_and(|t| t == *target) => stat_of(tree, path),
                made => made,
            }
        }
        _ => {
            // Times and mode of directories come last: making files in them would change them.
            create::create_dir(tree, path, version.mode | 0o700)?;
            stat_of(tree, path)
        }
    }
}

fn stat_of(tree: &Root, path: &RelPath) -> Result<Stat> {
    tree.stat(path)?.ok_or_else(|| Error::Missing(path.to_string()))
}

/// A file that was made, or why not; `None` where a stop left it out.
type Outcome = Option<Result<Stat>>;

/// What became of a group: rows to be written and intents to be closed once it is durable.
struct Made {
    rows: Vec<LocalRow>,
    stubs: Vec<(Job, Outcome)>,
    small: Vec<(Job, Outcome)>,
    intents: Vec<Intent>,
    /// Whether stores could be read.
    fetched: Result<()>,
}

/// Rows only after the files are durable: a row without a file would be a deletion.
fn settle(folder: &mut Folder, made: Option<Made>, stats: &mut CloneStats) -> Result<()> {
    let Some(Made { mut rows, stubs, small, intents, fetched }) = made else { return Ok(()) };
    let advance = (rows.len() + stubs.len() + small.len()) as u64;
    crate::disk::sync_fs(folder.tree()?, folder.tree()?.path())?;
    intents.into_iter().try_for_each(Intent::close)?;
    for (job, outcome) in stubs {
        let size = job.head.version.size;
        if let Some(row) = settled(folder, stats, job, outcome, Residency::Stub) {
            stats.stubs += 1;
            stats.stub_bytes += size;
            rows.push(row);
        }
    }
    for (job, outcome) in small {
        let size = job.head.version.size;
        if let Some(row) = settled(folder, stats, job, outcome, Residency::Full) {
            stats.written_bytes += size;
            rows.push(row);
        }
    }
    folder.history.put_local(&rows)?;
    folder.context.progress.advance(advance);
    fetched
}

fn settled(
    folder: &Folder,
    stats: &mut CloneStats,
    job: Job,
    outcome: Outcome,
    residency: Residency,
) -> Option<LocalRow> {
    match outcome? {
        Ok(stat) => {
            stats.made += 1;
            Some(row(job, &stat, residency))
        }
        Err(e) => {
            tell(folder, stats, &job.path, e);
            None
        }
    }
}

/// What is needed to make files, apart from history.
struct Site<'a> {
    tree: Arc<Root>,
    keys: Keys,
    cancel: Cancel,
    remotes: &'a Remotes,
}

impl Site<'_> {
    fn make(&self, group: Group) -> Made {
        let Group { rows, small, stubs, items, intents } = group;
        let mut made: Vec<Outcome> = stubs.iter().map(|_| None).collect();
        for (i, outcome) in spread(stubs.len(), &self.cancel, |i| self.stub(&stubs[i], &items[i])) {
            made[i] = Some(outcome);
        }
        let stubs = stubs.into_iter().zip(made).collect();
        let (small, fetched) = self.small(small);
        Made { rows, stubs, small, intents, fetched }
    }

    fn stub(&self, job: &Job, item: &Item) -> Result<Stat> {
        let target =
            Target { root: &self.tree, path: &job.path, keys: &self.keys, head: &item.head, held: None };
        match create::create_stub(&target, item.mode) {
            Err(_) if same_there(&target) => stat_of(&self.tree, &job.path),
            made => made,
        }
    }

    fn small(&self, jobs: Vec<Job>) -> (Vec<(Job, Outcome)>, Result<()>) {
        let wanted = |j: &Job| Wanted { body: j.head.version.body, size: j.head.version.size };
        let list: Vec<Wanted> = jobs.iter().map(wanted).collect();
        let maker = Maker {
            tree: &self.tree,
            jobs: &jobs,
            pieces: jobs.iter().map(|_| Mutex::default()).collect(),
            made: jobs.iter().map(|_| Mutex::default()).collect(),
        };
        let fetched = fetch(self.remotes, &self.keys, &self.cancel, &list, &maker);
        let made: Vec<Outcome> =
            maker.made.into_iter().map(|m| m.into_inner().unwrap_or_else(|e| e.into_inner())).collect();
        (jobs.into_iter().zip(made).collect(), fetched)
    }
}

/// Whether an interrupted clone made this stub already.
fn same_there(target: &Target) -> bool {
    use crate::local::inspect::{State, inspect};
    let Ok(file) = target.root.open_file(target.path, crate::local::root::Access::Read) else { return false };
    let Ok(stat) = Stat::of(&file) else { return false };
    let state = inspect(&file, &stat, target.keys, target.head.folder);
    matches!(state, Ok(State::Stub(there)) if there.content == target.head.content)
}

/// Collects the pieces of small files and makes each when it is whole.
struct Maker<'a> {
    tree: &'a Root,
    jobs: &'a [Job],
    pieces: Vec<Mutex<Vec<u8>>>,
    made: Vec<Mutex<Option<Result<Stat>>>>,
}

impl Sink for Maker<'_> {
    fn piece(&self, i: usize, bytes: &[u8], offset: u64) -> Result<()> {
        let mut held = self.pieces[i].lock().unwrap_or_else(|e| e.into_inner());
        let end = offset as usize + bytes.len();
        if held.len() < end {
            held.resize(end, 0);
        }
        held[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn whole(&self, i: usize, _: &[(u64, u64)]) -> Result<()> {
        let job = &self.jobs[i];
        let bytes = std::mem::take(&mut *self.pieces[i].lock().unwrap_or_else(|e| e.into_inner()));
        let made = make_file(self.tree, &job.path, &job.head.version, &bytes);
        *self.made[i].lock().unwrap_or_else(|e| e.into_inner()) = Some(made);
        Ok(())
    }

    fn failed(&self, i: usize, error: Error) {
        *self.made[i].lock().unwrap_or_else(|e| e.into_inner()) = Some(Err(error));
    }
}

fn make_file(tree: &Root, path: &RelPath, version: &Version, bytes: &[u8]) -> Result<Stat> {
    let made = create::create_file(
        tree,
        path,
        &mut |out| if bytes.is_empty() { Ok(()) } else { out(bytes, 0) },
        version.size,
        version.mode,
        version.mtime,
    );
    match made {
        Err(e) if !is_same_file(tree, path, version, bytes) => Err(e),
        Err(_) => stat_of(tree, path),
        made => made,
    }
}

/// Whether an interrupted clone, or the user, already has exactly these bytes there.
fn is_same_file(tree: &Root, path: &RelPath, version: &Version, bytes: &[u8]) -> bool {
    use std::io::Read;
    let Ok(mut file) = tree.open_file(path, crate::local::root::Access::Read) else { return false };
    let mut there = Vec::new();
    let read = (&mut file).take(version.size + 1).read_to_end(&mut there).is_ok();
    read && there == bytes
        && Stat::of(&file).is_ok_and(|s| s.kind == FileType::File && s.mtime == version.mtime)
}

/// Directories get their recorded mode and time once nothing is made in them any more.
fn set_dir_times(folder: &mut Folder) -> Result<()> {
    each_page(folder, History::heads_after, &mut |folder, page| {
        let mut rows = Vec::new();
        for (path, head) in page {
            if head.version.kind != FileKind::Dir {
                continue;
            }
            let Some(row) = folder.history.local(&path)? else { continue };
            create::set_dir_times(folder.tree()?, &path, head.version.mode, head.version.mtime)?;
            rows.push(LocalRow { mtime: head.version.mtime, mode: head.version.mode, ..row });
        }
        folder.history.put_local(&rows)
    })
}

/// The root is there already; it gets its recorded mode and time, too.
fn set_root_times(folder: &mut Folder) -> Result<()> {
    let root = RelPath::root();
    let Some(Head { dot, version, .. }) = folder.history.heads(&root)?.into_iter().next() else {
        return Ok(());
    };
    create::set_dir_times(folder.tree()?, &root, version.mode, version.mtime)?;
    let stat = stat_of(folder.tree()?, &root)?;
    folder.history.put_local(&[local_row(root, dot, &version, &stat, Residency::Full, true)])
}
