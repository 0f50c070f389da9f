//! The kernel's permission events: a group, marks on inodes, events read, answers written.
//!
//! Promises that an event's number stays taken until it was answered, since the kernel knows events by
//! that number and several threads read. Making an event's descriptor may wait for a lease; whoever reads
//! waits with that one event, but for what [`Group::read`] says. The format is that of fanotify(7); what is decided about an event is not known
//! here.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::DupFlags;

/// Before any read or write of a file's content; kernel 6.14 and later.
const FAN_PRE_ACCESS: u64 = 0x0010_0000;
/// An event whose file cannot be opened is told with the error instead of ending the reading.
const FAN_REPORT_FD_ERROR: libc::c_uint = 0x2000;

/// An event group. Dropping it lets everybody in who waits.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
    /// Whether accesses are reported beside opens.
    pre_access: bool,
    /// Takes an event's number when its file is closed early.
    stand_in: File,
}

/// One opener (or one that reads without having been seen opening) who waits for an answer.
#[derive(Debug)]
pub struct Event {
    /// The file, opened for reading.
    pub file: File,
    /// By which the kernel knows it: the file's, if it was not left by an earlier guard.
    pub number: RawFd,
    /// The thread.
    pub thread: i32,
    /// Whether it is an open; else an access.
    pub opens: bool,
}

impl Group {
    /// Makes a group; needs CAP_SYS_ADMIN.
    pub fn new(accesses: bool) -> io::Result<Self> {
        let base = libc::FAN_CLOEXEC
            | libc::FAN_CLASS_PRE_CONTENT
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_UNLIMITED_MARKS
            | libc::FAN_NONBLOCK
            | libc::FAN_REPORT_TID;
        let fd = init(base | FAN_REPORT_FD_ERROR).or_else(|_| init(base))?;
        Self::with(fd, accesses)
    }

    fn with(fd: OwnedFd, pre_access: bool) -> io::Result<Self> {
        Ok(Self { fd, pre_access, stand_in: File::open("/dev/null")? })
    }

    /// Takes over a group that an earlier guard left with the service manager. Whoever it had not answered
    /// gets an error, unless he is `known`: a number is all that is left of him.
    pub fn adopt(fd: OwnedFd, accesses: bool, known: &[Event]) -> io::Result<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        // One that is older than this program waited in reading.
        rustix::fs::fcntl_setfl(&fd, OFlags::RDWR | OFlags::NONBLOCK)?;
        let group = Self::with(fd, accesses)?;
        let known: HashSet<RawFd> = known.iter().map(|event| event.number).collect();
        for number in (0..numbers(limit)).filter(|number| !known.contains(number)) {
            // Numbers that wait for nothing are refused; before 6.14 there is no errno to choose.
            if group.write(number, deny(libc::EIO)).is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL)) {
                let _ = group.write(number, libc::FAN_DENY);
            }
        }
        Ok(group)
    }

    /// The descriptor, to be kept by the service manager.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Guards the inode behind a descriptor: its opens, and with `accesses` what is read of it.
    pub fn mark(&self, file: impl AsFd, accesses: bool) -> io::Result<()> {
        if accesses && self.pre_access {
            match self.change(libc::FAN_MARK_ADD, libc::FAN_OPEN_PERM | FAN_PRE_ACCESS, &file) {
                // An older kernel, or a file system without it: opens alone carry the feature.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {}
                other => return other,
            }
        }
        self.change(libc::FAN_MARK_ADD, libc::FAN_OPEN_PERM, &file)?;
        if self.pre_access && !accesses { self.unmark_bits(FAN_PRE_ACCESS, &file) } else { Ok(()) }
    }

    /// Guards it no longer.
    pub fn unmark(&self, file: impl AsFd) -> io::Result<()> {
        self.unmark_bits(libc::FAN_OPEN_PERM | if self.pre_access { FAN_PRE_ACCESS } else { 0 }, &file)
    }

    fn unmark_bits(&self, bits: u64, file: &impl AsFd) -> io::Result<()> {
        match self.change(libc::FAN_MARK_REMOVE, bits, file) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
            other => other,
        }
    }

    fn change(&self, what: libc::c_uint, mask: u64, file: &impl AsFd) -> io::Result<()> {
        // By name, since the call refuses descriptors that were opened with O_PATH.
        let name = CString::new(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))?;
        // SAFETY: a live group and a string that outlives the call.
        let done =
            unsafe { libc::fanotify_mark(self.fd.as_raw_fd(), what, mask, libc::AT_FDCWD, name.as_ptr()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether an event comes, or lies there unread, within this time.
    pub fn is_unread(&self, within: Duration) -> bool {
        let mut group = [PollFd::new(&self.fd, PollFlags::IN)];
        let within = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: within.subsec_nanos().into() };
        rustix::event::poll(&mut group, Some(&within)).is_ok_and(|ready| ready > 0)
    }

    /// Hands an event on, if there is one. One whose file the kernel could not open was refused by it
    /// already.
    ///
    /// Two at once where an access that came first is gone (another thread has it, or it was killed) by the time
    /// its length was made room for: no length takes one access and not two opens.
    pub fn read(&self, sink: &mut dyn FnMut(Event)) -> io::Result<()> {
        const HEAD: usize = size_of::<libc::fanotify_event_metadata>();
        let mut buf = [0u8; 64];
        // One at a time, or those read with one that waits for a lease would wait with it.
        let len = match self.read_some(&mut buf[..HEAD]) {
            // An access, which comes with its range.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => self.read_some(&mut buf)?,
            other => other?,
        };
        let mut rest = &buf[..len];
        while rest.len() >= HEAD {
            // SAFETY: at least HEAD bytes, any bit pattern is a value, and the read is unaligned.
            let head: libc::fanotify_event_metadata =
                unsafe { std::ptr::read_unaligned(rest.as_ptr().cast()) };
            let size = head.event_len as usize;
            if head.vers != libc::FANOTIFY_METADATA_VERSION || size < HEAD || size > rest.len() {
                return Err(io::Error::from_raw_os_error(libc::EPROTO));
            }
            rest = &rest[size..];
            if head.fd >= 0 {
                // SAFETY: the kernel opened it for us.
                let file = unsafe { File::from_raw_fd(head.fd) };
                let opens = head.mask & libc::FAN_OPEN_PERM != 0;
                sink(Event { file, number: head.fd, thread: head.pid, opens });
            }
        }
        Ok(())
    }

    fn read_some(&self, buf: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the kernel writes at most the length given.
        let len = unsafe { libc::read(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        usize::try_from(len).map_err(|_| io::Error::last_os_error())
    }

    /// Lets an opener in.
    pub fn allow(&self, event: &Event) {
        let _ = self.write(event.number, libc::FAN_ALLOW);
    }

    /// Lets an opener in after closing the event's file, which would keep it from taking a lease.
    pub fn allow_at_once(&self, event: Event) {
        let (mut place, number) = (OwnedFd::from(event.file), event.number);
        // Failing leaves it open a moment longer.
        let _ = rustix::io::dup3(&self.stand_in, &mut place, DupFlags::CLOEXEC);
        let _ = self.write(number, libc::FAN_ALLOW);
    }

    /// Refuses with an errno; one that the kernel does not take becomes EPERM.
    pub fn refuse(&self, event: &Event, errno: i32) {
        let number = event.number;
        if self.write(number, deny(errno)).is_err() {
            let _ = self.write(number, libc::FAN_DENY);
        }
    }

    fn write(&self, number: RawFd, response: u32) -> io::Result<()> {
        let answer = libc::fanotify_response { fd: number, response };
        // SAFETY: a plain struct of the length given.
        let done = unsafe {
            libc::write(self.fd.as_raw_fd(), std::ptr::from_ref(&answer).cast(), size_of_val(&answer))
        };
        // Somebody who was killed while he waited needs no answer.
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// How many event numbers an earlier guard may have had, where such a limit is set now.
fn numbers(limit: Option<u64>) -> RawFd {
    // Its limit was the same, or the usual one; and whoever waits is a thread, of which there are no more.
    const USUAL: u64 = 1 << 16;
    const MOST: u64 = 1 << 22;
    limit.unwrap_or(MOST).clamp(USUAL, MOST) as RawFd
}

fn init(flags: libc::c_uint) -> io::Result<OwnedFd> {
    let event = (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC | libc::O_NOATIME) as libc::c_uint;
    // SAFETY: no pointers.
    let fd = unsafe { libc::fanotify_init(flags, event) };
    // SAFETY: a new descriptor that nobody else owns.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd) }) }
}

/// A refusal with an errno: bits 24 to 31 of the response.
fn deny(errno: i32) -> u32 {
    libc::FAN_DENY | (errno as u32 & 0xFF) << 24
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn all_numbers_that_an_earlier_guard_may_have_had_are_answered() {
        assert_eq!(numbers(Some(524_288)), 524_288);
        // It may have been allowed more than we are.
        assert_eq!(numbers(Some(1024)), 65_536);
        assert_eq!((numbers(Some(1 << 40)), numbers(None)), (1 << 22, 1 << 22));
    }
}
