//! Who opens a file: its program, its user, and whether it wants the content at all.
//!
//! Promises never to take an opener that may read for one that only truncates. Reads /proc; a process
//! that is gone is simply unknown.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// What is known about who waits.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opener {
    /// Path of the program, as far as it can be told.
    pub program: String,
    /// Its user.
    pub user: u32,
}

impl Opener {
    /// Looks a thread up.
    pub fn of(thread: i32) -> Self {
        let base = format!("/proc/{thread}");
        let program = std::fs::read_link(format!("{base}/exe")).map(|p| p.to_string_lossy().into_owned());
        Self { program: program.unwrap_or_default(), user: user_of(thread) }
    }
}

/// A thread's user.
pub fn user_of(thread: i32) -> u32 {
    std::fs::metadata(format!("/proc/{thread}")).map_or(u32::MAX, |meta| meta.uid())
}

/// Whether a thread is one of a process. To read of which it is takes the kernel ten times as long.
pub fn belongs(thread: i32, process: i32) -> bool {
    Path::new(&format!("/proc/{process}/task/{thread}")).exists()
}

/// Whether a thread that is being held in an open will throw the content away: it opens for writing
/// and truncates. One that is not yet asleep does not tell: it is given a moment.
pub fn truncates(thread: i32) -> bool {
    const LOOKS: usize = 60;
    const SHORT: usize = 10;
    const PAUSE: Duration = Duration::from_micros(100);
    let mut looks = (0..LOOKS).map(|look| {
        match look {
            0 => {}
            // It is about to sleep, and that pause is longer than it says.
            1..=SHORT => std::thread::yield_now(),
            _ => std::thread::sleep(PAUSE),
        }
        where_is(thread)
    });
    looks.find(|place| *place != Whereabouts::Computing) == Some(Whereabouts::Truncating)
}

/// Where a thread is that was let into a truncating open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whereabouts {
    /// Still (or again) in such an open.
    Truncating,
    /// On a processor; in which call, if any, the kernel does not tell.
    Computing,
    /// Sleeping somewhere else, or gone.
    Elsewhere,
}

/// Looks where a thread is.
pub fn where_is(thread: i32) -> Whereabouts {
    match std::fs::read_to_string(format!("/proc/{thread}/syscall")) {
        Ok(line) if is_truncating(&line) => Whereabouts::Truncating,
        Ok(line) if line.starts_with("running") => Whereabouts::Computing,
        _ => Whereabouts::Elsewhere,
    }
}

/// Reads a line of /proc/TID/syscall: the call's number, then its arguments in hexadecimal.
fn is_truncating(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let Some(call) = words.next().and_then(|word| word.parse::<i64>().ok()) else { return false };
    let mut args = words.map(|word| {
        let digits = word.strip_prefix("0x").unwrap_or(word);
        i64::from_str_radix(digits, 16).unwrap_or(0)
    });
    let flags = match call {
        libc::SYS_openat => args.nth(2),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => args.nth(1),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => return true,
        _ => None,
    };
    let flags = flags.unwrap_or(0) as i32;
    flags & libc::O_TRUNC != 0 && flags & libc::O_ACCMODE != libc::O_RDONLY
}

#[cfg(test)]
mod tests {
    use super::{belongs, is_truncating};

    #[test]
    fn a_threads_process_is_found() {
        let us = std::process::id() as i32;
        let thread = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get());
        assert!(belongs(us, us) && !belongs(1, us));
        assert!(!belongs(thread.join().expect("no panic"), 1));
        assert!(belongs(rustix::thread::gettid().as_raw_nonzero().get(), us));
    }

    #[test]
    fn only_a_plain_open_that_writes_and_truncates_counts() {
        let call = |number: i64, flags: i32| format!("{number} 0xffffff9c 0x7f00 {flags:#x} 0x1b6 0x0 0x0");
        assert!(is_truncating(&call(libc::SYS_openat, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)));
        assert!(is_truncating(&call(libc::SYS_openat, libc::O_RDWR | libc::O_TRUNC)));
        assert!(!is_truncating(&call(libc::SYS_openat, libc::O_RDONLY | libc::O_TRUNC)));
        assert!(!is_truncating(&call(libc::SYS_openat, libc::O_RDWR)));
        // Its flags lie behind a pointer.
        assert!(!is_truncating(&call(libc::SYS_openat2, libc::O_WRONLY | libc::O_TRUNC)));
        assert!(!is_truncating("running") && !is_truncating("-1 0x7ffe 0x7f") && !is_truncating(""));
    }
}
