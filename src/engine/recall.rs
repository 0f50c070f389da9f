//! Recall: one stub, already open, gets its content back while the guard keeps its openers waiting.
//!
//! Promises that the file is whole and verified when `recall` returns, and that its mark explains it
//! until [`Recaller::settle`] has made the content durable: a crash in between leaves a file that
//! `engine::mend` finishes or undoes. Takes no folder lock, so that a command at work never makes an
//! opener wait. Does not know who opens, nor why.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};
use std::time::{Duration, Instant};

use super::fetch::{Wanted, fetch};
use super::folder::{Access, Context, Folder, intents, is_locked};
use super::held::Held;
use super::mend::{self, MendStats};
use super::related::related;
use super::remotes::Remotes;
use super::room;
use super::trace::Trace;
use super::writing::{Output, Writing};
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::disk;
use crate::format::key::Keys;
use crate::format::stub::StubHead;
use crate::history::LocalRow;
use crate::local::fill::Filling;
use crate::local::guard::{Guard, Hold};
use crate::local::inode::{Target, clear_mark, doubt_mark, set_atime, set_mtime};
use crate::local::inspect::{HALF_FILLED, State, first_block, inspect, marked};
use crate::local::intent::{self, Item, Task};
use crate::local::mount::MountId;
use crate::local::root::{Access as RootAccess, Root};
use crate::local::scan::ScanOptions;
use crate::local::stat::Stat;
use crate::model::residency::Residency;

/// How often stores are opened anew at most, when they fail.
const REOPEN: Duration = Duration::from_millis(200);

/// How long a command is given that may be mending a file at the moment.
const MENDING: Duration = Duration::from_secs(5);

/// A file that was filled and is not durable yet: it waits for [`Recaller::settle`].
#[derive(Debug)]
pub struct Filled {
    file: File,
    head: StubHead,
    /// The access time to go back to, where the reading is no sign of use.
    cold: Option<Time>,
}

/// Takes the stub for filling.
type Begin<'a, 'h> = &'a (dyn Fn() -> Result<Filling<'h>> + Sync);

/// What recalls of one folder share.
pub struct Recaller {
    dir: PathBuf,
    context: Context,
    keys: Keys,
    id: FolderId,
    tree: Arc<Root>,
    stores: RwLock<(Arc<Remotes>, Instant)>,
    /// One connection for rows; other processes write, too.
    folder: Mutex<Folder>,
    guard: Option<Arc<Guard>>,
    trace: Mutex<Option<Trace>>,
    /// Whether no mark of a filling will be left but those of `unsettled`.
    is_clean: AtomicBool,
    /// Inodes that are full and still carry the mark of their filling.
    unsettled: Mutex<HashSet<u64>>,
    /// Files that were half filled, or half freed, when this began, and may be still.
    unmended: HashSet<RelPath>,
}

/// Told how many bytes of the content are there.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

impl Recaller {
    /// Opens the folder to look and its stores to read, and mends what an earlier worker left. Before that
    /// `introduce` is called: the guard holds files only for whom it knows.
    pub fn open(
        dir: &Path,
        context: Context,
        introduce: &mut dyn FnMut(FolderId, &Root) -> Result<()>,
    ) -> Result<Self> {
        let mut folder = Folder::open(dir, Access::Read, context.clone())?;
        if folder.history.is_alone() {
            // It would keep everybody else waiting for as long as it lives.
            return Err(Error::NoSpace("while opening history.db".into()));
        }
        introduce(folder.id, folder.tree()?)?;
        let remotes = Remotes::open_all(&folder)?;
        // Apart from the folder: to whom the guard serves, half filled files look as if they were looked
        // after, and it is us who look after them.
        let guard = folder.guard.take();
        let (trace, was_left) = Trace::leave(dir)?;
        let mut stats = MendStats::default();
        let is_clean = !was_left || mend::sweep(&folder, &remotes, guard.as_ref(), &mut stats)?;
        let mut unmended = stats.waiting;
        // What a command had in hand when it died may take more room than a stub.
        match intent::pending(&folder.intents()) {
            Ok(all) => unmended.extend(all.into_iter().flat_map(|(_, _, items)| items).map(|item| item.path)),
            // Every command says so; openers are not to suffer from it.
            Err(e) => eprintln!("ddr: {e}"),
        }
        Ok(Self {
            guard,
            trace: Mutex::new(Some(trace)),
            is_clean: AtomicBool::new(is_clean),
            unsettled: Mutex::default(),
            unmended,
            dir: dir.to_path_buf(),
            context,
            keys: folder.keys.clone(),
            id: folder.id,
            tree: Arc::clone(folder.tree()?),
            stores: RwLock::new((Arc::new(remotes), Instant::now())),
            folder: Mutex::new(folder),
        })
    }

    /// Whether a daemon of this user runs, which may make room.
    pub fn is_tended(&self) -> bool {
        is_locked(&self.context.state_dir.join("daemon"))
    }

    /// Whether so many bytes more fit into the budget that the daemon keeps, if it keeps one.
    pub fn has_room(&self, bytes: u64) -> bool {
        room::fits(&self.dir, bytes)
    }

    /// The folder.
    pub fn id(&self) -> FolderId {
        self.id
    }

    /// Whether a file may be half filled or half freed, and so no stub by its looks.
    pub fn is_unmended(&self, path: &RelPath) -> bool {
        self.unmended.contains(path)
    }

    /// Whether history knows it as a stub, however much room it takes: copies may have all their zeros.
    pub fn is_recorded_stub(&self, path: &RelPath) -> bool {
        let row = lock(&self.folder).history.local(path);
        row.is_ok_and(|row| row.is_some_and(|row| row.residency == Residency::Stub))
    }

    /// How its tree is to be searched.
    pub fn scan_options(&self) -> ScanOptions {
        ScanOptions { cross_devices: lock(&self.folder).config.scan.cross_devices }
    }

    /// Its tree.
    pub fn tree(&self) -> &Arc<Root> {
        &self.tree
    }

    /// Where temporary files lie on the folder's file system.
    pub fn temp_dir(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// Fills the stub open as `file`; `None` if the file is full. At most one call at a time for one file.
    /// With `cold` its being read does not count as use.
    pub fn recall(&self, file: File, cold: bool, progress: Progress) -> Result<Option<Filled>> {
        let state = match self.look(&file)? {
            State::Filling(_) if inode(&file).is_some_and(|ino| lock(&self.unsettled).contains(&ino)) => {
                return Ok(None);
            }
            // Left by a worker that died, and could not be mended when this one began; or by a command that
            // died before all was freed.
            State::Filling(_) => self.mended(&file)?,
            State::Odd(_) if self.is_headed(&file)? => self.mended(&file)?,
            state => state,
        };
        let head = match state {
            State::Full => return Ok(None),
            State::Stub(head) => self.dated(&file, head)?,
            State::Filling(_) => return Err(Error::Refused(HALF_FILLED.into())),
            State::Odd(why) => return Err(Error::Refused(why)),
        };
        let atime = Stat::of(&file).ok().filter(|_| cold).map(|stat| stat.atime);
        let mount = self.tree.mount_of(&file);
        let begin = || Filling::guarded(&file, &self.keys, &head, self.hold(&file));
        let remotes = self.remotes();
        if let Err(e) = self.fill(&remotes, &begin, (&head, mount), progress) {
            // Packs come and go, disks are plugged in: look once more before giving up.
            match self.reopened(&e, &remotes)? {
                Some(remotes) => self.fill(&remotes, &begin, (&head, mount), progress)?,
                None => return Err(e),
            }
        }
        lock(&self.unsettled).extend(inode(&file));
        Ok(Some(Filled { file, head, cold: atime }))
    }

    /// Fills a stub that nobody has open, nor waits for; one that somebody comes for meanwhile lets him wait.
    pub fn recall_ahead(&self, path: &RelPath) -> Result<Option<Filled>> {
        let Some(guard) = &self.guard else { return Ok(None) };
        // The lease that begins the filling allows no other descriptor.
        let open = |wanted: Option<Hold>| {
            let file = self.tree.open_file(path, RootAccess::Read)?;
            let stat = Stat::of(&file).map_err(|e| Error::io("inspecting", "a stub", e))?;
            match wanted.is_some_and(|hold| hold.inode == (stat.dev, stat.ino)) {
                true => Ok(file),
                // What was filled keeps its mark, which explains it.
                false => Err(Error::Changed("another file lies there by now".into())),
            }
        };
        let held = Held::take(Some(guard), &self.tree, std::iter::once(path))?;
        let wanted = held.file(0)?;
        let file = open(wanted)?;
        let State::Stub(head) = self.look(&file)? else { return Ok(None) };
        // Nobody has used it yet.
        let cold = Stat::of(&file).ok().map(|stat| stat.atime);
        let mount = self.tree.mount_of(&file);
        drop(file);
        let target = Target { root: &self.tree, path, keys: &self.keys, head: &head, held: wanted };
        self.fill(&self.remotes(), &|| Filling::begin(&target), (&head, mount), &|_| {})?;
        let file = open(wanted)?;
        lock(&self.unsettled).extend(inode(&file));
        held.release(|_| false)?;
        Ok(Some(Filled { file, head, cold }))
    }

    fn look(&self, file: &File) -> Result<State> {
        let stat = Stat::of(file).map_err(|e| Error::io("inspecting", "a stub", e))?;
        inspect(file, &stat, &self.keys, self.id)
    }

    /// Whether it begins with the header of the very stub that its mark names.
    fn is_headed(&self, file: &File) -> Result<bool> {
        let head = StubHead::decode(&first_block(file)?, &self.keys, self.id);
        Ok(marked(file)?.is_some_and(|mark| head.is_ok_and(|head| head.body.id == mark.body)))
    }

    /// That the guard keeps a file's openers waiting, as long as it is there.
    fn hold(&self, file: &File) -> Option<Hold<'_>> {
        let stat = rustix::fs::fstat(file).ok()?;
        Some(self.guard.as_ref()?.held((stat.st_dev, stat.st_ino)))
    }

    /// A stub with its time: a command that died after the last of it was freed may not have set that back. Its
    /// intent tells that from a time that the user gave it, unless he did so since.
    fn dated(&self, file: &File, head: StubHead) -> Result<StubHead> {
        let stat = Stat::of(file).map_err(|e| Error::io("inspecting", "a stub", e))?;
        if stat.mtime != head.mtime {
            let freed = |item: &Item| item.ino == Some(stat.ino) && item.head.content == head.content;
            let pending = intent::pending(&intents(&self.dir)).unwrap_or_default();
            let mut begun = pending.iter().filter(|(_, task, _)| *task == Task::Stash);
            if begun.any(|(_, _, items)| items.iter().any(freed)) {
                set_mtime(file, head.mtime, Path::new("a stub"))?;
            }
        }
        Ok(head)
    }

    /// What a half filled, or half freed, file is after mending. A command may be mending it at the moment, and
    /// packs come and go: it is tried for a while, and with the stores opened anew.
    fn mended(&self, file: &File) -> Result<State> {
        let (begun, mut reopened) = (Instant::now(), false);
        loop {
            let remotes = self.remotes();
            match mend::mend_open((file, self.hold(file)), (&self.tree, &self.keys, self.id), &remotes) {
                Ok(()) => return self.look(file),
                Err(Error::Changed(_)) if begun.elapsed() < MENDING => std::thread::sleep(MENDING / 50),
                Err(e) if reopened => return Err(e),
                Err(e) => {
                    self.reopened(&e, &remotes)?.ok_or(e)?;
                    reopened = true;
                }
            }
        }
    }

    fn fill(
        &self,
        remotes: &Remotes,
        begin: Begin,
        (head, mount): (&StubHead, Option<MountId>),
        progress: Progress,
    ) -> Result<()> {
        let (full, done) = (OnceLock::new(), AtomicU64::new(0));
        let begin = |_| {
            let mut filling = begin()?;
            filling.order_mark()?;
            Ok(Recalling { filling, mount })
        };
        let advance = |bytes| progress(bytes + done.fetch_add(bytes, Ordering::Relaxed));
        let writing = Writing::new(1, &begin, &advance, &full);
        let wanted = [Wanted { body: Some(head.body), size: head.size }];
        let fetched = std::thread::scope(|scope| {
            // The stub is made ready while the content is on its way. What goes wrong hears who writes.
            if !remotes.online.is_empty() {
                scope.spawn(|| drop(writing.begin(0)));
            }
            fetch(remotes, &self.keys, &self.context.cancel, &wanted, &writing)
        });
        let outcome = writing.end().pop().unwrap_or_default();
        if outcome.is_torn {
            self.is_clean.store(false, Ordering::Relaxed);
        }
        match (outcome.result, fetched) {
            // Why it never came to an end.
            (None | Some(Err(Error::Interrupted)), Err(e)) => Err(e),
            (None, Ok(())) => Err(Error::Interrupted),
            (Some(end), fetched) => end.and(fetched),
        }
    }

    fn remotes(&self) -> Arc<Remotes> {
        Arc::clone(&self.stores.read().unwrap_or_else(|e| e.into_inner()).0)
    }

    /// The stores opened anew after `used` was of no use, if that may help.
    fn reopened(&self, error: &Error, used: &Arc<Remotes>) -> Result<Option<Arc<Remotes>>> {
        let useless = matches!(error, Error::NoSpace(_) | Error::Refused(_) | Error::Changed(_));
        let mut stores = self.stores.write().unwrap_or_else(|e| e.into_inner());
        if useless || self.context.cancel.is_cancelled() {
            return Ok(None);
        }
        // Else somebody has done it meanwhile.
        if Arc::ptr_eq(&stores.0, used) {
            // What was stashed since they were opened is found, however short a time that is.
            std::thread::sleep(REOPEN.saturating_sub(stores.1.elapsed()));
            let folder = Folder::open(&self.dir, Access::Read, self.context.clone())?;
            *stores = (Arc::new(Remotes::open_all(&folder)?), Instant::now());
        }
        Ok(Some(Arc::clone(&stores.0)))
    }

    /// Makes filled files durable, takes their marks away and notes them as full. One that cannot be unmarked
    /// (immutable by now, or another's) is reported and let go: its mark explains it.
    pub fn settle(&self, filled: &[Filled]) {
        if filled.is_empty() {
            return;
        }
        if let Err(e) = disk::sync_fs(self.tree.as_ref(), self.tree.path()) {
            // It would not fail a second time, for the same loss.
            eprintln!("ddr: {e}; files brought back just now will be compared with their contents");
            self.is_clean.store(false, Ordering::Relaxed);
            for one in filled {
                // Where that fails, too, the trace has it looked at.
                let _ = doubt_mark(&one.file);
                if let Some(ino) = inode(&one.file) {
                    lock(&self.unsettled).remove(&ino);
                }
            }
            return;
        }
        for one in filled {
            let back = |atime| set_atime(&one.file, atime);
            match clear_mark(&one.file).and_then(|()| one.cold.map_or(Ok(()), back)) {
                Ok(()) => drop(inode(&one.file).map(|ino| lock(&self.unsettled).remove(&ino))),
                Err(e) => {
                    eprintln!("ddr: {e}; it is whole, but `ddr stash` will not take it");
                    self.is_clean.store(false, Ordering::Relaxed);
                }
            }
        }
        // An index: the next commit finds by the bytes what is not noted here.
        let _ = self.note(filled);
    }

    fn note(&self, filled: &[Filled]) -> Result<()> {
        let mut folder = lock(&self.folder);
        let (mut rows, mut used) = (Vec::new(), Vec::new());
        for one in filled {
            let Some(path) = self.path_of(&one.file) else { continue };
            let row = row(&folder, &path, one)?;
            used.extend(row.iter().filter(|_| one.cold.is_none()).map(|row| row.path.clone()));
            rows.extend(row);
        }
        folder.history.put_local(&rows)?;
        folder.history.put_used(&used, Time::now())
    }

    /// Stubs beside an open file that its reader may want next, of at most `budget` bytes in all.
    pub fn neighbours(&self, file: &File, budget: u64) -> Result<Vec<RelPath>> {
        let Some(path) = self.path_of(file) else { return Ok(Vec::new()) };
        let near = related(&lock(&self.folder), &[path], budget)?;
        Ok(near.into_iter().map(|near| near.path).collect())
    }

    /// Ends it, with everything settled. Its trace stays where a file still has its mark.
    pub fn end(&self) {
        let trace = lock(&self.trace).take();
        trace.into_iter().filter(|_| self.is_clean.load(Ordering::Relaxed)).for_each(Trace::end);
    }

    /// Where an open file lies in the tree by now.
    fn path_of(&self, file: &File) -> Option<RelPath> {
        use std::os::fd::AsRawFd;
        use std::os::unix::ffi::OsStrExt;
        let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        RelPath::new(name.strip_prefix(self.tree.path()).ok()?.as_os_str().as_bytes()).ok()
    }
}

/// Its inode number; one folder lies on one file system.
fn inode(file: &File) -> Option<u64> {
    rustix::fs::fstat(file).ok().map(|stat| stat.st_ino)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread leaves is a whole value.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The row of a file that was filled, unless history knows it as something else by now.
fn row(folder: &Folder, path: &RelPath, one: &Filled) -> Result<Option<LocalRow>> {
    let Ok(stat) = Stat::of(&one.file) else { return Ok(None) };
    let row = folder.history.local(path)?;
    Ok(row
        .filter(|row| {
            row.residency == Residency::Stub
                && row.content == Some(one.head.content)
                && row.ino == stat.ino
                && row.mtime == stat.mtime
        })
        // Somebody may have written since; the next commit finds that by the bytes.
        .map(|row| LocalRow { ctime: stat.ctime, residency: Residency::Full, proven: false, ..row }))
}

/// A stub being recalled: its mark stays until the content is durable.
struct Recalling<'h> {
    filling: Filling<'h>,
    mount: Option<MountId>,
}

impl Output for Recalling<'_> {
    fn reserve(&self, holes: &[(u64, u64)]) -> Result<()> {
        self.filling.reserve(holes)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.filling.write_at(bytes, offset)
    }

    fn finish(self, holes: &[(u64, u64)]) -> Result<Stat> {
        self.filling.finish_marked(holes, self.mount)
    }

    fn abandon(self) -> Result<()> {
        self.filling.abandon()
    }
}
