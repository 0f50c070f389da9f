//! Files as a power cut may leave them: each sector hole, original or header.

use std::fs::File;
use std::os::unix::fs::FileExt;

use ddr::base::error::Error;
use ddr::format::stub::{InodeMark, MarkState, StubHead, XATTR};
use ddr::local::inspect::{State, marked};
use ddr::local::intent::{Intent, Item, Task, pending};
use ddr::local::mend::{Verdict, judge, refill, remove, restore_mode, restub};
use ddr::local::stat::Fingerprint;
use ddr::local::stub::create_stub;
use rustix::fs::XattrFlags;

use super::case::{Case, OLD, bytes, head_of, patiently, rel, scribble, set_time};
use super::place::Place;

/// Judges as recovery does.
pub fn judged(case: &Case, task: Task, name: &str, head: &StubHead, content: &[u8]) -> Verdict {
    let mut original = |at: u64, buf: &mut [u8]| {
        buf.copy_from_slice(&content[at as usize..at as usize + buf.len()]);
        Ok(())
    };
    judge(&case.root, task, (&rel(name), name.as_bytes()), head, &case.keys, &mut original).expect("judged")
}

/// Parts of a file picked by random bits, over a hole: of one being filled sectors, of one being freed the blocks
/// behind the header.
fn tear(case: &Case, name: &str, task: Task, (content, head): (&[u8], &StubHead), seed: u64) {
    let path = case.file(name, b"");
    let file = File::options().write(true).open(&path).expect("open");
    file.set_len(content.len() as u64).expect("size");
    let header = head.encode(&case.keys, name.as_bytes());
    let dice = bytes(content.len().div_ceil(512), seed);
    for (i, part) in content.chunks(512).enumerate() {
        let from_header = header.get(i * 512..i * 512 + part.len());
        let die = if task == Task::Fill || i < 8 { dice[i] % 3 } else { dice[i / 8] % 3 };
        match (die, from_header) {
            (0, _) if task == Task::Fill || i >= 8 => {}
            (1, Some(header)) => file.write_all_at(header, i as u64 * 512).expect("write"),
            _ => file.write_all_at(part, i as u64 * 512).expect("write"),
        }
    }
    let state = if task == Task::Fill { MarkState::Filling } else { MarkState::Stub };
    set_mark(&file, &InodeMark::of(head, state));
}

fn set_mark(file: &File, mark: &InodeMark) {
    rustix::fs::fsetxattr(file, XATTR, &mark.encode(), XattrFlags::empty()).expect("marked");
}

/// Zeros where the content has none: who may have left them?
pub fn zeros_that_the_user_wrote_stay(place: &Place) {
    let case = Case::new(place.dir("zeros"));
    let content = bytes(100_000, 5);
    let head = head_of(&content, OLD);
    let later = ddr::base::units::Time { secs: OLD.secs + 1, nanos: 0 };
    let mut number = 0;
    let mut judge = |task, state: Option<MarkState>, mtime, hole: bool| {
        number += 1;
        let name = format!("{number}");
        let path = case.file(&name, &content);
        let file = File::options().write(true).open(&path).expect("open");
        if hole {
            let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, 8192, 8192).expect("punched");
        } else {
            file.write_all_at(&[0; 8192], 8192).expect("written");
        }
        state.into_iter().for_each(|state| set_mark(&file, &InodeMark::of(&head, state)));
        drop(file);
        set_time(&path, mtime);
        match judged(&case, task, &name, &head, &content) {
            Verdict::Explained(_) => "explained",
            Verdict::Theirs(_) => "theirs",
            other => panic!("{other:?}"),
        }
    };
    let keeps_order = ddr::local::inode::keeps_order(&File::open(&case.dir).expect("open"));
    let (explained, theirs) = ("explained", "theirs");
    use MarkState::{Filled, Filling, Stub};
    for (task, state, mtime, written, hole) in [
        // Nothing is freed before it is marked.
        (Task::Stash, None, OLD, theirs, theirs),
        (Task::Stash, Some(Stub), OLD, theirs, explained),
        (Task::Stash, Some(Stub), later, theirs, explained),
        (Task::Stash, Some(Filling), later, explained, explained),
        (Task::Fill, Some(Filling), later, explained, explained),
        // Without its header it is no stub any more, and was not marked as being filled.
        (Task::Fill, Some(Stub), later, theirs, theirs),
        // Whoever wrote since changed its time.
        (Task::Fill, None, OLD, explained, explained),
        (Task::Fill, None, later, theirs, explained),
        (Task::Fill, Some(Filled), OLD, explained, explained),
        (Task::Fill, Some(Filled), later, theirs, theirs),
        (Task::Create, None, OLD, explained, explained),
        (Task::Create, None, later, theirs, theirs),
    ] {
        for (is_hole, want) in [(false, written), (true, hole)] {
            // Where nobody promises in which order things reach the disk, holes count always.
            let depends = is_hole && task == Task::Stash || task == Task::Fill && state == Some(Stub);
            let want = if depends && !keeps_order { explained } else { want };
            assert_eq!(
                judge(task, state, mtime, is_hole),
                want,
                "{task:?} {state:?} {mtime:?}, hole: {is_hole}"
            );
        }
    }
}

/// Files that somebody emptied, or made anew, where ddr was about to free or to make something.
pub fn what_was_made_anew_stays(place: &Place) {
    let case = Case::new(place.dir("anew"));
    let content = bytes(100_000, 7);
    let head = head_of(&content, OLD);
    // Emptied and made as long as before: all of it is a hole, also what is never freed.
    let path = case.file("emptied", b"");
    let file = File::options().write(true).open(&path).expect("open");
    file.set_len(100_000).expect("size");
    set_mark(&file, &InodeMark::of(&head, MarkState::Stub));
    assert!(matches!(judged(&case, Task::Stash, "emptied", &head, &content), Verdict::Theirs(_)));
    // A new file that its user shortened, and a new stub that he only touched.
    let later = ddr::base::units::Time { secs: 7, nanos: 0 };
    set_time(&case.file("shortened", &content[..20_000]), later);
    assert!(matches!(judged(&case, Task::Create, "shortened", &head, &content), Verdict::Theirs(_)));
    create_stub(&case.target(&rel("touched"), &head), 0o644).expect("made");
    set_time(&case.dir.join("touched"), later);
    assert_eq!(judged(&case, Task::Create, "touched", &head, &content), Verdict::Stub);
    // A file half filled, whose first block somebody wrote over without having read it.
    let path = case.file("half", b"");
    let file = File::options().write(true).open(&path).expect("open");
    file.set_len(100_000).expect("size");
    file.write_all_at(&content[4096..50_000], 4096).expect("written");
    file.write_all_at(&[9; 4096], 0).expect("written");
    let mount = case.root.mount_of(&file).unwrap_or_default();
    set_mark(&file, &InodeMark { mount, ..InodeMark::of(&head, MarkState::Filling) });
    assert!(matches!(judged(&case, Task::Fill, "half", &head, &content), Verdict::Theirs(_)));
}

/// Marks of files that were whole: what is in them is whatever their users wrote.
pub fn what_was_written_to_whole_files_stays(place: &Place) {
    let case = Case::new(place.dir("written"));
    let content = bytes(100_000, 6);
    let head = head_of(&content, OLD);
    let path = case.file("file", &content);
    let file = File::options().read(true).write(true).open(&path).expect("open");
    let here = ddr::local::mount::mount_of(&file);
    let filled = |mount| InodeMark { mount, ..InodeMark::of(&head, MarkState::Filled) };
    let filling = |mount| InodeMark { mount, ..InodeMark::of(&head, MarkState::Filling) };
    let judge = |mark: InodeMark, what: &[u8], at: u64| {
        file.set_len(0).expect("emptied");
        file.write_all_at(&content, 0).expect("written");
        set_mark(&file, &mark);
        set_time(&path, OLD);
        file.write_all_at(what, at).expect("written");
        (judged(&case, Task::Fill, "file", &head, &content), marked(&file).expect("read").is_none())
    };
    let whole = (Verdict::Intact, true);
    // Before a power cut, or on an old kernel: bytes that are not zero can only have been added.
    assert_eq!(judge(filled([0; 6]), b"mine", 50_000), whole);
    assert_eq!(judge(filled([0; 6]), b"longer now", 99_999), whole);
    assert_eq!(judge(filling([0; 6]), b"mine", 50_000), whole);
    let Some(here) = here else { return };
    for mark in [filled(here), filling(here)] {
        assert_eq!(judge(mark, b"mine", 50_000), whole);
        assert_eq!(judge(mark, &[0; 9000], 50_000), whole, "{mark:?}");
    }
    assert_eq!(judge(filled(here), &[0; 4096], 0), whole);
}

pub fn torn_files_are_explained_or_left_alone(place: &Place) {
    let case = Case::new(place.dir("torn"));
    for seed in 0..20u64 {
        let content = bytes(9_000 + seed as usize * 7_001, seed);
        let name = format!("f{seed}");
        let head = head_of(&content, OLD);
        let task = if seed % 2 == 0 { Task::Stash } else { Task::Fill };
        tear(&case, &name, task, (&content, &head), seed);
        let Verdict::Explained(as_found) = judged(&case, task, &name, &head, &content) else {
            panic!("{seed}: not explained")
        };
        let path = rel(&name);
        let target = case.target(&path, &head);
        if seed % 2 == 0 {
            patiently(|| restub(&target, &as_found)).expect("a stub again");
            assert_eq!((case.inspect(&name), case.stat(&name).mtime), (State::Stub(head.clone()), OLD));
            assert_eq!(judged(&case, Task::Stash, &name, &head, &content), Verdict::Stub);
            case.fill(&name, &head, &content).expect("filled");
        } else {
            let mut original = |at: u64, buf: &mut [u8]| {
                buf.copy_from_slice(&content[at as usize..at as usize + buf.len()]);
                Ok(())
            };
            let file = File::open(case.dir.join(&name)).expect("open");
            refill((&file, None), &head, &as_found, &mut original).expect("filled");
        }
        assert!(std::fs::read(case.dir.join(&name)).expect("read") == content);
        assert_eq!(judged(&case, Task::Fill, &name, &head, &content), Verdict::Intact);
        // One foreign byte, and it is the user's.
        tear(&case, &name, task, (&content, &head), seed);
        scribble(&case.dir.join(&name), b"\x01\x02", 6_000);
        let before = std::fs::read(case.dir.join(&name)).expect("read");
        assert!(matches!(judged(&case, task, &name, &head, &content), Verdict::Theirs(_)), "{seed}");
        assert!(
            matches!(patiently(|| restub(&target, &as_found)), Err(Error::Changed(_))),
            "judged something else"
        );
        assert!(std::fs::read(case.dir.join(&name)).expect("read") == before);
    }
    intact_and_prefixes(&case);
    intents_come_back(&case);
    what_is_finished_in_part_never_looks_whole(&case);
}

/// Content that stops coming in the middle: the first block is the last to be there.
fn what_is_finished_in_part_never_looks_whole(case: &Case) {
    let content = bytes(3 << 20, 99);
    let head = head_of(&content, OLD);
    let stops = [0, 1 << 20, 2 << 20, 3 << 20];
    for (task, state, stops_at) in [Task::Fill, Task::Stash]
        .into_iter()
        .zip([MarkState::Filled, MarkState::Stub])
        .flat_map(|(task, state)| stops.map(|at| (task, state, at)))
    {
        tear(case, "part way", task, (&content, &head), 99);
        let file = File::open(case.dir.join("part way")).expect("open");
        set_mark(&file, &InodeMark::of(&head, state));
        drop(file);
        set_time(&case.dir.join("part way"), OLD);
        let mut original = |at: u64, buf: &mut [u8]| {
            if at >= stops_at {
                return Err(Error::Interrupted);
            }
            buf.copy_from_slice(&content[at as usize..at as usize + buf.len()]);
            Ok(())
        };
        let Verdict::Explained(seen) = judged(case, task, "part way", &head, &content) else {
            panic!("{stops_at}: not explained")
        };
        let file = File::open(case.dir.join("part way")).expect("open");
        let done = refill((&file, None), &head, &seen, &mut original).is_ok();
        let found = std::fs::read(case.dir.join("part way")).expect("read");
        assert_eq!(done, stops_at == 3 << 20);
        let state = case.inspect("part way");
        assert!(if done { state == State::Full } else { matches!(state, State::Filling(_)) }, "{state:?}");
        // Cut short it is explained as before.
        let again = judged(case, task, "part way", &head, &content);
        assert!(done || matches!(again, Verdict::Explained(_)), "{again:?}");
        assert!(if done { found == content } else { found[..4096].iter().all(|byte| *byte == 0) });
    }
}

fn intact_and_prefixes(case: &Case) {
    let content = bytes(50_000, 50);
    let head = head_of(&content, OLD);
    let path = case.file("whole", &content);
    set_time(&path, ddr::base::units::Time { secs: 99, nanos: 0 });
    assert_eq!(judged(case, Task::Stash, "whole", &head, &content), Verdict::Intact);
    assert_eq!(case.stat("whole").mtime.secs, 99, "without a mark the time is the user's");
    let file = File::open(&path).expect("open");
    set_mark(&file, &InodeMark::of(&head, MarkState::Filling));
    assert_eq!(judged(case, Task::Fill, "whole", &head, &content), Verdict::Intact);
    assert_eq!((case.stat("whole").mtime, marked(&file).expect("read")), (OLD, None));

    assert_eq!(judged(case, Task::Fill, "absent", &head, &content), Verdict::Gone);
    assert!(matches!(judged(case, Task::Fill, "whole", &head_of(b"", OLD), b""), Verdict::Theirs(_)));
    set_time(&case.file("part", &content[..20_000]), OLD);
    assert!(matches!(judged(case, Task::Fill, "part", &head, &content), Verdict::Theirs(_)));
    let Verdict::Explained(found) = judged(case, Task::Create, "part", &head, &content) else {
        panic!("a prefix of a new file")
    };
    let part = rel("part");
    let target = case.target(&part, &head);
    assert!(remove(&target, &Fingerprint { size: found.size + 1, ..found }).is_err(), "not what was judged");
    patiently(|| remove(&target, &found)).expect("taken away");
    assert!(case.root.stat(&part).expect("looked").is_none());

    // Room reserved for filling stayed, the mark that said so did not.
    case.file("roomy", &content);
    case.stash("roomy").expect("stashed");
    let file = File::options().write(true).open(case.dir.join("roomy")).expect("open");
    let reserved = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 4096, 45_904);
    drop(file);
    let head = head_of(&content, OLD);
    if reserved.is_ok() && case.stat("roomy").blocks * 512 > 16 << 10 {
        let Verdict::Explained(found) = judged(case, Task::Fill, "roomy", &head, &content) else {
            panic!("a stub with room to be given back")
        };
        patiently(|| restub(&case.target(&rel("roomy"), &head), &found)).expect("a stub");
        assert_eq!(judged(case, Task::Fill, "roomy", &head, &content), Verdict::Stub);
    }

    use std::os::unix::fs::PermissionsExt;
    let lent = case.file("lent", &content);
    for (now, expected) in [(0o644, 0o444), (0o600, 0o600), (0o666, 0o666)] {
        std::fs::set_permissions(&lent, std::fs::Permissions::from_mode(now)).expect("chmod");
        restore_mode(&case.root, &rel("lent"), 0o444).expect("restored");
        assert_eq!(case.stat("lent").mode, expected);
    }
}

fn intents_come_back(case: &Case) {
    let dir = case.dir.join("intents");
    assert!(pending(&dir).expect("none").is_empty());
    let items = |n: u64| -> Vec<Item> {
        let name = |i: u64| rel(&format!("d\n/{i}"));
        (0..n)
            .map(|i| Item { path: name(i), head: head_of(&bytes(9, i), OLD), mode: 0o640, ino: None })
            .collect()
    };
    let first = Intent::begin(&dir, Task::Stash, &items(1000)).expect("begun");
    let second = Intent::begin(&dir, Task::Create, &items(2)).expect("begun");
    std::fs::write(dir.join("1-1.new"), b"never became visible").expect("write");
    let found = pending(&dir).expect("read");
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].1, &found[0].2), (Task::Stash, &items(1000)));
    assert_eq!((found[1].1, &found[1].2), (Task::Create, &items(2)));
    first.close().expect("closed");
    drop(second);
    let found = pending(&dir).expect("read");
    assert_eq!(found.len(), 1);
    scribble(&found[0].0, b"x", 20);
    assert!(pending(&dir).expect_err("damaged").is_corruption());
    Intent::resume(found[0].0.clone()).close().expect("closed");
    assert!(pending(&dir).expect("none").is_empty());
}
