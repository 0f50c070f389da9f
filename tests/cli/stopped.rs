//! Stopped by Ctrl-C or worse: what was done stays done, and the same command goes on.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::Running;
use crate::support::content::noise;
use crate::support::shell::Shell;
use crate::support::tree::{Nodes, State, read, state, walk};

const FILES: u64 = 400;

/// Enough for a command to be at work for a while.
fn many() -> (Shell, Nodes) {
    let shell = Shell::with_store();
    for i in 0..FILES {
        shell.write(format!("d{}/f{i}", i % 7), &noise(i, 40_000));
    }
    shell.write("big", &noise(FILES, 20 << 20));
    let nodes = read(&shell.at("")).expect("readable");
    (shell, nodes)
}

fn signal(running: &Running, signal: Signal) {
    let pid = Pid::from_raw(running.id() as i32).expect("a process");
    kill_process(pid, signal).expect("our own process");
}

fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !happened() {
        assert!(begin.elapsed() < Duration::from_secs(60), "waited for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn not_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut d| d.next().is_some())
}

fn stubs(shell: &Shell) -> usize {
    let all = walk(&shell.at("")).expect("readable").into_iter().map(|p| shell.at(p));
    let files = all.filter(|p| p.symlink_metadata().is_ok_and(|m| m.is_file()));
    files.filter(|p| state(p).expect("full or a stub") == State::Stub).count()
}

#[test]
fn ctrl_c_in_a_stash() {
    let (shell, nodes) = many();
    let running = shell.sandbox.start(&["stash", "."], None);
    wait_for("the first pack", || {
        not_empty(&shell.sandbox.store().join("store/tmp"))
            || not_empty(&shell.sandbox.store().join("store/data"))
    });
    signal(&running, Signal::INT);
    let output = running.wait().expect(&[130]).expect("interrupted");
    assert!(
        output.stderr.contains("interrupted") && output.stderr.contains("run the same command again"),
        "{output:?}"
    );
    let done = stubs(&shell);
    assert!(done < FILES as usize + 3, "it was early enough: {done}");
    shell.ok("ddr status && ddr fsck --read-data");
    assert_eq!(stubs(&shell), done, "looking changes nothing");
    shell.ok("ddr stash .");
    assert_eq!(stubs(&shell), FILES as usize + 3);
    shell.ok("ddr checkout && ddr fsck --read-data");
    assert!(read(&shell.at("")).expect("readable") == nodes);
}

#[test]
fn ctrl_c_and_terminate_in_a_checkout() {
    let (shell, nodes) = many();
    shell.ok("ddr stash .");
    for (i, kind) in [Signal::INT, Signal::TERM].into_iter().enumerate() {
        let running = shell.sandbox.start(&["checkout"], None);
        wait_for("an intent", || not_empty(&shell.at(".ddr/intents")));
        signal(&running, kind);
        let output = running.wait().expect(&[130, 0]).expect("interrupted, or just done");
        if output.code == Some(130) {
            assert!(!not_empty(&shell.at(".ddr/intents")), "nothing is left to mend: {output:?}");
            assert!(i > 0 || stubs(&shell) > 0);
        }
        shell.ok("ddr status");
    }
    shell.ok("ddr checkout");
    assert!(read(&shell.at("")).expect("readable") == nodes);
}

#[test]
fn a_second_ctrl_c_ends_at_once_and_the_next_command_mends() {
    let (shell, nodes) = many();
    let running = shell.sandbox.start(&["stash", "."], None);
    wait_for("an intent", || not_empty(&shell.at(".ddr/intents")));
    signal(&running, Signal::INT);
    std::thread::sleep(Duration::from_millis(1));
    signal(&running, Signal::INT);
    running.wait().expect(&[130]).expect("interrupted");
    shell.ok("ddr status && ddr stash . && ddr checkout && ddr fsck --read-data");
    assert!(read(&shell.at("")).expect("readable") == nodes);
}

#[test]
fn killed_in_a_stash_and_mended_by_the_next_command() {
    let (shell, nodes) = many();
    let mut running = shell.sandbox.start(&["stash", "."], None);
    // The first file named is not the first one done, so look at some.
    let small = |i: u64| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(shell.at(format!("d{}/f{i}", i % 7))).is_ok_and(|m| m.blocks() * 512 <= 16 << 10)
    };
    wait_for("the first stub", || (0..FILES).any(small));
    running.kill();
    assert_eq!(running.wait().code, None);
    let said = shell.ok("ddr status 2>&1");
    assert!(said.contains("mended what an interrupted run left"), "{said}");
    assert!(!shell.ok("ddr status 2>&1").contains("mended"), "once is enough");
    shell.ok("ddr stash . && ddr checkout && ddr fsck --read-data");
    assert!(read(&shell.at("")).expect("readable") == nodes);
}

#[test]
fn a_clone_killed_again_and_again_is_continued_by_the_same_command() {
    let (shell, _) = many();
    shell.ok("rm big");
    let nodes = read(&shell.at("")).expect("readable");
    shell.ok("ddr stash .");
    let two = shell.other("two");
    let store = shell.sandbox.store().into_os_string();
    let mut killed = 0;
    for round in 0..60u64 {
        let args = ["clone".into(), store.clone(), ".".into()];
        let mut running = two.sandbox.start(&args, None);
        running.wait_at_most(Duration::from_millis(3 + round * 12));
        if running.ended() {
            running.wait().expect(&[0]).expect("continued");
            break;
        }
        running.kill();
        killed += usize::from(running.wait().code.is_none());
        if round == 20 {
            // A look in between says what to do.
            let said = two.run("ddr status");
            assert!(matches!(said.code, Some(0 | 3 | 10)), "{said:?}");
        }
    }
    assert!(killed > 3, "{killed}");
    two.ok("ddr clone ../../store . && ddr checkout");
    assert!(read(&two.at("")).expect("readable") == nodes);
    assert!(two.ok("ddr status").contains("nothing changed"));
    assert_eq!(two.ok("ddr history --deleted"), "nothing was deleted\n");
}

/// What a stop left out of the last batch must not pass for done.
#[test]
fn ctrl_c_in_a_clone() {
    let (shell, _) = many();
    // Without small files nothing is fetched behind the stubs, where a stop would be noticed anyway.
    shell.ok("rm big && find . -path ./.ddr -prune -o -type f -size -17k -exec rm {} +");
    let nodes = read(&shell.at("")).expect("readable");
    shell.ok("ddr stash .");
    let all = stubs(&shell);
    let interrupted = (0..10).any(|round| {
        let two = shell.other(&format!("two{round}"));
        let args = ["clone".into(), shell.sandbox.store().into_os_string(), ".".into()];
        let running = two.sandbox.start(&args, None);
        wait_for("the first stub", || (0..7).any(|d| not_empty(&two.at(format!("d{d}")))));
        signal(&running, Signal::INT);
        let output = running.wait().expect(&[130, 0]).expect("interrupted, or just done");
        if output.code == Some(0) {
            assert_eq!(stubs(&two), all, "done means all of it: {output:?}");
            return false;
        }
        two.ok("ddr clone ../../store . && ddr checkout");
        assert!(read(&two.at("")).expect("readable") == nodes);
        true
    });
    assert!(interrupted, "never early enough");
}
