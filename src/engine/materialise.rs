//! Making the tree of a clone: everything that history has and the local table lacks.
//!
//! Promises names, sizes, times, modes and links as recorded, and that nothing that exists is
//! overwritten. What is not made yet has no local row, so that it can never be taken for deleted; what a
//! power cut tears, an intent names. While the files of one group are made, the group before is synced and
//! recorded and the next one prepared.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use super::ahead::Ahead;
use super::commit;
use super::fetch::{Wanted, fetch};
use super::folder::Folder;
use super::hold;
use super::remotes::Remotes;
use super::spread::spread;
use super::survey::local_row;
use super::writing::{Outcome, Output, Writing};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::base::path::RelPath;
use crate::base::progress::{Progress, report};
use crate::base::units::Time;
use crate::format::key::Keys;
use crate::format::stub::{MIN_STUB, StubHead};
use crate::history::{Head, History, LocalRow};
use crate::local::create::{self, NewFile};
use crate::local::inode::Target;
use crate::local::intent::{self, Intent, Item, Task};
use crate::local::mount::{MountId, mount_of};
use crate::local::root::{Access, Root};
use crate::local::stat::{FileType, Stat};
use crate::model::entry::{Body, FileKind, Version};
use crate::model::residency::Residency;

/// In history while the tree is being made: in which mount.
pub const MATERIALISING: &str = "materialising";

/// Files per intent.
const BATCH: usize = 1000;
/// Paths made together: one hold, and one sync before and after; and bytes written after which that is less.
const GROUP: usize = 8 * BATCH;
const GROUP_BYTES: u64 = 1 << 30;

/// Which files are made with their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Those too small to be stubs.
    Small,
    /// All.
    All,
}

/// What cloning made.
#[derive(Clone, Debug, Default)]
pub struct CloneStats {
    /// Directories, links and files made.
    pub made: u64,
    /// Of those, stubs.
    pub stubs: u64,
    /// Logical bytes of the stubs.
    pub stub_bytes: u64,
    /// Bytes of the files made with them.
    pub written_bytes: u64,
    /// Paths that had problems.
    pub problems: u64,
}

/// Makes everything that history has and the local table lacks.
pub fn materialise(folder: &mut Folder, contents: Contents) -> Result<CloneStats> {
    let mut stats = CloneStats::default();
    let remotes = Remotes::open_all(folder)?;
    commit::sync_logs(folder, &remotes)?;
    let counts = folder.history.counts()?;
    let progress = Arc::clone(&folder.context.progress);
    match contents {
        Contents::Small => progress.stage("making the tree", counts.paths, false),
        Contents::All => progress.stage("making the tree", counts.bytes, true),
    }
    // What an earlier run left torn, and nobody could judge yet, must not pass for whole.
    let is_left = intent::pending(&folder.intents())?.iter().any(|(_, task, _)| *task == Task::Create);
    let began = if is_left { String::new() } else { mount(folder)? };
    folder.history.set_meta(MATERIALISING, &began)?;
    let site = Site {
        tree: Arc::clone(folder.tree()?),
        keys: folder.keys.clone(),
        cancel: folder.context.cancel.clone(),
        progress,
        contents,
        remotes: &remotes,
        full: OnceLock::new(),
    };
    let made = std::thread::scope(|scope| {
        let mut ahead = Ahead::new(scope);
        let walked = each_page(folder, History::absent_after, &mut |folder, page| {
            for part in parts(page, contents) {
                folder.context.cancel.check()?;
                let group = prepare(folder, &site, part, &mut stats)?;
                let site = &site;
                let last = ahead.start(move || site.make(group))?;
                settle(folder, site, last, &mut stats)?;
            }
            Ok(())
        });
        let last = ahead.wait().and_then(|last| settle(folder, &site, last, &mut stats));
        walked.and(last)
    });
    if let Some(full) = site.full.into_inner() {
        return Err(full);
    }
    made?;
    // A stop in the last group left some of it out.
    folder.context.cancel.check()?;
    set_dir_times(folder)?;
    set_root_times(folder)?;
    crate::disk::sync_fs(folder.tree()?, folder.tree()?.path())?;
    folder.history.clear_meta(MATERIALISING)?;
    Ok(stats)
}

/// Which mount the tree lies on; empty where nobody can tell.
fn mount(folder: &Folder) -> Result<String> {
    let hex = |id: MountId| id.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(mount_of(folder.tree()?).map(hex).unwrap_or_default())
}

/// Whether the clone that was interrupted ran in the mount of now: then all that has a name is whole, since that
/// comes last.
pub fn began_in_this_mount(folder: &Folder) -> Result<bool> {
    let then = folder.history.meta(MATERIALISING)?.unwrap_or_default();
    Ok(!then.is_empty() && then == mount(folder)?)
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

/// A page in parts of which none is much to write.
fn parts(page: Page, contents: Contents) -> Vec<Page> {
    let (mut parts, mut bytes) = (vec![Page::new()], 0);
    for one in page {
        if bytes >= GROUP_BYTES && contents == Contents::All {
            parts.push(Page::new());
            bytes = 0;
        }
        bytes += one.1.version.size;
        parts.last_mut().expect("it begins with one").push(one);
    }
    parts
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
    /// Made with their bytes.
    files: Vec<Job>,
    stubs: Vec<(Job, Item)>,
    intents: Vec<Intent>,
}

fn prepare(folder: &mut Folder, site: &Site, page: Page, stats: &mut CloneStats) -> Result<Group> {
    let min_size = folder.config.min_size()?.max(MIN_STUB);
    let mut group = Group::default();
    let mut items = Vec::new();
    for (path, head) in page {
        let item = item(folder.id, &path, &head.version);
        match (head.version.kind, item) {
            (FileKind::File, None) if head.version.size > 0 => {
                tell(folder, stats, &path, Error::corrupt("history", "a file without content"));
            }
            (FileKind::File, Some(item)) if site.is_stub(&head.version, min_size) => {
                group.stubs.push((Job { path, head }, item));
            }
            (FileKind::File, item) => {
                items.extend(item);
                group.files.push(Job { path, head });
            }
            _ => match make_plain(&site.tree, &path, &head.version) {
                Ok(stat) => group.rows.push(row(Job { path, head }, &stat, Residency::Full)),
                Err(e) => tell(folder, stats, &path, e),
            },
        }
    }
    stats.made += group.rows.len() as u64;
    let bodies: Vec<Body> = group.stubs.iter().map(|(_, item)| item.head.body).collect();
    hold::add(folder, site.remotes, &bodies)?;
    items.extend(group.stubs.iter().map(|(_, item)| item.clone()));
    group.intents = Intent::begin_all(&folder.intents(), Task::Create, &items, BATCH)?;
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

/// What became of a group: rows to be written and intents to be closed once it is durable.
struct Made {
    rows: Vec<LocalRow>,
    /// Not those that a stop left out.
    stubs: Vec<(Job, Result<Stat>)>,
    files: Vec<(Job, Outcome)>,
    intents: Vec<Intent>,
    /// Whether stores could be read.
    fetched: Result<()>,
}

/// Rows only after the files are durable: a row without a file would be a deletion.
fn settle(folder: &mut Folder, site: &Site, made: Option<Made>, stats: &mut CloneStats) -> Result<()> {
    let Some(Made { mut rows, stubs, files, intents, fetched }) = made else { return Ok(()) };
    let paths = rows.len() + stubs.len() + files.len();
    if let Err(e) = crate::disk::sync_fs(&site.tree, site.tree.path()) {
        // The next sync would not fail for the same loss: what has a name may be torn.
        folder.history.set_meta(MATERIALISING, "")?;
        return Err(e);
    }
    intents.into_iter().try_for_each(Intent::close)?;
    for (job, result) in stubs {
        let size = job.head.version.size;
        if let Some(row) = settled(folder, stats, job, result, Residency::Stub) {
            stats.stubs += 1;
            stats.stub_bytes += size;
            rows.push(row);
        }
    }
    let mut asked = Vec::new();
    for (job, outcome) in files {
        // One line about a full disk is enough.
        let Some(result) =
            outcome.result.filter(|r| !matches!(r, Err(Error::Interrupted | Error::NoSpace(_))))
        else {
            continue;
        };
        let size = job.head.version.size;
        if let Some(row) = settled(folder, stats, job, result, Residency::Full) {
            stats.written_bytes += size;
            asked.push(row.path.clone());
            rows.push(row);
        }
    }
    folder.history.put_local(&rows)?;
    if site.contents == Contents::All {
        folder.history.put_asked(&asked, Time::now())?;
    } else {
        site.progress.advance(paths as u64);
    }
    fetched
}

fn settled(
    folder: &Folder,
    stats: &mut CloneStats,
    job: Job,
    result: Result<Stat>,
    residency: Residency,
) -> Option<LocalRow> {
    match result {
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
    progress: Arc<dyn Progress>,
    contents: Contents,
    remotes: &'a Remotes,
    /// The first file for which there was no room.
    full: OnceLock<Error>,
}

impl Site<'_> {
    fn is_stub(&self, version: &Version, min_size: u64) -> bool {
        self.contents == Contents::Small && version.size >= min_size
    }

    fn make(&self, group: Group) -> Made {
        let Group { rows, files, stubs, intents } = group;
        let mut made = spread(stubs.len(), &self.cancel, |i| self.stub(&stubs[i])).into_iter().peekable();
        let stubs = stubs.into_iter().enumerate().filter_map(|(i, (job, _))| {
            let (_, result) = made.next_if(|(made, _)| *made == i)?;
            Some((job, result))
        });
        let stubs = stubs.collect();
        let (outcomes, fetched) = self.files(&files);
        Made { rows, stubs, files: files.into_iter().zip(outcomes).collect(), intents, fetched }
    }

    fn stub(&self, (job, item): &(Job, Item)) -> Result<Stat> {
        let target =
            Target { root: &self.tree, path: &job.path, keys: &self.keys, head: &item.head, held: None };
        match create::create_stub(&target, item.mode) {
            Err(_) if same_there(&target) => stat_of(&self.tree, &job.path),
            made => made,
        }
    }

    fn files(&self, jobs: &[Job]) -> (Vec<Outcome>, Result<()>) {
        let wanted = |j: &Job| Wanted { body: j.head.version.body, size: j.head.version.size };
        let list: Vec<Wanted> = jobs.iter().map(wanted).collect();
        let begin = |i: usize| {
            let job: &Job = &jobs[i];
            let file = NewFile::begin(&self.tree, &job.path, job.head.version.size)?;
            Ok(Making { file, tree: &self.tree, job })
        };
        let advance = |bytes| match self.contents {
            Contents::Small => {}
            Contents::All => self.progress.advance(bytes),
        };
        let writing = Writing::new(jobs.len(), &begin, &advance, &self.full);
        let fetched = fetch(self.remotes, &self.keys, &self.cancel, &list, &writing);
        (writing.end(), fetched)
    }
}

/// Whether an interrupted clone made this stub already.
fn same_there(target: &Target) -> bool {
    use crate::local::inspect::{State, inspect};
    let Ok(file) = target.root.open_file(target.path, Access::Read) else { return false };
    let Ok(stat) = Stat::of(&file) else { return false };
    let state = inspect(&file, &stat, target.keys, target.head.folder);
    matches!(state, Ok(State::Stub(there)) if there.content == target.head.content)
}

/// A file being made with its bytes.
struct Making<'a> {
    file: NewFile<'a>,
    tree: &'a Root,
    job: &'a Job,
}

impl Making<'_> {
    /// The file of that name, if an interrupted clone, or the user, has exactly these bytes there already.
    fn same_there(&self) -> Option<Stat> {
        let there: File = self.tree.open_file(&self.job.path, Access::Read).ok()?;
        let stat = Stat::of(&there).ok()?;
        let is_alike = stat.kind == FileType::File && stat.mtime == self.job.head.version.mtime;
        (is_alike && self.file.is_same(&there).ok()?).then_some(stat)
    }
}

impl Output for Making<'_> {
    fn reserve(&self, holes: &[(u64, u64)]) -> Result<()> {
        self.file.reserve(holes)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn finish(mut self, _: &[(u64, u64)]) -> Result<Stat> {
        let version = &self.job.head.version;
        self.file.appear(version.mode, version.mtime).or_else(|e| self.same_there().ok_or(e))
    }

    fn abandon(self) -> Result<()> {
        Ok(())
    }
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
