//! What must not become a stub, and why.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ddr::base::error::Error;
use ddr::local::inspect::State;
use ddr::local::read::Reading;
use rustix::fs::IFlags;

use super::case::{Case, OLD, bytes, rel, scribble, set_time};
use super::place::{Place, as_ordinary_user};

/// What is done to a file between placing and converting it.
type Act<T> = fn(&Path) -> T;
/// Keeps something in the way of a conversion until it is dropped.
type Obstacle = Box<dyn std::any::Any>;

struct Mapping(*mut libc::c_void);

impl Mapping {
    fn of(path: &Path) -> Self {
        let file = File::open(path).expect("open");
        // SAFETY: a fresh private mapping that is only unmapped again.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        assert_ne!(at, libc::MAP_FAILED);
        Self(at)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped above with this length.
        unsafe { libc::munmap(self.0, 4096) };
    }
}

struct Flags(File, IFlags);

impl Drop for Flags {
    fn drop(&mut self) {
        rustix::fs::ioctl_setflags(&self.0, self.1).expect("flags back");
    }
}

fn flagged(path: &Path, flag: IFlags) -> Obstacle {
    let file = File::open(path).expect("open");
    let old = rustix::fs::ioctl_getflags(&file).unwrap_or(IFlags::empty());
    match rustix::fs::ioctl_setflags(&file, old | flag) {
        Ok(()) => Box::new(Flags(file, old)),
        Err(e) => {
            println!("  flags not tested: {e}");
            Box::new(())
        }
    }
}

pub fn every_refusal_says_why_and_changes_nothing(place: &Place) {
    let case = Case::new(place.dir("refuse"));
    let content = bytes(100_000, 1);
    let obstacles: [(&str, &str, Act<Obstacle>); 6] = [
        ("written", "open or mapped", |p| Box::new(File::options().append(true).open(p).expect("open"))),
        ("opened", "open or mapped", |p| Box::new(File::open(p).expect("open"))),
        ("mapped", "open or mapped", |p| Box::new(Mapping::of(p))),
        ("linked", "2 hard links", |p| {
            std::fs::hard_link(p, p.with_extension("two")).expect("link");
            Box::new(())
        }),
        ("immutable", "immutable", |p| flagged(p, IFlags::IMMUTABLE)),
        ("append-only", "append-only", |p| flagged(p, IFlags::APPEND)),
    ];
    for (name, why, obstacle) in obstacles {
        let path = case.file(name, &content);
        // Linking changes the inode, so it is part of what was placed.
        let early = (name == "linked").then(|| obstacle(&path));
        let (head, proof) = case.place(name);
        let in_the_way = early.unwrap_or_else(|| obstacle(&path));
        let now = case.stat(name);
        let expect = if now.ctime == proof.stat.ctime { proof.stat.fingerprint() } else { now.fingerprint() };
        let result = case.convert(name, &head, &expect);
        if in_the_way.is::<()>() && name != "linked" {
            continue;
        }
        match result {
            Err(Error::Refused(said)) => assert!(said.contains(why), "{name}: {said}"),
            other => panic!("{name}: {other:?}"),
        }
        assert!(std::fs::read(&path).expect("read") == content, "{name}");
        assert_eq!((case.stat(name).mtime, case.inspect(name)), (OLD, State::Full), "{name}");
    }
    let path = case.file("busy", &content);
    let head = case.stash("busy").expect("stashed");
    let reader = File::open(&path).expect("open");
    assert!(matches!(case.begin("busy", &head), Err(Error::Refused(_))));
    drop(reader);
    assert_eq!(case.inspect("busy"), State::Stub(head));
    case.file("tiny", &content[..4096]);
    assert!(matches!(case.stash("tiny"), Err(Error::Refused(_))));
}

pub fn changed_files_are_not_converted(place: &Place) {
    let case = Case::new(place.dir("changed"));
    let content = bytes(100_000, 2);
    let changes: [(&str, Act<()>); 4] = [
        ("written", |p| scribble(p, b"x", 50_000)),
        ("mtime reset", |p| {
            scribble(p, b"x", 50_000);
            set_time(p, OLD);
        }),
        ("grown", |p| {
            File::options().write(true).open(p).and_then(|f| f.set_len(100_001)).expect("size");
            set_time(p, OLD);
        }),
        ("replaced", |p| {
            std::fs::copy(p, p.with_extension("new")).expect("copy");
            set_time(&p.with_extension("new"), OLD);
            std::fs::rename(p.with_extension("new"), p).expect("rename");
        }),
    ];
    for (name, change) in changes {
        let path = case.file(name, &content);
        let (head, proof) = case.place(name);
        change(&path);
        let before = std::fs::read(&path).expect("read");
        let result = case.convert(name, &head, &proof.stat.fingerprint());
        assert!(matches!(result, Err(Error::Changed(_))), "{name}: {result:?}");
        assert!(std::fs::read(&path).expect("read") == before, "{name}");
        assert_eq!(case.inspect(name), State::Full, "{name}");
    }
}

pub fn read_only_files_of_ordinary_users(place: &Place) {
    let dir = place.dir("read-only");
    as_ordinary_user(|| {
        let case = Case::new(dir);
        let content = bytes(100_000, 3);
        let path = case.file("f", &content);
        for mode in [0o444, 0o400] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            let head = case.stash("f").expect("stashed");
            assert_eq!(u32::from(case.stat("f").mode), mode);
            assert_eq!((case.stat("f").mtime, case.inspect("f")), (OLD, State::Stub(head.clone())));
            case.fill("f", &head, &content).expect("filled");
            assert_eq!(u32::from(case.stat("f").mode), mode);
            assert_eq!((case.stat("f").mtime, case.inspect("f")), (OLD, State::Full));
            assert!(std::fs::read(&path).expect("read") == content);
            assert!(ddr::local::inspect::marked(&File::open(&path).expect("open")).expect("mark").is_none());
            let reader = File::open(&path).expect("open");
            assert!(matches!(case.stash("f"), Err(Error::Refused(_))));
            assert_eq!(u32::from(case.stat("f").mode), mode, "given back after a refusal");
            drop(reader);
        }
        // Not ours: placed without a proof, never converted.
        if let Ok(passwd) = ddr::local::root::Root::open(Path::new("/etc")) {
            let reading = Reading::open(&passwd, &rel("passwd")).expect("readable");
            assert!(reading.leased().is_some());
            assert!(reading.finish().expect("unchanged").unstashable.is_some());
        }
    });
}

pub fn reading_proves_or_says_why_not(place: &Place) {
    let case = Case::new(place.dir("reading"));
    let path = case.file("f", &bytes(100_000, 4));
    let open = || case.reading("f");
    assert!(open().leased().is_none());
    assert!(open().finish().expect("unchanged").unstashable.is_none());

    let reading = open();
    scribble_nonblocking(&path);
    assert!(matches!(reading.finish(), Err(Error::Changed(_))), "somebody asked to write");

    let writer = File::options().write(true).open(&path).expect("open");
    let reading = open();
    assert!(reading.leased().is_some_and(|why| why.contains("open for writing")));
    assert!(reading.finish().expect("unchanged").unstashable.is_some());
    drop(writer);

    std::fs::hard_link(&path, case.dir.join("g")).expect("link");
    assert!(open().finish().expect("unchanged").unstashable.is_some_and(|why| why.contains("links")));
    std::fs::create_dir(case.dir.join("d")).expect("dir");
    assert!(matches!(Reading::open(&case.root, &rel("d")), Err(Error::Changed(_))));
    assert!(Reading::open(&case.root, &rel("absent")).expect_err("absent").is_missing());
}

/// Asks to write, without waiting for the lease.
fn scribble_nonblocking(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    let asked = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path);
    assert_eq!(asked.expect_err("leased").raw_os_error(), Some(libc::EAGAIN));
}
