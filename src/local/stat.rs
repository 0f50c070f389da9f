//! What the kernel says about one file, reduced to what ddr compares.
//!
//! Promises that symlinks are never followed. Knows nothing of content: an equal [`Fingerprint`]
//! proves equal bytes only together with a lease (`local::read`).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType as Raw};

use crate::base::units::Time;

/// The type of a directory entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// Something ddr does not keep: `socket`, `fifo` or `device`.
    Other(&'static str),
}

/// The fields of `stat` that ddr uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Type.
    pub kind: FileType,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Time of the last read, as far as mount options let it be written.
    pub atime: Time,
    /// Time of the last change of bytes or inode; cannot be set by anyone.
    pub ctime: Time,
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// The nine permission bits.
    pub mode: u16,
    /// Number of hard links.
    pub nlink: u64,
    /// Blocks of 512 bytes in use.
    pub blocks: u64,
}

/// What must be unchanged for the bytes to count as unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
}

impl Stat {
    /// Of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from_raw(&rustix::fs::fstat(file)?))
    }

    /// Of a name in an open directory; a symlink is not followed.
    pub fn at(dir: impl AsFd, name: &[u8]) -> io::Result<Self> {
        Ok(Self::from_raw(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// The part that proves bytes unchanged.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { ino: self.ino, size: self.size, mtime: self.mtime, ctime: self.ctime }
    }

    // Field types differ between architectures, so some of these casts do nothing on this one.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn from_raw(raw: &rustix::fs::Stat) -> Self {
        let kind = match Raw::from_raw_mode(raw.st_mode) {
            Raw::RegularFile => FileType::File,
            Raw::Directory => FileType::Dir,
            Raw::Symlink => FileType::Symlink,
            Raw::Socket => FileType::Other("socket"),
            Raw::Fifo => FileType::Other("fifo"),
            _ => FileType::Other("device"),
        };
        Self {
            kind,
            size: raw.st_size as u64,
            mtime: Time { secs: raw.st_mtime as i64, nanos: raw.st_mtime_nsec as u32 },
            atime: Time { secs: raw.st_atime as i64, nanos: raw.st_atime_nsec as u32 },
            ctime: Time { secs: raw.st_ctime as i64, nanos: raw.st_ctime_nsec as u32 },
            dev: raw.st_dev as u64,
            ino: raw.st_ino as u64,
            mode: (raw.st_mode & 0o777) as u16,
            nlink: raw.st_nlink as u64,
            blocks: raw.st_blocks as u64,
        }
    }
}
