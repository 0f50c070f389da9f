//! The walk over a tree, in the byte order of the joined paths.
//!
//! Promises that order (so that a scan merges with a database cursor), memory that is flat apart
//! from one name list per directory on the way down, and that a directory which could not be listed
//! whole comes out as [`Seen::Skipped`], never as an empty one. Reads no content and knows no
//! history.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType as RawType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::ignores::{IGNORE_FILE, Ignores};
use super::names::{Item, Names, TEMP_PREFIX};
use super::root::Root;
use super::stat::{FileType, Stat};
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;

/// What a scan covers.
#[derive(Clone, Copy, Default, Debug)]
pub struct ScanOptions {
    /// Also walk other file systems mounted in the tree (the root must be opened the same way).
    pub cross_devices: bool,
}

/// One thing met on the walk.
#[derive(Debug)]
pub enum Seen {
    /// A file, directory or symlink.
    Entry(RelPath, Stat),
    /// Something left out. With `subtree`, nothing below `path` will come and nothing is known
    /// about it; that may reach past later siblings (`a-b` sorts before `a/x`), so whoever compares
    /// with a list keeps the path in mind. A directory that cannot be listed comes as its entry
    /// first and as this where its children would be.
    Skipped {
        /// What was left out; for [`Skip::BadName`] the directory it lies in.
        path: RelPath,
        /// Whether everything below is left out too.
        subtree: bool,
        /// The reason.
        why: Skip,
    },
}

/// Why something was left out.
#[derive(Debug)]
pub enum Skip {
    /// A `.ddrignore` file says so.
    Ignored,
    /// It lies on another file system.
    OtherDevice,
    /// It cannot be listed or inspected; for a `.ddrignore` file: some of its lines are not in force.
    Unreadable(Error),
    /// A socket, fifo, device, or a temporary file that an interrupted ddr left.
    Special(&'static str),
    /// Its name cannot be recorded (path too long, ddr's own name).
    BadName(String),
    /// A directory that is a ddr folder of its own.
    Nested,
}

/// Levels whose directories stay open; deeper walks reopen the outer ones on the way back.
const OPEN_LEVELS: usize = 64;
const LIST_BUFFER: usize = 64 << 10;

struct Level {
    path: RelPath,
    dir: Option<OwnedFd>,
    id: (u64, u64),
    names: Names,
    bad_rules: Option<Error>,
}

/// A walk; an `Err` item means that the walk itself cannot go on.
pub struct Scan<'r> {
    root: &'r Root,
    options: ScanOptions,
    levels: Vec<Level>,
    ignores: Ignores,
    waiting: Option<Seen>,
    buffer: Vec<u8>,
}

impl<'r> Scan<'r> {
    /// Walks `start` (it comes first, unless it is the root) and everything below. A start that is
    /// absent gives nothing; one behind a symlink or inside another ddr folder is refused.
    pub fn new(root: &'r Root, start: &RelPath, options: ScanOptions) -> Result<Self> {
        let mut scan = Self {
            root,
            options,
            levels: Vec::new(),
            ignores: Ignores::default(),
            waiting: None,
            buffer: Vec::with_capacity(LIST_BUFFER),
        };
        match start.split() {
            None => {
                let dir = root.open_dir(start)?;
                scan.waiting = scan.enter(start.clone(), dir, root.device())?;
            }
            Some((parent, name)) => scan.begin_below(&parent, name, start)?,
        }
        Ok(scan)
    }

    /// Takes the start for the only name in its parent, with the rules of all parents in force.
    fn begin_below(&mut self, parent: &RelPath, name: &[u8], start: &RelPath) -> Result<()> {
        let mut open = None;
        for above in ancestors(parent) {
            let dir = match self.root.open_dir(&above) {
                Ok(dir) => dir,
                Err(e) if e.is_missing() => return Ok(()),
                Err(e) if e.errno() == Some(libc::ENOTDIR) => return self.not_behind_a_link(&above),
                Err(e) => return Err(e),
            };
            if !above.is_root() && is_folder(&dir, b".") {
                return Err(Error::Refused(format!("{above} is a ddr folder of its own")));
            }
            if self.ignores.ignored(&above, true) {
                self.waiting = Some(skipped(start.clone(), true, Skip::Ignored));
                return Ok(());
            }
            // A bad line is reported by the scan that lists this directory.
            let _ = self.ignores.enter(&dir, &above, 0);
            open = Some(dir);
        }
        let id = open.as_ref().map_or(Ok((0, 0)), |dir| identity(dir, self.root, parent))?;
        let mut names = Names::default();
        names.push(name, false);
        self.levels.push(Level { path: parent.clone(), dir: open, id, names, bad_rules: None });
        Ok(())
    }

    fn not_behind_a_link(&self, path: &RelPath) -> Result<()> {
        match self.root.stat(path)? {
            Some(stat) if stat.kind == FileType::Symlink => {
                Err(Error::Refused(format!("{path} is a symbolic link")))
            }
            _ => Ok(()),
        }
    }

    /// The entry at its own place in the order.
    fn own(&mut self, item: Item) -> Result<Option<Seen>> {
        if let Some(lost) = self.reopen() {
            return Ok(Some(lost));
        }
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        let Some(dir) = level.dir.as_ref() else { return Ok(None) };
        let name = level.names.name(item);
        let path = match level.path.join(name) {
            Ok(path) => path,
            Err(e) => {
                level.names.bar(item);
                return Ok(Some(skipped(level.path.clone(), false, Skip::BadName(e.to_string()))));
            }
        };
        let stat = match Stat::at(dir, name) {
            Ok(stat) => stat,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                level.names.bar(item);
                return Ok(None);
            }
            Err(e) => {
                level.names.bar(item);
                let why = Skip::Unreadable(Error::io("inspecting", self.root.full(&path), e));
                return Ok(Some(skipped(path, true, why)));
            }
        };
        let is_dir = stat.kind == FileType::Dir;
        let left_out = if self.ignores.ignored(&path, is_dir) {
            Some(Skip::Ignored)
        } else {
            left_out(dir, name, &stat, self.options.cross_devices || stat.dev == self.root.device())
        };
        let has_rules = name == IGNORE_FILE;
        if let Some(why) = left_out {
            level.names.bar(item);
            return Ok(Some(skipped(path, is_dir, why)));
        }
        level.names.settle(item, is_dir);
        if has_rules {
            self.waiting = level.bad_rules.take().map(|e| skipped(path.clone(), false, Skip::Unreadable(e)));
        }
        Ok(Some(Seen::Entry(path, stat)))
    }

    /// The place of a directory's children: lists it and goes down.
    fn children(&mut self, item: Item) -> Result<Option<Seen>> {
        if let Some(lost) = self.reopen() {
            return Ok(Some(lost));
        }
        let Some(level) = self.levels.last() else { return Ok(None) };
        let Some(parent) = level.dir.as_ref() else { return Ok(None) };
        let path = level.path.join(level.names.name(item))?;
        match open_child(parent, level.names.name(item)) {
            Ok(dir) => {
                let device = level.id.0;
                self.enter(path, dir, device)
            }
            // It was replaced or removed since; what is there now has no children.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => self.unlistable(path, e),
        }
    }

    fn enter(&mut self, path: RelPath, dir: OwnedFd, device: u64) -> Result<Option<Seen>> {
        let id = identity(&dir, self.root, &path)?;
        if id.0 != device && !self.options.cross_devices {
            return Ok(Some(skipped(path, true, Skip::OtherDevice)));
        }
        let names = match list(&dir, &mut self.buffer, path.is_root()) {
            Ok(names) => names,
            Err(e) => return self.unlistable(path, e),
        };
        let depth = self.levels.len();
        let bad_rules = match names.has_rules {
            true => self.ignores.enter(&dir, &path, depth).err(),
            false => None,
        };
        if let Some(outer) = depth.checked_sub(OPEN_LEVELS) {
            self.levels[outer].dir = None;
        }
        self.levels.push(Level { path, dir: Some(dir), id, names, bad_rules });
        Ok(None)
    }

    fn unlistable(&self, path: RelPath, e: Errno) -> Result<Option<Seen>> {
        let error = Error::io("listing", self.root.full(&path), e);
        match e {
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => Err(error),
            _ => Ok(Some(skipped(path, true, Skip::Unreadable(error)))),
        }
    }

    /// Opens the current directory again if it was closed on the way down. `Some` is what to report
    /// instead of going on in it.
    fn reopen(&mut self) -> Option<Seen> {
        let level = self.levels.last_mut().filter(|level| level.dir.is_none())?;
        let again = self.root.open_dir(&level.path).and_then(|dir| {
            let id = identity(&dir, self.root, &level.path)?;
            if id == level.id {
                Ok(dir)
            } else {
                Err(Error::Changed("it was replaced during the scan".into()))
            }
        });
        match again {
            Ok(dir) => {
                level.dir = Some(dir);
                None
            }
            Err(e) => {
                let path = level.path.clone();
                self.leave();
                Some(skipped(path, true, Skip::Unreadable(e)))
            }
        }
    }

    fn leave(&mut self) {
        self.levels.pop();
        self.ignores.leave(self.levels.len().max(1));
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Seen>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(seen) = self.waiting.take() {
                return Some(Ok(seen));
            }
            let Some(item) = self.levels.last_mut()?.names.next() else {
                self.leave();
                continue;
            };
            let seen = if item.children { self.children(item) } else { self.own(item) };
            match seen {
                Ok(None) => {}
                Ok(Some(seen)) => return Some(Ok(seen)),
                Err(e) => {
                    self.levels.clear();
                    return Some(Err(e));
                }
            }
        }
    }
}

fn skipped(path: RelPath, subtree: bool, why: Skip) -> Seen {
    Seen::Skipped { path, subtree, why }
}

/// Why something is left out that no rule ignores.
fn left_out(dir: &OwnedFd, name: &[u8], stat: &Stat, same_device: bool) -> Option<Skip> {
    match stat.kind {
        _ if !same_device => Some(Skip::OtherDevice),
        FileType::Other(what) => Some(Skip::Special(what)),
        FileType::Dir if is_folder(dir, name) => Some(Skip::Nested),
        FileType::File if name.starts_with(TEMP_PREFIX) => {
            Some(Skip::Special("temporary file of an interrupted ddr"))
        }
        _ => None,
    }
}

/// The root and every directory down to `path` itself.
fn ancestors(path: &RelPath) -> Vec<RelPath> {
    let mut out = vec![path.clone()];
    while let Some((parent, _)) = out.last().and_then(RelPath::split) {
        out.push(parent);
    }
    out.reverse();
    out
}

/// Whether a directory below `dir` is a ddr folder.
fn is_folder(dir: &OwnedFd, name: &[u8]) -> bool {
    let marker = [name, b"/.ddr/folder.toml"].concat();
    rustix::fs::statat(dir, marker.as_slice(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn identity(dir: &OwnedFd, root: &Root, path: &RelPath) -> Result<(u64, u64)> {
    let raw = rustix::fs::fstat(dir).map_err(|e| Error::io("inspecting", root.full(path), e))?;
    let stat = Stat::from_raw(&raw);
    Ok((stat.dev, stat.ino))
}

fn open_child(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(&parent, name, flags, Mode::empty()),
        other => other,
    }
}

/// All names of a directory, sorted; nothing at all if the listing fails half-way.
fn list(dir: &OwnedFd, buffer: &mut Vec<u8>, is_root: bool) -> rustix::io::Result<Names> {
    let mut names = Names::default();
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." || (is_root && name == b".ddr") {
            continue;
        }
        names.push(name, entry.file_type() == RawType::Directory);
    }
    names.sort();
    Ok(names)
}
