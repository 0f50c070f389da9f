//! One recorded change of one path by one origin, and the file version it describes.
//!
//! Promises that a decoded entry is well formed (paths, modes, times within bounds). Field numbers
//! are part of the log format (docs/FORMAT.md); unknown numbers are skipped.

use minicbor::{Decode, Encode};

use crate::base::error::{Error, Result};
use crate::base::id::{ContentId, OriginId, RecordId};
use crate::base::path::RelPath;
use crate::base::units::Time;

/// What a record in a pack is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Kind {
    /// A slice of a content.
    #[n(1)]
    Chunk,
    /// The ordered chunk list of one content.
    #[n(2)]
    Manifest,
}

impl Kind {
    /// The byte that stands for it in packs, stubs and databases.
    pub fn byte(self) -> u8 {
        match self {
            Self::Chunk => 1,
            Self::Manifest => 2,
        }
    }

    /// The inverse of [`Kind::byte`].
    pub fn from_byte(byte: u8) -> Result<Self> {
        match byte {
            1 => Ok(Self::Chunk),
            2 => Ok(Self::Manifest),
            _ => Err(Error::corrupt("record kind", format!("unknown value {byte}"))),
        }
    }
}

/// Where a content's bytes are found: its only chunk, or its manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Body {
    /// Chunk for contents of one chunk, else manifest.
    #[n(0)]
    pub kind: Kind,
    /// Name of that record.
    #[n(1)]
    pub id: RecordId,
}

/// The type of thing at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum FileKind {
    /// A regular file.
    #[n(0)]
    File,
    /// A directory.
    #[n(1)]
    Dir,
    /// A symbolic link.
    #[n(2)]
    Symlink,
}

/// One state of one path.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Version {
    /// File, directory or symlink.
    #[n(0)]
    pub kind: FileKind,
    /// Content id of a regular file, also of an empty one; `None` for the others.
    #[n(1)]
    pub content: Option<ContentId>,
    /// Where the bytes are; `None` for an empty file and for the others.
    #[n(2)]
    pub body: Option<Body>,
    /// Bytes of a regular file; 0 for the others.
    #[n(3)]
    pub size: u64,
    /// Modification time.
    #[n(4)]
    pub mtime: Time,
    /// The nine permission bits.
    #[n(5)]
    pub mode: u16,
    /// Target of a symlink, any bytes.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub target: Option<Vec<u8>>,
}

impl Version {
    /// Whether two versions have the same type and bytes, whatever their times and modes.
    pub fn same_content(&self, other: &Self) -> bool {
        self.kind == other.kind && self.content == other.content && self.target == other.target
    }

    /// Checks the bounds that a decoder cannot.
    fn validate(&self) -> Result<()> {
        let bad = |why: &str| Err(Error::corrupt("history entry", why));
        if self.mode > 0o777 || self.mtime.nanos >= 1_000_000_000 {
            return bad("mode or time out of range");
        }
        match self.kind {
            FileKind::File if self.content.is_none() => bad("file without content"),
            FileKind::File if self.body.is_none() != (self.size == 0) => bad("body does not fit size"),
            FileKind::File if self.size > i64::MAX as u64 => bad("size out of range"),
            FileKind::Symlink if self.target.as_ref().is_none_or(|t| t.is_empty() || t.contains(&0)) => {
                bad("symlink target")
            }
            FileKind::Dir | FileKind::Symlink if self.body.is_some() || self.size != 0 => {
                bad("body of something that is no file")
            }
            _ => Ok(()),
        }
    }
}

/// What happened to the path.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Op {
    /// It now has this version.
    #[n(0)]
    Put(#[n(0)] Version),
    /// It is gone.
    #[n(1)]
    Del,
    /// Nothing, but these older versions, of any paths, are no longer kept. The entry's own path is the
    /// root.
    #[n(2)]
    Forget(#[n(0)] Vec<Runs>),
}

/// Entries of one origin: how many numbers to skip, how many to take, and so on, from number 1.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Runs {
    /// Whose entries.
    #[n(0)]
    pub origin: OriginId,
    /// Skipped and taken numbers in turn; none but the first is 0.
    #[n(1)]
    pub runs: Vec<u64>,
}

impl Runs {
    /// From numbers in order, without doubles.
    pub fn of(origin: OriginId, numbers: impl IntoIterator<Item = u64>) -> Self {
        let (mut runs, mut next): (Vec<u64>, u64) = (Vec::new(), 1);
        for number in numbers {
            match runs.last_mut() {
                Some(taken) if number == next => *taken += 1,
                _ => runs.extend([number - next, 1]),
            }
            next = number + 1;
        }
        Self { origin, runs }
    }

    /// First and last number of each run.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut next = 1;
        self.runs.as_chunks::<2>().0.iter().map(move |[skip, take]| {
            let first = next + skip;
            next = first + take;
            (first, next - 1)
        })
    }

    fn validate(&self) -> Result<()> {
        let sum = self.runs.iter().try_fold(1u64, |sum, n| sum.checked_add(*n));
        let is_odd = !self.runs.len().is_multiple_of(2) || self.runs.iter().skip(1).any(|n| *n == 0);
        if is_odd || sum.is_none_or(|sum| sum > i64::MAX as u64) {
            return Err(Error::corrupt("history entry", "runs of numbers out of range"));
        }
        Ok(())
    }
}

/// The name of an entry: its origin and its number there (1, 2, 3 ... without gaps).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Dot {
    /// Whose entry.
    #[n(0)]
    pub origin: OriginId,
    /// Which one.
    #[n(1)]
    pub number: u64,
}

/// One recorded change. Its number follows from its place in the batch.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(map)]
pub struct Entry {
    /// Hybrid clock: milliseconds since 1970 times 65,536, plus a counter; grows within an origin.
    #[n(0)]
    pub hlc: u64,
    /// The path.
    #[n(1)]
    pub path: RelPath,
    /// What happened to it.
    #[n(2)]
    pub op: Op,
    /// Version vector of this path that the change was made on.
    #[n(3)]
    pub seen: Vec<Dot>,
    /// Content the edit started from.
    #[n(4)]
    pub base: Option<ContentId>,
    /// A put that continues this other path, which is deleted in the same commit.
    #[n(5)]
    pub moved_from: Option<RelPath>,
    /// A deletion whose content lives on at this other path.
    #[n(6)]
    pub moved_to: Option<RelPath>,
}

/// Most origins in one version vector; more is a hostile or broken log.
const MAX_SEEN: usize = 1024;

impl Entry {
    /// Checks a decoded entry.
    pub fn validate(&self) -> Result<()> {
        let moved = [&self.moved_from, &self.moved_to];
        let forgets = matches!(self.op, Op::Forget(_));
        let is_of_nothing = self.path.is_root() && !self.is_of_root();
        if is_of_nothing != forgets || moved.into_iter().flatten().any(RelPath::is_root) {
            return Err(Error::corrupt("history entry", "path out of range"));
        }
        if self.seen.len() > MAX_SEEN || self.seen.iter().any(|dot| dot.number > i64::MAX as u64) {
            return Err(Error::corrupt("history entry", "version vector out of range"));
        }
        if self.hlc > MAX_HLC {
            return Err(Error::corrupt("history entry", "clock value out of range"));
        }
        match &self.op {
            Op::Put(version) => version.validate(),
            Op::Del => Ok(()),
            Op::Forget(all) => all.iter().try_for_each(Runs::validate),
        }
    }

    /// Whether it records mode and time of the folder's root, the only thing that happens to it.
    pub fn is_of_root(&self) -> bool {
        self.path.is_root() && self.version().is_some_and(|v| v.kind == FileKind::Dir)
    }

    /// The version, where the path exists after this entry.
    pub fn version(&self) -> Option<&Version> {
        match &self.op {
            Op::Put(version) => Some(version),
            Op::Del | Op::Forget(_) => None,
        }
    }

    /// Wall-clock time of the entry.
    pub fn time(&self) -> Time {
        let millis = self.hlc >> 16;
        Time { secs: (millis / 1000) as i64, nanos: (millis % 1000) as u32 * 1_000_000 }
    }
}

/// Highest hybrid clock value: some 4,000 years ahead, and a signed integer.
pub const MAX_HLC: u64 = i64::MAX as u64;

/// The next hybrid clock value: never below the wall clock, always above `last`. At its end it
/// stands still: a peer whose clock went mad must not keep the others from recording.
pub fn next_hlc(last: u64, now: Time) -> u64 {
    hlc_of(now).max(last.saturating_add(1)).min(MAX_HLC)
}

/// How far behind what is recorded a clock must be for that to be taken for the work of a clock that was
/// ahead: a year, in seconds.
const LEAP: i64 = 365 * 86_400;

/// The hybrid clock value of a time.
pub fn hlc_of(at: Time) -> u64 {
    at.millis().saturating_mul(1 << 16).min(MAX_HLC)
}

/// Up to which value what is recorded is believed, and what else is needed to believe it, see [`believed`].
pub fn bounds(now: Time) -> (u64, u64) {
    (hlc_of(now), hlc_of(Time { secs: now.secs.saturating_add(LEAP), ..now }))
}

/// The highest recorded value that the next one has to be above. Usually that is the highest there is
/// (`newest`), though the clock may be a little behind it. But where there is nothing in the year from now
/// on, only behind it, and there is something before now (`past`), then the clock was ahead when that was
/// recorded: it must not date all that comes after.
pub fn believed(now: Time, newest: u64, past: Option<u64>, is_year_empty: bool) -> u64 {
    match past {
        Some(past) if newest > bounds(now).1 && is_year_empty => past,
        _ => newest,
    }
}

/// Clock values that grow by at least one from each entry to the next of its origin: what was recorded
/// before something was not recorded later, whatever the clock said.
pub fn rising(entries: &[Entry]) -> Vec<u64> {
    let mut clocks: Vec<u64> = entries.iter().map(|e| e.hlc).collect();
    for i in (1..clocks.len()).rev() {
        clocks[i - 1] = clocks[i - 1].min(clocks[i].saturating_sub(1));
    }
    clocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hybrid_clock_survives_a_clock_that_jumps_back() {
        let late = next_hlc(0, Time { secs: 2_000_000_000, nanos: 0 });
        let early = next_hlc(late, Time { secs: 1_000_000_000, nanos: 0 });
        assert_eq!(early, late + 1);
    }

    #[test]
    fn a_clock_that_was_years_ahead_is_not_believed_one_that_is_behind_is() {
        let at = |secs| Time { secs, nanos: 0 };
        let (year, now) = (LEAP, 60 * LEAP);
        let (past, ahead) = (hlc_of(at(now - 5)), hlc_of(at(now + 10 * year)));
        assert_eq!(believed(at(now), ahead, Some(past), true), past);
        assert_eq!(believed(at(now), ahead, Some(past), false), ahead);
        assert_eq!(believed(at(now), ahead, None, true), ahead, "everything is ahead: the clock is behind");
        let soon = hlc_of(at(now + year / 2));
        assert_eq!(believed(at(now), soon, Some(past), false), soon);
    }

    #[test]
    fn what_was_recorded_before_is_not_dated_after() {
        let entry = |hlc| Entry {
            hlc,
            path: RelPath::new("a").expect("valid"),
            op: Op::Del,
            seen: vec![],
            base: None,
            moved_from: None,
            moved_to: None,
        };
        let clocks = |all: &[u64]| rising(&all.iter().map(|hlc| entry(*hlc)).collect::<Vec<_>>());
        assert_eq!(clocks(&[1, 2, 900, 901, 5, 6]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(clocks(&[1, 5, 9]), [1, 5, 9]);
        assert!(clocks(&[]).is_empty());
    }

    #[test]
    fn a_clock_at_its_end_still_gives_values_that_are_accepted() {
        let now = Time { secs: i64::MAX, nanos: 0 };
        assert_eq!(next_hlc(MAX_HLC, Time::default()), MAX_HLC);
        assert_eq!(next_hlc(0, now), MAX_HLC);
    }
}
