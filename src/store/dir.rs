//! A bucket in a directory: one file per object.
//!
//! Promises that an object appears whole and durable or not at all, and that a directory whose disk
//! was unmounted is [`Error::Offline`], never an empty bucket: every call compares the directory
//! behind the path with the one that was opened. Symbolic links inside are never followed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Bucket, domain, names};
use crate::base::error::{Error, Result};
use crate::base::units::Time;
use crate::disk::{self, Op};

mod reserve;
mod upload;

use reserve::Reserve;
pub use upload::Upload;

const TEMP: &str = "tmp";
const PARTS: [&str; 6] = [TEMP, "data", "meta", "log", "holds", "gc"];
/// Temporary files older than this belong to nobody any more.
const STALE_SECS: i64 = 86_400;
/// Directories in directories that a listing descends into; ddr makes three levels.
const MAX_DEPTH: usize = 8;
/// Objects that are open at once while several are put.
const TOGETHER: usize = 64;

/// A directory as a bucket.
pub struct DirBucket {
    path: PathBuf,
    root: OwnedFd,
    identity: (u64, u64),
    domain: u64,
    /// Directories whose own names this handle knows to be durable.
    durable: Mutex<BTreeSet<String>>,
}

impl DirBucket {
    /// Makes the directory (and its parents) and its parts, durably; existing ones are kept.
    pub fn create(path: &Path) -> Result<Self> {
        make_root(path)?;
        let bucket = Self::open_any(path)?;
        for part in PARTS {
            bucket.make_dir(part)?;
        }
        bucket.reserve().tend();
        Ok(bucket)
    }

    /// Opens a directory that [`DirBucket::create`] made; writes nothing. `Offline` if it is not
    /// there, or is a bare directory such as an empty mount point.
    pub fn open(path: &Path) -> Result<Self> {
        let bucket = Self::open_any(path)?;
        let known = [names::FOLDER, "data", "log"];
        let there = |name: &&str| rustix::fs::statat(&bucket.root, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if known.iter().any(there) {
            return Ok(bucket);
        }
        Err(offline(path, "the directory holds no store; is its disk mounted?"))
    }

    fn open_any(path: &Path) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => root,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(offline(path, "there is no such directory")),
            Err(e) => return Err(fail("opening", path, e)),
        };
        let stat = rustix::fs::fstat(&root).map_err(|e| fail("examining", path, e))?;
        let domain = domain::of(&root).map_err(|e| Error::io("examining", path, e))?;
        // Absolute, so that a change of the working directory is not taken for an unmounted disk.
        let path = std::path::absolute(path).map_err(|e| Error::io("resolving", path, e))?;
        Ok(Self { path, root, identity: (stat.st_dev, stat.st_ino), domain, durable: Mutex::default() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it sets aside for the day its disk is full.
    pub fn reserve(&self) -> Reserve<'_> {
        Reserve(self.root.as_fd())
    }

    /// Makes way for objects that are about to come, if they are of the kind that frees room in the end:
    /// history, holds, gc's marks. Contents never get what is set aside: they are refused (`NoSpace`) where they
    /// would take what was given of it.
    pub fn make_way<'n>(&self, objects: impl Iterator<Item = (&'n str, u64)>) -> Result<()> {
        let (mut need, mut has_content) = (0u64, false);
        for (name, bytes) in objects {
            has_content |= is_content(name);
            need = need.saturating_add(bytes.checked_next_multiple_of(4096).unwrap_or(u64::MAX));
        }
        match has_content {
            true if self.reserve().is_needed_beside(need) => Err(self.is_full()),
            true => Ok(()),
            false => {
                self.reserve().give(need);
                Ok(())
            }
        }
    }

    fn is_full(&self) -> Error {
        Error::NoSpace(format!("but for what frees some, in {}", self.path.display()))
    }

    /// What fails together with it.
    pub fn domain(&self) -> u64 {
        self.domain
    }

    /// When the store was made, by the date of its head.
    pub fn made(&self) -> Result<Time> {
        let stat = rustix::fs::statat(&self.root, names::FOLDER, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|e| fail("examining", &self.path.join(names::FOLDER), e))?;
        Ok(Time { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 })
    }

    /// Removes temporary files that a crash left behind more than a day ago; returns their number.
    pub fn sweep_temp(&self) -> Result<u64> {
        self.check_root()?;
        let now = Time::now().secs;
        let Some(dir) = self.open_dir(TEMP)? else { return Ok(0) };
        let path = self.path.join(TEMP);
        let mut stale = Vec::new();
        let entries = Dir::read_from(&dir).map_err(|e| fail("listing", &path, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| fail("listing", &path, e))?;
            let Ok(stat) = rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && stat.st_mtime < now.saturating_sub(STALE_SECS) {
                stale.push(entry.file_name().to_bytes().to_vec());
            }
        }
        for name in &stale {
            disk::unlink(&dir, name).map_err(|e| Error::io("removing a stale file from", &path, e))?;
        }
        Ok(stale.len() as u64)
    }

    /// Fails unless the path still leads to the directory that was opened.
    fn check_root(&self) -> Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(meta) if (meta.dev(), meta.ino()) == self.identity => Ok(()),
            Ok(_) => Err(offline(&self.path, "another directory is there now; was its disk unmounted?")),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(offline(&self.path, "the directory is gone; was its disk unmounted?"))
            }
            Err(e) => Err(Error::io("examining", &self.path, e)),
        }
    }

    fn open_at(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let name = if name.is_empty() { "." } else { name };
        rustix::fs::openat2(&self.root, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// A directory inside, or `None` if there is none.
    fn open_dir(&self, name: &str) -> Result<Option<OwnedFd>> {
        match self.open_at(name, OFlags::DIRECTORY | OFlags::RDONLY) {
            Ok(dir) => Ok(Some(dir)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(fail("opening", &self.path.join(name), e)),
        }
    }

    /// A directory inside, made on demand; its own name is durable on return.
    fn make_dir(&self, name: &str) -> Result<OwnedFd> {
        let path = self.path.join(name);
        let open =
            || self.open_dir(name).and_then(|dir| dir.ok_or_else(|| fail("opening", &path, Errno::NOENT)));
        if name.is_empty() {
            return open();
        }
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.contains(name) {
            drop(durable);
            return open();
        }
        let mut end = 0;
        while end < name.len() {
            let start = end + usize::from(end > 0);
            let stop = name[start..].find('/').map_or(name.len(), |at| start + at);
            if !durable.contains(&name[..stop]) {
                self.make_one(&name[..end], &name[start..stop])?;
                durable.insert(name[..stop].to_string());
            }
            end = stop;
        }
        drop(durable);
        open()
    }

    /// One directory in a parent. The parent is synced even if the name exists: whoever made it may
    /// not have got that far.
    fn make_one(&self, parent: &str, name: &str) -> Result<()> {
        let parent_path = self.path.join(parent);
        let dir = self.open_dir(parent)?.ok_or_else(|| fail("opening", &parent_path, Errno::NOENT))?;
        let path = parent_path.join(name);
        disk::point(Op::Link).map_err(|e| Error::io("making directory", &path, e))?;
        match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => disk::sync_dir(&dir, &parent_path),
            Err(e) => Err(fail("making directory", &path, e)),
        }
    }

    /// Files and directories directly below a prefix, in order: name (a directory's ends in `/`), and
    /// size of a file.
    fn children(&self, prefix: &str) -> Result<Vec<(String, Option<u64>)>> {
        let Some(dir) = self.open_dir(prefix.trim_end_matches('/'))? else { return Ok(Vec::new()) };
        let path = self.path.join(prefix);
        let mut found = Vec::new();
        for entry in Dir::read_from(&dir).map_err(|e| fail("listing", &path, e))? {
            let entry = entry.map_err(|e| fail("listing", &path, e))?;
            let part = entry.file_name().to_bytes();
            let Some(name) = std::str::from_utf8(part).ok().filter(|p| names::is_component(p.as_bytes()))
            else {
                continue;
            };
            if prefix.is_empty() && name == TEMP {
                continue;
            }
            let stat = match rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(fail("examining", &path.join(name), e)),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => found.push((format!("{prefix}{name}"), Some(stat.st_size as u64))),
                FileType::Directory => found.push((format!("{prefix}{name}/"), None)),
                _ => {}
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Opens an object for reading.
    pub fn object(&self, name: &str) -> Result<Object> {
        check_name(name)?;
        self.check_root()?;
        let path = self.path.join(name);
        let file = match self.open_at(name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(Error::Missing(name.into())),
            Err(e) => return Err(fail("opening", &path, e)),
        };
        let size = rustix::fs::fstat(&file).map_err(|e| fail("examining", &path, e))?.st_size as u64;
        Ok(Object { file: file.into(), path, size })
    }

    /// Makes the names beside an object durable once more.
    pub fn sync_names(&self, name: &str) -> Result<()> {
        let path = self.path.join(parent(name));
        match self.open_dir(parent(name))? {
            Some(dir) => disk::sync_dir(&dir, &path),
            None => Err(Error::Missing(name.into())),
        }
    }

    /// Lists as [`Bucket::list`] does, in byte order of the names, and only those after `after`.
    pub fn list_after(
        &self,
        prefix: &str,
        after: &str,
        sink: &mut dyn FnMut(&str, u64) -> Result<()>,
    ) -> Result<()> {
        self.check_root()?;
        if prefix.starts_with("tmp/") {
            return Ok(());
        }
        // One iterator for each directory on the way down.
        let mut levels = vec![self.children(prefix)?.into_iter()];
        while let Some(level) = levels.last_mut() {
            let Some((name, size)) = level.next() else {
                levels.pop();
                continue;
            };
            match size {
                Some(size) if name.as_str() > after => sink(&name, size)?,
                // All names in a directory compare as its own does, unless `after` lies in it.
                None if name.as_str() > after || after.starts_with(&name) => {
                    if name.matches('/').count() > MAX_DEPTH {
                        return Err(Error::Invalid(format!("{name} in {} is too deep", self.path.display())));
                    }
                    levels.push(self.children(&name)?.into_iter());
                }
                _ => {}
            }
        }
        self.check_root()
    }
}

/// Directory part of an object's name.
fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Bucket for DirBucket {
    fn put(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        check_name(name)?;
        self.check_root()?;
        self.make_way([(name, parts.iter().map(|p| p.len() as u64).sum())].into_iter())?;
        let mut upload = self.upload()?;
        upload.append(parts)?;
        self.publish(vec![(name.into(), upload)])
    }

    /// All files are synced side by side before the first is named, and their directory once: the
    /// file system keeps renames in order.
    fn put_all(&self, objects: &[(String, Vec<u8>)]) -> Result<()> {
        objects.iter().try_for_each(|(name, _)| check_name(name))?;
        self.check_root()?;
        for some in objects.chunks(TOGETHER) {
            self.make_way(some.iter().map(|(name, bytes)| (name.as_str(), bytes.len() as u64)))?;
            let write = |(name, bytes): &(String, Vec<u8>)| {
                let mut upload = self.upload()?;
                upload.append(&[bytes])?;
                Ok((name.clone(), upload))
            };
            self.publish(some.iter().map(write).collect::<Result<_>>()?)?;
        }
        Ok(())
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let object = self.object(name)?;
        // Never more memory than the object has bytes.
        let len = range.end.min(object.size).saturating_sub(range.start) as usize;
        let mut bytes = Vec::with_capacity(len);
        object.read(range.start, len, &mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, prefix: &str, sink: &mut dyn FnMut(&str, u64) -> Result<()>) -> Result<()> {
        self.list_after(prefix, "", sink)
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.check_root()?;
        let (parent, last) = name.rsplit_once('/').unwrap_or(("", name));
        let Some(dir) = self.open_dir(parent)? else { return Ok(()) };
        disk::unlink(&dir, last.as_bytes()).map_err(|e| Error::io("removing", self.path.join(name), e))?;
        disk::sync_dir(&dir, &self.path.join(parent))?;
        if is_content(name) {
            self.reserve().tend();
        }
        Ok(())
    }

    fn room(&self) -> Result<Option<u64>> {
        let fs = rustix::fs::fstatvfs(&self.root).map_err(|e| fail("examining", &self.path, e))?;
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        Ok(Some(free.saturating_sub(self.reserve().missing())))
    }
}

/// An open object.
pub struct Object {
    file: File,
    path: PathBuf,
    /// Bytes in it.
    pub size: u64,
}

impl Object {
    /// Adds up to `len` bytes from an offset to `bytes`; fewer at the end of the object.
    pub fn read(&self, from: u64, len: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let (start, end) = (bytes.len(), bytes.len() + len);
        bytes.reserve(len);
        while bytes.len() < end {
            let at = from + (bytes.len() - start) as u64;
            match rustix::io::pread(&self.file, spare_capacity(bytes), at) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(fail("reading", &self.path, e)),
            }
        }
        // There may have been more room than was asked for.
        bytes.truncate(end);
        Ok(())
    }

    /// Makes it durable once more, for somebody who cannot know whether it is.
    pub fn sync(&self) -> Result<()> {
        disk::sync_file(&self.file, &self.path)
    }
}

/// Makes a directory and its missing parents, each durable in its own parent.
fn make_root(path: &Path) -> Result<()> {
    let path = std::path::absolute(path).map_err(|e| Error::io("resolving", path, e))?;
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
    for dir in missing.into_iter().rev() {
        disk::point(Op::Link).map_err(|e| Error::io("making directory", dir, e))?;
        match rustix::fs::mkdir(dir, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(fail("making directory", dir, e)),
        }
        let parent = dir.parent().unwrap_or(Path::new("/"));
        let handle = File::open(parent).map_err(|e| Error::io("opening", parent, e))?;
        disk::sync_dir(handle.as_fd(), parent)?;
    }
    Ok(())
}

/// Whether an object holds contents, or what they are made of.
fn is_content(name: &str) -> bool {
    ![names::LOG, names::HOLDS, names::GC, names::FOLDER].iter().any(|small| name.starts_with(small))
}

fn check_name(name: &str) -> Result<()> {
    names::check(name)?;
    if name == TEMP || name.starts_with("tmp/") {
        return Err(Error::Invalid(format!("{name:?} is kept for unfinished objects")));
    }
    Ok(())
}

fn offline(path: &Path, why: &str) -> Error {
    Error::Offline { name: path.display().to_string(), why: why.into() }
}

/// An operating system error; those that mean "the disk went away" are `Offline`.
fn fail(doing: &'static str, path: &Path, e: Errno) -> Error {
    match e {
        Errno::NODEV | Errno::NXIO | Errno::STALE | Errno::NOTCONN | Errno::SHUTDOWN => {
            offline(path, &format!("{doing}: {e}"))
        }
        _ => Error::io(doing, path, e),
    }
}
