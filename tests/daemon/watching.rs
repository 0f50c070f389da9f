//! Changes are found, committed when they rest, and placed; what the watcher cannot see is found by looking.

use std::time::Duration;

use super::{Daemon, assert_in_store, changes, with_store};
use crate::support::content::noise;
use crate::support::tree::walk;

#[test]
fn changes_are_committed_when_they_rest_and_are_in_the_store() {
    let shell = with_store();
    shell.ok("ddr config set daemon.settle 2s");
    let mut daemon = Daemon::start(&shell);
    shell.ok("ddr config set daemon.settle 2s");
    let bytes = noise(7, 400_000);
    // Written for longer than it takes to settle, never at rest.
    for n in 1..=16 {
        shell.write("report.bin", &bytes[..n * 25_000]);
        std::thread::sleep(Duration::from_millis(250));
    }
    daemon.until_committed();
    assert_in_store(&shell, "two", "report.bin", &bytes);
    let versions = shell.ok("ddr history report.bin").lines().count();
    assert!(versions <= 2, "half-written versions were committed:\n{}", shell.ok("ddr history report.bin"));
    assert_eq!(daemon.state()["pending"], 0);
}

#[test]
fn new_trees_moves_and_deletions_are_followed() {
    let shell = with_store();
    let mut daemon = Daemon::start(&shell);
    shell.ok("mkdir -p a/b/c && echo deep > a/b/c/deep && cp first.bin a/copy.bin");
    daemon.until_committed();
    shell.ok("mv a z && echo more > z/b/c/more && rm first.bin");
    daemon.until_committed();
    // In a directory that was watched under its old name.
    shell.ok("echo again > z/b/c/again");
    daemon.until_committed();
    let clone = shell.sandbox.clone_and_fill("two").unwrap();
    let paths: Vec<String> = walk(&clone.folder()).unwrap().iter().map(|p| p.display().to_string()).collect();
    let expected = ["z", "z/b", "z/b/c", "z/b/c/again", "z/b/c/deep", "z/b/c/more", "z/copy.bin"];
    assert_eq!(paths, expected);
    let log = daemon.log();
    assert!(log.matches("recorded").count() >= 3, "not by watching:\n{log}");
}

#[test]
fn what_is_ignored_is_not_watched_and_no_problem() {
    let shell = with_store();
    shell.ok("printf '*.o\\n/build/\\n' > .ddrignore && mkdir build");
    let mut daemon = Daemon::start(&shell);
    shell.ok("echo x > a.o; echo x > build/out; mkfifo pipe; echo kept > kept");
    daemon.until("the file beside is recorded", |d| d.shell.ok("ddr ls").contains("kept"));
    let state = daemon.state();
    assert_eq!((&state["problems"], &state["watched"]), (&serde_json::json!([]), &serde_json::json!(1)));
}

#[test]
fn without_enough_watches_looking_finds_changes() {
    let shell = with_store();
    shell.ok(
        "mkdir -p far/away && ddr config set daemon.watches 1 && ddr config set daemon.rescan_unwatched 3s",
    );
    let mut daemon = Daemon::start(&shell);
    let state = daemon.state();
    assert!(state["unwatched"].as_str().is_some_and(|why| why.contains("daemon.watches")), "{state}");
    assert!(shell.ok("ddr status").contains("changes elsewhere are found by looking"));
    shell.ok("echo unseen > far/away/file");
    assert_eq!(changes(&shell), ["\"far/away/file\""]);
    daemon.until_committed();
}

#[test]
fn a_file_that_is_opened_is_used_and_what_ddr_reads_is_not() {
    let shell = with_store();
    shell.ok("touch -d '100 days ago' first.bin");
    shell.write("second.bin", &noise(2, 50_000));
    shell.ok("touch -d '100 days ago' second.bin");
    let mut daemon = Daemon::start(&shell);
    // Both were just read by the daemon's own commit. The access time must not tell.
    shell.ok("ddr commit && sleep 3 && cat first.bin > /dev/null && touch -a -d '100 days ago' first.bin");
    daemon.until("the opened file is noted", |d| {
        d.shell.ok("ddr daemon poke");
        d.shell.ok("ddr why first.bin").contains("seen by ddr")
    });
    let other = shell.ok("ddr why second.bin");
    assert!(!other.contains("seen by ddr"), "{other}");
}

#[test]
fn a_checkout_counts_as_use_however_much_it_brings_back() {
    let shell = with_store();
    shell.ok("ddr config set recall.burst 20");
    (0..600).for_each(|n| shell.write(format!("many/{n}"), &noise(n, 20_000)));
    shell.ok("touch -d '700 days ago' many/* && ddr stash many");
    let daemon = Daemon::start(&shell);
    std::thread::sleep(Duration::from_secs(2));
    shell.ok("ddr checkout many && touch -a -d '700 days ago' many/*");
    std::thread::sleep(Duration::from_secs(2));
    // What it knows it writes down at the latest now.
    assert_eq!(daemon.end(rustix::process::Signal::TERM).code, Some(0));
    let db = rusqlite::Connection::open(shell.at(".ddr/history.db")).unwrap();
    let bursts = "SELECT count(*) FROM meta WHERE key = 'bursts'";
    assert_eq!(db.query_row(bursts, [], |row| row.get(0)), Ok(0), "it is not a burst of somebody else");
    // Nor does it matter if there was one at the time.
    db.execute("INSERT INTO meta VALUES ('bursts', '0..99999999999')", []).unwrap();
    for n in [0, 300, 599] {
        let why = shell.ok(&format!("ddr why many/{n}"));
        assert!(why.contains("seen by ddr"), "{why}");
    }
}

#[test]
fn a_folder_that_goes_away_is_left_alone_and_looked_at_when_it_is_back() {
    let shell = with_store();
    let mut daemon = Daemon::start(&shell);
    let (folder, aside) = (shell.sandbox.folder(), shell.sandbox.root().join("aside"));
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::create_dir(&folder).unwrap();
    daemon.until("the folder is missed", |d| d.log().contains("left alone until it is back"));
    std::fs::write(aside.join("meanwhile"), "unseen").unwrap();
    std::fs::remove_dir(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    daemon.until_committed();
    shell.ok("echo watched > again");
    daemon.until_committed();
    assert!(shell.ok("ddr ls").contains("first.bin"), "nothing was taken for deleted");
    assert!(!shell.ok("ddr history").contains("deleted"));
}

#[test]
fn when_events_are_lost_the_tree_is_looked_at() {
    let shell = with_store();
    let mut daemon = Daemon::start(&shell);
    let pid = rustix::process::Pid::from_raw(daemon.running.id() as i32).unwrap();
    let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: u64 = most.trim().parse().unwrap();
    // While it cannot read, the queue of the kernel runs over.
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    for n in 0..most {
        std::fs::write(shell.at(format!("many-{}", n % 1000)), [b'x'; 3]).unwrap();
    }
    shell.ok("mkdir late && echo lost > late/lost");
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    daemon.until_committed();
    // The directory that appeared meanwhile is watched.
    shell.ok("echo seen > late/seen");
    daemon.until_committed();
    assert!(shell.ok("ddr ls late").contains("seen"));
}
