//! A worker's trace in the folder: while it is there, files may carry the mark of a filling that never
//! ended.
//!
//! Promises that the trace is durable before the first file is filled, that it outlives a crash, and
//! that it names the mount in which filling began: as long as a file system stays mounted, the page
//! cache keeps the order of writes, so a header that is gone means that the whole content is there.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::base::error::{Error, Result};
use crate::disk;
use crate::peer::machine;

/// A worker's claim on its folder; the kernel takes it back when the worker ends in any way.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    // Locked as long as it is open.
    _file: File,
}

/// What an earlier worker left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Perhaps files half filled, on the file system as it is mounted now.
    ThisMount,
    /// Perhaps files half filled before the machine was started or the disk mounted last.
    EarlierMount,
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("recalling")
}

/// What a worker that is no more left; `Nothing` also while one is at work.
pub fn left(dir: &Path) -> Result<Left> {
    claim(dir).map(|(left, _)| left)
}

/// The same, and what keeps others from mending it, and a new worker from beginning, as long as it is held.
pub fn claim(dir: &Path) -> Result<(Left, Option<File>)> {
    let path = path_in(dir);
    let mut file = match File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Left::Nothing, None)),
        other => other.map_err(|e| Error::io("opening", &path, e))?,
    };
    // Or whoever had it has just cleared it.
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() || !lies_at(&file, &path) {
        return Ok((Left::Nothing, None));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|e| Error::io("reading", &path, e))?;
    let left = if mount(&file).is_some_and(|now| now == text) { Left::ThisMount } else { Left::EarlierMount };
    Ok((left, Some(file)))
}

/// The same for a worker that begins: waits for whoever is mending what is left.
pub fn claim_at_last(dir: &Path) -> Result<(Left, Option<File>)> {
    for _ in 0..400 {
        let (left, file) = claim(dir)?;
        if file.is_some() || !path_in(dir).exists() {
            return Ok((left, file));
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    Err(Error::Locked("another worker of this folder, or a command that mends what one left".into()))
}

/// Everything that was left has been mended; only for who has claimed it.
pub fn clear(dir: &Path) -> Result<()> {
    let path = path_in(dir);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|e| Error::io("removing", path, e)),
    }
}

impl Trace {
    /// Leaves a trace; durable on return. One that is there already keeps its mount, which is the safe one
    /// to believe.
    pub fn leave(dir: &Path) -> Result<Self> {
        let path = path_in(dir);
        let fail = |e: std::io::Error| Error::io("writing", &path, e);
        let mut file = loop {
            let file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(fail)?;
            lock(&file)?;
            // Else whoever had it until now has cleared it.
            if lies_at(&file, &path) {
                break file;
            }
        };
        if file.metadata().map_err(fail)?.len() == 0 {
            file.write_all(mount(&file).unwrap_or_default().as_bytes()).map_err(fail)?;
            disk::sync_file(&file, &path)?;
            disk::sync_dir(&File::open(dir).map_err(fail)?, dir)?;
        }
        Ok(Self { path, _file: file })
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

/// Claims the trace; a command that only looks has it for a moment.
fn lock(file: &File) -> Result<()> {
    for _ in 0..40 {
        if rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    Err(Error::Locked("another worker of this folder".into()))
}

/// Which mount a file lies on, by a number that no other mount of this boot ever has; `None` where the
/// kernel (before 6.8) tells none.
pub fn mount(file: impl AsFd) -> Option<String> {
    const UNIQUE: u32 = 0x4000;
    // SAFETY: plain integers, for which zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let (fd, empty) = (file.as_fd().as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: an open descriptor, a constant string, and a struct that outlives the call.
    let done = unsafe { libc::statx(fd, c"".as_ptr(), empty, UNIQUE, &mut found) };
    (done == 0 && found.stx_mask & UNIQUE != 0).then(|| format!("{} {}", machine::boot(), found.stx_mnt_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_seen_only_when_its_worker_is_gone() {
        let temp = tempfile::tempdir().expect("a directory");
        assert_eq!(left(temp.path()).expect("looked"), Left::Nothing);
        let trace = Trace::leave(temp.path()).expect("left");
        assert_eq!(left(temp.path()).expect("looked"), Left::Nothing);
        assert!(matches!(Trace::leave(temp.path()), Err(Error::Locked(_))));
        let path = trace.path.clone();
        drop(trace);
        assert_eq!(left(temp.path()).expect("looked"), Left::ThisMount);
        std::fs::write(path, "another boot 7").expect("written");
        assert_eq!(left(temp.path()).expect("looked"), Left::EarlierMount);
        Trace::leave(temp.path()).expect("taken over").end();
        assert_eq!(left(temp.path()).expect("looked"), Left::Nothing);
    }

    #[test]
    fn a_worker_that_begins_waits_for_who_mends_and_leaves_a_trace_that_is_seen() {
        let temp = tempfile::tempdir().expect("a directory");
        drop(Trace::leave(temp.path()).expect("left"));
        let (left, mender) = claim(temp.path()).expect("claimed");
        assert!(left == Left::ThisMount && mender.is_some());
        std::thread::scope(|scope| {
            let begins = scope.spawn(|| {
                let (left, claim) = claim_at_last(temp.path()).expect("at last");
                drop(claim);
                (left, Trace::leave(temp.path()).expect("left"))
            });
            // Two that are past opening the file when it is cleared.
            let another = scope.spawn(|| Trace::leave(temp.path()));
            std::thread::sleep(Duration::from_millis(200));
            clear(temp.path()).expect("cleared");
            drop(mender);
            let another = another.join().expect("no panic");
            drop(another);
            let (_, trace) = begins.join().expect("no panic");
            assert!(lies_at(&trace._file, &path_in(temp.path())));
        });
    }
}
