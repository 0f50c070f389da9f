//! The watcher of one tree: every directory that is not ignored, by inotify.
//!
//! Promises that a directory is watched before it is listed, so that what is made in it meanwhile is
//! either listed or told; that ddr's own directory is never watched; and that what the watcher missed is
//! known to be missed. Events that it could not have are what rescans are for.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::Sender;
use notify::event::{AccessKind, CreateKind, Event, EventKind, ModifyKind, RenameMode};
use notify::{ErrorKind, INotifyWatcher, RecursiveMode, Watcher};

use super::clock;
use super::seen::Seen;
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::local::names::TEMP_PREFIX;
use crate::local::root::Root;
use crate::local::scan::Seen as Met;
use crate::local::scan::{Scan, ScanOptions};
use crate::local::stat::FileType;

/// Where the watcher puts what it was told.
pub struct Ear {
    root: PathBuf,
    /// Where ddr writes its own state: in a home directory that is a folder, that would never end.
    own: Vec<PathBuf>,
    seen: Mutex<Seen>,
    bell: Sender<()>,
    /// Milliseconds on our clock until which opens are our own.
    deaf_until: AtomicU64,
}

impl Ear {
    /// For the tree at `root`; `bell` rings when something new begins to wait.
    pub fn new(root: &Path, own: &[PathBuf], bell: Sender<()>) -> Self {
        let own = own.iter().map(|dir| dir.canonicalize().unwrap_or_else(|_| dir.clone())).collect();
        Self { root: root.into(), own, seen: Mutex::default(), bell, deaf_until: AtomicU64::new(0) }
    }

    fn is_own(&self, path: &Path) -> bool {
        self.own.iter().any(|dir| path.starts_with(dir))
    }

    /// What was seen.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever looks after the folder; one who is awake looks anyway.
    pub fn ring(&self) {
        let _ = self.bell.try_send(());
    }

    /// Until then opens are not taken for uses of files: it is ddr itself that reads.
    pub fn close_until(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.deaf_until.store(millis, Ordering::Relaxed);
    }

    fn is_deaf(&self, now: Duration) -> bool {
        now.as_millis() < u128::from(self.deaf_until.load(Ordering::Relaxed))
    }

    /// Takes one event.
    fn hear(&self, event: notify::Result<Event>) {
        let now = clock::now();
        let mut seen = self.seen();
        let calm = seen.pending() == Some(0);
        let mut urgent = false;
        match event {
            Ok(event) if !event.need_rescan() => {
                for path in &event.paths {
                    urgent |= self.take(&mut seen, &event.kind, path, now);
                }
            }
            // The queue ran over, or the watcher failed.
            _ => seen.miss(),
        }
        if urgent || (calm && seen.pending() != Some(0)) {
            self.ring();
        }
    }

    /// One path of an event; whether it is a new directory.
    fn take(&self, seen: &mut Seen, kind: &EventKind, path: &Path, now: Duration) -> bool {
        let below = path.strip_prefix(&self.root).ok();
        // What cannot be recorded, ddr's own directory above all, is nobody's change.
        let Some(rel) = below.and_then(|p| RelPath::new(p.as_os_str().as_bytes()).ok()) else { return false };
        if rel.name().starts_with(TEMP_PREFIX) || self.is_own(path) {
            return false;
        }
        match kind {
            EventKind::Access(AccessKind::Open(_)) => {
                if !rel.is_root() && !self.is_deaf(now) {
                    seen.open(rel, now);
                }
                return false;
            }
            // Told once more as two events of their own.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return false,
            // The root itself was moved, removed or changed: whether it is there, others look.
            _ if rel.is_root() => return false,
            EventKind::Create(CreateKind::Folder) => seen.appear(rel, now),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) if is_dir(path) => seen.appear(rel, now),
            _ => {
                seen.change(rel, now);
                return false;
            }
        }
        true
    }
}

fn is_dir(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// A watched tree.
pub struct Watch {
    ear: Arc<Ear>,
    watcher: INotifyWatcher,
    /// Directories that are watched at most.
    limit: u64,
    /// Directories that were watched.
    pub count: u64,
    /// Why others are not.
    pub short: Option<String>,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new(ear: Arc<Ear>, limit: u64) -> Result<Self> {
        let to = Arc::clone(&ear);
        let config = notify::Config::default().with_follow_symlinks(false);
        let watcher = INotifyWatcher::new(move |event| to.hear(event), config);
        let watcher = watcher.map_err(|e| Error::Unsupported(format!("nothing can be watched: {e}")))?;
        Ok(Self { ear, watcher, limit, count: 0, short: None })
    }

    /// Watches `start` and everything below, as far as it is not ignored.
    pub fn add(&mut self, start: &RelPath, across: bool, cancel: &Cancel) -> Result<()> {
        let path = self.ear.root.clone();
        let root = if across { Root::open_across(&path)? } else { Root::open(&path)? };
        if start.is_root() {
            (self.count, self.short) = (0, None);
            self.add_one(start)?;
        }
        for met in Scan::new(&root, start, ScanOptions { cross_devices: across })? {
            cancel.check()?;
            if self.short.is_some() {
                return Ok(());
            }
            // What is left out is nothing to watch; a directory comes before what is in it.
            if let Met::Entry(path, stat) = met?
                && stat.kind == FileType::Dir
            {
                self.add_one(&path)?;
            }
        }
        Ok(())
    }

    fn add_one(&mut self, dir: &RelPath) -> Result<()> {
        let full = self.ear.root.join(dir.as_path());
        if self.ear.is_own(&full) {
            return Ok(());
        }
        if self.count >= self.limit {
            self.short = Some(format!("daemon.watches allows {}", self.limit));
            return Ok(());
        }
        match self.watcher.watch(&full, RecursiveMode::NonRecursive) {
            Ok(()) => self.count += 1,
            Err(e) => match e.kind {
                ErrorKind::MaxFilesWatch => {
                    self.short = Some("the system allows no more; see fs.inotify.max_user_watches".into());
                }
                // Gone again, or not ours to look at: the scan says what there is to say.
                ErrorKind::PathNotFound => {}
                ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
                ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                _ => return Err(Error::Unsupported(format!("{} cannot be watched: {e}", full.display()))),
            },
        }
        Ok(())
    }
}
