//! Orders of events in which a careless guard would mix up old and new bytes.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::content::noise;
use crate::support::guarded::{Guard, Guarded, is_filling, is_stub, is_unsettled, obstacle, wait_until};
use crate::support::{Running, own_files, program, say, scale};

/// One guarded folder on ext4, or why not.
pub fn guarded(flags: &[&str]) -> Option<Guarded> {
    match obstacle(&["ext4"]) {
        Some(why) => {
            say(&format!("a test of on-demand access was passed over: {why}"));
            None
        }
        None => Some(Guarded::new("ext4", flags).unwrap_or_else(|e| panic!("{e}"))),
    }
}

/// The numbers of those who wait.
pub fn waiting(guarded: &Guarded) -> Vec<(u64, serde_json::Value)> {
    let output = guarded.sandbox.ok(&["recalls", "--json"]).unwrap_or_else(|e| panic!("{e}"));
    let rows = output.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.map(|row| (row["number"].as_u64().unwrap(), row)).collect()
}

#[test]
fn a_file_stashed_a_moment_ago_can_be_read() {
    let Some(guarded) = guarded(&[]) else { return };
    for round in 0..5 {
        let content = noise(round, 50_000);
        guarded.write("file", &content);
        guarded.stash();
        assert!(is_stub(&guarded.at("file")));
        assert!(std::fs::read(guarded.at("file")).unwrap() == content, "round {round}");
        // Or it is still open for making it durable, and stays.
        std::thread::sleep(Duration::from_millis(700));
    }
}

/// A file that is thrown away and written anew while its old content is on its way.
fn truncated_while_filling(flags: &[&str], cancel: bool) {
    let Some(guarded) = guarded(flags) else { return };
    let file = guarded.at("file");
    guarded.write("file", &noise(1, 64 << 20));
    guarded.stash();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| std::fs::read(&file).map(|bytes| bytes.len()));
        wait_until("the file is being filled", || is_filling(&file));
        guarded.guard().freeze(true);
        if cancel {
            let Some((number, _)) = waiting(&guarded).pop() else {
                say(
                    "a reader that gives up was passed over: it had its content before the worker was stopped",
                );
                return guarded.guard().freeze(false);
            };
            guarded.sandbox.ok(&["recalls", "--cancel", &number.to_string()]).unwrap();
            let error = reader.join().unwrap().expect_err("who is cancelled gets an error");
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
        }
        let writer = scope.spawn(|| std::fs::write(&file, b"all new"));
        // Time enough for one who is not made to wait.
        std::thread::sleep(Duration::from_millis(300));
        guarded.guard().freeze(false);
        writer.join().unwrap().expect("throwing a file away needs nothing that is not there");
    });
    // Time enough for a worker that goes on.
    std::thread::sleep(Duration::from_millis(500));
    let seen = std::fs::read(&file).unwrap();
    let head = String::from_utf8_lossy(&seen[..seen.len().min(20)]);
    assert!(seen == b"all new", "{} bytes, beginning with {head:?}", seen.len());
    wait_until("what is new carries no mark", || !is_unsettled(&file));
}

#[test]
fn who_truncates_a_file_while_it_is_filled_keeps_what_he_writes() {
    truncated_while_filling(&[], false);
    truncated_while_filling(&["--opens-only"], false);
}

#[test]
fn who_truncates_a_file_after_its_reader_gave_up_keeps_what_he_writes() {
    truncated_while_filling(&[], true);
    truncated_while_filling(&["--opens-only"], true);
}

#[test]
fn truncating_and_reading_at_once_never_mixes_old_and_new() {
    let Some(guarded) = guarded(&["--opens-only"]) else { return };
    let count = 40 * scale() as u64;
    for i in 0..count {
        guarded.write(format!("{i}"), &noise(i, 300_000));
    }
    guarded.stash();
    for i in 0..count {
        let (file, old) = (guarded.at(i.to_string()), noise(i, 300_000));
        let pause = Duration::from_micros(i * 53 % 1500);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                std::thread::sleep(if i % 2 == 0 { pause } else { Duration::ZERO });
                std::fs::File::create(&file)?.write_all(b"new")
            });
            std::thread::sleep(if i % 2 == 0 { Duration::ZERO } else { pause });
            let seen = std::fs::read(&file).expect("there is a store");
            writer.join().unwrap().expect("who truncates needs no store");
            let whole = seen.is_empty() || seen == b"new" || old.starts_with(&seen);
            assert!(whole, "the reader of {i} saw {} bytes: {:?}", seen.len(), &seen[..seen.len().min(20)]);
        });
        let seen = std::fs::read(&file).unwrap();
        assert!(seen == b"new", "{i} ends as {} bytes: {:?}", seen.len(), &seen[..seen.len().min(20)]);
    }
}

#[test]
fn checking_out_what_somebody_waits_for_serves_both() {
    let Some(guarded) = guarded(&[]) else { return };
    let content = noise(1, 64 << 20);
    guarded.write("file", &content);
    guarded.stash();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| std::fs::read(guarded.at("file")));
        let checkout: Running = guarded.sandbox.start(&["checkout", "."], None);
        assert!(reader.join().unwrap().unwrap() == content);
        // It may say that somebody else is at it.
        checkout.wait().expect(&[0, 3]).unwrap();
    });
    assert!(std::fs::read(guarded.at("file")).unwrap() == content);
}

#[test]
fn what_takes_the_place_of_a_stub_while_it_is_awaited_is_not_touched() {
    let Some(guarded) = guarded(&[]) else { return };
    let (old, new) = (noise(1, 4 << 20), noise(2, 4 << 20));
    for name in ["moved over", "exchanged"] {
        guarded.write(name, &old);
    }
    guarded.stash();
    guarded.write("new", &new);
    guarded.guard().freeze(true);
    let open = |name: &str| {
        let path = guarded.at(name);
        std::thread::spawn(move || std::fs::read(path))
    };
    let readers = ["moved over", "exchanged"].map(open);
    wait_until("both wait", || waiting(&guarded).len() == 2);
    let (at, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
    std::fs::copy(guarded.at("new"), guarded.at("copy")).unwrap();
    std::fs::rename(guarded.at("copy"), guarded.at("moved over")).unwrap();
    rustix::fs::renameat_with(at, guarded.at("new"), at, guarded.at("exchanged"), exchange).unwrap();
    guarded.guard().freeze(false);
    for reader in readers {
        assert!(reader.join().unwrap().unwrap() == old, "who had opened the stub sees its content");
    }
    for (name, content) in [("moved over", &new), ("exchanged", &new), ("new", &old)] {
        assert!(std::fs::read(guarded.at(name)).unwrap() == *content, "{name}");
    }
}

#[test]
fn a_checkout_while_names_are_exchanged_writes_into_no_other_file() {
    let Some(guarded) = guarded(&[]) else { return };
    let rounds = 6 * scale() as u64;
    for round in 0..rounds {
        let content = |i: u64| noise(round * 10 + i, 700_000 + i * 1000);
        for i in 0..4 {
            guarded.write(i.to_string(), &content(i));
        }
        std::thread::sleep(Duration::from_millis(700));
        // What the last round left open is the user's by now, and is told as that.
        guarded.sandbox.run(&["stash", "."]).expect(&[0, 3]).unwrap();
        let checkout: Running = guarded.sandbox.start(&["checkout", "."], None);
        let (at, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
        let mut swaps = 0;
        while swaps < 400 || swaps % 2 == 1 {
            for (a, b) in [("0", "1"), ("2", "3")] {
                rustix::fs::renameat_with(at, guarded.at(a), at, guarded.at(b), exchange).unwrap();
            }
            swaps += 1;
            std::thread::sleep(Duration::from_micros(100));
        }
        checkout.wait().expect(&[0, 3]).unwrap();
        for i in 0..4 {
            assert!(std::fs::read(guarded.at(i.to_string())).unwrap() == content(i), "{i} in round {round}");
        }
    }
}

/// A guarded stub, `file`, with somebody who has had it open for writing since before; and what it is to hold.
fn with_an_old_writer() -> Option<(Guarded, std::fs::File, Vec<u8>)> {
    let mut guarded = guarded(&[])?;
    guarded.guard = None;
    let content = noise(1, 300_000);
    guarded.write("file", &content);
    guarded.stash();
    let ours = own_files();
    let old = std::fs::File::options().read(true).write(true).open(guarded.at("file")).unwrap();
    drop(ours);
    guarded.start(&[]);
    Some((guarded, old, content))
}

#[test]
fn who_had_a_stub_open_before_it_was_guarded_is_known_to_every_worker() {
    let Some((guarded, old, content)) = with_an_old_writer() else { return };
    let file = guarded.at("file");
    let refused = |when: &str| {
        let error = std::fs::read(&file).map(|seen| seen.len()).expect_err(when);
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{when}: {error}");
    };
    refused("by the first worker");
    guarded.guard().kill_workers();
    refused("by the next one, at once");
    std::thread::sleep(Duration::from_secs(1));
    refused("by the next one, once it has looked around");
    drop(old);
    assert!(std::fs::read(&file).unwrap() == content);
    wait_until("it is full", || guarded.guard().marks() == 0);
}

/// Opens for reading and writing at once, and reads.
fn edit(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = std::fs::File::options().read(true).write(true).open(path)?;
    file.read_to_end(&mut bytes).map(|_| bytes)
}

#[test]
fn who_opens_for_writing_at_the_moment_of_the_mark_waits_like_any_other() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.configure("[recall]\nburst = 1000000");
    guarded.guard = None;
    let paths: Vec<_> = (0..400).map(|i| guarded.at(i.to_string())).collect();
    let content = noise(1, 20_000);
    paths.iter().for_each(|path| guarded.write(path, &content));
    guarded.stash();
    let mut command = std::process::Command::new(program());
    guarded.sandbox.settle(&mut command);
    command.arg("guard").arg(guarded.sandbox.folder());
    guarded.guard = Some(Guard::spawn(command));
    // The self-test is the first.
    wait_until("the first are marked", || guarded.guard().marks() > 1);
    guarded.guard().freeze(true);
    // What was under way to the guard is done.
    std::thread::sleep(Duration::from_millis(300));
    let marked = guarded.guard().marked();
    let inode = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|meta| marked.contains(&meta.ino()));
    let openers: Vec<_> = paths
        .iter()
        .filter(inode)
        .map(|path| {
            let path = path.clone();
            std::thread::spawn(move || edit(&path))
        })
        .collect();
    assert!(!openers.is_empty());
    std::thread::sleep(Duration::from_millis(300));
    guarded.guard().freeze(false);
    for opener in openers {
        let seen = opener.join().unwrap();
        assert!(seen.as_ref().is_ok_and(|seen| *seen == content), "{:?}", seen.err());
    }
}

#[test]
fn once_an_old_writer_is_gone_others_may_write_though_nobody_only_reads() {
    let Some((guarded, old, content)) = with_an_old_writer() else { return };
    let file = guarded.at("file");
    let error = edit(&file).map(|seen| seen.len()).expect_err("he may write at any moment");
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
    drop(old);
    wait_until("it is noticed that he is gone", || {
        // Each look must find a moment in which nobody tries.
        std::thread::sleep(Duration::from_millis(300));
        edit(&file).is_ok_and(|seen| seen == content)
    });
}

#[test]
fn a_killed_reader_leaves_nothing_behind() {
    let Some(guarded) = guarded(&[]) else { return };
    guarded.write("file", &noise(1, 1 << 20));
    guarded.stash();
    guarded.guard().freeze(true);
    let mut command = std::process::Command::new("cat");
    guarded.sandbox.settle(&mut command);
    command.arg("file");
    let mut reader = Running::spawn(command, "cat file".into());
    wait_until("it waits", || !waiting(&guarded).is_empty());
    reader.kill();
    // Interruptible: it does not wait for the worker.
    wait_until("it is gone", || std::fs::read_link(format!("/proc/{}/exe", reader.id())).is_err());
    guarded.guard().freeze(false);
    assert!(std::fs::read(guarded.at("file")).unwrap() == noise(1, 1 << 20));
}

#[test]
fn files_that_may_not_be_touched_after_their_recall_hold_nobody_up() {
    let Some(guarded) = guarded(&[]) else { return };
    let count = 60;
    for i in 0..count {
        guarded.write(i.to_string(), &noise(i, 20_000));
    }
    guarded.stash();
    let chattr = |flag: &str, i: u64| {
        let mut command = std::process::Command::new("chattr");
        assert!(command.arg(flag).arg(guarded.at(i.to_string())).status().unwrap().success());
    };
    // More than are settled together, each before it can be.
    (0..20).for_each(|i| chattr("+i", i));
    for i in 0..count {
        assert!(std::fs::read(guarded.at(i.to_string())).unwrap() == noise(i, 20_000), "{i}");
    }
    (0..20).for_each(|i| chattr("-i", i));
}
