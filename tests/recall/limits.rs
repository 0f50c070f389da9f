//! Scarcity: descriptors, many at once, and what others could do to the guard with them.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use ddr::local::guard::{Frame, Verb, send};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::races::{guarded, waiting};
use super::trouble::same;
use crate::support::content::noise;
use crate::support::guarded::{Guard, Guarded, is_stub, wait_until};
use crate::support::{Running, program};

const SIZE: u64 = 20_000;

/// Starts a guard that may have so many descriptors.
fn poor(guarded: &mut Guarded, descriptors: usize) {
    guarded.guard = None;
    let mut command = Command::new("prlimit");
    guarded.sandbox.settle(&mut command);
    command.arg(format!("--nofile={descriptors}:{descriptors}"));
    command.arg(program()).arg("guard").arg(guarded.sandbox.folder());
    let guard = Guard::spawn(command);
    guard.wait_for(" guarded (");
    guarded.guard = Some(guard);
}

fn read_all(guarded: &Guarded, count: u64) {
    for i in 0..count {
        let path = guarded.at(i.to_string());
        let seen = std::fs::read(&path).unwrap_or_else(|e| panic!("{i}: {e}"));
        same(&seen, &noise(i, SIZE)).unwrap_or_else(|e| panic!("{i}: {e}; {:?}", guarded.guard().said()));
    }
}

#[test]
fn a_guard_short_of_descriptors_lets_no_stub_go_unguarded() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.configure("[recall]\nburst = 1000000");
    poor(&mut guarded, 100);
    const COUNT: u64 = 600;
    for i in 0..COUNT {
        guarded.write(i.to_string(), &noise(i, SIZE));
    }
    // It may refuse to.
    let output = guarded.sandbox.run(&["stash", "."]);
    let stubs = (0..COUNT).filter(|i| is_stub(&guarded.at(i.to_string()))).count();
    assert!(stubs > 0 || output.code != Some(0), "{output:?}");
    read_all(&guarded, COUNT);
    // What was stashed without it is found all the same.
    guarded.guard = None;
    std::thread::sleep(std::time::Duration::from_millis(500));
    guarded.stash();
    poor(&mut guarded, 200);
    read_all(&guarded, COUNT);
}

#[test]
fn more_openers_than_descriptors_wait_and_get_their_content_or_an_error() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.configure("[recall]\nburst = 1000000");
    poor(&mut guarded, 200);
    const COUNT: u64 = 400;
    for i in 0..COUNT {
        guarded.write(i.to_string(), &noise(i, SIZE));
    }
    guarded.guard = None;
    guarded.stash();
    poor(&mut guarded, 200);
    guarded.guard().freeze(true);
    let open = |i: u64| {
        let path = guarded.at(i.to_string());
        std::thread::spawn(move || std::fs::read(path))
    };
    let readers: Vec<_> = (0..COUNT).map(|i| (i, open(i))).collect();
    wait_until("many wait", || waiting(&guarded).len() > 20);
    std::thread::sleep(std::time::Duration::from_millis(500));
    guarded.guard().freeze(false);
    let mut errors = 0;
    for (i, reader) in readers {
        match reader.join().unwrap() {
            Ok(seen) => same(&seen, &noise(i, SIZE)).unwrap_or_else(|e| panic!("{i}: {e}")),
            Err(_) => errors += 1,
        }
    }
    crate::support::say(&format!("{errors} of {COUNT} openers got an error for want of descriptors"));
    read_all(&guarded, COUNT);
}

#[test]
fn a_thousand_openers_at_once_all_get_their_content() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.configure("[recall]\nburst = 1000000");
    guarded.start(&[]);
    const COUNT: u64 = 1000;
    for i in 0..COUNT {
        guarded.write(i.to_string(), &noise(i, SIZE));
    }
    guarded.stash();
    let open = |i: u64| {
        let path = guarded.at(i.to_string());
        std::thread::spawn(move || std::fs::read(path))
    };
    let start = std::time::Instant::now();
    let readers: Vec<_> = (0..COUNT).map(|i| (i, open(i))).collect();
    for (i, reader) in readers {
        same(&reader.join().unwrap().unwrap(), &noise(i, SIZE)).unwrap_or_else(|e| panic!("{i}: {e}"));
    }
    crate::support::say(&format!(
        "{COUNT} stubs opened at once: all had their content after {:?}",
        start.elapsed()
    ));
}

/// How many files the guard has on its list.
fn listed(guarded: &Guarded) -> u64 {
    let output = guarded.sandbox.ok(&["status", "--json"]).unwrap_or_else(|e| panic!("{e}"));
    let rows = output.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.filter_map(|row| row["guarded"].as_u64()).next().expect("on-demand access is on")
}

#[test]
fn stubs_that_are_deleted_are_forgotten() {
    for kind in ["ext4", "xfs", "btrfs"] {
        if let Some(why) = crate::support::guarded::obstacle(&[kind]) {
            crate::support::say(&format!("deleted stubs were passed over on {kind}: {why}"));
            continue;
        }
        let guarded = Guarded::new(kind, &[]).unwrap_or_else(|e| panic!("{e}"));
        const COUNT: u64 = 300;
        // The numbers of the first are given to the second.
        for round in 0..3 {
            for i in 0..COUNT {
                guarded.write(i.to_string(), &noise(round * 1000 + i, SIZE));
            }
            guarded.stash();
            assert_eq!((listed(&guarded), guarded.guard().marks() as u64), (COUNT, COUNT), "{kind}");
            // Deleted, replaced, and deleted while somebody has it open.
            let open = std::fs::File::open(guarded.at("1")).unwrap();
            for i in 0..COUNT - 5 {
                std::fs::remove_file(guarded.at(i.to_string())).unwrap();
            }
            for i in COUNT - 5..COUNT {
                guarded.write("new", b"new");
                std::fs::rename(guarded.at("new"), guarded.at(i.to_string())).unwrap();
            }
            let start = std::time::Instant::now();
            wait_until("all are forgotten", || listed(&guarded) == 0);
            crate::support::say(&format!(
                "{COUNT} deleted stubs on {kind}: forgotten after {:?}",
                start.elapsed()
            ));
            drop(open);
        }
    }
}

/// A lease on a file that still carries a mark makes the guard wait for its holder.
fn leased(flags: &[&str]) {
    use std::os::fd::AsRawFd;
    let Some(guarded) = guarded(flags) else { return };
    for i in 0..2 {
        guarded.write(i.to_string(), &noise(i, SIZE));
    }
    guarded.stash();
    let file = std::fs::File::options().read(true).write(true).truncate(true).open(guarded.at("0")).unwrap();
    std::io::Write::write_all(&mut &file, b"new").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    // SAFETY: plain integers. The signal by which it is wanted back must not end the test.
    let leased = unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0
    };
    assert!(leased, "{}", std::io::Error::last_os_error());
    let path = guarded.at("0");
    let other = std::thread::spawn(move || std::fs::read(path));
    std::thread::sleep(std::time::Duration::from_millis(300));
    let start = std::time::Instant::now();
    assert!(std::fs::read(guarded.at("1")).unwrap() == noise(1, SIZE));
    let time = start.elapsed();
    drop(file);
    assert_eq!(other.join().unwrap().unwrap(), b"new");
    assert!(time < std::time::Duration::from_secs(2), "another file took {time:?}");
}

#[test]
fn who_holds_a_lease_keeps_nobody_from_other_files() {
    leased(&[]);
    leased(&["--opens-only"]);
}

#[test]
fn a_lease_that_is_held_on_a_stub_keeps_nobody_from_other_stubs() {
    use std::os::fd::AsRawFd;
    use std::time::{Duration, Instant};
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.configure("[recall]\nburst = 1000000");
    guarded.guard = None;
    const LEASES: u64 = 6;
    for i in 0..LEASES + 20 {
        guarded.write(i.to_string(), &noise(i, SIZE));
    }
    guarded.stash();
    // Its owner can open a stub as it is only while there is no guard.
    let lease = |i: u64| {
        let file = std::fs::File::options().read(true).write(true).open(guarded.at(i.to_string())).unwrap();
        // SAFETY: plain integers. The signal by which it is wanted back must not end the test.
        let leased = unsafe {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0
        };
        assert!(leased, "{}", std::io::Error::last_os_error());
        file
    };
    let ours = crate::support::own_files();
    let leased: Vec<_> = (0..LEASES).map(lease).collect();
    drop(ours);
    guarded.start(&[]);
    let read = |i: u64| {
        let path = guarded.at(i.to_string());
        std::thread::spawn(move || std::fs::read(path))
    };
    let mut others = Vec::new();
    let mut worst = Duration::ZERO;
    for i in 0..20 {
        if i < LEASES {
            others.push(read(i));
            std::thread::sleep(Duration::from_millis(50));
        }
        let start = Instant::now();
        assert!(std::fs::read(guarded.at((LEASES + i).to_string())).unwrap() == noise(LEASES + i, SIZE));
        worst = worst.max(start.elapsed());
    }
    assert!(others.iter().all(|other| !other.is_finished()), "the leases are held");
    crate::support::say(&format!("with {LEASES} leases held on stubs others took at most {worst:?}"));
    assert!(worst < Duration::from_secs(1), "{worst:?}");
    drop(leased);
    for (i, other) in others.into_iter().enumerate() {
        assert!(other.join().unwrap().unwrap() == noise(i as u64, SIZE), "{i}");
    }
}

/// A file on a file system that never answers: it can be opened as a mere name, and asked for nothing.
struct Hung {
    path: std::path::PathBuf,
    /// Its only server.
    device: Option<std::fs::File>,
}

impl Hung {
    fn new(path: std::path::PathBuf) -> std::io::Result<Self> {
        use std::os::{fd::AsRawFd, unix::ffi::OsStrExt};
        let ours = crate::support::own_files();
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse")?;
        drop(ours);
        std::fs::write(&path, "")?;
        let point = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        let fd = device.as_raw_fd();
        let data = format!("fd={fd},rootmode=100000,user_id=0,group_id=0,allow_other\0");
        let (kind, data) = (c"fuse".as_ptr(), data.as_ptr().cast());
        // SAFETY: strings that outlive the call.
        match unsafe { libc::mount(c"hung".as_ptr(), point.as_ptr(), kind, libc::MS_NOSUID, data) } {
            0 => Ok(Self { path, device: Some(device) }),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    fn open(&self) -> OwnedFd {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, rustix::fs::Mode::empty()).unwrap()
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Whoever waits for it gets an error.
        self.device = None;
        let gone = Command::new("umount").arg("-l").arg(&self.path).status();
        assert!(gone.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_file_system_that_does_not_answer_keeps_nobody_waiting_but_who_named_it() {
    let Some(guarded) = guarded(&[]) else { return };
    (0..3).for_each(|i| guarded.write(i.to_string(), &noise(i, SIZE)));
    guarded.stash();
    let hung = match Hung::new(guarded.outside().join("hung")) {
        Ok(hung) => hung,
        Err(e) => return crate::support::say(&format!("a hung file system was passed over: {e}")),
    };
    for flag in 0..3 {
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(guarded.sandbox.guard_socket()).unwrap()).unwrap();
        let mark = Frame { flag, number: 1, ..Frame::new(Verb::Mark) };
        send(socket.as_fd(), &mark, &[hung.open().as_fd()]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        // Whoever is connected sees stubs as what they are.
        let mut other = Command::new("cat");
        guarded.sandbox.settle(&mut other);
        other.arg(guarded.at(flag.to_string()));
        let mut other = Running::spawn(other, "cat".into());
        other.wait_at_most(std::time::Duration::from_secs(20));
        let seen = other.wait().expect(&[0]).unwrap().stdout;
        assert!(seen == String::from_utf8_lossy(&noise(flag.into(), SIZE)), "{}", &seen[..20]);
    }
}

/// Takes all the room of a file system.
fn fill_up(guarded: &Guarded) -> std::path::PathBuf {
    let path = guarded.beside().join("filler");
    let file = std::fs::File::create(&path).unwrap();
    let (mut at, mut step) = (0, 256u64 << 20);
    while step >= 4096 {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), at, step) {
            Ok(()) => at += step,
            Err(_) => step /= 2,
        }
    }
    path
}

#[test]
fn without_room_on_the_disk_an_opener_is_told_so_and_nothing_is_lost() {
    for kind in ["ext4", "xfs"] {
        if let Some(why) = crate::support::guarded::obstacle(&[kind]) {
            crate::support::say(&format!("a full disk was passed over on {kind}: {why}"));
            continue;
        }
        let guarded = Guarded::new(kind, &[]).unwrap_or_else(|e| panic!("{e}"));
        let sizes = [600_000u64, 40 << 20];
        for size in sizes {
            guarded.write(size.to_string(), &noise(size, size));
        }
        guarded.stash();
        let filler = fill_up(&guarded);
        for size in sizes {
            let error = std::fs::read(guarded.at(size.to_string())).map(|seen| seen.len());
            let error = error.expect_err("there is no room");
            let said = guarded.guard().said();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{size} on {kind}: {error}; {said:?}");
        }
        std::fs::remove_file(filler).unwrap();
        for size in sizes {
            let seen = std::fs::read(guarded.at(size.to_string())).unwrap();
            same(&seen, &noise(size, size)).unwrap_or_else(|e| panic!("{size} on {kind}: {e}"));
        }
    }
}
