//! A guard whose event group a service manager keeps: it ends, and the next one takes over.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::races::{guarded, waiting};
use super::restart::{SIZE, stubs};
use super::users::OTHER;
use crate::support::content::noise;
use crate::support::guarded::{Guard, Guarded, is_stub, kill, wait_until};
use crate::support::program;

/// What a service manager keeps of a guard.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(guarded: &Guarded) -> Self {
        let path = guarded.outside().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { socket, path }
    }

    /// The next message, and a descriptor that came along.
    fn next(&self) -> std::io::Result<(String, Option<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let (mut control, mut bytes) = (RecvAncillaryBuffer::new(&mut space), [0u8; 4096]);
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        let got = rustix::net::recvmsg(&self.socket, slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let text = String::from_utf8_lossy(&bytes[..got.bytes]).into_owned();
        let fds = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        Ok((text, fds))
    }

    /// The next descriptor that is to be kept.
    fn kept(&self) -> OwnedFd {
        loop {
            if let (text, Some(fd)) = self.next().expect("a message from the guard") {
                assert!(text.contains("FDSTORE=1"), "{text}");
                // Not where the next guard is to have it.
                return rustix::io::fcntl_dupfd_cloexec(fd, 10).unwrap();
            }
        }
    }

    /// What else it was told by now.
    fn told(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| self.next().ok()).map(|(text, _)| text).collect()
    }

    /// Starts a guard as a service manager does, handing it what was kept.
    fn start(&self, guarded: &Guarded, kept: Option<&OwnedFd>) -> Guard {
        Guard::spawn(self.command(guarded, kept, ""))
    }

    fn command(&self, guarded: &Guarded, kept: Option<&OwnedFd>, flags: &str) -> Command {
        let mut command = Command::new("sh");
        guarded.sandbox.settle(&mut command);
        let listen =
            if kept.is_some() { "export LISTEN_FDS=1 LISTEN_FDNAMES=group LISTEN_PID=$$; " } else { "" };
        command.arg("-c").arg(format!("{listen}exec \"$0\" guard {flags} \"$1\""));
        command.arg(program()).arg(guarded.sandbox.folder()).env("NOTIFY_SOCKET", &self.path);
        if let Some(number) = kept.map(AsRawFd::as_raw_fd) {
            assert_ne!(number, 3);
            // SAFETY: one system call.
            unsafe {
                command.pre_exec(move || match libc::dup2(number, 3) {
                    3 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                })
            };
        }
        command
    }
}

/// A folder with stubs whose guard has a service manager, and what that keeps.
fn managed(count: u64) -> Option<(Guarded, Manager, OwnedFd)> {
    let mut guarded = guarded(&[])?;
    guarded.guard = None;
    let manager = Manager::new(&guarded);
    let guard = manager.start(&guarded, None);
    let kept = manager.kept();
    guard.wait_for(" guarded (");
    guarded.guard = Some(guard);
    stubs(&guarded, count);
    Some((guarded, manager, kept))
}

fn read(path: PathBuf) -> std::thread::JoinHandle<std::io::Result<Vec<u8>>> {
    std::thread::spawn(move || std::fs::read(path))
}

#[test]
fn with_a_service_manager_a_guard_that_is_told_to_restart_lets_nobody_see_a_stub() {
    const COUNT: u64 = 40;
    let Some((mut guarded, manager, kept)) = managed(COUNT) else { return };
    let paths: Vec<_> = (1..COUNT).map(|i| guarded.at(i.to_string())).collect();
    // Some come before, some while there is no guard, and some after.
    let coming = std::thread::spawn(move || {
        let open = |path| {
            std::thread::sleep(Duration::from_millis(20));
            (read(path), Instant::now())
        };
        paths.into_iter().map(open).collect::<Vec<_>>()
    });
    std::thread::sleep(Duration::from_millis(100));
    guarded.guard.as_mut().unwrap().stop();
    let stopped = Instant::now();
    let told = manager.told();
    assert!(!told.iter().any(|text| text.contains("FDSTOREREMOVE")), "{told:?}");
    let between = read(guarded.at("0"));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!between.is_finished(), "nobody is there to let anybody in");
    guarded.guard = Some(manager.start(&guarded, Some(&kept)));
    assert!(between.join().unwrap().unwrap() == noise(0, SIZE));
    for (i, (reader, came)) in (1..).zip(coming.join().unwrap()) {
        match reader.join().unwrap() {
            Ok(seen) => assert!(seen == noise(i, SIZE), "{i} is seen as {:?}", &seen[..30]),
            // Who had to wait for the one that stopped.
            Err(e) => assert!(e.raw_os_error() == Some(libc::EIO) && came < stopped, "{i}: {e}"),
        }
    }
    guarded.guard().wait_for(" guarded (");
    for i in 0..COUNT {
        assert!(std::fs::read(guarded.at(i.to_string())).unwrap() == noise(i, SIZE), "{i}");
    }
}

#[test]
fn with_a_service_manager_even_a_killed_guard_lets_nobody_see_a_stub() {
    let Some((mut guarded, manager, kept)) = managed(12) else { return };
    guarded.guard().freeze(true);
    let first = read(guarded.at("0"));
    wait_until("it waits", || !waiting(&guarded).is_empty());
    guarded.guard.as_mut().unwrap().kill();
    // Nobody is there to answer, and nobody is let in.
    let second = read(guarded.at("1"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!first.is_finished() && !second.is_finished());
    guarded.guard = Some(manager.start(&guarded, Some(&kept)));
    // As soon as it can be had: those who come before the new worker has looked around wait, too.
    let others: Vec<_> = (2..12)
        .map(|i| {
            std::thread::sleep(Duration::from_millis(10));
            (i, read(guarded.at(i.to_string())))
        })
        .collect();
    let error = first.join().unwrap().expect_err("its event was lost");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    for (i, other) in others.into_iter().chain([(1, second)]) {
        let seen = other.join().unwrap().unwrap_or_else(|e| panic!("{i}: {e}"));
        assert!(seen == noise(i, SIZE), "{i} is seen as {:?}", String::from_utf8_lossy(&seen[..30]));
    }
    assert!(std::fs::read(guarded.at("0")).unwrap() == noise(0, SIZE));
    wait_until("all are full", || guarded.guard().marks() == 0);
}

/// Stops a process where it has no lease on what looks like a stub already: who opens that would wait for it.
fn freeze_at_work(id: i32, paths: &[PathBuf]) {
    let small: HashMap<u64, &PathBuf> =
        paths.iter().map(|path| (std::fs::metadata(path).unwrap().ino(), path)).collect();
    wait_until("it is not about to end one", || {
        kill(id, libc::SIGSTOP);
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let theirs = locks.lines().filter(|line| line.contains("LEASE") && line.contains(&format!(" {id} ")));
        let mut inodes = theirs.filter_map(|line| line.split([' ', ':']).rev().nth(2)?.parse().ok());
        let good = !inodes.any(|inode: u64| small.get(&inode).is_none_or(|path| is_stub(path)));
        if !good {
            kill(id, libc::SIGCONT);
        }
        good
    });
}

#[test]
fn what_is_being_stashed_while_the_guard_is_replaced_ends_guarded_or_stays() {
    const COUNT: u64 = 800;
    const SMALL: u64 = 20_001;
    let Some((mut guarded, manager, kept)) = managed(1) else { return };
    let paths: Vec<_> = (0..COUNT).map(|i| guarded.at(format!("more{i}"))).collect();
    (0..).zip(&paths).for_each(|(i, path)| std::fs::write(path, noise(i, SMALL)).unwrap());
    let mut command = Command::new(program());
    guarded.sandbox.settle(&mut command);
    let mut stash = command.args(["stash", "."]).spawn().unwrap();
    wait_until("it has begun", || paths.iter().any(|path| is_stub(path)));
    freeze_at_work(stash.id() as i32, &paths);
    let left = paths.iter().filter(|path| !is_stub(path)).count();
    guarded.guard.as_mut().unwrap().kill();
    let guard = manager.start(&guarded, Some(&kept));
    guard.wait_for(" guarded (");
    guarded.guard = Some(guard);
    kill(stash.id() as i32, libc::SIGCONT);
    let code = stash.wait().unwrap().code();
    for (i, path) in (0..).zip(&paths) {
        let seen = std::fs::read(path).unwrap();
        assert!(seen == noise(i, SMALL), "{i} is seen as {:?}", String::from_utf8_lossy(&seen[..30]));
    }
    assert!(left == 0 || code == Some(4), "{left} were left, and it ended with {code:?}");
}

#[test]
fn while_workers_are_awaited_one_user_cannot_have_all_of_the_guard_either() {
    let Some((mut guarded, manager, kept)) = managed(8) else { return };
    let root = guarded.sandbox.root();
    for dir in [guarded.outside(), root, root.join("one").as_path()] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    guarded.guard.as_mut().unwrap().stop();
    // Without them no worker can live.
    std::fs::rename(guarded.at(".ddr/keys"), guarded.at(".ddr/away")).unwrap();
    guarded.guard = Some(Guard::spawn(manager.command(&guarded, Some(&kept), "--user-files 3")));
    let read = |i: u64| {
        let path = guarded.at(i.to_string());
        std::thread::spawn(move || {
            // SAFETY: plain integers. Past the library, which would change the user of the whole process.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, OTHER, OTHER, OTHER) }, 0);
            std::fs::read(path)
        })
    };
    let readers: Vec<_> = (0..8).map(read).collect();
    let done = || readers.iter().filter(|reader| reader.is_finished()).count();
    wait_until("some are refused", || done() == 5);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(done(), 5, "three wait");
    std::fs::rename(guarded.at(".ddr/away"), guarded.at(".ddr/keys")).unwrap();
    let mut refused = 0;
    for (i, reader) in (0..).zip(readers) {
        match reader.join().unwrap() {
            Ok(seen) => assert!(seen == noise(i, SIZE), "{i}"),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => refused += 1,
            Err(e) => panic!("{i}: {e}"),
        }
    }
    assert_eq!(refused, 5);
}
