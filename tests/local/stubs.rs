//! Full files become stubs and back.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ddr::base::error::Error;
use ddr::base::units::Time;
use ddr::format::stub::{XATTR, looks_like_stub};
use ddr::local::guard::Hold;
use ddr::local::inspect::State;
use ddr::local::read::Extent;
use ddr::local::stat::FileType;
use ddr::local::stub::{
    Filling, NewFile, Target, convert, create_dir, create_stub, create_symlink, set_dir_times,
};
use rustix::fs::XattrFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::case::{Case, OLD, bytes, head_of, patiently, rel, set_time};
use super::place::Place;

pub fn i3_converting_keeps_everything_but_blocks(place: &Place) {
    let case = Case::new(place.dir("convert"));
    for (i, size) in [4097, 16 << 10, 300_001, 5 << 20].into_iter().enumerate() {
        let name = format!("f{i}");
        let path = case.file(&name, &bytes(size, i as u64));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        set_time(&path, Time { secs: -5, nanos: 7 });
        let before = case.stat(&name);
        let head = case.stash(&name).expect("stashed");
        File::open(&path).and_then(|f| f.sync_all()).expect("sync");
        let after = case.stat(&name);
        assert_eq!((after.size, after.mtime, after.mode), (before.size, before.mtime, before.mode));
        assert_eq!((after.ino, after.nlink), (before.ino, before.nlink));
        assert!(after.blocks <= 8, "{} blocks of a {size} byte stub", after.blocks);
        assert_eq!(case.inspect(&name), State::Stub(head));
        let text = std::fs::read(&path).expect("read");
        assert!(
            looks_like_stub(&text) && String::from_utf8_lossy(&text).contains(&format!("checkout {name}"))
        );
    }
}

pub fn only_the_file_that_the_guard_holds_is_touched(place: &Place) {
    let case = Case::new(place.dir("swap"));
    let (content, other) = (bytes(300_001, 1), bytes(300_001, 2));
    case.file("file", &content);
    case.file("other", &other);
    let head = case.stash("file").expect("stashed");
    let held = case.stat("file");
    // Between the hold and the filling another stub of the same content takes its place.
    std::fs::rename(case.dir.join("file"), case.dir.join("held")).expect("moved");
    let copy = case.file("file", &content);
    case.stash("file").expect("stashed");
    let path = rel("file");
    let (connection, guard) = connection();
    let hold = Hold::new((held.dev, held.ino), &connection);
    let target = |held| Target { held: Some(held), ..case.target(&path, &head) };
    let refused = patiently(|| Filling::begin(&target(hold)).map(drop));
    assert!(matches!(refused, Err(Error::Changed(_))), "{refused:?}");
    assert!(matches!(case.inspect("file"), State::Stub(_)) && case.stat("file").blocks <= 8);
    // Nor is it stashed.
    let (full, proof) = case.place("other");
    let (path, stat) = (rel("other"), proof.stat.fingerprint());
    let target = |held| Target { held: Some(held), ..case.target(&path, &full) };
    let refused = patiently(|| convert(&target(hold), &stat, &|_| Ok(true)).map(drop));
    assert!(matches!(refused, Err(Error::Changed(_))), "{refused:?}");
    assert_eq!(std::fs::read(case.dir.join("other")).expect("read"), other);
    // The one that is held is filled as ever.
    std::fs::rename(case.dir.join("held"), &copy).expect("moved back");
    let path = rel("file");
    let target = Target { held: Some(hold), ..case.target(&path, &head) };
    let filling = patiently(|| Filling::begin(&target)).expect("begun");
    filling.write_at(&content, 0).expect("written");
    filling.finish(&[]).expect("filled");
    assert_eq!(std::fs::read(&copy).expect("read"), content);
    // Nor is one stashed whose guard has gone, though nobody has it open.
    drop(guard);
    let path = rel("other");
    let its = Hold::new((proof.stat.dev, proof.stat.ino), &connection);
    let target = Target { held: Some(its), ..case.target(&path, &full) };
    let refused = patiently(|| match convert(&target, &stat, &|_| Ok(true)) {
        Err(Error::Refused(why)) if why.contains("went away") => Ok(()),
        done => done.map(|_| panic!("it is a stub that nobody guards")),
    });
    assert!(refused.is_ok(), "{refused:?}");
    assert_eq!(std::fs::read(case.dir.join("other")).expect("read"), other);
    assert!(matches!(case.inspect("other"), State::Full));
}

/// A connection to a guard, and that guard's end of it.
fn connection() -> (Mutex<OwnedFd>, OwnedFd) {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None).expect("a connection");
    (Mutex::new(ours), theirs)
}

pub fn filling_brings_every_byte_back(place: &Place) {
    let case = Case::new(place.dir("fill"));
    for (i, size) in [4097, 16 << 10, 300_001, 5 << 20].into_iter().enumerate() {
        let name = format!("f{i}");
        let content = bytes(size, i as u64);
        let path = case.file(&name, &content);
        let before = case.stat(&name);
        let head = case.stash(&name).expect("stashed");
        let after = case.fill(&name, &head, &content).expect("filled");
        assert_eq!(std::fs::read(&path).expect("read"), content);
        assert_eq!(
            (after.size, after.mtime, after.mode, after.ino),
            (before.size, OLD, before.mode, before.ino)
        );
        let file = File::open(&path).expect("open");
        assert!(rustix::fs::fgetxattr(&file, XATTR, &mut [0u8; 256]).is_err(), "mark left");
        assert_eq!(case.inspect(&name), State::Full);
    }
    let content = bytes(1 << 20, 9);
    case.file("wrong", &content);
    let head = case.stash("wrong").expect("stashed");
    let filling = case.begin("wrong", &head).expect("begin");
    assert!(filling.write_at(&[1; 100], (1 << 20) - 99).is_err(), "beyond the end");
    filling.write_at(&content[..1000], 0).expect("write");
    assert!(filling.finish(&[]).is_err(), "not everything came");
    assert_eq!(case.inspect("wrong"), State::Stub(head));
}

pub fn attributes_stay(place: &Place) {
    let case = Case::new(place.dir("attributes"));
    let content = bytes(50_000, 1);
    let path = case.file("f", &content);
    let file = File::open(&path).expect("open");
    if rustix::fs::fsetxattr(&file, "user.color", b"blue", XattrFlags::empty()).is_err() {
        println!("no user attributes here");
        return;
    }
    drop(file);
    let color = || {
        let mut buf = [0u8; 16];
        let file = File::open(&path).expect("open");
        let len = rustix::fs::fgetxattr(&file, "user.color", &mut buf).expect("there");
        buf[..len].to_vec()
    };
    // Set-user-id goes when somebody without that power writes; it must be there in the end.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).expect("chmod");
    let head = case.stash("f").expect("stashed");
    assert_eq!(color(), b"blue");
    case.fill("f", &head, &content).expect("filled");
    assert_eq!(color(), b"blue");
    assert_eq!(std::fs::metadata(&path).expect("stat").permissions().mode() & 0o7777, 0o4755);
}

pub fn holes_stay_holes(place: &Place) {
    let case = Case::new(place.dir("sparse"));
    let path = case.file("s", b"");
    const MIB: u64 = 1 << 20;
    File::options().write(true).open(&path).and_then(|f| f.set_len(64 * MIB)).expect("size");
    super::case::scribble(&path, &[5; 1 << 20], 10 * MIB);
    super::case::scribble(&path, b"end", 64 * MIB - 3);
    set_time(&path, OLD);
    let whole = std::fs::read(&path).expect("read");
    let extents = case.extents("s");
    let Some(Extent::Hole { start: 0, len: front }) = extents.first().copied() else {
        panic!("no hole in front: {extents:?}")
    };
    assert_eq!(front, 10 * MIB);
    let covered: u64 = extents
        .iter()
        .map(|e| match *e {
            Extent::Data { len, .. } | Extent::Hole { len, .. } => len,
        })
        .sum();
    assert_eq!(covered, 64 * MIB);
    let blocks = case.stat("s").blocks;
    let head = case.stash("s").expect("stashed");
    let filling = case.begin("s", &head).expect("begin");
    let holes: Vec<(u64, u64)> = extents
        .iter()
        .filter_map(|extent| match extent {
            Extent::Hole { start, len } => Some((*start, *len)),
            Extent::Data { .. } => None,
        })
        .collect();
    filling.reserve(&holes).expect("room");
    for extent in extents {
        if let Extent::Data { start, len } = extent {
            filling.write_at(&whole[start as usize..(start + len) as usize], start).expect("write");
        }
    }
    filling.finish(&holes).expect("filled");
    assert!(std::fs::read(&path).expect("read") == whole);
    File::open(&path).and_then(|f| f.sync_all()).expect("sync");
    assert!(case.stat("s").blocks <= blocks.max(2100), "{} blocks, had {blocks}", case.stat("s").blocks);

    // Many small holes are read as the zeros they are; an all-hole file is one hole.
    let path = case.file("small", b"");
    File::options().write(true).open(&path).and_then(|f| f.set_len(MIB)).expect("size");
    (0..32).for_each(|i| super::case::scribble(&path, &[1; 4096], i * (32 << 10)));
    assert_eq!(case.extents("small"), [Extent::Data { start: 0, len: MIB }]);
    let path = case.file("void", b"");
    File::options().write(true).open(&path).and_then(|f| f.set_len(64 << 30)).expect("size");
    assert_eq!(case.extents("void"), [Extent::Hole { start: 0, len: 64 << 30 }]);
}

pub fn abandoned_fillings_are_stubs_again(place: &Place) {
    let case = Case::new(place.dir("abandon"));
    let content = bytes(3 << 20, 4);
    case.file("f", &content);
    let head = case.stash("f").expect("stashed");
    for drop_it in [false, true] {
        let filling = case.begin("f", &head).expect("begin");
        filling.reserve(&[]).expect("room");
        filling.write_at(&content[..2 << 20], 0).expect("write");
        if drop_it {
            drop(filling)
        } else {
            filling.abandon().expect("abandoned")
        }
        assert_eq!(case.inspect("f"), State::Stub(head.clone()));
        let stat = case.stat("f");
        assert_eq!(stat.mtime, OLD);
        File::open(case.dir.join("f")).and_then(|f| f.sync_all()).expect("sync");
        assert!(case.stat("f").blocks <= 8);
    }
    case.fill("f", &head, &content).expect("filled");
    assert_eq!(std::fs::read(case.dir.join("f")).expect("read"), content);
}

pub fn openers_wait_for_the_whole_content(place: &Place) {
    let case = Case::new(place.dir("wait"));
    let content = bytes(1 << 20, 5);
    let path = case.file("f", &content);
    let head = case.stash("f").expect("stashed");
    let filling = case.begin("f", &head).expect("begin");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| std::fs::read(&path).expect("read"));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!reader.is_finished(), "it should wait");
        filling.write_at(&content, 0).expect("an opener may wait a while");
        filling.finish(&[]).expect("filled");
        assert_eq!(reader.join().expect("joined"), content);
    });
}

/// A writer and ddr race for the same file (I2): the writer counts every write it made, and in the
/// end the file must hold them all.
pub fn i2_writers_never_lose_a_byte(place: &Place) {
    let case = Case::new(place.dir("race"));
    let model = Mutex::new(bytes(40_000, 6));
    let path = case.file("f", &model.lock().expect("model"));
    let stop = AtomicBool::new(false);
    let (mut rounds, mut writes) = (0, 0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut count = 0u64;
            while !stop.load(Ordering::Relaxed) {
                count += u64::from(write_unless_stub(&path, &model, count));
                // Writes come in bursts, so that some conversions succeed.
                if count.is_multiple_of(7) {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
            count
        });
        let end = std::time::Instant::now() + Duration::from_millis(700);
        while std::time::Instant::now() < end {
            rounds += u32::from(try_round(&case));
        }
        stop.store(true, Ordering::Relaxed);
        writes = writer.join().expect("joined");
    });
    assert!(*model.lock().expect("model") == std::fs::read(&path).expect("read"), "bytes were lost");
    println!("  {rounds} conversions against {writes} writes");
    assert!(rounds > 0 && writes > 0);
}

fn write_unless_stub(path: &std::path::Path, model: &Mutex<Vec<u8>>, count: u64) -> bool {
    use std::os::unix::fs::FileExt;
    let file = File::options().read(true).write(true).open(path).expect("open");
    let mut start = [0u8; 200];
    file.read_exact_at(&mut start, 0).expect("read");
    if looks_like_stub(&start) {
        return false;
    }
    let at = (count * 7919) % 39_000;
    file.write_all_at(&count.to_le_bytes(), at).expect("write");
    model.lock().expect("model")[at as usize..at as usize + 8].copy_from_slice(&count.to_le_bytes());
    true
}

/// Reads, converts and fills again; whether it came to that.
fn try_round(case: &Case) -> bool {
    let Ok(reading) = ddr::local::read::Reading::open(&case.root, &rel("f")) else { return false };
    let mut content = vec![0; 40_000];
    reading.read_at(&mut content, 0).expect("read");
    let Ok(proof) = reading.finish() else { return false };
    let head = head_of(&content, proof.stat.mtime);
    let target = rel("f");
    let target = case.target(&target, &head);
    if proof.unstashable.is_some()
        || ddr::local::stub::convert(&target, &proof.stat.fingerprint(), &|_| Ok(true)).is_err()
    {
        return false;
    }
    // The writer looks now and then; it must not be in the way for ever.
    while case.fill("f", &head, &content).is_err() {
        std::thread::sleep(Duration::from_micros(50));
    }
    true
}

pub fn new_files_appear_whole_and_replace_nothing(place: &Place) {
    let case = Case::new(place.dir("create"));
    create_dir(&case.root, &rel("d"), 0o500).expect("made");
    create_dir(&case.root, &rel("d"), 0o500).expect("already there");
    let content = bytes(200_000, 7);
    let head = head_of(&content, OLD);
    let stub = rel("d/stub");
    let stat = create_stub(&case.target(&stub, &head), 0o604).expect("made");
    assert_eq!((stat.size, stat.mtime, stat.mode), (200_000, OLD, 0o604));
    assert_eq!(case.inspect("d/stub"), State::Stub(head.clone()));
    assert!(create_stub(&case.target(&stub, &head), 0o604).is_err(), "taken");
    case.fill("d/stub", &head, &content).expect("filled");

    let make = |name: &str, size: u64| {
        let path = rel(name);
        let mut file = NewFile::begin(&case.root, &path, size)?;
        file.write_at(&content, 100_000)?;
        file.appear(0o444, OLD)
    };
    let stat = make("d/new", 400_000).expect("made");
    assert_eq!((stat.size, stat.mtime, stat.mode), (400_000, OLD, 0o444));
    let read = std::fs::read(case.dir.join("d/new")).expect("read");
    assert!(read[100_000..300_000] == content && read[300_000..].iter().all(|b| *b == 0));
    assert!(make("d/new", 400_000).is_err(), "taken");
    assert!(make("d/short", 200_000).is_err(), "too long");
    assert!(case.root.stat(&rel("d/short")).expect("stat").is_none());
    assert!(make("nowhere/new", 400_000).expect_err("no parent").is_missing());

    let stat = create_symlink(&case.root, &rel("d/link"), b"../\xff where", OLD).expect("made");
    assert_eq!((stat.kind, stat.mtime), (FileType::Symlink, OLD));
    assert_eq!(case.root.read_link(&rel("d/link")).expect("link"), b"../\xff where");
    assert!(create_symlink(&case.root, &rel("d/link"), b"x", OLD).is_err(), "taken");
    assert!(create_dir(&case.root, &rel("d/link"), 0o700).is_err(), "taken");
    set_dir_times(&case.root, &rel("d"), 0o500, OLD).expect("set");
    let stat = case.stat("d");
    assert_eq!((stat.mode, stat.mtime), (0o500, OLD));

    // Nothing is ever opened through a symlink.
    create_symlink(&case.root, &rel("out"), b"/tmp", OLD).expect("made");
    assert!(NewFile::begin(&case.root, &rel("out/x"), 0).is_err());
    assert!(case.root.stat(&rel("out/x")).expect("stat").is_none());
    set_dir_times(&case.root, &rel("d"), 0o700, OLD).expect("set");
}
