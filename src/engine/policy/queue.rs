//! Candidates set aside on disk, so that they can be gone through several times without being held
//! in memory.
//!
//! Promises to give them back in the order in which they came; the file has no name and goes with
//! the handle. Written in path order, once.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use super::super::spool::unnamed;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::model::policy::choose::{Candidate, Rank};

/// A file that goes, or may go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Its path.
    pub path: RelPath,
    /// Place, room, and whether its age alone says so.
    pub candidate: Candidate,
    /// The rule that fits it.
    pub rule: u16,
    /// It is recorded as it is, so that its content is on the stores already.
    pub placed: bool,
}

/// Bytes before each path: last use, size, room, rule, flags, length of the path.
const HEAD: usize = 8 + 8 + 8 + 2 + 1 + 2;

/// The list.
pub struct Queue {
    file: BufWriter<File>,
    /// How many there are.
    pub count: u64,
}

fn failed(e: std::io::Error) -> Error {
    Error::io("using", "a temporary list", e)
}

impl Queue {
    /// An empty list on the file system of `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(1 << 16, unnamed(dir)?), count: 0 })
    }

    /// Adds one; its number is its place in the order of paths.
    pub fn put(&mut self, waiting: &Waiting) -> Result<()> {
        let bytes = waiting.path.as_bytes();
        let flags = u8::from(waiting.candidate.go) | u8::from(waiting.placed) << 1;
        let mut record = Vec::with_capacity(HEAD + bytes.len());
        record.extend(waiting.candidate.rank.used.to_le_bytes());
        record.extend(waiting.candidate.rank.size.to_le_bytes());
        record.extend(waiting.candidate.frees.to_le_bytes());
        record.extend(waiting.rule.to_le_bytes());
        record.push(flags);
        record.extend((bytes.len() as u16).to_le_bytes());
        record.extend_from_slice(bytes);
        self.count += 1;
        self.file.write_all(&record).map_err(failed)
    }

    /// Goes through all of them, without their paths.
    pub fn ranks(&mut self, sink: &mut dyn FnMut(&Candidate)) -> Result<()> {
        self.records(&mut |input, waiting, len| {
            sink(&waiting.candidate);
            input.seek_relative(i64::from(len)).map_err(failed)
        })
    }

    /// Goes through all of them.
    pub fn each(&mut self, sink: &mut dyn FnMut(Waiting) -> Result<()>) -> Result<()> {
        self.records(&mut |input, waiting, len| {
            let mut bytes = vec![0; usize::from(len)];
            input.read_exact(&mut bytes).map_err(failed)?;
            sink(Waiting { path: RelPath::new(bytes)?, ..waiting })
        })
    }

    /// Reads every head; `act` takes the path's bytes, or passes them over.
    fn records(&mut self, act: &mut Record) -> Result<()> {
        self.file.flush().map_err(failed)?;
        let mut input = BufReader::with_capacity(1 << 16, self.file.get_ref());
        input.rewind().map_err(failed)?;
        for nth in 0..self.count {
            let mut head = [0u8; HEAD];
            input.read_exact(&mut head).map_err(failed)?;
            let word = |at: usize| head[at..at + 8].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
            let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
            let rank = Rank { used: word(0) as i64, size: word(8), nth };
            let candidate = Candidate { rank, frees: word(16), go: head[26] & 1 != 0 };
            let placed = head[26] & 2 != 0;
            let waiting = Waiting { path: RelPath::root(), candidate, rule: short(24), placed };
            act(&mut input, waiting, short(27))?;
        }
        Ok(())
    }
}

type Record<'a> = dyn FnMut(&mut BufReader<&File>, Waiting, u16) -> Result<()> + 'a;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_in_comes_out_each_time() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut queue = Queue::new(dir.path()).expect("queue");
        let all: Vec<Waiting> = (0..3000u64)
            .map(|nth| Waiting {
                path: RelPath::new(format!("{}/{nth}", "d".repeat(nth as usize % 250 + 1))).expect("valid"),
                candidate: Candidate {
                    rank: Rank { used: nth as i64 - 1500, size: nth << 33, nth },
                    frees: u64::MAX - nth,
                    go: nth % 2 == 0,
                },
                rule: nth as u16,
                placed: nth % 3 == 0,
            })
            .collect();
        all.iter().for_each(|w| queue.put(w).expect("put"));
        for _ in 0..2 {
            let (mut ranks, mut back) = (Vec::new(), Vec::new());
            queue.ranks(&mut |c| ranks.push(*c)).expect("ranks");
            queue
                .each(&mut |w| {
                    back.push(w);
                    Ok(())
                })
                .expect("each");
            assert_eq!(back, all);
            assert_eq!(ranks, all.iter().map(|w| w.candidate).collect::<Vec<_>>());
        }
    }
}
