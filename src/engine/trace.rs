//! A worker's trace in the folder: while it is there, files may carry the mark of a filling that never
//! ended.
//!
//! Promises that the trace is durable before the first file is filled, that it outlives a crash, and that nobody
//! takes it away but who has claimed it. Does not know what was left: the marks tell.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::base::error::{Error, Result};
use crate::disk;

/// How often a claim is tried.
const PAUSE: Duration = Duration::from_millis(25);
/// After so many it is said what is waited for.
const TOLD: u32 = 400;

/// A claim on the folder's half filled files; the kernel takes it back when its process ends in any way.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    // Locked as long as it is open.
    _file: File,
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("recalling")
}

/// Whether a worker that is no more may have left something; not while one is at work.
pub fn is_left(dir: &Path) -> Result<bool> {
    claim(dir).map(|trace| trace.is_some())
}

/// Whether a worker is at work, or a command that mends what one left.
pub fn is_claimed(dir: &Path) -> bool {
    path_in(dir).exists() && matches!(claim(dir), Ok(None))
}

/// A claim on what was left, if something was and nobody else has it: keeps others from mending it.
pub fn claim(dir: &Path) -> Result<Option<Trace>> {
    let path = path_in(dir);
    match File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("opening", &path, e)),
        Ok(file) => Ok(locked(file, &path).map(|file| Trace { path, _file: file })),
    }
}

/// The file, locked, if nobody else has it, and if it was not taken away just now.
fn locked(file: File, path: &Path) -> Option<File> {
    let is_ours = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    (is_ours && lies_at(&file, path)).then_some(file)
}

impl Trace {
    /// Leaves a trace, durable on return; and whether an earlier worker may have left something. Waits as long as
    /// somebody mends that.
    pub fn leave(dir: &Path) -> Result<(Self, bool)> {
        let path = path_in(dir);
        let fail = |e: std::io::Error| Error::io("writing", &path, e);
        for round in 0.. {
            if round == TOLD {
                eprintln!("ddr: {}: waits for another worker, or a command that mends", dir.display());
            }
            let was_there = path.exists();
            let file =
                OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(fail)?;
            if let Some(file) = locked(file, &path) {
                disk::sync_file(&file, &path)?;
                disk::sync_dir(&File::open(dir).map_err(fail)?, dir)?;
                return Ok((Self { path, _file: file }, was_there));
            }
            std::thread::sleep(PAUSE);
        }
        unreachable!("rounds do not end")
    }

    /// Ends it: every file that was filled is durable, or a stub again.
    pub fn end(self) {
        // Found again, it costs a look at files that are as they should be.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether this is still the file of that name.
fn lies_at(file: &File, path: &Path) -> bool {
    let (there, here) = (rustix::fs::lstat(path), rustix::fs::fstat(file));
    there.is_ok_and(|there| here.is_ok_and(|here| (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_seen_only_when_its_worker_is_gone() {
        let temp = tempfile::tempdir().expect("a directory");
        assert!(!is_left(temp.path()).expect("looked"));
        assert!(!is_claimed(temp.path()));
        let (trace, was_there) = Trace::leave(temp.path()).expect("left");
        assert!(!was_there && !is_left(temp.path()).expect("looked") && is_claimed(temp.path()));
        drop(trace);
        assert!(is_left(temp.path()).expect("looked") && !is_claimed(temp.path()));
        let (trace, was_there) = Trace::leave(temp.path()).expect("taken over");
        assert!(was_there);
        trace.end();
        assert!(!is_left(temp.path()).expect("looked") && !is_claimed(temp.path()));
    }

    #[test]
    fn a_worker_that_begins_waits_for_who_mends_and_leaves_a_trace_that_is_seen() {
        let temp = tempfile::tempdir().expect("a directory");
        drop(Trace::leave(temp.path()).expect("left"));
        let mender = claim(temp.path()).expect("claimed").expect("something is left");
        std::thread::scope(|scope| {
            let begins = scope.spawn(|| Trace::leave(temp.path()).expect("left"));
            std::thread::sleep(Duration::from_millis(200));
            assert!(!begins.is_finished(), "it waits");
            mender.end();
            let (trace, _) = begins.join().expect("no panic");
            assert!(lies_at(&trace._file, &path_in(temp.path())));
        });
    }
}
