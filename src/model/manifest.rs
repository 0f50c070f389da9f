//! The ordered runs of one content of several chunks.
//!
//! Promises that runs add up to the content's size and that none is empty.

use crate::base::error::{Error, Result};
use crate::base::id::RecordId;

/// How a content was cut; recorded so that it can be cut alike again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cutting {
    /// 1: fastcdc v2020, normalisation level 1.
    pub algorithm: u8,
    /// Base-2 logarithm of the smallest chunk.
    pub min_log: u8,
    /// Of the average one.
    pub avg_log: u8,
    /// Of the largest one.
    pub max_log: u8,
}

impl Default for Cutting {
    /// 256 KiB, 1 MiB, 4 MiB.
    fn default() -> Self {
        Self { algorithm: 1, min_log: 18, avg_log: 20, max_log: 22 }
    }
}

impl Cutting {
    /// Contents of at most this many bytes are one chunk.
    pub fn min(&self) -> usize {
        1 << self.min_log
    }

    /// Target size in bytes.
    pub fn avg(&self) -> usize {
        1 << self.avg_log
    }

    /// No chunk is larger.
    pub fn max(&self) -> usize {
        1 << self.max_log
    }

    /// Checks a decoded one: in order, and within what the chunker takes.
    pub fn validate(&self) -> Result<()> {
        let (min, avg, max) = (self.min_log, self.avg_log, self.max_log);
        let in_range = (6..=20).contains(&min) && (8..=22).contains(&avg) && (10..=24).contains(&max);
        if in_range && min <= avg && avg <= max {
            Ok(())
        } else {
            Err(Error::corrupt("manifest", "chunk sizes out of range"))
        }
    }
}

/// A stretch of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// Bytes kept in a chunk.
    Data {
        /// Name of the chunk.
        id: RecordId,
        /// Its length.
        len: u32,
    },
    /// Zeros that were a hole in the file: neither stored nor written.
    Hole {
        /// Length of the hole.
        len: u64,
    },
}

impl Run {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Data { len, .. } => u64::from(*len),
            Self::Hole { len } => *len,
        }
    }

    /// Never true in a valid manifest.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Chunk list of one content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// How it was cut.
    pub cutting: Cutting,
    /// The runs, in order.
    pub runs: Vec<Run>,
}

impl Manifest {
    /// Size of the content.
    pub fn size(&self) -> u64 {
        self.runs.iter().map(Run::len).sum()
    }

    /// Checks that no run is empty and the size is `size`, without overflow.
    pub fn validate(&self, size: u64) -> Result<()> {
        let total = self
            .runs
            .iter()
            .try_fold(0u64, |sum, run| if run.is_empty() { None } else { sum.checked_add(run.len()) });
        if total == Some(size) {
            Ok(())
        } else {
            Err(Error::corrupt("manifest", "runs do not add up to its size"))
        }
    }

    /// Data runs with their offset in the content.
    pub fn data(&self) -> impl Iterator<Item = (u64, RecordId, u32)> + '_ {
        let mut at = 0u64;
        self.runs.iter().filter_map(move |run| {
            let start = at;
            at += run.len();
            match run {
                Run::Data { id, len } => Some((start, *id, *len)),
                Run::Hole { .. } => None,
            }
        })
    }
}
