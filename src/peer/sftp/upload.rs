//! Writing one object over sftp: a temporary file, many writes under way, a sync, a new name.
//!
//! Promises that an upload which was cut goes on behind the last byte the server acknowledged, and that
//! the object gets its name only when it is whole. Knows no sessions but the one it is handed.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use ssh2::{File, OpenFlags, OpenType};

use super::pool::{Answer, Failure, Link};
use crate::base::error::Error;

/// Bytes handed over in one call; all of them are under way at once. More than OpenSSH's window.
const WINDOW: usize = 2 << 20;
/// Bytes laid out one behind the other, so that a window can slide over them.
const STAGE: usize = 6 << 20;
const MODE: i32 = 0o600;

/// One object on its way.
pub struct Upload<'a> {
    parts: &'a [&'a [u8]],
    size: u64,
    temp: &'a Path,
    target: &'a Path,
    /// Bytes the server has acknowledged.
    done: u64,
    /// The temporary file was made.
    made: bool,
    /// It may have got its name already, when the connection was cut.
    perhaps_named: bool,
}

impl<'a> Upload<'a> {
    /// Of these bytes to `target`, by way of `temp`.
    pub fn new(parts: &'a [&'a [u8]], temp: &'a Path, target: &'a Path) -> Self {
        let size = parts.iter().map(|p| p.len() as u64).sum();
        Self { parts, size, temp, target, done: 0, made: false, perhaps_named: false }
    }

    /// All of it, or what is left after a cut. [`Answer::Exists`] if there is such an object.
    pub fn go_on(&mut self, link: &Link) -> Result<(), Failure> {
        if self.perhaps_named && link.sftp.lstat(self.target).is_ok() {
            return self.compare(link);
        }
        if !link.renames_safely && link.sftp.lstat(self.target).is_ok() {
            return Err(exists());
        }
        let mut file = self.open(link)?;
        self.write(link, &mut file).map_err(|failure| self.explain(failure, &mut file))?;
        sync(&mut file)?;
        self.perhaps_named = true;
        match link.sftp.rename(self.temp, self.target, None).map_err(Failure::from) {
            Ok(()) => {}
            Err(Failure::Answer(_, said)) => {
                self.perhaps_named = false;
                let there = link.sftp.lstat(self.target).is_ok();
                return Err(if there { exists() } else { Failure::Answer(Answer::Failed, said) });
            }
            Err(cut) => return Err(cut),
        }
        // Common file systems make the new name durable with the file.
        sync(&mut file)?;
        file.close().map_err(Failure::from)
    }

    fn open(&mut self, link: &Link) -> Result<File, Failure> {
        if self.made {
            match link.sftp.open_mode(self.temp, OpenFlags::WRITE, MODE, OpenType::File) {
                Ok(mut file) => {
                    file.seek(SeekFrom::Start(self.done)).map_err(|e| link.failure(&e))?;
                    return Ok(file);
                }
                Err(e) => match Failure::from(e) {
                    Failure::Answer(Answer::Missing, _) => self.done = 0,
                    other => return Err(other),
                },
            }
        }
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
        // If the answer is lost, the file is there: then it is ours all the same.
        self.made = true;
        link.sftp.open_mode(self.temp, flags, MODE, OpenType::File).map_err(|e| match Failure::from(e) {
            Failure::Cut(why) => Failure::Cut(why),
            answer => {
                self.made = false;
                answer
            }
        })
    }

    fn write(&mut self, link: &Link, file: &mut File) -> Result<(), Failure> {
        let mut stage = Stage::new(self.parts, self.done);
        while self.done < self.size {
            // What of these bytes is under way already, libssh2 knows.
            let n = file.write(stage.window()).map_err(|e| link.failure(&e))?;
            if n == 0 {
                return Err(Failure::Cut("the server takes no more bytes".into()));
            }
            stage.advance(n);
            self.done += n as u64;
        }
        Ok(())
    }

    /// OpenSSH does not say that a disk is full.
    fn explain(&self, failure: Failure, file: &mut File) -> Failure {
        let Failure::Answer(Answer::Failed, said) = failure else { return failure };
        let left = file.statvfs().map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        match left {
            Ok(left) if left < self.size - self.done => Failure::Answer(Answer::Full, said),
            _ => Failure::Answer(Answer::Failed, said),
        }
    }

    /// The connection was cut while the name was given: is what is there ours?
    fn compare(&mut self, link: &Link) -> Result<(), Failure> {
        let there = super::read_range(link, self.target, 0..self.size + 1)?;
        let mut rest = there.as_slice();
        let same = there.len() as u64 == self.size
            && self.parts.iter().all(|part| {
                let (head, tail) = rest.split_at(part.len().min(rest.len()));
                rest = tail;
                head == *part
            });
        if !same {
            return Err(exists());
        }
        // The name may have been given without the temporary one being taken away.
        let _ = link.sftp.unlink(self.temp);
        let mut file = link.sftp.open_mode(self.target, OpenFlags::WRITE, MODE, OpenType::File)?;
        sync(&mut file)
    }
}

fn exists() -> Failure {
    Failure::Answer(Answer::Exists, "it exists already".into())
}

/// As far as the server offers it.
fn sync(file: &mut File) -> Result<(), Failure> {
    match file.fsync().map_err(Failure::from) {
        Err(Failure::Answer(Answer::Unsupported, _)) => Ok(()),
        done => done,
    }
}

/// Removes what an upload that failed for good has left.
pub fn abandon(link: &Link, temp: &Path) -> Result<(), Failure> {
    match link.sftp.unlink(temp).map_err(Failure::from) {
        Err(Failure::Answer(_, said)) => Err(Failure::Final(Error::Missing(said))),
        done => done,
    }
}

/// Some of the parts, one behind the other.
struct Stage<'a> {
    parts: &'a [&'a [u8]],
    /// Place of the next byte to be laid out: part, and offset in it.
    next: (usize, usize),
    bytes: Vec<u8>,
    start: usize,
}

impl<'a> Stage<'a> {
    fn new(parts: &'a [&'a [u8]], from: u64) -> Self {
        let (mut part, mut left) = (0, from as usize);
        while part < parts.len() && left >= parts[part].len() {
            left -= parts[part].len();
            part += 1;
        }
        let mut stage = Self { parts, next: (part, left), bytes: Vec::new(), start: 0 };
        stage.fill();
        stage
    }

    fn window(&self) -> &[u8] {
        &self.bytes[self.start..self.bytes.len().min(self.start + WINDOW)]
    }

    fn advance(&mut self, n: usize) {
        self.start += n;
        if self.bytes.len() - self.start < WINDOW {
            self.fill();
        }
    }

    fn fill(&mut self) {
        if self.next.0 == self.parts.len() {
            return;
        }
        self.bytes.drain(..self.start);
        self.start = 0;
        while self.bytes.len() < STAGE
            && let Some(part) = self.parts.get(self.next.0)
        {
            let rest = &part[self.next.1..];
            let n = rest.len().min(STAGE - self.bytes.len());
            self.bytes.extend_from_slice(&rest[..n]);
            self.next = if n == rest.len() { (self.next.0 + 1, 0) } else { (self.next.0, self.next.1 + n) };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_stage_shows_every_byte_once_in_order(
            lens in proptest::collection::vec(0usize..1_500_000, 0..12),
            from in 0.0f64..1.0,
            steps in proptest::collection::vec(1usize..900_000, 1..5),
        ) {
            let parts: Vec<Vec<u8>> = lens.iter().enumerate().map(|(i, n)| vec![i as u8; *n]).collect();
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let all = parts.concat();
            let mut done = (all.len() as f64 * from) as usize;
            let mut stage = Stage::new(&slices, done as u64);
            let mut turn = 0;
            while !stage.window().is_empty() {
                let n = steps[turn % steps.len()].min(stage.window().len());
                prop_assert_eq!(&stage.window()[..n], &all[done..done + n]);
                prop_assert!(stage.window().len() == WINDOW || done + stage.window().len() == all.len());
                stage.advance(n);
                done += n;
                turn += 1;
            }
            prop_assert_eq!(done, all.len());
        }
    }
}
