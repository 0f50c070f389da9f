//! Why the mark comes first: a small guard of the test's own, with the steps in the right order and in a
//! wrong one, under the same checks as the churn.
//!
//! Promises to fail if those checks could not see what a wrong order does.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::FallocateFlags;

use super::trouble::{Trouble, same};
use crate::support::content::noise;
use crate::support::guarded::obstacle;
use crate::support::mount::{Mounted, make};
use crate::support::say;

const SIZE: u64 = 100_000;

/// A group of permission events, and who may not be disturbed while he takes a content away.
struct Small<'a> {
    group: OwnedFd,
    content: &'a [u8],
    busy: Mutex<()>,
    over: AtomicBool,
}

impl<'a> Small<'a> {
    fn new(content: &'a [u8]) -> io::Result<Self> {
        let flags =
            libc::FAN_CLASS_PRE_CONTENT | libc::FAN_CLOEXEC | libc::FAN_UNLIMITED_QUEUE | libc::FAN_NONBLOCK;
        // SAFETY: no pointers.
        let fd = unsafe { libc::fanotify_init(flags, (libc::O_RDWR | libc::O_LARGEFILE) as u32) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: made above.
        let group = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { group, content, busy: Mutex::new(()), over: AtomicBool::new(false) })
    }

    fn mark(&self, what: u32, file: &File) -> io::Result<()> {
        let name = std::ffi::CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let (group, at) = (self.group.as_raw_fd(), libc::AT_FDCWD);
        // SAFETY: a name that outlives the call.
        match unsafe { libc::fanotify_mark(group, what, libc::FAN_OPEN_PERM, at, name.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Gives every opener the content before he is let in.
    fn answer(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let mut event = [0u8; size_of::<libc::fanotify_event_metadata>()];
            // SAFETY: the length of the buffer.
            let len = unsafe { libc::read(self.group.as_raw_fd(), event.as_mut_ptr().cast(), event.len()) };
            if len != event.len() as isize {
                std::thread::sleep(std::time::Duration::from_micros(50));
                continue;
            }
            // SAFETY: any bit pattern is a value.
            let event: libc::fanotify_event_metadata =
                unsafe { std::ptr::read_unaligned(event.as_ptr().cast()) };
            // SAFETY: opened for us by the kernel.
            let file = unsafe { File::from_raw_fd(event.fd) };
            let busy = self.busy.lock().unwrap();
            file.write_all_at(self.content, 0).unwrap();
            // It is gone already if two came at once.
            let _ = self.mark(libc::FAN_MARK_REMOVE, &file);
            drop(busy);
            let answer = libc::fanotify_response { fd: event.fd, response: libc::FAN_ALLOW };
            // SAFETY: a plain struct of this length.
            let sent = unsafe {
                libc::write(self.group.as_raw_fd(), (&raw const answer).cast(), size_of_val(&answer))
            };
            assert_eq!(sent, size_of_val(&answer) as isize);
        }
    }

    /// Takes the content away; whether that was possible.
    fn take_away(&self, path: &Path, mark_first: bool) -> bool {
        // Brought back first if it is away.
        let file = File::options().read(true).write(true).open(path).unwrap();
        let busy = self.busy.lock().unwrap();
        if mark_first {
            self.mark(libc::FAN_MARK_ADD, &file).unwrap();
        }
        let lease = |kind: i32| {
            // SAFETY: plain integers.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) == 0 }
        };
        let taken = lease(libc::F_WRLCK);
        if taken {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, 0, SIZE.next_multiple_of(4096)).unwrap();
            file.write_all_at(b"This is a ddr stub", 0).unwrap();
            assert!(lease(libc::F_UNLCK));
            if !mark_first {
                self.mark(libc::FAN_MARK_ADD, &file).unwrap();
            }
        } else if mark_first {
            self.mark(libc::FAN_MARK_REMOVE, &file).unwrap();
        }
        drop(busy);
        taken
    }
}

/// How many opens saw something else than the content.
fn wrong_bytes(path: &Path, mark_first: bool) -> usize {
    let content = noise(1, SIZE);
    std::fs::write(path, &content).unwrap();
    let small = Small::new(&content).unwrap();
    let wrong = AtomicUsize::new(0);
    // SAFETY: the signal by which a lease is wanted back must not end the test.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    std::thread::scope(|scope| {
        scope.spawn(|| small.answer());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if let Err(Trouble::Wrong(_)) = same(&std::fs::read(path).unwrap(), &content) {
                            wrong.fetch_add(1, Ordering::Relaxed);
                        }
                        std::thread::sleep(std::time::Duration::from_micros(300));
                    }
                });
            }
            let (mut taken, start) = (0, std::time::Instant::now());
            while taken < 200 && start.elapsed() < std::time::Duration::from_secs(20) {
                taken += usize::from(small.take_away(path, mark_first));
                // The wrong order shows at once.
                if !mark_first && wrong.load(Ordering::Relaxed) > 0 {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            stop.store(true, Ordering::Relaxed);
            assert!(taken > 0, "its content was never taken away");
        });
        small.over.store(true, Ordering::Relaxed);
    });
    wrong.into_inner()
}

#[test]
fn a_mark_that_comes_after_the_content_went_is_seen_to_be_wrong() {
    for kind in ["ext4", "xfs", "btrfs"] {
        if let Some(why) = obstacle(&[kind]) {
            say(&format!("the order of steps was passed over on {kind}: {why}"));
            continue;
        }
        let temp = tempfile::tempdir().unwrap();
        let (image, point) = (temp.path().join("img"), temp.path().join("m"));
        std::fs::create_dir(&point).unwrap();
        make(kind, &image, 512 << 20).unwrap();
        let mounted = Mounted::new(&image, &point, kind, None).unwrap();
        assert_eq!(wrong_bytes(&point.join("right"), true), 0, "the right order on {kind}");
        assert!(wrong_bytes(&point.join("wrong"), false) > 0, "the wrong order on {kind} was not noticed");
        drop(mounted);
    }
}
