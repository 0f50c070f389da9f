//! An opened folder: its directory, keys, settings, history, and the lock on all of it.
//!
//! Promises that only one process writes at a time, that a folder whose directory is gone is never
//! taken for an empty one, and that history is level with the folder's own log before any verb
//! runs. Stores are opened by [`super::remotes`].

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::config::Config;
use super::instance::{self, FolderFile, Instance, KeysFile};
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, OriginId};
use crate::base::path::RelPath;
use crate::base::progress::Progress;
use crate::format::key::{FolderKey, Keys, origin_id};
use crate::history::History;
use crate::history::log::{self, Identity};
use crate::local::guard::Guard;
use crate::local::replace;
use crate::local::root::Root;
use crate::peer::host::Login;
use crate::store::dir::DirBucket;

/// Where ddr keeps what is not part of a folder, and who is told about the work.
#[derive(Clone)]
pub struct Context {
    /// Indexes of stores; may be deleted at any time.
    pub cache_dir: PathBuf,
    /// Instance markers.
    pub state_dir: PathBuf,
    /// How long to wait for another process's lock.
    pub wait: Duration,
    /// Receives progress, notes and problems.
    pub progress: Arc<dyn Progress>,
    /// Set when the user wants to stop.
    pub cancel: Cancel,
    /// How to log in to other machines.
    pub login: Login,
}

/// Whether a verb changes anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Looks only; takes no lock.
    Read,
    /// Takes the folder's lock.
    Write,
    /// The same, for a verb that frees room in the end: on a disk that is full it may use what is set aside.
    Relieve,
}

/// Name of the fact that stands for [`Folder::unseen`].
pub const UNSEEN: &str = "unseen";

/// Name of a history.db that a rebuild has set aside: then its absence is no damage.
pub const HISTORY_ASIDE: &str = "history.db.old";

/// One opened peer.
pub struct Folder {
    /// `.ddr`, or the bare peer's directory.
    pub dir: PathBuf,
    /// The working tree; `None` for a bare peer.
    pub tree: Option<Arc<Root>>,
    /// Folder id.
    pub id: FolderId,
    /// Name of this peer.
    pub name: String,
    /// The folder's secret, for making stores.
    pub folder_key: FolderKey,
    /// Keys derived from it.
    pub keys: Keys,
    /// The user's settings.
    pub config: Config,
    /// Index over the logs, and what the tree held when last looked at.
    pub history: History,
    /// This peer's own store directory: `log/` always, contents where there is no remote.
    pub own: Arc<DirBucket>,
    /// Directories and watchers.
    pub context: Context,
    /// Who signs; set when opened for writing.
    pub identity: Identity,
    /// Guards entry numbers; set when opened for writing.
    pub instance: Option<Instance>,
    /// What the tree held was forgotten with history.db: until a commit has looked at everything, a path
    /// without a row may well be recorded.
    pub unseen: bool,
    /// Files that a crash left half done and that wait for a store: never committed meanwhile.
    pub waiting: HashSet<RelPath>,
    /// The guard, where it looks after this folder. As long as this is open, the process reads stubs as
    /// what they are.
    pub guard: Option<Arc<Guard>>,
    lock: Option<File>,
}

impl Folder {
    /// Opens the folder at or above `start`.
    pub fn find(start: &Path, access: Access, context: Context) -> Result<Self> {
        let dir = locate(start)?;
        Self::open(&dir, access, context)
    }

    /// Opens a peer by its directory (`.ddr` or bare).
    pub fn open(dir: &Path, access: Access, context: Context) -> Result<Self> {
        let file: FolderFile = read_toml(&dir.join("folder.toml"))?;
        if file.format > instance::FORMAT {
            return Err(Error::Unsupported(format!(
                "this folder has format {}, this ddr knows up to {}; use a newer ddr",
                file.format,
                instance::FORMAT
            )));
        }
        let lock = match access {
            Access::Write | Access::Relieve => Some(lock(dir, &context)?),
            Access::Read => None,
        };
        if access == Access::Relieve {
            make_room(dir);
        }
        let id = FolderId::from_hex(&file.folder)?;
        let (folder_key, secret) = read_toml::<KeysFile>(&dir.join("keys"))?.secrets()?;
        let config = Config::load(&dir.join("config.toml"))?;
        let tree = match (file.bare, dir.parent()) {
            (false, Some(parent)) => Some(Arc::new(open_root(parent, config.scan.cross_devices)?)),
            _ => None,
        };
        let guard = tree.as_ref().and_then(|_| Guard::connect(id)).map(Arc::new);
        let own = Arc::new(DirBucket::open(&dir.join("store"))?);
        let history = History::open(&dir.join("history.db"))?;
        let epoch = Instance::peek(dir).unwrap_or_default();
        let mut folder = Self {
            dir: dir.to_path_buf(),
            tree,
            id,
            keys: Keys::new(&folder_key),
            folder_key,
            config,
            history,
            own,
            identity: Identity { secret, epoch, name: file.name.clone() },
            name: file.name,
            context,
            instance: None,
            unseen: false,
            waiting: HashSet::new(),
            guard,
            lock,
        };
        folder.bring_up_to_date(access)?;
        Ok(folder)
    }

    /// Applies what the own log has and the index lacks; claims the instance when writing.
    fn bring_up_to_date(&mut self, access: Access) -> Result<()> {
        let origin = self.origin();
        let before = self.history.tail(&origin)?.number;
        let caught = self.history.catch_up(self.own.as_ref(), self.id)?;
        let behind = !self.history.was_reset() && self.history.tail(&origin)?.number > before;
        if behind && self.tree.is_some() {
            self.history.adopt(&origin, before)?;
        }
        // A store that others wrote to has logs before it has ever had an index.
        let had_one = self.identity.epoch != 0;
        if self.history.was_reset() && caught.entries > 0 {
            // Which versions wait for a store was known only to the lost index: the next commit asks.
            self.history.set_meta("unsaved", "perhaps")?;
            if self.tree.is_some() && had_one {
                self.history.set_meta(UNSEEN, "1")?;
            }
        }
        self.unseen = self.history.meta(UNSEEN)?.is_some();
        let set_aside = self.dir.join(HISTORY_ASIDE).exists();
        if self.history.was_reset() && caught.entries > 0 && had_one && !set_aside {
            self.context.progress.note("history.db was damaged or missing: rebuilt from the log");
        }
        for (origin, error) in &caught.problems {
            self.context.progress.note(&format!("history of {} set aside: {error}", origin.short()));
        }
        if access != Access::Read {
            let public = self.identity.public();
            let tail = |epoch| self.history.tail(&origin_id(&public, epoch)).map(|t| t.number);
            let (claimed, fresh) = Instance::claim(&self.dir, &self.context.state_dir, self.id, tail)?;
            if fresh && self.identity.epoch != 0 {
                self.context
                    .progress
                    .note("this copy of .ddr was moved, copied or restored: it continues under a new epoch");
            }
            self.identity.epoch = claimed.epoch;
            self.instance = Some(claimed);
            if replace::sweep(&self.temp_dir())? {
                self.context.progress.note("mended: removed what an interrupted restore left");
            }
        }
        Ok(())
    }

    /// This peer's origin.
    pub fn origin(&self) -> OriginId {
        self.identity.origin()
    }

    /// The working tree, or an error that says why there is none.
    pub fn tree(&self) -> Result<&Arc<Root>> {
        self.tree.as_ref().ok_or_else(|| {
            Error::Unsupported(
                "this is a bare peer: it has history and a store, but no files to work on".into(),
            )
        })
    }

    /// Directory for temporary files on the folder's own file system.
    pub fn temp_dir(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// Directory of pending intents.
    pub fn intents(&self) -> PathBuf {
        intents(&self.dir)
    }

    /// Turns command-line paths (relative to `cwd`) into paths below the root; none means `cwd`
    /// itself. Sorted, without paths below others. At a bare peer paths count from the root.
    pub fn rel_paths(&self, cwd: &Path, args: &[PathBuf]) -> Result<Vec<RelPath>> {
        if self.tree.is_none() {
            return args.iter().map(|arg| bare_path(arg)).collect();
        }
        let root = self.dir.parent().unwrap_or(&self.dir);
        let here = [PathBuf::from(".")];
        let args = if args.is_empty() { &here[..] } else { args };
        let mut paths = args.iter().map(|arg| rel_path(root, cwd, arg)).collect::<Result<Vec<_>>>()?;
        paths.sort();
        paths.dedup_by(|b, a| b.is_under(a));
        Ok(paths)
    }

    /// Reads history of other origins that `from` has and this peer lacks.
    pub fn pull_logs(&mut self, from: &dyn crate::store::Bucket) -> Result<u64> {
        let stats = log::copy_missing(from, self.own.as_ref(), self.id)?;
        for (name, error) in &stats.problems {
            self.context.progress.note(&format!("{name}: {error}"));
        }
        if stats.objects > 0 {
            self.history.catch_up(self.own.as_ref(), self.id)?;
        }
        Ok(stats.objects)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.lock.is_some() {
            self.own.reserve().tend();
        }
    }
}

/// On a disk that is full not even SQLite can be asked: gives what is set aside there.
pub fn make_room(dir: &Path) {
    if let Ok(own) = DirBucket::open(&dir.join("store")) {
        own.reserve().give_all();
    }
}

/// The peer directory at or above `start`.
pub fn locate(start: &Path) -> Result<PathBuf> {
    for dir in start.ancestors() {
        let inside = dir.join(".ddr");
        if inside.join("folder.toml").is_file() {
            return Ok(inside);
        }
        if dir.join("folder.toml").is_file() && dir.join("store").is_dir() && dir.join("keys").is_file() {
            return Ok(dir.to_path_buf());
        }
    }
    Err(Error::NoFolder(start.to_path_buf()))
}

/// Resolves `arg` lexically against `cwd` and makes it relative to `root`; symlinks in the last
/// component are not followed, so that a link can be named.
fn rel_path(root: &Path, cwd: &Path, arg: &Path) -> Result<RelPath> {
    use std::os::unix::ffi::OsStrExt;
    let mut full = PathBuf::new();
    for part in cwd.join(arg).components() {
        match part {
            std::path::Component::ParentDir => {
                full.pop();
            }
            std::path::Component::CurDir => {}
            part => full.push(part),
        }
    }
    let outside = || Error::Invalid(format!("{} is outside of the folder {}", arg.display(), root.display()));
    let rel = full.strip_prefix(root).map_err(|_| outside())?;
    RelPath::new(rel.as_os_str().as_bytes())
}

/// A path named at a bare peer, which has no tree to stand in: it counts from the folder's root.
fn bare_path(arg: &Path) -> Result<RelPath> {
    use std::os::unix::ffi::OsStrExt;
    let plain: PathBuf = arg.components().filter(|c| *c != std::path::Component::CurDir).collect();
    RelPath::new(plain.as_os_str().as_bytes())
}

/// Reads a TOML file of ours; a missing one is [`Error::Missing`].
pub fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let mut text = String::new();
    File::open(path)
        .and_then(|mut f| f.read_to_string(&mut text))
        .map_err(|e| Error::io("reading", path, e))?;
    toml::from_str(&text).map_err(|e| Error::corrupt(path.display().to_string(), e.to_string()))
}

fn open_root(path: &Path, across: bool) -> Result<Root> {
    if across { Root::open_across(path) } else { Root::open(path) }
}

/// Takes the folder's lock, waiting as long as the context allows; dropping the file gives it back.
pub fn lock(dir: &Path, context: &Context) -> Result<File> {
    let path = dir.join("lock");
    let file = open_lock(&path)?;
    let start = Instant::now();
    let (mut told, mut wanting) = (false, None);
    while !try_lock(&file, &path)? {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        let holder =
            if holder.trim().is_empty() { "another process".to_string() } else { holder.trim().to_string() };
        if start.elapsed() >= context.wait {
            return Err(Error::Locked(holder));
        }
        if wanting.is_none() {
            wanting = Some(want(dir));
        }
        if !told && start.elapsed() > Duration::from_millis(500) {
            context.progress.note(&format!("waiting for {holder}"));
            told = true;
        }
        context.cancel.check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    // Only for messages; the lock itself is the kernel's.
    let verb = std::env::args().nth(1).unwrap_or_default();
    let text = format!("pid {}: ddr {verb}\n", std::process::id());
    let _ = file.set_len(0);
    let _ = std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0);
    Ok(file)
}

/// Whether another process waits for the folder's lock: long work that nobody waits for gives way then.
pub fn is_wanted(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join("wanted")) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Where a folder's pending intents lie.
pub fn intents(dir: &Path) -> PathBuf {
    dir.join("intents")
}

/// Whether some process has the folder's lock right now.
pub fn is_locked(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join("lock")) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Says that this process waits, for as long as the file is kept; the kernel ends it with the process.
fn want(dir: &Path) -> Option<File> {
    // Best effort: who is not told does not give way, and the wait takes its time.
    let file = open_lock(&dir.join("wanted")).ok()?;
    rustix::fs::flock(&file, FlockOperation::LockShared).ok()?;
    Some(file)
}

fn open_lock(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(|e| Error::io("opening", path, e))
}

fn try_lock(file: &File, path: &Path) -> Result<bool> {
    // Who only looks whether it is taken has it for an instant.
    for _ in 0..3 {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(1)),
            Err(e) => return Err(Error::io("locking", path, e)),
        }
    }
    Ok(false)
}
