//! Steps on one open file: taking it exclusively, its mark, its header block, holes, times, mode.
//!
//! Promises that a file is changed only while a write lease, or the guard, excludes everybody else, and that every
//! step goes through [`crate::disk`]. Takes no decisions: `stub`, `fill` and `mend` say which steps,
//! in which order.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    FallocateFlags, IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags, major, minor,
};
use rustix::io::Errno;

use super::guard::Hold;
use super::lease::{Lease, LeaseKind, LeaseRefused};
use super::root::{Access, Root};
use super::stat::{FileType, Fingerprint, Stat};
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::disk::{self, Op};
use crate::format::key::Keys;
use crate::format::stub::{HEADER_LEN, InodeMark, StubHead, XATTR};

/// A path and the stub that it is, or is to become.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The folder's root.
    pub root: &'a Root,
    /// The file.
    pub path: &'a RelPath,
    /// The folder's keys.
    pub keys: &'a Keys,
    /// What the stub says.
    pub head: &'a StubHead,
    /// The file whose openers the guard makes wait, where there is a guard: no other that came to lie there
    /// meanwhile is touched.
    pub held: Option<Hold<'a>>,
}

impl<'t> Target<'t> {
    /// The header block for this name.
    pub(super) fn block(&self) -> [u8; HEADER_LEN] {
        self.head.encode(self.keys, self.path.name())
    }

    /// The file opened and leased, and the one that the guard holds, if it holds one.
    pub(super) fn open(&self) -> Result<Exclusive<'t>> {
        self.same(Exclusive::open(self.root, self.path)?)
    }

    /// Fails if this is another file than the one that the guard holds.
    pub(super) fn same<'a>(&self, opened: Exclusive<'a>) -> Result<Exclusive<'a>> {
        match self.held.is_none_or(|held| held.inode == (opened.stat.dev, opened.stat.ino)) {
            true => Ok(opened),
            false => Err(Error::Changed("another file lies there by now".into())),
        }
    }
}

/// A regular file that nobody else has open or mapped, opened for reading and writing.
pub(super) struct Exclusive<'h> {
    // Fields drop in this order: mode back (in `drop`), lease, descriptor.
    /// `None` while the guard keeps everybody else out.
    lease: Option<Lease>,
    /// With a guard: that it still does.
    hold: Option<Hold<'h>>,
    pub file: Arc<File>,
    /// The file now.
    pub stat: Stat,
    /// The file before a read-only one was made writable; else the same as `stat`.
    pub seen: Fingerprint,
    /// All mode bits to go back to.
    mode: u32,
    lent: bool,
    pub path: PathBuf,
}

impl<'h> Exclusive<'h> {
    /// Opens and leases; every reason why that cannot be is `Refused`.
    fn open(root: &Root, path: &RelPath) -> Result<Self> {
        let opened = match root.try_open(path, Access::ReadWrite) {
            Ok(fd) => Opened { file: Arc::new(File::from(fd)), lent: None },
            Err(Errno::ACCESS) => Opened::lend(root, path)?,
            Err(e) => return Err(why_not_writable(root, path, e)),
        };
        Self::lease(opened, root.full(path))
    }

    fn lease(opened: Opened, path: PathBuf) -> Result<Self> {
        let give_back = |e| {
            if let Some(lent) = &opened.lent {
                // The error that ends the attempt matters more than this one.
                let _ = chmod(&opened.file, lent.mode, &path);
            }
            e
        };
        let lease = match Lease::take(&opened.file, LeaseKind::Write) {
            Ok(lease) => lease,
            Err(LeaseRefused::Busy) => {
                return Err(give_back(Error::Refused("it is open or mapped by another program".into())));
            }
            Err(LeaseRefused::Unsupported(e)) => {
                return Err(give_back(Error::Refused(format!("no lease can be taken on it ({e})"))));
            }
        };
        let raw =
            rustix::fs::fstat(&opened.file).map_err(|e| give_back(Error::io("inspecting", &path, e)))?;
        let stat = Stat::from_raw(&raw);
        let now = stat.fingerprint();
        let (seen, changed) = match &opened.lent {
            Some(lent) => (lent.before, now != lent.after),
            None => (now, false),
        };
        if stat.kind != FileType::File || changed {
            return Err(give_back(changed_since()));
        }
        let mode = opened.lent.as_ref().map_or(raw.st_mode & 0o7777, |lent| lent.mode);
        let lent = opened.lent.is_some();
        Ok(Self { lease: Some(lease), hold: None, file: opened.file, stat, seen, mode, lent, path })
    }

    /// Opens for writing what is already open for reading, while the guard keeps everybody else waiting:
    /// those who wait count as openers, so no lease could be had.
    pub fn guarded(reader: &File, hold: Option<Hold<'h>>) -> Result<Self> {
        let path = name_of(reader);
        let raw = rustix::fs::fstat(reader).map_err(|e| Error::io("inspecting", &path, e))?;
        let mode = raw.st_mode & 0o7777;
        let (opened, lent) = match reopen(reader) {
            Err(Errno::ACCESS) => {
                chmod(reader, mode | 0o600, &path)?;
                let opened = reopen(reader);
                if opened.is_err() {
                    // The error that ends the attempt matters more than this one.
                    let _ = chmod(reader, mode, &path);
                }
                (opened, true)
            }
            opened => (opened, false),
        };
        let file = Arc::new(opened.map_err(|e| Error::io("opening", &path, e))?);
        let stat = Stat::from_raw(&raw);
        let seen = stat.fingerprint();
        let held = Self { lease: None, hold, file, stat, seen, mode, lent, path };
        if held.stat.kind != FileType::File { Err(changed_since()) } else { Ok(held) }
    }

    /// The lease has proven that nobody has it open, and the guard keeps it so: whoever opens it now
    /// waits there, and must not make the guard wait for us.
    pub fn rely_on_guard(&mut self, hold: Hold<'h>) {
        self.lease = None;
        self.hold = Some(hold);
    }

    /// Fails once the guard that keeps others out is gone: they may be in.
    pub fn check_hold(&self) -> Result<()> {
        self.hold.map_or(Ok(()), |hold| hold.check())
    }

    /// Whether nobody waits for the lease.
    pub fn is_undisturbed(&self) -> bool {
        self.lease.as_ref().is_none_or(Lease::holds)
    }

    /// Takes the write permission away again that a read-only file was given for opening it.
    pub fn give_back(&mut self) -> Result<()> {
        if self.lent {
            chmod(&self.file, self.mode, &self.path)?;
            self.lent = false;
        }
        Ok(())
    }

    /// Fails if somebody has asked for the file since the lease was taken.
    pub fn check_lease(&self) -> Result<()> {
        if self.is_undisturbed() {
            return Ok(());
        }
        Err(Error::Refused("another program opened it meanwhile".into()))
    }

    /// Writes at an offset.
    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.check_hold()?;
        disk::write_at(&self.file, bytes, offset, &self.path)
    }

    /// Frees a range; the size stays.
    pub fn punch(&self, start: u64, end: u64) -> Result<()> {
        self.check_hold()?;
        punch(&self.file, start, end, &self.path)
    }

    /// Sets the mark.
    pub fn mark(&self, mark: &InodeMark) -> Result<()> {
        set_mark(&self.file, mark, &self.path)
    }

    /// Sets the modification time, mends a mode that writing stripped, and looks once more.
    pub fn settle(&mut self, mtime: Time) -> Result<Stat> {
        set_mtime(&self.file, mtime, &self.path)?;
        self.give_back()?;
        let look = || rustix::fs::fstat(&self.file).map_err(|e| Error::io("inspecting", &self.path, e));
        let raw = look()?;
        if raw.st_mode & 0o6000 == self.mode & 0o6000 {
            return Ok(Stat::from_raw(&raw));
        }
        // The kernel drops set-user-id when somebody without that power writes; what was written
        // stands for the same content.
        chmod(&self.file, raw.st_mode & 0o7777 | self.mode & 0o6000, &self.path)?;
        Ok(Stat::from_raw(&look()?))
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        // Whatever failed, the mode goes back; a failure here is mended from the intent.
        let _ = self.give_back();
    }
}

/// A file opened for writing, perhaps after its owner's write permission was lent to it.
struct Opened {
    file: Arc<File>,
    lent: Option<Lent>,
}

struct Lent {
    mode: u32,
    before: Fingerprint,
    after: Fingerprint,
}

impl Opened {
    /// Opens a read-only file of ours. A read lease spans the two looks around the chmod, so that
    /// only the chmod can have moved the ctime between them.
    fn lend(root: &Root, path: &RelPath) -> Result<Self> {
        let full = root.full(path);
        let reader = Arc::new(root.open_file(path, Access::Read)?);
        let lease = Lease::take(&reader, LeaseKind::Read).map_err(|refused| match refused {
            LeaseRefused::Busy => {
                Error::Refused("it is open for writing or mapped by another program".into())
            }
            LeaseRefused::Unsupported(e) => Error::Refused(format!("it is read-only and not ours ({e})")),
        })?;
        let look = || rustix::fs::fstat(&reader).map_err(|e| Error::io("inspecting", &full, e));
        let raw = look()?;
        if Stat::from_raw(&raw).kind != FileType::File {
            return Err(changed_since());
        }
        let mode = raw.st_mode & 0o7777;
        chmod(&reader, mode | 0o200, &full)?;
        let after = look().map(|raw| Stat::from_raw(&raw).fingerprint());
        // Opening for writing would break it.
        drop(lease);
        let reopened = reopen(&reader);
        match (after, reopened) {
            (Ok(after), Ok(file)) => {
                let before = Stat::from_raw(&raw).fingerprint();
                Ok(Self { file: Arc::new(file), lent: Some(Lent { mode, before, after }) })
            }
            (after, reopened) => {
                let _ = chmod(&reader, mode, &full);
                after?;
                let e = reopened.err().unwrap_or(Errno::IO);
                Err(why_not_writable(root, path, e))
            }
        }
    }
}

/// Opens the same file for reading and writing, whatever its name is by now.
fn reopen(reader: &File) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(proc_path(reader), flags, Mode::empty()).map(File::from)
}

fn changed_since() -> Error {
    Error::Changed("it changed since it was last looked at".into())
}

fn why_not_writable(root: &Root, path: &RelPath, e: Errno) -> Error {
    let why = match e {
        Errno::TXTBSY => "it is being executed",
        Errno::AGAIN => "it is in use: another program holds a lease on it",
        Errno::ROFS => "its file system is read-only",
        Errno::LOOP => "a symbolic link is in the way",
        Errno::XDEV => "it lies on another file system",
        Errno::PERM => match flags(root, path) {
            Some(f) if f.contains(IFlags::IMMUTABLE) => "it is immutable (chattr +i)",
            Some(f) if f.contains(IFlags::APPEND) => "it is append-only (chattr +a)",
            _ => "the system does not let it be written",
        },
        Errno::ACCESS => "it is not ours to write",
        Errno::ISDIR | Errno::NXIO => return changed_since(),
        e => return Error::io("opening", root.full(path), e),
    };
    Error::Refused(why.into())
}

fn flags(root: &Root, path: &RelPath) -> Option<IFlags> {
    let file = root.try_open(path, Access::Read).ok()?;
    rustix::fs::ioctl_getflags(file).ok()
}

pub(super) fn proc_path(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// The name of an open file, for messages.
pub(super) fn name_of(file: &File) -> PathBuf {
    std::fs::read_link(proc_path(file)).unwrap_or_else(|_| PathBuf::from("a file"))
}

fn step(doing: &'static str, path: &Path, run: impl FnOnce() -> rustix::io::Result<()>) -> Result<()> {
    disk::point(Op::Write)
        .and_then(|()| run().map_err(io::Error::from))
        .map_err(|e| Error::io(doing, path, e))
}

pub(super) fn chmod(file: &File, mode: u32, path: &Path) -> Result<()> {
    step("changing the mode of", path, || rustix::fs::fchmod(file, Mode::from_raw_mode(mode)))
}

/// Whether a file system commits changes of extents and attributes in the order in which they were made: of the ext
/// family only what has a journal.
pub fn keeps_order(file: &File) -> bool {
    const EXT: u64 = 0xEF53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683E;
    let magic = rustix::fs::fstatfs(file).map(|fs| fs.f_type as u64 & 0xFFFF_FFFF);
    magic.is_ok_and(|magic| magic == XFS || magic == BTRFS || magic == EXT && has_journal(file))
}

fn has_journal(file: &File) -> bool {
    let device = rustix::fs::fstat(file).map(|stat| (major(stat.st_dev), minor(stat.st_dev)));
    let Ok((major, minor)) = device else { return false };
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let name = link.ok().and_then(|link| Some(link.file_name()?.to_owned()));
    name.is_some_and(|name| Path::new("/sys/fs/ext4").join(name).join("journal_task").exists())
}

/// Reserves room for all but these holes (start, length) of `size` bytes, so that a full disk shows before the
/// work; not worth it, and not done, for a MiB or less.
pub(super) fn reserve(file: &File, size: u64, holes: &[(u64, u64)], path: &Path) -> Result<()> {
    let data = between(size, holes);
    if data.iter().map(|(_, len)| len).sum::<u64>() <= 1 << 20 {
        return Ok(());
    }
    let fail = |e: std::io::Error| Error::io("reserving room for", path, e);
    for (start, len) in data {
        disk::point(Op::Write).map_err(fail)?;
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, start, len) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(e) => return Err(fail(e.into())),
        }
    }
    Ok(())
}

/// The ranges (start, length) that are not holes.
fn between(size: u64, holes: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let (mut out, mut at) = (Vec::new(), 0);
    for (start, len) in holes.iter().copied().chain([(size, 0)]) {
        if start > at {
            out.push((at, start - at));
        }
        at = start + len;
    }
    out
}

/// Sets the modification time; the access time stays. `path` is for errors.
pub fn set_mtime(file: impl AsFd, mtime: Time, path: &Path) -> Result<()> {
    step("setting the times of", path, || rustix::fs::futimens(file, &times(mtime)))
}

/// Sets the access time back.
pub fn set_atime(file: &File, atime: Time) -> Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: atime.secs, tv_nsec: atime.nanos.into() },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    step("setting the times of", &name_of(file), || rustix::fs::futimens(file, &times))
}

/// Modification time; the access time stays.
pub(super) fn times(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
    }
}

pub(super) fn punch(file: &File, start: u64, end: u64, path: &Path) -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    step("freeing blocks of", path, || {
        loop {
            match rustix::fs::fallocate(file, flags, start, end - start) {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    })
}

/// Frees everything behind the header block, also what is allocated behind the end.
pub(super) fn punch_tail(file: &File, size: u64, path: &Path) -> Result<()> {
    // A partial last block is only freed when the range covers it whole.
    let end = size.div_ceil(64 << 10).saturating_mul(64 << 10).min(i64::MAX as u64);
    punch(file, HEADER_LEN as u64, end, path)
}

pub(super) fn set_mark(file: &File, mark: &InodeMark, path: &Path) -> Result<()> {
    let bytes = mark.encode();
    step("marking", path, || {
        permitted(file, || rustix::fs::fsetxattr(file, XATTR, &bytes, XattrFlags::empty()))
    })
}

/// Has a file that is marked as filled compared with its content before that mark goes.
pub fn doubt_mark(file: &File) -> Result<()> {
    match marked(file)? {
        Some(mark) => set_mark(file, &InodeMark { mount: Default::default(), ..mark }, &name_of(file)),
        None => Ok(()),
    }
}

/// Removes the mark; no error if there is none or can be none.
pub fn clear_mark(file: &File) -> Result<()> {
    let run = || match permitted(file, || rustix::fs::fremovexattr(file, XATTR)) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    };
    disk::point(Op::Write)
        .and_then(|()| run().map_err(io::Error::from))
        .map_err(|e| Error::io("unmarking", name_of(file), e))
}

/// The mark on an inode; `None` also where the file system has no such attributes.
pub fn marked(file: &File) -> Result<Option<InodeMark>> {
    let read = || {
        let mut buf = vec![0u8; 256];
        let len = rustix::fs::fgetxattr(file, XATTR, &mut buf[..])?;
        buf.truncate(len);
        Ok(buf)
    };
    match permitted(file, read) {
        Ok(mark) => InodeMark::decode(&mark).map(Some),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(Error::io("reading the mark of", name_of(file), e)),
    }
}

/// Does something about attributes; the kernel checks the permissions even of an open file, so one of ours
/// that lacks them gets them for that moment.
fn permitted<T>(file: &File, run: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match run() {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(rustix::fs::fstat(file)?.st_mode & 0o7777);
            rustix::fs::fchmod(file, mode | Mode::RUSR | Mode::WUSR)?;
            let result = run();
            rustix::fs::fchmod(file, mode)?;
            result
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn room_is_reserved_for_data_only() {
        assert_eq!(between(10, &[]), [(0, 10)]);
        assert_eq!(between(10, &[(0, 10)]), []);
        assert_eq!(between(10, &[(0, 2), (4, 1), (9, 1)]), [(2, 2), (5, 4)]);
    }
}
