//! The folder's root directory, held open: every path is resolved beneath it.
//!
//! Promises (I7) that no symlink is followed, that nothing above the root and, unless asked, nothing
//! on another file system is opened, and that opening never waits on a pipe. Knows no stubs.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::mount::{MountId, mount_of};
use super::stat::Stat;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// A folder's root directory.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
    device: u64,
    resolve: ResolveFlags,
}

impl Root {
    /// Opens the directory; paths on other file systems mounted beneath it are refused.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, ResolveFlags::NO_XDEV)
    }

    /// Opens the directory; other file systems mounted beneath it count as part of the tree.
    pub fn open_across(path: &Path) -> Result<Self> {
        Self::open_with(path, ResolveFlags::empty())
    }

    fn open_with(path: &Path, devices: ResolveFlags) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("opening", path, e))?;
        let stat = rustix::fs::fstat(&dir).map_err(|e| Error::io("inspecting", path, e))?;
        let device = Stat::from_raw(&stat).dev;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | devices;
        Ok(Self { dir, path: path.to_path_buf(), device, resolve })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its device number.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// The full path, for messages only: opening it would follow symlinks.
    pub fn full(&self, path: &RelPath) -> PathBuf {
        if path.is_root() { self.path.clone() } else { self.path.join(path.as_path()) }
    }

    /// Opens whatever lies there (callers check that it is a regular file), leaving its access time
    /// alone where the caller may.
    pub fn open_file(&self, path: &RelPath, access: Access) -> Result<File> {
        self.try_open(path, access).map(File::from).map_err(|e| self.refusal("opening", path, e))
    }

    /// Opens a file as a name only: no access to its content, and nothing that keeps others from a lease.
    pub fn open_name(&self, path: &RelPath) -> Result<OwnedFd> {
        self.resolve(path, OFlags::PATH).map_err(|e| self.refusal("finding", path, e))
    }

    /// [`Root::open_file`] with the bare error.
    pub(super) fn try_open(&self, path: &RelPath, access: Access) -> rustix::io::Result<OwnedFd> {
        let mode = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        self.quietly(path, mode | OFlags::NONBLOCK | OFlags::NOCTTY)
    }

    /// In which mount of its file system a file of this tree lies, however it was opened; `None` where the kernel
    /// tells none.
    pub fn mount_of(&self, file: &File) -> Option<MountId> {
        let device = |fd: BorrowedFd| rustix::fs::fstat(fd).ok().map(|stat| stat.st_dev);
        match device(file.as_fd()) == device(self.dir.as_fd()) {
            true => mount_of(&self.dir),
            false => mount_of(file),
        }
    }

    /// Opens a directory for listing.
    pub fn open_dir(&self, path: &RelPath) -> Result<OwnedFd> {
        self.quietly(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| self.refusal("opening", path, e))
    }

    /// What lies at a path; `None` if nothing does, also when a parent is no directory.
    pub fn stat(&self, path: &RelPath) -> Result<Option<Stat>> {
        let fd = match self.resolve(path, OFlags::PATH) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => return Err(self.refusal("inspecting", path, e)),
        };
        let raw = rustix::fs::fstat(&fd).map_err(|e| Error::io("inspecting", self.full(path), e))?;
        Ok(Some(Stat::from_raw(&raw)))
    }

    /// The target of a symlink.
    pub fn read_link(&self, path: &RelPath) -> Result<Vec<u8>> {
        self.resolve(path, OFlags::PATH)
            .and_then(|fd| rustix::fs::readlinkat(&fd, c"", Vec::new()))
            .map(|target| target.into_bytes())
            .map_err(|e| self.refusal("reading the link", path, e))
    }

    /// The directory a path lies in, open, and the path's last component.
    pub(super) fn parent_of<'p>(&self, path: &'p RelPath) -> Result<(OwnedFd, &'p [u8])> {
        let Some((parent, _)) = path.split() else {
            return Err(Error::Invalid("the folder's root itself cannot be made or replaced".into()));
        };
        Ok((self.open_dir(&parent)?, path.name()))
    }

    fn quietly(&self, path: &RelPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        match self.resolve(path, flags | OFlags::NOATIME) {
            // Only owners may leave the access time alone.
            Err(Errno::PERM) => self.resolve(path, flags),
            other => other,
        }
    }

    fn resolve(&self, path: &RelPath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let name = if path.is_root() { b".".as_slice() } else { path.as_bytes() };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(&self.dir, name, flags, Mode::empty(), self.resolve) {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }

    fn refusal(&self, doing: &'static str, path: &RelPath, e: Errno) -> Error {
        match e {
            Errno::LOOP => Error::Refused("a symbolic link is in the way".into()),
            Errno::XDEV => Error::Refused("it lies on another file system".into()),
            e => Error::io(doing, self.full(path), io::Error::from(e)),
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
