//! Beside commands, across stops: one daemon, commands first, nothing lost.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{Daemon, assert_in_store, log, with_store};
use crate::support::content::{Random, noise};
use crate::support::shell::Shell;
use crate::support::{say, scale, seed};

#[test]
fn one_daemon_is_enough() {
    let shell = with_store();
    let mut daemon = Daemon::start(&shell);
    let second = shell.code("ddr daemon", 11);
    assert!(second.contains("locked by pid"), "{second}");
    shell.write("after.bin", &noise(2, 20_000));
    daemon.until_committed();
}

#[test]
fn it_tells_how_it_stands_and_ends_when_asked() {
    let shell = with_store();
    assert!(shell.code("ddr daemon status", 13).contains("does not run"));
    assert!(!shell.ok("ddr status").contains("daemon"), "nothing is said of one that does not run");
    let daemon = Daemon::start(&shell);
    let state = daemon.state();
    assert_eq!((&state["pending"], &state["served"]), (&0.into(), &true.into()));
    assert!(state["last_commit"].is_i64() && state["next_at"].is_i64(), "{state}");
    assert!(shell.ok("ddr status").contains("daemon: nothing waits, committed "));
    let socket = shell.sandbox.home().join("state/ddr/daemon.sock");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // Somebody who talks nonsense, and one who says nothing, harm nobody.
    let mut odd = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    std::io::Write::write_all(&mut odd, &[b'x'; 100]).unwrap();
    drop(odd);
    let _silent = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    assert!(shell.ok("ddr daemon stop").contains("has stopped"));
    assert!(!socket.exists());
    assert!(daemon.running.wait().code == Some(0));
}

#[test]
fn it_is_found_from_where_the_environment_is_another() {
    let shell = with_store();
    shell.ok("mkdir ../run");
    let run = shell.sandbox.folder().canonicalize().unwrap().join("../run");
    let running = shell.start(&format!("XDG_RUNTIME_DIR={} exec ddr daemon", run.display()));
    let since = Instant::now();
    while shell.run("ddr daemon status").code != Some(0) {
        assert!(since.elapsed() < super::SOON, "{}", log(&shell));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(run.join("ddr/daemon.sock").exists());
    shell.ok("ddr daemon stop");
    assert_eq!(running.wait().code, Some(0));
}

#[test]
fn the_list_of_folders_is_followed_while_it_runs() {
    let shell = with_store();
    let mut daemon = Daemon::start(&shell);
    assert!(shell.ok("ddr daemon list").contains("one/folder"));
    shell.ok("ddr daemon remove");
    daemon.until("it is left", |d| d.state().is_null());
    assert!(shell.ok("ddr status").contains("does not serve this folder"));
    assert!(shell.code("ddr daemon remove", 1).contains("not found"));
    shell.ok("echo meanwhile > meanwhile && ddr daemon add");
    daemon.until_committed();
    shell.ok("ddr init --bare ../bare");
    assert!(shell.code("ddr daemon add ../bare", 1).contains("bare peer"));
    shell.ok("ddr clone ../../store ../clone --same-disk");
    assert!(shell.ok("ddr daemon list").contains("one/clone"), "clones are served, too");
}

/// Enough files to be at work for seconds.
fn heap(shell: &Shell, files: u64) {
    (0..files).for_each(|n| shell.write(format!("heap/{n}"), &noise(n, 1 << 20)));
}

#[test]
fn a_command_comes_first_while_the_daemon_is_at_work() {
    let shell = with_store();
    let mut daemon = Daemon::start(&shell);
    heap(&shell, 300);
    daemon.until("it is at work", |d| d.state()["doing"] == "commit" || super::changes(d.shell).is_empty());
    let mut longest = Duration::ZERO;
    for n in 0..5 {
        let since = Instant::now();
        // The default patience must do.
        shell.ok(&format!("ddr config set stash.min_size {}KiB", 20 + n));
        longest = longest.max(since.elapsed());
    }
    say(&format!("a command beside the daemon's work: {longest:?} at most"));
    daemon.until_committed();
    assert_in_store(&shell, "two", "heap/299", &noise(299, 1 << 20));
    assert_eq!(daemon.state()["problems"], serde_json::json!([]));
}

#[test]
fn a_term_signal_ends_it_soon_and_it_says_what_remains() {
    let shell = with_store();
    let mut daemon = Daemon::start(&shell);
    heap(&shell, 300);
    daemon.until("it is at work", |d| d.state()["doing"] == "commit" || super::changes(d.shell).is_empty());
    let since = Instant::now();
    let out = daemon.end(Signal::TERM);
    assert_eq!(out.code, Some(0), "{}", out.stderr);
    say(&format!("stopped in the middle of a commit after {:?}", since.elapsed()));
    let said = log(&shell);
    assert!(said.contains("stopped; "), "{said}");
    shell.ok("ddr fsck");
    // With a long time to settle, what waits is named.
    shell.ok("ddr commit");
    let mut daemon = Daemon::start(&shell);
    shell.ok("ddr config set daemon.settle 1h");
    std::thread::sleep(Duration::from_secs(3));
    shell.ok("echo waits > waits");
    daemon.until("it has seen the change", |d| d.state()["pending"] == 1);
    assert_eq!(daemon.end(Signal::TERM).code, Some(0));
    assert!(log(&shell).contains("stopped; 1 changed paths are not committed yet"), "{}", log(&shell));
    let mut daemon = Daemon::start(&shell);
    daemon.until_committed();
}

#[test]
fn killed_at_any_moment_it_loses_nothing() {
    let shell = with_store();
    shell.ok("printf 'every = \"1s\"\\n[[rule]]\\ndo = \"stash\"\\nafter = \"30d\"\\n' > ../policy.toml && ddr config set policy.file ../policy.toml");
    let (mut random, mut written) = (Random::new(seed()), Vec::new());
    shell.ok("ddr config set daemon.settle 0s");
    for round in 0..6 * scale() {
        let mut running = shell.sandbox.start(&["daemon"], None);
        for n in 0..8 {
            let (path, seed) = (format!("d{round}/f{n}"), random.next());
            shell.write(&path, &noise(seed, 200_000));
            if n % 2 == 0 {
                shell.ok(&format!("touch -d '60 days ago' {path}"));
            }
            written.push((path, seed));
        }
        std::thread::sleep(Duration::from_millis(random.below(2500)));
        running.kill();
        drop(running);
    }
    let mut daemon = Daemon::start(&shell);
    daemon.until_committed();
    shell.ok("ddr daemon stop");
    drop(daemon);
    shell.ok("ddr fsck --read-data");
    let clone = shell.sandbox.clone_and_fill("two").unwrap();
    shell.ok("ddr checkout .");
    for (path, seed) in written {
        let bytes = noise(seed, 200_000);
        assert_eq!(shell.read(&path), bytes, "{path}");
        assert_eq!(std::fs::read(clone.folder().join(&path)).unwrap(), bytes, "{path} in the clone");
    }
}

#[test]
fn a_home_that_holds_its_own_state_is_not_committed_for_ever() {
    let shell = Shell::new();
    shell.ok("cd .. && ddr init . && ddr remote add disk2 ../store --init --same-disk && ddr config set daemon.settle 0s");
    let mut running = shell.sandbox.start(&["daemon"], None);
    let until = |what: &str| {
        let since = Instant::now();
        while !log(&shell).contains(what) {
            assert!(since.elapsed() < super::SOON, "never: {what}\n{}", log(&shell));
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    until("recorded");
    std::thread::sleep(Duration::from_secs(4));
    let before = log(&shell).matches("recorded").count();
    assert!(before <= 3, "{}", log(&shell));
    shell.ok("echo mine > mine");
    let since = Instant::now();
    while log(&shell).matches("recorded").count() == before {
        assert!(since.elapsed() < super::SOON, "{}", log(&shell));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!running.ended());
}
