//! Commands that are killed between any two of their steps, before anybody opens what they had in hand.
//!
//! Promises that who opens such a file gets its content, and that it has its time, without any other command
//! having mended it before.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::races::guarded;
use super::trouble::same;
use crate::support::content::noise;
use crate::support::guarded::{Guarded, is_unsettled, wait_until};

/// More than fits behind a header, so that freeing it is a step of its own.
const SIZE: u64 = 200_001;
const OLD: Duration = Duration::from_secs(1_500_000_000);
/// Exit code of a process whose next operation was to be its last.
const LAST: i32 = 86;

/// Writes a file that no earlier round had.
fn write(guarded: &Guarded, name: &str, content: &[u8]) {
    guarded.write(name, content);
    let file = std::fs::File::options().write(true).open(guarded.at(name)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + OLD).unwrap();
}

/// Whether it is, or was, or is about to be a stub.
fn has_mark(path: &Path) -> bool {
    rustix::fs::lgetxattr(path, c"user.ddr", &mut [0u8; 256]).is_ok()
}

/// Ends `words` before each of its operations in turn; opens the file each time, with `anew` by a guard that was
/// started since.
fn ended_anywhere(words: &[&str], anew: bool, prepare: &dyn Fn(&Guarded)) {
    let Some(mut guarded) = guarded(&[]) else { return };
    let (mut ended, mut seed) = (0, 0);
    for operation in 1.. {
        let name = format!("file-{operation}");
        seed += 1;
        let content = noise(seed, SIZE);
        write(&guarded, &name, &content);
        prepare(&guarded);
        let code = guarded.sandbox.start(words, Some(&format!("last:{operation}"))).wait().code;
        if code == Some(0) {
            break;
        }
        assert_eq!(code, Some(LAST), "at operation {operation}");
        ended += 1;
        let told = |what: &str| format!("{words:?} ended at operation {operation}: {what}");
        if anew && has_mark(&guarded.at(&name)) {
            guarded.start(&[]);
        }
        let seen = std::fs::read(guarded.at(&name));
        let seen = seen.unwrap_or_else(|e| panic!("{}", told(&format!("{e}; {:?}", guarded.guard().said()))));
        same(&seen, &content).unwrap_or_else(|e| panic!("{}", told(&e.to_string())));
        let found = guarded.at(&name).metadata().unwrap();
        assert_eq!(found.mtime(), OLD.as_secs() as i64, "{}", told("its time"));
        // The next command finds nothing amiss, either, once the file is durable.
        wait_until("it is settled", || !is_unsettled(&guarded.at(&name)));
        guarded.sandbox.ok(&["commit"]).unwrap_or_else(|e| panic!("{}", told(&e)));
        let status = guarded.sandbox.ok(&["status"]).unwrap_or_else(|e| panic!("{}", told(&e)));
        assert!(!status.stdout.contains(&name), "{}", told(&status.stdout));
        std::fs::remove_file(guarded.at(&name)).unwrap();
        guarded.sandbox.ok(&["commit"]).unwrap_or_else(|e| panic!("{}", told(&e)));
    }
    assert!(ended > 10, "{words:?} has only {ended} operations");
}

#[test]
fn a_stash_that_ends_anywhere_harms_no_opener() {
    ended_anywhere(&["stash", "."], false, &|_| {});
    ended_anywhere(&["stash", "."], true, &|_| {});
}

#[test]
fn a_checkout_that_ends_anywhere_harms_no_opener() {
    ended_anywhere(&["checkout", "."], false, &Guarded::stash);
    ended_anywhere(&["checkout", "."], true, &Guarded::stash);
}
