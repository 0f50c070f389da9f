//! I5, case by case: what users do to a stub, and what the file then counts as.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use ddr::base::id::FolderId;
use ddr::format::stub::{InodeMark, MarkState, StubHead, XATTR};
use ddr::local::inspect::{State, clear_mark};
use ddr::local::stub::create_stub;
use rustix::fs::XattrFlags;

use super::case::{Case, OLD, bytes, head_of, rel, scribble, set_time};
use super::place::Place;

/// What must come out.
enum Is {
    Full,
    Stub,
    Odd(&'static str),
}

fn size(path: &Path, len: u64) {
    File::options().write(true).open(path).and_then(|f| f.set_len(len)).expect("size");
}

fn shell(path: &Path, script: &str) {
    let done = Command::new("sh").arg("-ec").arg(script).arg("sh").arg(path).status();
    assert!(done.expect("sh").success(), "{script}");
}

/// What is done, how, and what the file is then.
type Deed = (&'static str, fn(&Path), Is);

pub fn whatever_users_do_to_stubs_is_told_apart(place: &Place) {
    use Is::{Full, Odd, Stub};
    let case = Case::new(place.dir("odd"));
    let cases: [Deed; 19] = [
        ("nothing", |_| {}, Stub),
        ("> file", |p| shell(p, "echo new > \"$1\""), Full),
        ("emptied", |p| size(p, 0), Full),
        (">> file", |p| shell(p, "echo more >> \"$1\""), Odd("size was changed from 200000 to 200005")),
        ("edit in the middle", |p| scribble(p, b"x", 100_000), Odd("written into the stub at byte 100000")),
        ("edit just behind the header", |p| scribble(p, b"x", 4096), Odd("at byte 4096")),
        ("edit at the end", |p| scribble(p, b"x", 199_999), Odd("at byte 199999")),
        ("zeros in the middle", |p| scribble(p, &[0; 9000], 100_000), Stub),
        ("first line gone", |p| scribble(p, b"#!/bin/sh\n", 0), Odd("written over in part")),
        ("header edited", |p| scribble(p, b"x", 300), Odd("header is damaged")),
        ("padding edited", |p| scribble(p, b"x", 4000), Odd("padding")),
        ("whole first block written", |p| scribble(p, &[b'x'; 4096], 0), Full),
        ("cut to 199,999", |p| size(p, 199_999), Odd("size was changed")),
        ("cut to the header", |p| size(p, 4096), Odd("size was changed")),
        ("cut into the header", |p| size(p, 500), Odd("truncated")),
        ("cut into the first line", |p| size(p, 10), Odd("written over in part")),
        ("grown", |p| size(p, 300_000), Odd("size was changed")),
        ("cp over it", |p| shell(p, "echo other > \"$1.o\"; cp \"$1.o\" \"$1\""), Full),
        ("mv over it", |p| shell(p, "echo other > \"$1.o\"; mv \"$1.o\" \"$1\""), Full),
    ];
    for (i, (what, act, is)) in cases.into_iter().enumerate() {
        let name = format!("f{i}");
        let path = case.file(&name, &bytes(200_000, i as u64));
        let head = case.stash(&name).expect("stashed");
        act(&path);
        let state = case.inspect(&name);
        match (is, &state) {
            (Full, State::Full) => {}
            (Stub, State::Stub(found)) if *found == head => {}
            (Odd(part), State::Odd(why)) if why.contains(part) => {}
            _ => panic!("{what}: {state:?}"),
        }
        let begun = case.begin(&name, &head);
        assert_eq!(begun.is_ok(), matches!(state, State::Stub(_)), "{what}: filling only stubs");
    }
    copies(&case);
    marks(&case);
}

/// A copy of a stub is a pointer to the same content.
fn copies(case: &Case) {
    let content = bytes(200_000, 77);
    let path = case.file("original", &content);
    let head = case.stash("original").expect("stashed");
    for options in ["", "--sparse=always", "--sparse=never", "-a"] {
        shell(&path, &format!("rm -f \"$1.copy\"; cp {options} \"$1\" \"$1.copy\""));
        assert_eq!(case.inspect("original.copy"), State::Stub(head.clone()), "cp {options}");
        // A copy has a time of its own, which filling keeps.
        let before = case.stat("original.copy");
        let after = case.fill("original.copy", &head, &content).expect("filled");
        assert_eq!(after.mtime, before.mtime, "cp {options}");
        assert!(std::fs::read(case.dir.join("original.copy")).expect("read") == content, "cp {options}");
    }
    shell(&path, "mv \"$1\" \"$1.moved\"");
    assert_eq!(case.inspect("original.moved"), State::Stub(head.clone()));
    set_time(&case.dir.join("original.moved"), ddr::base::units::Time { secs: 5, nanos: 6 });
    let touched = case.fill("original.moved", &head, &content).expect("filled");
    assert_eq!((touched.mtime.secs, touched.mtime.nanos), (5, 6), "a touched stub keeps that time");
}

fn marks(case: &Case) {
    let path = case.file("half", &bytes(200_000, 78));
    let head = case.stash("half").expect("stashed");
    let file = File::open(&path).expect("open");
    let mark = InodeMark::of(&head, MarkState::Filling).encode();
    rustix::fs::fsetxattr(&file, XATTR, &mark, XattrFlags::empty()).expect("marked");
    scribble(&path, &bytes(4096, 1), 0);
    assert!(matches!(case.inspect("half"), State::Filling(_)));
    // The mark of another inode came along with a copy: it says nothing.
    let ino = std::os::unix::fs::MetadataExt::ino(&file.metadata().expect("stat")) as u32;
    for (inode, filling) in [(ino, true), (ino + 1, false)] {
        let mark = InodeMark { inode, ..InodeMark::of(&head, MarkState::Filling) }.encode();
        rustix::fs::fsetxattr(&file, XATTR, &mark, XattrFlags::empty()).expect("marked");
        assert_eq!(matches!(case.inspect("half"), State::Filling(_)), filling);
    }
    clear_mark(&file).expect("cleared");
    clear_mark(&file).expect("nothing to clear");
    assert_eq!(case.inspect("half"), State::Full);

    let other = StubHead { folder: FolderId([8; 16]), ..head_of(&bytes(100_000, 1), OLD) };
    create_stub(&case.target(&rel("foreign"), &other), 0o644).expect("made");
    assert!(matches!(case.inspect("foreign"), State::Odd(why) if why.contains("another folder")));
    // A text about stubs is a text.
    let mut text = case.dir.join("text");
    text.set_extension("md");
    let mut file = File::create(&text).expect("create");
    file.write_all(b"Every stub begins so:\n\nThis is a ddr stub: the content ...\nddr-stub 1\nfolder x\n")
        .expect("write");
    drop(file);
    assert_eq!(case.inspect("text.md"), State::Full);
}
