//! Which mount of its file system a file lies on.
//!
//! Promises that two answers are equal only if the file system stayed mounted in between: then the page cache
//! kept the order of all writes, and nothing of them was lost.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

pub use crate::format::stub::MountId;

/// The running system: new at each start, and seen by no process on another machine.
pub fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    BOOT.get_or_init(|| read().trim().to_string())
}

/// The mount a file lies on, by a number that no other mount of this boot ever has; `None` where the kernel
/// (before 6.8) tells none.
pub fn mount_of(file: impl AsFd) -> Option<MountId> {
    const UNIQUE: u32 = 0x4000;
    // SAFETY: plain integers, for which zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let (fd, empty) = (file.as_fd().as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: an open descriptor, a constant string, and a struct that outlives the call.
    let done = unsafe { libc::statx(fd, c"".as_ptr(), empty, UNIQUE, &mut found) };
    let is_known = done == 0 && found.stx_mask & UNIQUE != 0;
    is_known.then(|| {
        let hash = blake3::hash(format!("{} {}", boot(), found.stx_mnt_id).as_bytes());
        let mut id = MountId::default();
        id.copy_from_slice(&hash.as_bytes()[..6]);
        id
    })
}
