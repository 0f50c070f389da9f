//! Reading one file so that its bytes are proven to be one consistent content.
//!
//! Promises that [`Reading::finish`] fails if anything changed while the file was read, and that
//! its [`Proof`] says whether those bytes may later be freed. Knows no chunks and no stores.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Advice, SeekFrom};
use rustix::io::Errno;

use super::inode::clear_mark;
use super::lease::{Lease, LeaseKind, LeaseRefused};
use super::root::{Access, Root};
use super::stat::{FileType, Stat};
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;

/// Shorter holes are read as the zeros they stand for.
pub const MIN_HOLE: u64 = 64 << 10;

/// A part of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Bytes to read.
    Data {
        /// First byte.
        start: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Zeros that are not stored.
    Hole {
        /// First byte.
        start: u64,
        /// Number of bytes.
        len: u64,
    },
}

/// What is known about bytes that were read.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The file, unchanged from before the first to after the last byte was read.
    pub stat: Stat,
    /// Why these bytes may not be freed later; `None`: as long as the fingerprint stays, they may
    /// ([`super::stub::convert`] hashes again where the kernel's ctime is too coarse to tell).
    pub unstashable: Option<String>,
}

/// One regular file being read, under a read lease where there is one.
#[derive(Debug)]
pub struct Reading {
    // Declared before the file: given back before the descriptor closes.
    lease: Result<Lease, String>,
    file: Arc<File>,
    stat: Stat,
    path: PathBuf,
}

impl Reading {
    /// Opens a regular file; anything else is `Changed`.
    pub fn open(root: &Root, path: &RelPath) -> Result<Self> {
        let file = Arc::new(root.open_file(path, Access::Read)?);
        let path = root.full(path);
        let lease = Lease::take(&file, LeaseKind::Read).map_err(|refused| match refused {
            LeaseRefused::Busy => "it is open for writing or mapped by another program".to_string(),
            LeaseRefused::Unsupported(e) => format!("no lease can be taken on it ({e})"),
        });
        // After the lease: from here on nobody can write without breaking it.
        let stat = Stat::of(&file).map_err(|e| Error::io("inspecting", &path, e))?;
        if stat.kind != FileType::File {
            return Err(Error::Changed("it is no longer a regular file".into()));
        }
        if stat.size > 1 << 20 {
            // Only a hint.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        }
        Ok(Self { lease, file, stat, path })
    }

    /// The file as it was at open.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Removes the mark of a stub that the user wrote over, and looks at the file again: only stubs
    /// are to carry one.
    pub fn unmark(mut self) -> Result<Self> {
        // Where it may not be removed it does no harm: bytes decide what is a stub.
        if clear_mark(&self.file).is_ok() {
            self.stat = Stat::of(&self.file).map_err(|e| Error::io("inspecting", &self.path, e))?;
        }
        Ok(self)
    }

    /// Why there is no lease; `None` if there is one.
    pub fn leased(&self) -> Option<&str> {
        self.lease.as_ref().err().map(String::as_str)
    }

    /// Data and holes, covering the file in order. The kernel is asked only where fewer blocks are
    /// in use than the size needs.
    pub fn extents(&self) -> Result<Vec<Extent>> {
        extents_of(&self.file, &self.stat).map_err(|e| Error::io("looking for holes in", &self.path, e))
    }

    /// Reads until the buffer is full or the file ends.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        read_full_at(&self.file, buf, offset).map_err(|e| Error::io("reading", &self.path, e))
    }

    /// Ends the reading; any change since it began is an error.
    pub fn finish(self) -> Result<Proof> {
        let now = Stat::of(&self.file).map_err(|e| Error::io("inspecting", &self.path, e))?;
        let lost = self.lease.as_ref().is_ok_and(|lease| !lease.holds());
        if lost || now.fingerprint() != self.stat.fingerprint() {
            return Err(Error::Changed("it changed while it was read".into()));
        }
        let unstashable = match &self.lease {
            Err(why) => Some(why.clone()),
            Ok(_) if now.nlink > 1 => Some(format!("it has {} hard links", now.nlink)),
            Ok(_) => None,
        };
        Ok(Proof { stat: now, unstashable })
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_full_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The first range at or after `from` that may hold data; `None` if only hole follows.
pub(super) fn next_data(file: &File, from: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if from >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // No support: everything may be data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((from, size))),
        Err(e) => return Err(e.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}

fn extents_of(file: &File, stat: &Stat) -> io::Result<Vec<Extent>> {
    let mut out = Vec::new();
    if stat.blocks.saturating_mul(512) >= stat.size {
        push_data(&mut out, 0, stat.size);
        return Ok(out);
    }
    let mut at = 0;
    while at < stat.size {
        let (start, end) = next_data(file, at, stat.size)?.unwrap_or((stat.size, stat.size));
        if start - at >= MIN_HOLE {
            out.push(Extent::Hole { start: at, len: start - at });
        } else {
            push_data(&mut out, at, start);
        }
        push_data(&mut out, start, end);
        at = end;
    }
    Ok(out)
}

fn push_data(out: &mut Vec<Extent>, start: u64, end: u64) {
    match out.last_mut() {
        _ if start == end => {}
        Some(Extent::Data { start: first, len }) if *first + *len == start => *len = end - *first,
        _ => out.push(Extent::Data { start, len: end - start }),
    }
}
