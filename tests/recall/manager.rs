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
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::races::{guarded, waiting};
use super::restart::{SIZE, stubs};
use super::users::OTHER;
use crate::support::content::noise;
use crate::support::guarded::{Guard, Guarded, is_stub, kill, wait_until};
use crate::support::program;

/// A service manager, as far as it keeps descriptors of a guard.
struct Manager {
    path: PathBuf,
    kept: Arc<Mutex<Vec<(String, OwnedFd)>>>,
}

impl Manager {
    fn new(guarded: &Guarded) -> Self {
        let path = guarded.outside().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&kept);
        // It ends with the process.
        drop(std::thread::spawn(move || {
            while let Ok((text, fd)) = next(&socket) {
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
                let Some(name) = name.map(String::from) else { continue };
                let mut kept = sink.lock().unwrap();
                match fd {
                    // Not where the next guard is to have it.
                    Some(fd) if text.contains("FDSTORE=1") => {
                        // What is kept already is not kept twice.
                        kept.retain(|(other, _)| *other != name);
                        kept.push((name, rustix::io::fcntl_dupfd_cloexec(fd, 2000).unwrap()));
                    }
                    _ if text.contains("FDSTOREREMOVE=1") => kept.retain(|(other, _)| *other != name),
                    _ => {}
                }
            }
        }));
        Self { path, kept }
    }

    /// The names of what is kept.
    fn names(&self) -> Vec<String> {
        self.kept.lock().unwrap().iter().map(|(name, _)| name.clone()).collect()
    }

    /// Starts a guard as a service manager does, handing it what was kept.
    fn start(&self, guarded: &Guarded) -> Guard {
        Guard::spawn(self.command(guarded, ""))
    }

    fn command(&self, guarded: &Guarded, flags: &str) -> Command {
        let mut command = Command::new("sh");
        guarded.sandbox.settle(&mut command);
        let kept = self.kept.lock().unwrap();
        let listen = match kept.len() {
            0 => String::new(),
            n => format!("export LISTEN_FDS={n} LISTEN_FDNAMES=\"$2\" LISTEN_PID=$$; "),
        };
        command.arg("-c").arg(format!("{listen}exec \"$0\" guard {flags} \"$1\""));
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        command.arg(program()).arg(guarded.sandbox.folder()).arg(names.join(":"));
        command.env("NOTIFY_SOCKET", &self.path).env("RUNTIME_DIRECTORY", guarded.sandbox.root());
        let numbers: Vec<i32> = kept.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
        // SAFETY: system calls alone.
        unsafe {
            command.pre_exec(move || {
                (3..).zip(&numbers).try_for_each(|(to, from)| match libc::dup2(*from, to) {
                    -1 => Err(std::io::Error::last_os_error()),
                    _ => Ok(()),
                })
            })
        };
        command
    }
}

/// The next message, and a descriptor that came along.
fn next(socket: &UnixDatagram) -> std::io::Result<(String, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let (mut control, mut bytes) = (RecvAncillaryBuffer::new(&mut space), [0u8; 4096]);
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    let got = rustix::net::recvmsg(socket, slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let text = String::from_utf8_lossy(&bytes[..got.bytes]).into_owned();
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((text, fds))
}

/// A folder with stubs whose guard has a service manager.
fn managed(count: u64) -> Option<(Guarded, Manager)> {
    let mut guarded = guarded(&[])?;
    guarded.guard = None;
    let manager = Manager::new(&guarded);
    let guard = manager.start(&guarded);
    guard.wait_for(" guarded (");
    wait_until("the group is kept", || manager.names() == ["group"]);
    guarded.guard = Some(guard);
    stubs(&guarded, count);
    Some((guarded, manager))
}

/// Kills a guard outright; its manager does the same to what it leaves (`KillMode=mixed`).
fn kill_service(guarded: &mut Guarded) {
    let guard = guarded.guard.as_mut().unwrap();
    for id in guard.workers().into_iter().chain([guard.id()]).rev().collect::<Vec<_>>() {
        kill(id, libc::SIGKILL);
    }
    guard.kill();
}

fn read(path: PathBuf) -> Reader {
    std::thread::spawn(move || std::fs::read(path))
}

#[test]
fn with_a_service_manager_a_guard_that_is_told_to_restart_lets_nobody_see_a_stub() {
    const COUNT: u64 = 40;
    let Some((mut guarded, manager)) = managed(COUNT) else { return };
    let paths: Vec<_> = (1..COUNT).map(|i| guarded.at(i.to_string())).collect();
    // Some come before, some while there is no guard, and some after.
    let coming = std::thread::spawn(move || {
        let open = |path| {
            std::thread::sleep(Duration::from_millis(20));
            read(path)
        };
        paths.into_iter().map(open).collect::<Vec<_>>()
    });
    std::thread::sleep(Duration::from_millis(100));
    guarded.guard.as_mut().unwrap().stop();
    assert!(manager.names().contains(&"group".into()));
    let between = read(guarded.at("0"));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!between.is_finished(), "nobody is there to let anybody in");
    guarded.guard = Some(manager.start(&guarded));
    assert!(between.join().unwrap().unwrap() == noise(0, SIZE));
    for (i, reader) in (1..).zip(coming.join().unwrap()) {
        let seen = reader.join().unwrap().unwrap_or_else(|e| panic!("{i}: {e}"));
        assert!(seen == noise(i, SIZE), "{i} is seen as {:?}", &seen[..30]);
    }
    guarded.guard().wait_for(" guarded (");
    for i in 0..COUNT {
        assert!(std::fs::read(guarded.at(i.to_string())).unwrap() == noise(i, SIZE), "{i}");
    }
}

type Reader = std::thread::JoinHandle<std::io::Result<Vec<u8>>>;

/// A reader who waits for frozen workers, these, and the guard being told to stop.
fn ending(guarded: &mut Guarded) -> (Reader, Vec<i32>, std::thread::JoinHandle<Vec<String>>) {
    guarded.guard().freeze(true);
    let first = read(guarded.at("0"));
    wait_until("it waits", || !waiting(guarded).is_empty());
    let mut guard = guarded.guard.take().unwrap();
    let workers = guard.workers();
    (first, workers, std::thread::spawn(move || guard.stop()))
}

#[test]
fn who_comes_while_a_guard_ends_is_left_to_the_next_one_and_who_waits_is_served_first() {
    let Some((mut guarded, manager)) = managed(12) else { return };
    let (first, workers, ending) = ending(&mut guarded);
    let come = |i: u64| {
        std::thread::sleep(Duration::from_millis(40));
        (i, read(guarded.at(i.to_string())))
    };
    // Those who come before it parts are served by it.
    let late: Vec<_> = (1..12).map(come).collect();
    wait_until("it leaves the others to the next", || manager.names().len() > 3);
    assert!(!first.is_finished());
    for id in workers {
        kill(id, libc::SIGCONT);
    }
    ending.join().unwrap();
    assert!(first.join().unwrap().unwrap() == noise(0, SIZE));
    guarded.guard = Some(manager.start(&guarded));
    for (i, reader) in late {
        let seen = reader.join().unwrap().unwrap_or_else(|e| panic!("{i}: {e}"));
        assert!(seen == noise(i, SIZE), "{i} is seen as {:?}", String::from_utf8_lossy(&seen[..30]));
    }
    assert_eq!(manager.names(), ["group"]);
    wait_until("all are full", || guarded.guard().marks() == 0);
}

#[test]
fn with_a_service_manager_even_a_killed_guard_lets_nobody_see_a_stub() {
    let Some((mut guarded, manager)) = managed(12) else { return };
    guarded.guard().freeze(true);
    let first = read(guarded.at("0"));
    wait_until("it waits", || !waiting(&guarded).is_empty());
    kill_service(&mut guarded);
    // Nobody is there to answer, and nobody is let in.
    let second = read(guarded.at("1"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!first.is_finished() && !second.is_finished());
    guarded.guard = Some(manager.start(&guarded));
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
        // Not all of its threads stop at once.
        std::thread::sleep(Duration::from_millis(3));
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
    let Some((mut guarded, manager)) = managed(1) else { return };
    let paths: Vec<_> = (0..COUNT).map(|i| guarded.at(format!("more{i}"))).collect();
    for (i, path) in (0..).zip(&paths) {
        std::fs::write(path, noise(i, SMALL)).unwrap();
        // Root's worker fills others' files, too.
        std::os::unix::fs::chown(path, Some(if i % 2 == 0 { OTHER } else { 0 }), None).unwrap();
    }
    let mut command = Command::new(program());
    guarded.sandbox.settle(&mut command);
    let mut stash = command.args(["stash", "."]).spawn().unwrap();
    wait_until("it has begun", || paths.iter().any(|path| is_stub(path)));
    freeze_at_work(stash.id() as i32, &paths);
    let left = paths.iter().filter(|path| !is_stub(path)).count();
    // After a worker that was killed, too, the next one would open every file, and wait for a lease of what is frozen.
    guarded.guard.as_mut().unwrap().kill();
    let guard = manager.start(&guarded);
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
fn a_stash_waits_for_a_guard_that_is_being_started_again() {
    let Some((mut guarded, manager)) = managed(1) else { return };
    guarded.guard.as_mut().unwrap().stop();
    let paths: Vec<_> = (0..5).map(|i| guarded.at(format!("more{i}"))).collect();
    (0..).zip(&paths).for_each(|(i, path)| std::fs::write(path, noise(i, SIZE)).unwrap());
    let mut command = Command::new(program());
    guarded.sandbox.settle(&mut command);
    let mut stash = command.args(["stash", "."]).spawn().unwrap();
    let none = || {
        std::thread::sleep(Duration::from_millis(500));
        !paths.iter().any(|path| is_stub(path))
    };
    assert!(none(), "there is no guard yet");
    // Without them no worker can live.
    std::fs::rename(guarded.at(".ddr/keys"), guarded.at(".ddr/away")).unwrap();
    guarded.guard = Some(manager.start(&guarded));
    assert!(none(), "it does not look after this folder yet");
    std::fs::rename(guarded.at(".ddr/away"), guarded.at(".ddr/keys")).unwrap();
    assert!(stash.wait().unwrap().success());
    assert_eq!(guarded.guard().marks(), 6);
    assert!((0..).zip(&paths).all(|(i, path)| std::fs::read(path).unwrap() == noise(i, SIZE)));
}

#[test]
fn a_folder_whose_disk_comes_later_or_that_is_refused_keeps_no_other_waiting() {
    let Some((mut guarded, manager)) = managed(1) else { return };
    let (later, away) = (guarded.sandbox.root().join("later"), guarded.sandbox.root().join("away"));
    let mut command = Command::new(program());
    guarded.sandbox.settle(&mut command);
    assert!(command.arg("init").arg(&later).status().unwrap().success());
    std::fs::rename(&later, &away).unwrap();
    let odd = guarded.sandbox.root().join("odd");
    std::fs::create_dir(&odd).unwrap();
    std::os::unix::fs::symlink(guarded.at(".ddr"), odd.join(".ddr")).unwrap();
    guarded.guard.as_mut().unwrap().stop();
    let guard =
        Guard::spawn(manager.command(&guarded, &format!("'{}' '{}'", later.display(), odd.display())));
    guard.wait_for(" guarded (");
    guard.wait_for("are not of one user");
    assert!(std::fs::read(guarded.at("0")).unwrap() == noise(0, SIZE));
    std::fs::rename(&away, &later).unwrap();
    guard.wait_for(&format!(" guarded ({})", later.display()));
    guarded.guard = Some(guard);
}

#[test]
fn a_folder_that_is_refused_after_a_restart_shows_nobody_its_stubs() {
    let Some((mut guarded, manager)) = managed(1) else { return };
    guarded.guard.as_mut().unwrap().stop();
    let own = |user| std::os::unix::fs::chown(guarded.at(".ddr/folder.toml"), Some(user), None).unwrap();
    own(OTHER);
    let guard = manager.start(&guarded);
    guard.wait_for("are not of one user");
    let reader = read(guarded.at("0"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!reader.is_finished());
    own(0);
    assert!(reader.join().unwrap().unwrap() == noise(0, SIZE));
    guarded.guard = Some(guard);
}

#[test]
fn what_was_left_to_a_guard_that_is_told_to_restart_too_is_not_forgotten() {
    let Some((mut guarded, manager)) = managed(4) else { return };
    let (first, workers, ending) = ending(&mut guarded);
    std::thread::sleep(Duration::from_millis(500));
    let left: Vec<_> = [1, 2].map(|i: u64| (i, read(guarded.at(i.to_string())))).into();
    wait_until("both are left", || manager.names().len() == 3);
    for id in workers {
        kill(id, libc::SIGCONT);
    }
    ending.join().unwrap();
    assert!(first.join().unwrap().unwrap() == noise(0, SIZE));
    // Without them no worker can live.
    std::fs::rename(guarded.at(".ddr/keys"), guarded.at(".ddr/away")).unwrap();
    let mut second = manager.start(&guarded);
    wait_until("it has taken them over", || manager.names() == ["group"]);
    let ending = std::thread::spawn(move || second.stop());
    std::thread::sleep(Duration::from_millis(500));
    let late = read(guarded.at("3"));
    wait_until("it is left", || manager.names().len() == 2);
    std::fs::rename(guarded.at(".ddr/away"), guarded.at(".ddr/keys")).unwrap();
    for (i, reader) in left {
        match reader.join().unwrap() {
            Ok(seen) => assert!(seen == noise(i, SIZE), "{i}"),
            // Its worker came too late.
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EIO), "{i}: {e}"),
        }
    }
    ending.join().unwrap();
    guarded.guard = Some(manager.start(&guarded));
    assert!(late.join().unwrap().unwrap() == noise(3, SIZE));
    assert_eq!(manager.names(), ["group"]);
}

#[test]
fn while_workers_are_awaited_one_user_cannot_have_all_of_the_guard_either() {
    let Some((mut guarded, manager)) = managed(8) else { return };
    let root = guarded.sandbox.root();
    for dir in [guarded.outside(), root, root.join("one").as_path()] {
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    guarded.guard.as_mut().unwrap().stop();
    // Without them no worker can live.
    std::fs::rename(guarded.at(".ddr/keys"), guarded.at(".ddr/away")).unwrap();
    guarded.guard = Some(Guard::spawn(manager.command(&guarded, "--user-files 3")));
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
