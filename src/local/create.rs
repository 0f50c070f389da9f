//! New files, stubs, directories and links where nothing is yet.
//!
//! Promises that a file appears under its name whole, and that nothing existing is ever replaced.
//! Syncs nothing: the batch's intent explains what a power cut leaves.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::inode::{Target, chmod, proc_path, reserve, set_mark, set_mtime, times};
use super::names::TEMP_PREFIX;
use super::read::read_full_at;
use super::root::Root;
use super::stat::{FileType, Stat};
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::disk::{self, Op};
use crate::format::stub::{InodeMark, MarkState};

/// Compared at a time.
const WINDOW: usize = 1 << 20;

/// Makes a new stub; `Refused` if the name is taken.
pub fn create_stub(target: &Target, mode: u16) -> Result<Stat> {
    let mut new = NewFile::begin(target.root, target.path, target.head.size)?;
    new.write_at(&target.block(), 0)?;
    match set_mark(&new.file, &InodeMark::of(target.head, MarkState::Stub), &new.full) {
        // The header alone makes a stub.
        Err(e) if e.errno() != Some(libc::EOPNOTSUPP) => return Err(e),
        _ => {}
    }
    new.appear(mode, target.head.mtime)
}

/// Makes a directory, writable for its owner until [`set_dir_times`] gives it its own mode; no error
/// if it is there already.
pub fn create_dir(root: &Root, path: &RelPath, mode: u16) -> Result<()> {
    if path.is_root() {
        return Ok(());
    }
    let (parent, name) = root.parent_of(path)?;
    let fail = |e: std::io::Error| Error::io("creating the directory", root.full(path), e);
    disk::point(Op::Link).map_err(fail)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(u32::from(mode) | 0o700)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => match Stat::at(&parent, name).map_err(fail)?.kind {
            FileType::Dir => Ok(()),
            _ => Err(taken()),
        },
        Err(e) => Err(fail(e.into())),
    }
}

/// Makes a symlink; `Refused` if the name is taken.
pub fn create_symlink(root: &Root, path: &RelPath, target: &[u8], mtime: Time) -> Result<Stat> {
    let (parent, name) = root.parent_of(path)?;
    let fail = |e: std::io::Error| Error::io("creating the link", root.full(path), e);
    disk::point(Op::Link).map_err(fail)?;
    match rustix::fs::symlinkat(target, &parent, name) {
        Err(Errno::EXIST) => return Err(taken()),
        other => other.map_err(|e| fail(e.into()))?,
    }
    disk::point(Op::Write).map_err(fail)?;
    rustix::fs::utimensat(&parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| fail(e.into()))?;
    Stat::at(&parent, name).map_err(fail)
}

/// Gives a directory its mode and modification time, after its children are made.
pub fn set_dir_times(root: &Root, path: &RelPath, mode: u16, mtime: Time) -> Result<()> {
    let dir = File::from(root.open_dir(path)?);
    let full = root.full(path);
    chmod(&dir, u32::from(mode), &full)?;
    set_mtime(&dir, mtime, &full)
}

fn taken() -> Error {
    Error::Refused("something with that name is already there".into())
}

fn resize(file: &File, size: u64, path: &Path) -> Result<()> {
    let fail = |e: std::io::Error| Error::io("sizing", path, e);
    disk::point(Op::Write).map_err(fail)?;
    rustix::fs::ftruncate(file, size).map_err(|e| fail(e.into()))
}

/// A file being made: without a name, or where that cannot be, with a temporary one. Dropped, it never was.
pub struct NewFile<'p> {
    parent: OwnedFd,
    name: &'p [u8],
    temp: Option<Vec<u8>>,
    file: File,
    full: PathBuf,
    size: u64,
    /// The end of what was written.
    reached: AtomicU64,
}

impl<'p> NewFile<'p> {
    /// Begins one of `size` bytes; what is not written stays a hole.
    pub fn begin(root: &Root, path: &'p RelPath, size: u64) -> Result<Self> {
        let (parent, name) = root.parent_of(path)?;
        let full = root.full(path);
        let fail = |e: std::io::Error| Error::io("creating", &full, e);
        disk::point(Op::Write).map_err(fail)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let (fd, temp) = match rustix::fs::openat(&parent, c".", flags | OFlags::TMPFILE, mode) {
            Ok(fd) => (fd, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let temp = temp_name().map_err(|e| fail(e.into()))?;
                let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let fd =
                    rustix::fs::openat(&parent, temp.as_slice(), flags, mode).map_err(|e| fail(e.into()))?;
                (fd, Some(temp))
            }
            Err(e) => return Err(fail(e.into())),
        };
        Ok(Self { parent, name, temp, file: File::from(fd), full, size, reached: AtomicU64::new(0) })
    }

    /// Reserves room for all but these holes (start, length), so that a full disk shows before the work.
    pub fn reserve(&self, holes: &[(u64, u64)]) -> Result<()> {
        reserve(&self.file, self.size, holes, &self.full)
    }

    /// Writes a part of the content, in any order, from any thread.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or_else(|| Error::corrupt("content", "it is longer than its entry says"))?;
        self.reached.fetch_max(end, Ordering::Relaxed);
        disk::write_at(&self.file, bytes, offset, &self.full)
    }

    /// Whether what was written is what another file holds.
    pub fn is_same(&self, other: &File) -> Result<bool> {
        let fail = |e| Error::io("comparing with", &self.full, e);
        let (mut ours, mut theirs) = (vec![0; WINDOW], vec![0; WINDOW]);
        let mut at = 0;
        loop {
            let here = read_full_at(&self.file, &mut ours, at).map_err(fail)?;
            let there = read_full_at(other, &mut theirs, at).map_err(fail)?;
            if ours[..here] != theirs[..there] {
                return Ok(false);
            }
            if here < WINDOW {
                return Ok(true);
            }
            at += here as u64;
        }
    }

    /// Gives it size, mode, time and name; `Refused` if that is taken.
    pub fn appear(&mut self, mode: u16, mtime: Time) -> Result<Stat> {
        if self.reached.load(Ordering::Relaxed) < self.size {
            resize(&self.file, self.size, &self.full)?;
        }
        chmod(&self.file, u32::from(mode), &self.full)?;
        set_mtime(&self.file, mtime, &self.full)?;
        match self.link() {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Err(taken()),
            other => other.map_err(|e| Error::io("naming", &self.full, e))?,
        }
        self.temp = None;
        Stat::of(&self.file).map_err(|e| Error::io("inspecting", &self.full, e))
    }

    fn link(&self) -> std::io::Result<()> {
        if let Some(temp) = &self.temp {
            return disk::rename_new(&self.parent, temp, &self.parent, self.name);
        }
        link_unnamed(&self.file, &self.parent, self.name)
    }
}

/// Names an unnamed file.
pub(super) fn link_unnamed(file: &File, dir: &OwnedFd, name: &[u8]) -> std::io::Result<()> {
    disk::point(Op::Link)?;
    match rustix::fs::linkat(file, c"", dir, name, AtFlags::EMPTY_PATH) {
        // Older kernels want a privilege for that form.
        Err(Errno::NOENT | Errno::PERM) => {
            let from = proc_path(file.as_fd());
            Ok(rustix::fs::linkat(CWD, from, dir, name, AtFlags::SYMLINK_FOLLOW)?)
        }
        other => Ok(other?),
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if let Some(temp) = &self.temp {
            // A leftover is recognised by its name.
            let _ = disk::unlink(&self.parent, temp);
        }
    }
}

/// A name that nobody else has and that the scan leaves out.
pub(super) fn temp_name() -> rustix::io::Result<Vec<u8>> {
    let mut random = [0u8; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let mut name = TEMP_PREFIX.to_vec();
    name.extend_from_slice(format!("{:016x}", u64::from_le_bytes(random)).as_bytes());
    Ok(name)
}
