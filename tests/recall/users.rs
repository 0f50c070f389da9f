//! A guard that serves an ordinary user: his worker is his, and nobody else has a say.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use ddr::base::id::FolderId;
use ddr::local::guard::{Frame, Verb, receive, send};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::races::guarded;
use crate::support::guarded::{Guard, Guarded, is_stub, wait_until};
use crate::support::{Running, program};

pub const OWNER: u32 = 4_101;
pub const OTHER: u32 = 4_102;

/// A folder of an ordinary user on a machine that knows him, with a guard run by root.
pub struct Owned {
    pub guarded: Guarded,
    bin: PathBuf,
    folders: Vec<PathBuf>,
}

impl Owned {
    pub fn new() -> Option<Self> {
        let mut guarded = guarded(&[])?;
        guarded.guard = None;
        for dir in [guarded.outside(), guarded.sandbox.root(), guarded.sandbox.root().join("one").as_path()] {
            std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
        }
        // The build may lie where he cannot go.
        let bin = guarded.outside().join("ddr");
        std::fs::copy(program(), &bin).unwrap();
        for user in [OWNER, OTHER] {
            let home = guarded.outside().join(format!("home-{user}"));
            std::fs::create_dir_all(&home).unwrap();
            chown(&home, Some(user), Some(user)).unwrap();
        }
        std::fs::remove_dir_all(guarded.sandbox.store()).unwrap();
        std::fs::create_dir(guarded.sandbox.store()).unwrap();
        chown(guarded.sandbox.store(), Some(OWNER), Some(OWNER)).unwrap();
        Some(Self { guarded, bin, folders: Vec::new() })
    }

    fn folder(&self) -> PathBuf {
        self.guarded.sandbox.root().join("his")
    }

    /// Makes a folder of a user's, with a store of its own; guarded from the next start on.
    pub fn add(&mut self, name: &str, user: u32) -> PathBuf {
        let folder = self.guarded.sandbox.root().join(name);
        let store = self.guarded.sandbox.root().join(format!("store of {name}"));
        for dir in [&folder, &store] {
            std::fs::create_dir(dir).unwrap();
            chown(dir, Some(user), Some(user)).unwrap();
        }
        let line =
            format!("\"$ddr\" init . && \"$ddr\" remote add near '{}' --init --same-disk", store.display());
        self.run_in(&folder, user, &line).expect(&[0]).unwrap();
        self.folders.push(folder.clone());
        folder
    }

    /// Clones such a folder from its store, to this place.
    pub fn add_clone(&mut self, name: &str, folder: PathBuf, user: u32) -> PathBuf {
        let store = self.guarded.sandbox.root().join(format!("store of {name}"));
        std::fs::create_dir(&folder).unwrap();
        chown(&folder, Some(user), Some(user)).unwrap();
        let line = format!("\"$ddr\" clone '{}' . --same-disk", store.display());
        self.run_in(&folder, user, &line).expect(&[0]).unwrap();
        self.folders.push(folder.clone());
        folder
    }

    /// Runs a line as this user, in the folder.
    fn run(&self, user: u32, line: &str) -> crate::support::Output {
        self.run_in(&self.folder(), user, line)
    }

    pub fn run_in(&self, dir: &std::path::Path, user: u32, line: &str) -> crate::support::Output {
        let mut command = Command::new("setpriv");
        self.guarded.sandbox.settle(&mut command);
        let id = user.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "sh", "-c", line]);
        command.current_dir(dir).env("HOME", self.guarded.outside().join(format!("home-{user}")));
        for name in ["CACHE", "STATE", "CONFIG", "DATA"] {
            command.env_remove(format!("XDG_{name}_HOME"));
        }
        command.env("ddr", &self.bin).env("store", self.guarded.sandbox.store());
        Running::spawn(command, line.into()).wait()
    }

    /// Stashes a file of a folder as this user, who sees the folder at another place only.
    pub fn stash_bound(&self, folder: &std::path::Path, at: &std::path::Path, user: u32, file: &str) {
        let mut command = Command::new("unshare");
        self.guarded.sandbox.settle(&mut command);
        let line = "mount --bind \"$1\" \"$2\" && cd \"$2\" && \
            exec setpriv --reuid $3 --regid $3 --clear-groups \"$ddr\" stash \"$4\"";
        command.args(["-m", "sh", "-c", line, "sh"]).args([folder, at]).args([&user.to_string(), file]);
        command.env("HOME", self.guarded.outside().join(format!("home-{user}"))).env("ddr", &self.bin);
        for name in ["CACHE", "STATE", "CONFIG", "DATA"] {
            command.env_remove(format!("XDG_{name}_HOME"));
        }
        Running::spawn(command, line.into()).wait().expect(&[0]).unwrap();
    }

    fn ok(&self, line: &str) -> String {
        let output = self.run(OWNER, line).expect(&[0]);
        output.unwrap_or_else(|e| panic!("{e}\n{:?}", self.guarded.guard.as_ref().map(Guard::said))).stdout
    }

    /// A guard, run by root on a machine whose list of users has him.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    fn start_with(&mut self, flags: &[&str]) {
        self.guarded.guard = None;
        let passwd = self.guarded.outside().join("passwd");
        let line = |user: u32| {
            let home = self.guarded.outside().join(format!("home-{user}"));
            format!("u{user}:x:{user}:{user}::{}:/bin/sh\n", home.display())
        };
        std::fs::write(&passwd, [OWNER, OTHER].map(line).concat()).unwrap();
        let mut command = Command::new("unshare");
        self.guarded.sandbox.settle(&mut command);
        let line = "mount --bind \"$passwd\" /etc/passwd && exec \"$ddr\" guard \"$@\"";
        command.args(["-m", "sh", "-c", line, "sh"]).args(flags).args(&self.folders);
        command.env("passwd", passwd).env("ddr", &self.bin);
        let guard = Guard::spawn(command);
        for folder in &self.folders {
            guard.wait_for(&format!(" guarded ({})", folder.display()));
        }
        self.guarded.guard = Some(guard);
    }
}

fn owned() -> Option<Owned> {
    let mut owned = Owned::new()?;
    std::fs::create_dir(owned.folder()).unwrap();
    chown(owned.folder(), Some(OWNER), Some(OWNER)).unwrap();
    owned.ok("\"$ddr\" init . && \"$ddr\" remote add disk2 \"$store\" --init --same-disk");
    owned.folders.push(owned.folder());
    owned.start();
    Some(owned)
}

/// Talks to the guard as a user; ends with the thread.
fn asks(owned: &Owned, user: u32, frames: Vec<(Frame, Vec<OwnedFd>)>) -> Vec<i32> {
    let path = owned.guarded.sandbox.guard_socket();
    let talk = move || {
        // SAFETY: plain integers. Past the library, which would change the user of the whole process.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) }, 0);
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        let mut codes = Vec::new();
        for (frame, files) in frames {
            let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            send(socket.as_fd(), &frame, &files).unwrap();
            codes.push(receive(socket.as_fd()).unwrap().expect("an answer").0.code);
        }
        codes
    };
    std::thread::spawn(talk).join().unwrap()
}

fn inode(path: &std::path::Path) -> Vec<u8> {
    let meta = std::fs::metadata(path).unwrap();
    [meta.dev().to_le_bytes(), meta.ino().to_le_bytes()].concat()
}

#[test]
fn the_worker_of_a_users_folder_is_his_and_everybody_may_read() {
    let Some(owned) = owned() else { return };
    let worker = owned.guarded.guard().workers()[0];
    assert_eq!(std::fs::metadata(format!("/proc/{worker}")).unwrap().uid(), OWNER);
    let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000"), "it has no powers: {status}");
    let groups = status.lines().find(|line| line.starts_with("Groups:")).unwrap();
    assert_eq!(groups.trim_end(), "Groups:", "it is in none of root's groups");
    for (name, mode) in [("a", "644"), ("b", "644"), ("c", "644"), ("d", "400")] {
        owned.ok(&format!(
            "head -c 100000 /dev/urandom > {name}; cp {name} .{name}.copy; chmod {mode} {name}"
        ));
    }
    owned.ok("echo '.*.copy' > .ddrignore; \"$ddr\" stash a b c d");
    for name in ["a", "b", "c", "d"] {
        assert!(is_stub(&owned.folder().join(name)), "{name}");
    }
    owned.ok("cmp a .a.copy");
    owned.run(OTHER, "cmp b .b.copy").expect(&[0]).unwrap();
    let read = |name: &str| std::fs::read(owned.folder().join(name)).unwrap();
    assert!(read("c") == read(".c.copy"));
    // A read-only file, opened by root.
    assert!(read("d") == read(".d.copy"));
    assert_eq!(std::fs::metadata(owned.folder().join("d")).unwrap().mode() & 0o7777, 0o400);
}

#[test]
fn nobody_has_the_files_of_another_guarded_or_held_or_let_go() {
    let Some(owned) = owned() else { return };
    owned.ok("head -c 100000 /dev/urandom > a; cp a .a.copy; echo '.*.copy' > .ddrignore; \"$ddr\" stash a");
    let file = owned.folder().join("a");
    let open = || OwnedFd::from(std::fs::File::open(owned.folder().join(".a.copy")).unwrap());
    let name = || {
        let flags = rustix::fs::OFlags::PATH;
        rustix::fs::open(&file, flags, rustix::fs::Mode::empty()).unwrap()
    };
    let mark = |flag: u8| Frame { flag, number: 1, ..Frame::new(Verb::Mark) };
    let release = |flag: u8| Frame { flag, text: inode(&file), ..Frame::new(Verb::Release) };
    let codes = asks(
        &owned,
        OTHER,
        vec![
            (mark(0), vec![open()]),
            (mark(1), vec![open()]),
            (mark(1), vec![name()]),
            (release(0), vec![]),
            (release(1), vec![]),
            (Frame { ticket: 1, ..Frame::new(Verb::Cancel) }, vec![]),
            // Only workers answer.
            (Frame { ticket: 1, flag: 1, ..Frame::new(Verb::Answer) }, vec![]),
        ],
    );
    assert_eq!(codes[..3], [libc::EPERM; 3]);
    assert!(codes[5] != 0 && codes[6] != 0, "{codes:?}");
    // Nor does the owner let go what he does not hold.
    asks(&owned, OWNER, vec![(release(0), vec![])]);
    owned.ok("cmp a .a.copy");
}

#[test]
fn nobody_has_files_guarded_that_no_worker_would_fill() {
    let Some(owned) = owned() else { return };
    let toml = std::fs::read_to_string(owned.folder().join(".ddr/folder.toml")).unwrap();
    let words = toml.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 32);
    let ids: Vec<[u8; 16]> =
        words.map(|word| u128::from_str_radix(word, 16).unwrap().to_be_bytes()).collect();
    let his = FolderId(*ids.first().unwrap_or_else(|| panic!("an id in {toml}")));
    let invented = FolderId([7; 16]);
    let path = owned.guarded.beside().join("alone");
    // Root would choose the worker by the file's owner, and there is none.
    for (user, folder) in [(OTHER, invented), (OTHER, his), (OWNER, invented), (0, invented)] {
        std::fs::write(&path, [7; 100_000]).unwrap();
        chown(&path, Some(user), Some(user)).unwrap();
        let file = || vec![OwnedFd::from(std::fs::File::open(&path).unwrap())];
        let mark = |flag: u8| Frame { flag, number: 1, folder, ..Frame::new(Verb::Mark) };
        let codes = asks(&owned, user, vec![(mark(0), file()), (mark(1), file())]);
        assert_eq!(codes, [libc::EPERM; 2], "{user} {folder:?}");
        let start = std::time::Instant::now();
        assert_eq!(std::fs::read(&path).unwrap().len(), 100_000);
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "nobody waits for what nobody fills");
    }
    assert_eq!(owned.guarded.guard().marks(), 0);
    // Where there is a worker, both have their way.
    for user in [OWNER, 0] {
        std::fs::write(&path, [7; 100_000]).unwrap();
        chown(&path, Some(user), Some(user)).unwrap();
        let file = vec![OwnedFd::from(std::fs::File::open(&path).unwrap())];
        let mark = Frame { number: 1, folder: his, ..Frame::new(Verb::Mark) };
        assert_eq!(asks(&owned, user, vec![(mark, file)]), [0], "{user}");
    }
}

/// A connection of another user's, kept.
fn connected(owned: &Owned, user: u32) -> (OwnedFd, Option<i32>) {
    let path = owned.guarded.sandbox.guard_socket();
    let talk = move || {
        // SAFETY: plain integers. Past the library, which would change the user of the whole process.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) }, 0);
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        // One that is turned away may be gone by now.
        let _ = send(socket.as_fd(), &Frame::new(Verb::Hello), &[]);
        let answer = receive(socket.as_fd()).or_else(|_| receive(socket.as_fd()));
        let code = answer.ok().flatten().map(|(answer, _)| answer.code);
        (socket, code)
    };
    std::thread::spawn(talk).join().unwrap()
}

#[test]
fn connections_of_one_user_are_bounded_and_others_are_served() {
    let Some(mut owned) = owned() else { return };
    owned.start_with(&["--user-connections", "5"]);
    owned.ok("head -c 100000 /dev/urandom > a; cp a .a.copy; cp a b; echo '.*.copy' > .ddrignore");
    let theirs: Vec<_> = (0..8).map(|_| connected(&owned, OTHER)).collect();
    let codes: Vec<Option<i32>> = theirs.iter().map(|(_, code)| *code).collect();
    assert_eq!(codes[..5], [Some(0); 5], "{codes:?}");
    assert_eq!(codes[5..], [Some(libc::EUSERS); 3], "{codes:?}");
    assert!(owned.ok("\"$ddr\" stash a && \"$ddr\" status").contains("access is on"));
    owned.ok("cmp a .a.copy");
    // The same to himself: nothing is stashed that would not be guarded.
    let his: Vec<_> = (0..6).map(|_| connected(&owned, OWNER)).collect();
    let output = owned.run(OWNER, "\"$ddr\" stash b; \"$ddr\" status");
    assert!(output.stderr.contains("as many connections"), "{output:?}");
    assert!(output.stdout.contains("access is off: the guard has as many"), "{output:?}");
    assert!(!is_stub(&owned.folder().join("b")));
    drop(his);
    drop(theirs);
    wait_until("they are let in again", || {
        owned.run(OWNER, "\"$ddr\" stash b").code == Some(0) && is_stub(&owned.folder().join("b"))
    });
}

#[test]
fn stubs_of_one_user_are_bounded_and_what_is_too_much_stays_full() {
    let Some(mut owned) = owned() else { return };
    owned.start_with(&["--user-stubs", "3"]);
    owned.ok("for n in a b c d e; do head -c 100000 /dev/urandom > $n; cp $n .$n.copy; done; \
        echo '.*.copy' > .ddrignore; \"$ddr\" stash a b c");
    let output = owned.run(OWNER, "\"$ddr\" stash d e");
    assert!(output.code != Some(0) && output.stderr.contains("as many connections, stubs"), "{output:?}");
    let stub = |name: &str| is_stub(&owned.folder().join(name));
    assert!(["a", "b", "c"].into_iter().all(stub) && !stub("d") && !stub("e"));
    assert_eq!(owned.guarded.guard().marks(), 3, "nothing is left of what was refused");
    owned.ok("cmp a .a.copy && cmp d .d.copy && \"$ddr\" stash d && cmp d .d.copy");
}

#[test]
fn files_in_hand_of_one_user_are_bounded_and_others_wait_as_ever() {
    let Some(mut owned) = owned() else { return };
    owned.start_with(&["--user-files", "3"]);
    owned.ok("for n in 0 1 2 3 4 5 6; do head -c 100000 /dev/urandom > $n; cp $n .$n.copy; done; \
        echo '.*.copy' > .ddrignore; for n in 0 1 2 3 4 5 6; do \"$ddr\" stash $n; done");
    owned.guarded.guard().freeze(true);
    let read = |n: u32, user: u32| {
        let path = owned.folder().join(n.to_string());
        std::thread::spawn(move || {
            // SAFETY: as above.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) }, 0);
            std::fs::read(path)
        })
    };
    let theirs: Vec<_> = (0..6).map(|n| read(n, OTHER)).collect();
    let done = |readers: &[std::thread::JoinHandle<_>]| readers.iter().filter(|r| r.is_finished()).count();
    wait_until("three are refused", || done(&theirs) == 3);
    let his: Vec<_> = (4..7).map(|n| read(n, OWNER)).collect();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!((done(&theirs), done(&his)), (3, 0), "he waits for what is his");
    owned.guarded.guard().freeze(false);
    let content = |n: usize| std::fs::read(owned.folder().join(format!(".{n}.copy"))).unwrap();
    let mut refused = 0;
    for (n, reader) in theirs.into_iter().enumerate() {
        match reader.join().unwrap() {
            Ok(seen) => assert!(seen == content(n), "{n}"),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => refused += 1,
            Err(e) => panic!("{n}: {e}"),
        }
    }
    assert_eq!(refused, 3);
    for (n, reader) in his.into_iter().enumerate() {
        assert!(reader.join().unwrap().unwrap() == content(n + 4), "{n}");
    }
}

#[test]
fn who_truncates_is_counted_too() {
    use std::os::fd::AsRawFd;
    const COUNT: usize = 8;
    let Some(mut owned) = owned() else { return };
    let paths: Vec<PathBuf> = (0..COUNT).map(|n| owned.folder().join(n.to_string())).collect();
    owned.ok("for n in 0 1 2 3 4 5 6 7; do head -c 100000 /dev/urandom > $n; chmod 666 $n; done; \
        \"$ddr\" stash .");
    // Their owner can open stubs as they are only while there is no guard.
    owned.guarded.guard = None;
    let lease = |path: &PathBuf| {
        let file = std::fs::File::open(path).unwrap();
        // SAFETY: plain integers. The signal by which it is wanted back must not end the test.
        let leased = unsafe {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) == 0
        };
        assert!(leased, "{}", std::io::Error::last_os_error());
        file
    };
    let ours = crate::support::own_files();
    let leased: Vec<_> = paths.iter().map(lease).collect();
    drop(ours);
    owned.start_with(&["--user-files", "3"]);
    let truncate = |path: PathBuf| std::fs::File::options().write(true).truncate(true).open(path).map(|_| ());
    let as_other = |paths: Vec<PathBuf>| {
        std::thread::spawn(move || {
            // SAFETY: as above.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, OTHER, OTHER, OTHER) }, 0);
            paths.into_iter().map(truncate).collect::<Vec<_>>()
        })
    };
    let openers: Vec<_> = paths.iter().map(|path| as_other(vec![path.clone()])).collect();
    let done = || openers.iter().filter(|opener| opener.is_finished()).count();
    wait_until("five are refused", || done() == 5);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(done(), 5, "three wait for the leases");
    drop(leased);
    let results: Vec<_> = openers.into_iter().flat_map(|opener| opener.join().unwrap()).collect();
    let errors: Vec<_> = results.into_iter().filter_map(Result::err).map(|e| e.raw_os_error()).collect();
    assert_eq!(errors, [Some(libc::EBUSY); 5]);
    // Who has done it counts no longer as soon as that is seen, and one thread is in one open at a time.
    std::thread::sleep(std::time::Duration::from_millis(300));
    for result in as_other(paths.clone()).join().unwrap() {
        result.unwrap();
    }
    assert!(paths.iter().all(|path| std::fs::metadata(path).unwrap().len() == 0));
    wait_until("no mark is left", || owned.guarded.guard().marks() == 0);
}

#[test]
fn a_stub_given_away_is_never_taken_for_its_content() {
    let Some(owned) = owned() else { return };
    owned.ok("head -c 100000 /dev/urandom > a; cp a .a.copy; echo '.*.copy' > .ddrignore; \"$ddr\" stash a");
    let file = owned.folder().join("a");
    chown(&file, Some(OTHER), Some(OTHER)).unwrap();
    if let Ok(seen) = std::fs::read(&file) {
        let right = seen == std::fs::read(owned.folder().join(".a.copy")).unwrap();
        assert!(right, "seen as {:?}", String::from_utf8_lossy(&seen[..40]));
    }
    chown(&file, Some(OWNER), Some(OWNER)).unwrap();
    owned.ok("cmp a .a.copy");
}

#[test]
fn files_of_others_and_unreadable_ones_keep_no_stub_from_being_guarded() {
    let Some(mut owned) = owned() else { return };
    owned.ok("for n in a b; do head -c 100000 /dev/urandom > $n; cp $n .$n.copy; done; \
        echo '.*.copy' > .ddrignore; \"$ddr\" stash a b; chmod 000 a");
    // As small as a stub, and not his.
    std::fs::write(owned.folder().join("alien"), [7; 9000]).unwrap();
    owned.guarded.guard = None;
    owned.start();
    assert_eq!(owned.guarded.guard().marks(), 2);
    let read = |name: &str| std::fs::read(owned.folder().join(name)).unwrap();
    assert!(read("a") == read(".a.copy") && read("b") == read(".b.copy"));
    assert!(read("alien") == [7; 9000]);
    assert_eq!(std::fs::metadata(owned.folder().join("a")).unwrap().mode() & 0o7777, 0);
}

#[test]
fn a_folder_that_leads_elsewhere_is_not_guarded() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.guard = None;
    let (there, elsewhere) = (guarded.at(".ddr"), guarded.outside().join("elsewhere"));
    assert!(Command::new("mv").arg(&there).arg(&elsewhere).status().unwrap().success());
    std::os::unix::fs::symlink(&elsewhere, &there).unwrap();
    let output = guarded.sandbox.run(&["guard", "."]).expect(&[4]).unwrap();
    assert!(output.stderr.contains("are not of one user"), "{}", output.stderr);
}

#[test]
fn everybody_can_connect_whatever_the_mask() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.guard = None;
    let socket = guarded.outside().join("run/guard.sock");
    let mut command = Command::new("sh");
    guarded.sandbox.settle(&mut command);
    command.args(["-c", "umask 077; exec \"$0\" guard \"$1\""]).arg(program()).arg(guarded.sandbox.folder());
    command.env("DDR_GUARD_SOCKET", &socket);
    let guard = Guard::spawn(command);
    guard.wait_for(" guarded (");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(socket.parent().unwrap()), mode(&socket)), (0o755, 0o666));
}
