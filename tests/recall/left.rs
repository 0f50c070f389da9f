//! What a worker or a command left when it was killed, and what the user wrote there since.
//!
//! Promises that what the user wrote stays, zeros as well as anything else, that he is not kept from it, and that it is
//! recorded.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::races::guarded;
use super::trouble::same;
use crate::support::content::noise;
use crate::support::guarded::{Guarded, is_filling, is_stub, is_unsettled, kill, wait_until};
use crate::support::program;

const SIZE: u64 = 300_001;

/// Makes the guard slow to start workers: each that dies soon doubles its pause.
fn tire(guarded: &Guarded) {
    for _ in 0..4 {
        wait_until("a worker is there", || guarded.guard().kill_workers() > 0);
    }
    wait_until("a worker is back", || !guarded.guard().workers().is_empty());
}

/// Opens a stub, writes into it as soon as it is there, and kills the worker before that is durable; what the
/// file holds then.
fn written_and_killed(guarded: &Guarded, name: &str, (bytes, at): (&[u8], u64)) -> Vec<u8> {
    let path = guarded.at(name);
    for round in 0..50 {
        let mut content = noise(round, SIZE);
        guarded.write(name, &content);
        guarded.stash();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        file.write_all_at(bytes, at).unwrap();
        guarded.guard().kill_workers();
        if is_unsettled(&path) {
            content[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            return content;
        }
        // It was durable before.
        wait_until("a worker is back", || !guarded.guard().workers().is_empty());
    }
    panic!("never killed early enough");
}

fn kept(guarded: &Guarded, name: &str, content: &[u8], what: &str) {
    let seen = std::fs::read(guarded.at(name));
    let seen = seen.unwrap_or_else(|e| panic!("{what}: {e}; {:?}", guarded.guard().said()));
    same(&seen, content).unwrap_or_else(|e| panic!("{what}: {e}"));
    wait_until("it is settled", || !is_unsettled(&guarded.at(name)));
    guarded.sandbox.ok(&["stash", "."]).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(is_stub(&guarded.at(name)), "{what}: it is recorded, and can go");
    same(&std::fs::read(guarded.at(name)).unwrap(), content).unwrap_or_else(|e| panic!("{what}: {e}"));
}

/// What is written: bytes, zeros, and zeros where the first block tells whether a file is whole.
const WRITES: [(&str, &[u8], u64); 3] =
    [("bytes", &[7; 900], 50_000), ("zeros", &[0; 9000], 50_000), ("zeros in front", &[0; 4096], 0)];

#[test]
fn what_is_written_before_the_worker_dies_is_kept() {
    let Some(guarded) = guarded(&[]) else { return };
    for (what, bytes, at) in WRITES {
        let content = written_and_killed(&guarded, "file", (bytes, at));
        kept(&guarded, "file", &content, what);
    }
}

#[test]
fn a_command_that_comes_before_the_next_worker_keeps_it_too() {
    let Some(guarded) = guarded(&[]) else { return };
    tire(&guarded);
    for (what, bytes, at) in WRITES {
        let content = written_and_killed(&guarded, "file", (bytes, at));
        let status = guarded.sandbox.ok(&["status"]).unwrap();
        assert!(status.stdout.contains("M file"), "{what}: {}", status.stdout);
        assert!(!is_unsettled(&guarded.at("file")), "{what}: the command has settled it");
        kept(&guarded, "file", &content, what);
    }
}

#[test]
fn what_is_written_after_a_stash_was_killed_is_kept() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.guard = None;
    let path = guarded.at("file");
    for operation in 1.. {
        let mut content = noise(operation, SIZE);
        guarded.write("file", &content);
        let code = guarded.sandbox.start(&["stash", "."], Some(&format!("last:{operation}"))).wait().code;
        if code == Some(0) {
            assert!(operation > 20);
            break;
        }
        if is_stub(&path) || std::fs::read(&path).unwrap().starts_with(b"This is") {
            // Nobody writes into that on purpose.
            guarded.sandbox.ok(&["checkout", "."]).unwrap();
            continue;
        }
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0; 9000], 50_000).unwrap();
        content[50_000..59_000].fill(0);
        drop(file);
        guarded.sandbox.run(&["status"]).expect(&[0, 3]).unwrap();
        let seen = std::fs::read(&path).unwrap();
        same(&seen, &content).unwrap_or_else(|e| panic!("killed at operation {operation}: {e}"));
    }
}

#[test]
fn what_is_written_after_a_checkout_was_killed_is_kept() {
    let Some(mut guarded) = guarded(&[]) else { return };
    guarded.guard = None;
    let paths: Vec<PathBuf> = (0..3).map(|i| guarded.at(format!("{i}"))).collect();
    for operation in 1.. {
        for (i, path) in paths.iter().enumerate() {
            guarded.write(path, &noise(operation * 3 + i as u64, SIZE));
        }
        guarded.stash();
        let code = guarded.sandbox.start(&["checkout", "."], Some(&format!("last:{operation}"))).wait().code;
        if code == Some(0) {
            assert!(operation > 20);
            break;
        }
        let mut contents = Vec::new();
        for (i, path) in paths.iter().enumerate() {
            let mut content = noise(operation * 3 + i as u64, SIZE);
            if std::fs::read(path).unwrap() == content {
                let file = std::fs::File::options().write(true).open(path).unwrap();
                file.write_all_at(&[0; 9000], 50_000).unwrap();
                content[50_000..59_000].fill(0);
                contents.push((path, content));
            }
        }
        guarded.sandbox.run(&["status"]).expect(&[0, 3]).unwrap();
        for (path, content) in contents {
            let seen = std::fs::read(path).unwrap();
            same(&seen, &content).unwrap_or_else(|e| panic!("killed at operation {operation}: {e}"));
        }
    }
}

#[test]
fn a_checkout_whose_guard_is_gone_writes_nothing_more() {
    let Some(mut guarded) = guarded(&[]) else { return };
    let path = guarded.at("file");
    guarded.write("file", &noise(1, 64 << 20));
    for round in 0..20 {
        guarded.stash();
        let mut command = Command::new(program());
        guarded.sandbox.settle(&mut command);
        let mut checkout = command.args(["checkout", "."]).spawn().unwrap();
        while !is_filling(&path) && checkout.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(checkout.id() as i32, libc::SIGSTOP);
        std::thread::sleep(Duration::from_millis(20));
        if !is_filling(&path) {
            kill(checkout.id() as i32, libc::SIGCONT);
            checkout.wait().unwrap();
            assert!(round < 19, "never caught");
            continue;
        }
        guarded.guard.as_mut().unwrap().kill();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        // Everywhere: wherever it goes on, it would be seen.
        let mine = vec![7; 64 << 20];
        file.write_all_at(&mine, 0).unwrap();
        kill(checkout.id() as i32, libc::SIGCONT);
        assert!(!checkout.wait().unwrap().success());
        return same(&std::fs::read(&path).unwrap(), &mine).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn a_guard_that_ends_in_order_leaves_a_trace_of_what_must_wait_for_its_store() {
    let Some(mut guarded) = guarded(&[]) else { return };
    tire(&guarded);
    let content = written_and_killed(&guarded, "file", (&[0; 4096], 0));
    drop(content);
    // As if the machine had gone down since: nobody knows whether all of it is there.
    let mut mark = [0u8; 64];
    let path = guarded.at("file");
    rustix::fs::getxattr(&path, c"user.ddr", &mut mark).unwrap();
    mark[10..16].fill(0);
    rustix::fs::setxattr(&path, c"user.ddr", &mark, rustix::fs::XattrFlags::empty()).unwrap();
    guarded.store_away();
    wait_until("a worker is back", || !guarded.guard().workers().is_empty());
    std::thread::sleep(Duration::from_secs(1));
    guarded.guard.as_mut().unwrap().stop();
    assert!(guarded.at(".ddr/recalling").exists(), "somebody has to look at it yet");
}

#[test]
fn a_worker_that_is_told_to_stop_goes_on_for_who_waits() {
    let Some(guarded) = guarded(&[]) else { return };
    let content = noise(1, 9 << 20);
    guarded.write("file", &content);
    guarded.stash();
    for id in guarded.guard().workers() {
        kill(id, libc::SIGTERM);
    }
    same(&std::fs::read(guarded.at("file")).unwrap(), &content).unwrap_or_else(|e| panic!("{e}"));
}
