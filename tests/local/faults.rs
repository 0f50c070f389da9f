//! Every step of converting, filling and creating fails once, and is the process's last once;
//! recovery must explain what is left.
//!
//! The steps run in a child process: this test binary again, with `DDR_FAULT` set.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use ddr::base::error::Result;
use ddr::format::stub::StubHead;
use ddr::local::inspect::State;
use ddr::local::intent::Task;
use ddr::local::mend::{Verdict, restore_mode, restub};
use ddr::local::stub::{NewFile, create_stub};

use super::case::{Case, OLD, bytes, head_of, patiently, rel};
use super::place::{Place, as_ordinary_user};
use super::torn::judged;

const CHILD: &str = "local::faults::child";
const LEN: usize = 150_000;
/// How tasks on a read-only file of an ordinary user end.
const READ_ONLY: &str = " read-only";
const TASKS: [(&str, Task); 6] = [
    ("stash", Task::Stash),
    ("stash read-only", Task::Stash),
    ("fill", Task::Fill),
    ("fill read-only", Task::Fill),
    ("stub", Task::Create),
    ("file", Task::Create),
];

fn content() -> Vec<u8> {
    bytes(LEN, 42)
}

fn mode(what: &str) -> u16 {
    if what.ends_with(READ_ONLY) { 0o440 } else { 0o640 }
}

/// Does nothing, unless it is the child.
#[test]
fn child() {
    let (Ok(dir), Ok(what)) = (std::env::var("DDR_TEST_DIR"), std::env::var("DDR_TEST_DO")) else { return };
    let run = || act(&Case::new(dir.into()), what.trim_end_matches(READ_ONLY));
    let done = if what.ends_with(READ_ONLY) { as_ordinary_user(run) } else { run() };
    std::process::exit(if done.is_ok() { 0 } else { 1 });
}

fn act(case: &Case, what: &str) -> Result<()> {
    let head = head_of(&content(), OLD);
    let path = rel("f");
    match what {
        "stash" => case.stash("f").map(|_| ()),
        "fill" => case.fill("f", &head, &content()).map(|_| ()),
        "stub" => create_stub(&case.target(&path, &head), 0o640).map(|_| ()),
        _ => {
            let mut file = NewFile::begin(&case.root, &path, LEN as u64)?;
            file.write_at(&content(), 0)?;
            file.appear(0o640, OLD).map(|_| ())
        }
    }
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
    for (what, task) in TASKS {
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
    if matches!(what, "stub" | "file") {
        return;
    }
    let path = case.file("f", &content());
    let permissions = std::fs::Permissions::from_mode(mode(what).into());
    std::fs::set_permissions(&path, permissions).expect("chmod");
    if rustix::process::geteuid().is_root() && what.ends_with(READ_ONLY) {
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).expect("chown");
    }
    if what.starts_with("fill") {
        case.stash("f").expect("stashed");
    }
}

/// What recovery does, and what must come of it.
fn check(case: &Case, what: &str, task: Task, when: &str) {
    let (content, head) = (content(), head_of(&content(), OLD));
    let full = || {
        assert!(std::fs::read(case.dir.join("f")).expect("read") == content, "{when}");
        assert_eq!(case.inspect("f"), State::Full, "{when}");
        assert_eq!((case.stat("f").mtime, case.stat("f").mode), (OLD, mode(what)), "{when}");
    };
    restore_mode(&case.root, &rel("f"), mode(what)).expect("restored");
    match judged(case, task, "f", &head, &content) {
        Verdict::Gone => assert_eq!(task, Task::Create, "{when}"),
        Verdict::Theirs(why) => panic!("{when}: {why}"),
        Verdict::Intact => full(),
        Verdict::Stub => assert_stub(case, &head, what, when),
        Verdict::Explained(found) => {
            assert_ne!(task, Task::Create, "{when}: what appears is whole");
            patiently(|| restub(&case.target(&rel("f"), &head), &found)).expect("a stub");
            assert_stub(case, &head, what, when);
            case.fill("f", &head, &content).expect("filled");
            full();
        }
    }
}

fn assert_stub(case: &Case, head: &StubHead, what: &str, when: &str) {
    assert_eq!(case.inspect("f"), State::Stub(head.clone()), "{when}");
    assert_eq!((case.stat("f").mtime, case.stat("f").mode), (OLD, mode(what)), "{when}");
}
