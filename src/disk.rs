//! The few operations that change or persist bytes on a disk, all in one place.
//!
//! Promises that every write, sync, link and removal that ddr's safety depends on passes through
//! here, with errors that name the path. In debug builds `DDR_FAULT` makes the k-th operation fail
//! or be the process's last, and can turn syncs off, so that the crash drills can enumerate every
//! state a crash leaves and prove that the syncs matter. Knows no formats and no names.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, RenameFlags};

use crate::base::error::{Error, Result};

/// What an operation does, for the fault drills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Bytes, holes, sizes, times, attributes.
    Write,
    /// fsync of a file, directory or file system.
    Sync,
    /// A name appears or moves.
    Link,
    /// A name disappears.
    Delete,
}

/// Counts one operation; fails where the drill says so.
#[cfg(debug_assertions)]
pub fn point(op: Op) -> io::Result<()> {
    drill::point(op)
}

/// Release builds have no drills.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_: Op) -> io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
fn syncs() -> bool {
    drill::syncs()
}

#[cfg(not(debug_assertions))]
#[inline(always)]
fn syncs() -> bool {
    true
}

/// Writes all parts at the file's position.
pub fn write_parts(file: &File, parts: &[&[u8]], path: &Path) -> Result<()> {
    let fail = |e: io::Error| Error::io("writing", path, e);
    point(Op::Write).map_err(fail)?;
    let mut slices: Vec<IoSlice> = parts.iter().filter(|p| !p.is_empty()).map(|p| IoSlice::new(p)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        // The kernel takes at most 1,024 slices at once.
        let take = rest.len().min(1024);
        match (&mut &*file).write_vectored(&rest[..take]) {
            Ok(0) => return Err(fail(io::ErrorKind::WriteZero.into())),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(fail(e)),
        }
    }
    Ok(())
}

/// Writes bytes at an offset.
pub fn write_at(file: &File, bytes: &[u8], offset: u64, path: &Path) -> Result<()> {
    point(Op::Write)
        .and_then(|()| file.write_all_at(bytes, offset))
        .map_err(|e| Error::io("writing", path, e))
}

/// Makes a file's bytes and size durable.
pub fn sync_file(file: &File, path: &Path) -> Result<()> {
    let run = || if syncs() { file.sync_all() } else { Ok(()) };
    point(Op::Sync).and_then(|()| run()).map_err(|e| Error::io("syncing", path, e))
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: impl AsFd, path: &Path) -> Result<()> {
    let run = || if syncs() { rustix::fs::fsync(dir.as_fd()).map_err(io::Error::from) } else { Ok(()) };
    point(Op::Sync).and_then(|()| run()).map_err(|e| Error::io("syncing directory", path, e))
}

/// Makes everything written to a file system durable.
pub fn sync_fs(any: impl AsFd, path: &Path) -> Result<()> {
    let run = || if syncs() { rustix::fs::syncfs(any.as_fd()).map_err(io::Error::from) } else { Ok(()) };
    point(Op::Sync).and_then(|()| run()).map_err(|e| Error::io("syncing the file system of", path, e))
}

/// Moves `from` to a name that must not exist yet (both relative to their directories).
pub fn rename_new(from_dir: impl AsFd, from: &[u8], to_dir: impl AsFd, to: &[u8]) -> io::Result<()> {
    point(Op::Link)?;
    match rustix::fs::renameat_with(from_dir.as_fd(), from, to_dir.as_fd(), to, RenameFlags::NOREPLACE) {
        // Some file systems lack the flag; a hard link also refuses an existing name.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            rustix::fs::linkat(from_dir.as_fd(), from, to_dir.as_fd(), to, AtFlags::empty())?;
            Ok(rustix::fs::unlinkat(from_dir.as_fd(), from, AtFlags::empty())?)
        }
        other => Ok(other?),
    }
}

/// Moves `from` over `to`, atomically.
pub fn rename_over(from_dir: impl AsFd, from: &[u8], to_dir: impl AsFd, to: &[u8]) -> io::Result<()> {
    point(Op::Link)?;
    Ok(rustix::fs::renameat(from_dir.as_fd(), from, to_dir.as_fd(), to)?)
}

/// Removes a file's name; no error if it is already gone.
pub fn unlink(dir: impl AsFd, name: &[u8]) -> io::Result<()> {
    point(Op::Delete)?;
    match rustix::fs::unlinkat(dir.as_fd(), name, AtFlags::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Replaces a small file so that a crash leaves the old or the new one: temporary file beside it,
/// sync, rename, directory sync.
pub fn replace_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::OpenOptionsExt;
    let dir_path = path.parent().unwrap_or(Path::new("."));
    let dir = File::open(dir_path).map_err(|e| Error::io("opening", dir_path, e))?;
    let name = path.file_name().map(|n| n.as_bytes().to_vec()).unwrap_or_default();
    let temp_name = [name.as_slice(), b".new"].concat();
    let temp = dir_path.join(std::ffi::OsStr::from_bytes(&temp_name));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temp)
        .map_err(|e| Error::io("creating", &temp, e))?;
    write_parts(&file, &[bytes], &temp)?;
    sync_file(&file, &temp)?;
    rename_over(&dir, &temp_name, &dir, &name).map_err(|e| Error::io("replacing", path, e))?;
    sync_dir(&dir, dir_path)
}

/// `DDR_FAULT=fail:K` (the K-th operation fails with EIO), `full:K` (with ENOSPC, as do all
/// later writes), `last:K` (the process ends just before it), `nosync`, `count` (prints the number
/// of operations to stderr at exit); a prefix `sync-`, `write-`, `link-` or `delete-` counts only
/// that kind.
#[cfg(debug_assertions)]
mod drill {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Op;

    enum What {
        Fail,
        Full,
        Last,
    }

    struct Drill {
        what: Option<(What, u64)>,
        only: Option<Op>,
        syncs: bool,
    }

    static SEEN: AtomicU64 = AtomicU64::new(0);
    static DRILL: OnceLock<Drill> = OnceLock::new();

    fn drill() -> &'static Drill {
        DRILL.get_or_init(|| parse(&std::env::var("DDR_FAULT").unwrap_or_default()))
    }

    fn parse(text: &str) -> Drill {
        let kinds =
            [("sync-", Op::Sync), ("write-", Op::Write), ("link-", Op::Link), ("delete-", Op::Delete)];
        let (only, text) = kinds
            .iter()
            .find_map(|(prefix, op)| text.strip_prefix(prefix).map(|rest| (Some(*op), rest)))
            .unwrap_or((None, text));
        let at = |name: &str| text.strip_prefix(name).and_then(|k| k.parse().ok());
        let what = at("fail:")
            .map(|k| (What::Fail, k))
            .or_else(|| at("full:").map(|k| (What::Full, k)))
            .or_else(|| at("last:").map(|k| (What::Last, k)));
        if text == "count" {
            extern "C" fn tell() {
                eprintln!("operations: {}", SEEN.load(Ordering::SeqCst));
            }
            // SAFETY: `tell` is a plain function without arguments, as atexit wants it.
            unsafe { libc::atexit(tell) };
        }
        Drill { what, only, syncs: text != "nosync" }
    }

    pub fn syncs() -> bool {
        drill().syncs
    }

    pub fn point(op: Op) -> io::Result<()> {
        let drill = drill();
        if drill.only.is_some_and(|only| only != op) {
            return Ok(());
        }
        let seen = SEEN.fetch_add(1, Ordering::SeqCst) + 1;
        match &drill.what {
            Some((What::Fail, k)) if seen == *k => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some((What::Full, k)) if seen >= *k && op != Op::Delete => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            // SAFETY: ends the process at once, without destructors: that is the point.
            Some((What::Last, k)) if seen == *k => unsafe { libc::_exit(86) },
            _ => Ok(()),
        }
    }
}
