//! Every step of converting, filling and creating fails once, and is the process's last once;
//! recovery must explain what is left.
//!
//! The steps run in a child process: this test binary again, with `DDR_FAULT` set.

use std::process::{Command, Stdio};

use ddr::format::stub::StubHead;
use ddr::local::inspect::State;
use ddr::local::intent::Task;
use ddr::local::mend::{Verdict, restub};
use ddr::local::stub::{create_file, create_stub};

use super::case::{Case, OLD, bytes, head_of, patiently, rel};
use super::place::Place;
use super::torn::judged;

const CHILD: &str = "local::faults::child";
const LEN: usize = 150_000;

fn content() -> Vec<u8> {
    bytes(LEN, 42)
}

/// What the child does; ignored unless it is the child.
#[test]
fn child() {
    let (Ok(dir), Ok(what)) = (std::env::var("DDR_TEST_DIR"), std::env::var("DDR_TEST_DO")) else { return };
    let case = Case::new(dir.into());
    let head = head_of(&content(), OLD);
    let path = rel("f");
    let done = match what.as_str() {
        "stash" => case.stash("f").map(|_| ()),
        "fill" => case.fill("f", &head, &content()).map(|_| ()),
        "stub" => create_stub(&case.target(&path, &head), 0o640).map(|_| ()),
        _ => create_file(&case.root, &path, &mut |sink| sink(&content(), 0), LEN as u64, 0o640, OLD)
            .map(|_| ()),
    };
    std::process::exit(if done.is_ok() { 0 } else { 1 });
}

fn run_child(case: &Case, what: &str, fault: &str) -> i32 {
    let exe = std::env::current_exe().expect("this binary");
    let done = Command::new(exe)
        .args(["--exact", CHILD, "--test-threads=1"])
        .env("DDR_TEST_DIR", &case.dir)
        .env("DDR_TEST_DO", what)
        .env("DDR_FAULT", fault)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    done.expect("child").code().unwrap_or(-1)
}

pub fn every_fault_is_mended(place: &Place) {
    if !cfg!(debug_assertions) {
        println!("  not tested: release builds have no faults");
        return;
    }
    let case = Case::new(place.dir("faults"));
    for (what, task) in
        [("stash", Task::Stash), ("fill", Task::Fill), ("stub", Task::Create), ("file", Task::Create)]
    {
        for mode in ["fail", "last"] {
            let mut step = 1;
            loop {
                prepare(&case, what);
                let code = run_child(&case, what, &format!("{mode}:{step}"));
                assert!([0, 1, 86].contains(&code), "{what} {mode}:{step} ended with {code}");
                check(&case, what, task, &format!("{what} {mode}:{step}"));
                if code == 0 {
                    break;
                }
                step += 1;
            }
            assert!(step > 4, "{what} has more steps than {step}");
        }
    }
}

fn prepare(case: &Case, what: &str) {
    let _ = std::fs::remove_file(case.dir.join("f"));
    if matches!(what, "stash" | "fill") {
        use std::os::unix::fs::PermissionsExt;
        let path = case.file("f", &content());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
    }
    if what == "fill" {
        case.stash("f").expect("stashed");
    }
}

/// What recovery does, and what must come of it.
fn check(case: &Case, what: &str, task: Task, when: &str) {
    let (content, head) = (content(), head_of(&content(), OLD));
    match judged(case, task, "f", &head, &content) {
        Verdict::Gone => assert_eq!(task, Task::Create, "{when}"),
        Verdict::Theirs(why) => panic!("{when}: {why}"),
        Verdict::Intact => assert_full(case, &content, when),
        Verdict::Stub => assert_stub(case, &head, when),
        Verdict::Explained(found) => {
            assert_ne!(what, "file", "{when}: a file appears whole");
            patiently(|| restub(&case.target(&rel("f"), &head), &found)).expect("a stub");
            assert_stub(case, &head, when);
            case.fill("f", &head, &content).expect("filled");
            assert_full(case, &content, when);
        }
    }
}

fn assert_full(case: &Case, content: &[u8], when: &str) {
    assert!(std::fs::read(case.dir.join("f")).expect("read") == content, "{when}");
    assert_eq!(case.inspect("f"), State::Full, "{when}");
    assert_eq!((case.stat("f").mtime, case.stat("f").mode), (OLD, 0o640), "{when}");
}

fn assert_stub(case: &Case, head: &StubHead, when: &str) {
    assert_eq!(case.inspect("f"), State::Stub(head.clone()), "{when}");
    assert_eq!((case.stat("f").mtime, case.stat("f").mode), (OLD, 0o640), "{when}");
}
