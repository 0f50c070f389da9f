//! Cloning: from nothing but a store to the whole tree as stubs.
//!
//! Promises names, sizes, times, modes, links and history as recorded; that an interrupted clone is
//! continued by the same command; and that nothing that exists is overwritten. What is not made yet
//! has no local row, so that it can never be taken for deleted.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::commit;
use super::config::RemoteConfig;
use super::fetch::{Sink, Wanted, fetch};
use super::folder::{Access, Context, Folder};
use super::hold;
use super::init::{AddRemote, NewPeer, add_remote, make_peer};
use super::places;
use super::remotes::Remotes;
use super::spread::spread;
use super::survey::local_row;
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::base::path::RelPath;
use crate::base::progress::report;
use crate::format::key::FolderKey;
use crate::format::stub::{MIN_STUB, StubHead};
use crate::history::{Head, History, LocalRow};
use crate::local::create;
use crate::local::inode::Target;
use crate::local::intent::{Intent, Item, Task};
use crate::local::root::Root;
use crate::local::stat::{FileType, Stat};
use crate::model::entry::{Body, FileKind, Version};
use crate::model::residency::Residency;
use crate::store::packs::Packs;

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

/// Makes the peer directory in `dir` from a store (its remote will be called `name`), then the tree.
pub fn clone(
    remote: &RemoteConfig,
    dir: &Path,
    name: &str,
    context: Context,
) -> Result<(Folder, CloneStats)> {
    let url = remote.place()?;
    let place = places::open(name, remote, &context.login)?;
    let head = Packs::head(place.bucket.as_ref())?;
    let key = head.key.ok_or_else(|| Error::Refused("this store does not hold the folder's key".into()))?;
    let peer = dir.join(".ddr");
    let existed = peer.join("folder.toml").exists();
    if !existed {
        check_empty(dir)?;
        std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
        let own_name =
            dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|| head.name.clone());
        make_peer(&NewPeer {
            dir: peer.clone(),
            name: &own_name,
            bare: false,
            folder: (head.folder, FolderKey(key)),
        })?;
    }
    let peer = peer.canonicalize().map_err(|e| Error::io("resolving", dir, e))?;
    let mut folder = Folder::open(&peer, Access::Write, context)?;
    if folder.id != head.folder {
        return Err(Error::Refused(format!(
            "{} is a folder of its own; clone into an empty directory",
            dir.display()
        )));
    }
    // Only a clone that was cut short is continued.
    let own = folder.config.remote.get(name);
    let continued =
        own.map_or(folder.config.remote.is_empty(), |r| r.place().is_ok_and(|there| there == url));
    if existed && !continued {
        return Err(Error::Refused(format!(
            "{} is a peer of this folder already; to use one more store, run: ddr remote add NAME {}",
            dir.display(),
            remote.url
        )));
    }
    if own.is_none() {
        add_remote(&mut folder, name, remote, &AddRemote { init: false, reading: true })?;
    }
    let stats = materialise(&mut folder)?;
    Ok((folder, stats))
}

/// Only an empty directory, or one whose clone was cut short before its folder file was written.
fn check_empty(dir: &Path) -> Result<()> {
    if let Ok(outer) = super::folder::locate(dir) {
        let outer = if outer.ends_with(".ddr") { outer.parent().unwrap_or(&outer) } else { &outer };
        return Err(Error::Refused(format!(
            "{} lies inside the ddr folder {}",
            dir.display(),
            outer.display()
        )));
    }
    match std::fs::read_dir(dir) {
        Ok(entries) => {
            match entries.flatten().any(|e| e.file_name() != ".ddr" && e.file_name() != "lost+found") {
                true => {
                    Err(Error::Refused(format!("{} is not empty; clone into a new directory", dir.display())))
                }
                false => Ok(()),
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("reading", dir, e)),
    }
}

/// Makes everything that history has and the local table lacks.
pub fn materialise(folder: &mut Folder) -> Result<CloneStats> {
    let mut stats = CloneStats::default();
    let remotes = Remotes::open_all(folder)?;
    commit::sync_logs(folder, &remotes)?;
    let counts = folder.history.counts()?;
    folder.context.progress.stage("making the tree", counts.paths, false);
    folder.history.set_meta("materialising", "1")?;
    let mut settling = None;
    let made = each_batch(folder, History::absent_after, &mut |folder, batch| {
        folder.context.cancel.check()?;
        let advance = batch.len() as u64;
        let made = make_batch(folder, &remotes, batch, &mut stats)?;
        // The disk is busy with one batch while the next one is made.
        settle(folder, settling.replace(Settling::begin(folder.tree()?.clone(), made)))?;
        folder.context.progress.advance(advance);
        Ok(())
    });
    let settled = settle(folder, settling);
    made.and(settled)?;
    // A stop in the last batch left some of it out.
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

/// Heads in path order, in batches, so that memory stays flat and rows can be written between.
fn each_batch(
    folder: &mut Folder,
    cursor: Cursor,
    work: &mut dyn FnMut(&mut Folder, Page) -> Result<()>,
) -> Result<()> {
    let mut after: Option<RelPath> = None;
    loop {
        let batch = cursor(&folder.history, after.as_ref(), GROUP)?;
        let Some((last, _)) = batch.last() else { return Ok(()) };
        after = Some(last.clone());
        work(folder, batch)?;
    }
}

/// A batch whose files are made but not known to be durable yet.
struct Settling {
    made: Made,
    sync: JoinHandle<Result<()>>,
}

/// What a batch made: rows to be written and intents to be closed once it is durable.
struct Made {
    rows: Vec<LocalRow>,
    intents: Vec<Intent>,
}

impl Settling {
    /// Starts syncing what was made so far.
    fn begin(tree: Arc<Root>, made: Made) -> Self {
        let sync = std::thread::spawn(move || crate::disk::sync_fs(tree.as_ref(), tree.path()));
        Self { made, sync }
    }
}

/// Rows only after the files are durable: a row without a file would be a deletion.
fn settle(folder: &mut Folder, settling: Option<Settling>) -> Result<()> {
    let Some(Settling { made: Made { rows, intents }, sync }) = settling else { return Ok(()) };
    sync.join().unwrap_or_else(|_| Err(Error::Invalid("a syncing thread panicked".into())))?;
    intents.into_iter().try_for_each(Intent::close)?;
    folder.history.put_local(&rows)
}

/// One version to be made.
struct Job {
    path: RelPath,
    head: Head,
}

fn make_batch(
    folder: &mut Folder,
    remotes: &Remotes,
    batch: Vec<(RelPath, Head)>,
    stats: &mut CloneStats,
) -> Result<Made> {
    let min_size = folder.config.min_size()?.max(MIN_STUB);
    let (mut rows, mut small) = (Vec::new(), Vec::new());
    // In step: the item of a job is what the intent says of it.
    let (mut stubs, mut items) = (Vec::new(), Vec::new());
    for (path, head) in batch {
        match head.version.kind {
            FileKind::File if head.version.size >= min_size => match item(folder.id, &path, &head.version) {
                Some(item) => {
                    items.push(item);
                    stubs.push(Job { path, head });
                }
                None => tell(folder, stats, &path, Error::corrupt("history", "a file without content")),
            },
            FileKind::File => small.push(Job { path, head }),
            _ => match make_plain(folder, &path, &head.version) {
                Ok(stat) => rows.push(local_row(path, head.dot, &head.version, &stat, Residency::Full, true)),
                Err(e) => tell(folder, stats, &path, e),
            },
        }
    }
    stats.made += rows.len() as u64;
    hold::add(folder, remotes, &items.iter().map(|i| i.head.body).collect::<Vec<Body>>())?;
    let intents = Intent::begin_all(&folder.intents(), Task::Create, &items, BATCH)?;
    make_stubs(folder, &stubs, &items, &mut rows, stats)?;
    make_small(folder, remotes, &small, &mut rows, stats)?;
    Ok(Made { rows, intents })
}

fn tell(folder: &Folder, stats: &mut CloneStats, path: &RelPath, error: Error) {
    stats.problems += 1;
    report(folder.context.progress.as_ref(), path, error);
}

fn item(folder: FolderId, path: &RelPath, v: &Version) -> Option<Item> {
    let head = StubHead { folder, content: v.content?, body: v.body?, size: v.size, mtime: v.mtime };
    Some(Item { path: path.clone(), head, mode: v.mode, ino: None })
}

fn make_plain(folder: &Folder, path: &RelPath, version: &Version) -> Result<Stat> {
    let tree = folder.tree()?;
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

fn make_stubs(
    folder: &Folder,
    jobs: &[Job],
    items: &[Item],
    rows: &mut Vec<LocalRow>,
    stats: &mut CloneStats,
) -> Result<()> {
    let (tree, keys) = (folder.tree()?, &folder.keys);
    let done = spread(items.len(), &folder.context.cancel, |i| {
        let (job, item) = (&jobs[i], &items[i]);
        let target = Target { root: tree, path: &job.path, keys, head: &item.head, held: None };
        match create::create_stub(&target, item.mode) {
            Err(_) if same_there(&target) => stat_of(tree, &job.path),
            made => made,
        }
    });
    for (i, made) in done {
        let (path, head) = (&jobs[i].path, &jobs[i].head);
        match made {
            Ok(stat) => {
                stats.made += 1;
                stats.stubs += 1;
                stats.stub_bytes += head.version.size;
                rows.push(local_row(path.clone(), head.dot, &head.version, &stat, Residency::Stub, false));
            }
            Err(e) => tell(folder, stats, path, e),
        }
    }
    Ok(())
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

fn make_small(
    folder: &Folder,
    remotes: &Remotes,
    jobs: &[Job],
    rows: &mut Vec<LocalRow>,
    stats: &mut CloneStats,
) -> Result<()> {
    let list: Vec<Wanted> =
        jobs.iter().map(|j| Wanted { body: j.head.version.body, size: j.head.version.size }).collect();
    let maker = Maker {
        tree: folder.tree()?,
        jobs,
        pieces: jobs.iter().map(|_| Mutex::default()).collect(),
        made: jobs.iter().map(|_| Mutex::default()).collect(),
    };
    fetch(remotes, &folder.keys, &folder.context.cancel, &list, &maker)?;
    for (job, made) in jobs.iter().zip(maker.made) {
        match made.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(Ok(stat)) => {
                stats.made += 1;
                stats.written_bytes += stat.size;
                rows.push(local_row(
                    job.path.clone(),
                    job.head.dot,
                    &job.head.version,
                    &stat,
                    Residency::Full,
                    true,
                ));
            }
            Some(Err(e)) => tell(folder, stats, &job.path, e),
            None => {}
        }
    }
    Ok(())
}

/// Directories get their recorded mode and time once nothing is made in them any more.
fn set_dir_times(folder: &mut Folder) -> Result<()> {
    each_batch(folder, History::heads_after, &mut |folder, batch| {
        let mut rows = Vec::new();
        for (path, head) in batch {
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
