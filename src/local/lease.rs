//! File leases: the kernel's word that nobody else has a file open for writing, or at all.
//!
//! Promises that a granted lease proves no other open or mapping of its kind, and that
//! [`Lease::holds`] turns false as soon as somebody asks for one; the asker waits until the lease
//! is released or `/proc/sys/fs/lease-break-time` has passed. Knows nothing of content.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::{Once, OnceLock};
use std::time::Duration;

/// Ignores the signal by which the kernel announces that a lease is wanted back; its default action
/// would end the process. [`Lease::holds`] is asked instead.
pub fn ignore_lease_signals() {
    static ONCE: Once = Once::new();
    // SAFETY: SIG_IGN installs no handler, so no code of ours runs in signal context.
    ONCE.call_once(|| unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
    });
}

/// What a lease excludes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseKind {
    /// Others' writing (open descriptors and writable mappings); needs a read-only descriptor.
    Read,
    /// Any other open descriptor or mapping.
    Write,
}

impl LeaseKind {
    fn raw(self) -> i32 {
        match self {
            Self::Read => libc::F_RDLCK,
            Self::Write => libc::F_WRLCK,
        }
    }
}

/// Why there is no lease.
#[derive(Debug)]
pub enum LeaseRefused {
    /// Somebody has the file open (for writing) or mapped.
    Busy,
    /// Not our file, or a file system without leases.
    Unsupported(io::Error),
}

/// A lease; dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    // Shared, so that the lease cannot outlive its descriptor and hit a reused number.
    file: Arc<File>,
    kind: LeaseKind,
}

impl Lease {
    /// Takes a lease through this descriptor.
    pub fn take(file: &Arc<File>, kind: LeaseKind) -> Result<Self, LeaseRefused> {
        ignore_lease_signals();
        let lease = Self { file: Arc::clone(file), kind };
        match lease.control(libc::F_SETLEASE, kind.raw()) {
            Ok(_) => Ok(lease),
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => Err(LeaseRefused::Busy),
            Err(e) => Err(LeaseRefused::Unsupported(e)),
        }
    }

    /// Whether the lease is whole and nobody has asked for it back.
    pub fn holds(&self) -> bool {
        self.control(libc::F_GETLEASE, 0).is_ok_and(|now| now == self.kind.raw())
    }

    fn control(&self, command: i32, arg: i32) -> io::Result<i32> {
        // SAFETY: plain integers on a descriptor that `self.file` keeps open.
        match unsafe { libc::fcntl(self.file.as_raw_fd(), command, arg) } {
            -1 => Err(io::Error::last_os_error()),
            value => Ok(value),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Failing means that the kernel took it already.
        let _ = self.control(libc::F_SETLEASE, libc::F_UNLCK);
    }
}

/// Whether this kernel gives changes distinguishable ctimes (6.13 and later).
pub fn fine_ctime() -> bool {
    static FINE: OnceLock<bool> = OnceLock::new();
    *FINE.get_or_init(|| release_at_least(&rustix::system::uname().release().to_string_lossy(), (6, 13)))
}

/// Whether the ctime of files on this file system can be relied upon: the kernel's promise covers
/// only some of them.
pub fn fine_ctime_on(file: impl AsFd) -> bool {
    const EXT4: u64 = 0xEF53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683E;
    const TMPFS: u64 = 0x0102_1994;
    // The field's type differs between architectures.
    #[allow(clippy::unnecessary_cast)]
    let magic = rustix::fs::fstatfs(file).map(|s| s.f_type as u64 & 0xFFFF_FFFF);
    fine_ctime() && matches!(magic, Ok(EXT4 | XFS | BTRFS | TMPFS))
}

/// How long work under a lease may go on once somebody asks for it: two thirds of the time after
/// which the kernel takes it away, at most 30 s.
pub(super) fn patience() -> Duration {
    static LIMIT: OnceLock<Duration> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/fs/lease-break-time").unwrap_or_default();
        let seconds: u64 = text.trim().parse().unwrap_or(45);
        Duration::from_millis((seconds * 667).min(30_000))
    })
}

fn release_at_least(release: &str, least: (u32, u32)) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= least
}

#[cfg(test)]
mod tests {
    use super::release_at_least;

    #[test]
    fn kernel_releases_compare_as_numbers() {
        assert!(release_at_least("6.18.44-fc-v595", (6, 13)) && release_at_least("7.0-rc1", (6, 13)));
        assert!(!release_at_least("6.8.0-generic", (6, 13)) && !release_at_least("5.19", (6, 13)));
        assert!(!release_at_least("odd", (6, 13)));
    }
}
