//! Writing, reading and copying the log objects of a bucket.
//!
//! Promises that every object it writes or copies is signed, whole and chained to the one before,
//! and that nothing unverified enters a bucket. A sick origin is reported and the others go on (I8).
//! Knows no database.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;

use super::reader::LogReader;
use super::survey;
pub use super::survey::{LogObject, object_name};
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, OriginId};
use crate::format::key::origin_id;
use crate::format::log::{self as format, Batch, BatchHead, MAX_ENTRIES, SOFT_RAW};
use crate::model::entry::{Entry, Op};
use crate::store::Bucket;

/// Bytes of log objects that are put together.
const TOGETHER: usize = 8 << 20;

/// Who writes a log: a key, one incarnation of it, and a name for people.
#[derive(Clone)]
pub struct Identity {
    /// ed25519 secret.
    pub secret: [u8; 32],
    /// Epoch: new whenever the last number used cannot be proven.
    pub epoch: u64,
    /// Name of the peer.
    pub name: String,
}

impl Identity {
    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        SigningKey::from_bytes(&self.secret).verifying_key().to_bytes()
    }

    /// The id under which its entries are known. Costs an elliptic curve multiplication: not for
    /// inner loops.
    pub fn origin(&self) -> OriginId {
        origin_id(&self.public(), self.epoch)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?}, {})", self.name, self.origin().short())
    }
}

/// Where an origin's log ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tail {
    /// Number of the last entry; 0 before the first.
    pub number: u64,
    /// BLAKE3 of the last log object; zeros before the first.
    pub hash: [u8; 32],
    /// Hybrid clock value of the last entry.
    pub hlc: u64,
}

impl Tail {
    /// The tail after this batch.
    pub fn after(&self, batch: &Batch) -> Self {
        let hlc = batch.entries.last().map_or(self.hlc, |e| e.hlc);
        Self { number: batch.head.to(), hash: batch.hash, hlc }
    }
}

/// What [`append`] wrote.
#[derive(Debug)]
pub struct Appended {
    /// The new end of the log.
    pub tail: Tail,
    /// Name and bytes of each object, so that they can be put to other stores as they are.
    pub objects: Vec<(String, Vec<u8>)>,
}

/// What [`copy_missing`] did.
#[derive(Debug, Default)]
pub struct CopyStats {
    /// Objects copied.
    pub objects: u64,
    /// Entries in them.
    pub entries: u64,
    /// Objects that were not copied, by name, and why.
    pub problems: Vec<(String, Error)>,
    /// Per origin, up to which entry the target has all from the first on.
    pub reached: BTreeMap<OriginId, u64>,
}

/// The log objects of every origin in a bucket, by position. Gaps and overlaps are for the reader
/// to judge; names that are not a log object's are left out ([`survey_odd`] lists them).
pub fn survey(bucket: &dyn Bucket) -> Result<BTreeMap<OriginId, Vec<LogObject>>> {
    Ok(survey::survey(bucket)?.origins)
}

/// Names under `log/` that are not a log object's.
pub fn survey_odd(bucket: &dyn Bucket) -> Result<Vec<(String, Error)>> {
    let odd = survey::survey(bucket)?.odd;
    Ok(odd.into_iter().map(|(name, _)| (name.clone(), survey::odd_name(&name))).collect())
}

/// Appends entries to the log in `bucket`, durably, as batches chained to `tail`.
///
/// After an error some of the batches may be in the bucket: [`super::History::catch_up`] finds
/// them, and only then may be appended again. An object that is already there means that `tail`
/// is stale, and is `Refused`.
pub fn append(
    bucket: &dyn Bucket,
    folder: FolderId,
    who: &Identity,
    tail: &Tail,
    message: Option<&str>,
    entries: &[Entry],
) -> Result<Appended> {
    let origin = who.origin();
    let mut done = Appended { tail: *tail, objects: Vec::new() };
    for batch in batches(entries) {
        let head = BatchHead {
            requires: vec![],
            folder,
            key: who.public(),
            epoch: who.epoch,
            from: done.tail.number + 1,
            count: 0,
            prev: done.tail.hash,
            raw_len: 0,
            message: message.map(String::from),
            name: who.name.clone(),
        };
        let (bytes, hash) = format::encode(head, batch, &who.secret)?;
        let number = done.tail.number + batch.len() as u64;
        let name = object_name(&origin, done.tail.number + 1, number);
        let hlc = batch.last().map_or(done.tail.hlc, |e| e.hlc);
        done.tail = Tail { number, hash, hlc };
        done.objects.push((name, bytes));
    }
    bucket.put_all(&done.objects)?;
    Ok(done)
}

/// Cuts entries into batches that stay within the format's limits.
fn batches(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut raw = 0;
        let fits = |e: &&Entry| {
            raw += weight(e);
            raw <= SOFT_RAW
        };
        // One entry always fits: the hard limit is far above the soft one.
        let len = rest.iter().take(MAX_ENTRIES).take_while(fits).count().max(1);
        let (batch, left) = rest.split_at_checked(len)?;
        rest = left;
        Some(batch)
    })
}

/// Upper bound of an entry's encoded length.
fn weight(entry: &Entry) -> usize {
    let path = |p: &Option<_>| p.as_ref().map_or(0, |p: &crate::base::path::RelPath| p.as_bytes().len());
    let target = match &entry.op {
        Op::Put(version) => version.target.as_ref().map_or(0, Vec::len),
        Op::Del => 0,
        Op::Forget(all) => all.iter().map(|runs| 64 + 9 * runs.runs.len()).sum(),
    };
    let paths = entry.path.as_bytes().len() + path(&entry.moved_from) + path(&entry.moved_to);
    256 + paths + target + 48 * entry.seen.len()
}

/// Whether the bucket as a whole, and not one object of it, is in trouble.
pub fn is_fatal(error: &Error) -> bool {
    matches!(error, Error::Offline { .. } | Error::Interrupted | Error::NoSpace(_) | Error::Locked(_))
}

/// Copies the log objects that `to` lacks from `from`, each verified first, in the order of their
/// entries and only as far as they follow without a gap.
///
/// What cannot be read or trusted in `from` is a problem of its origin; a failure to write to `to`
/// is an error of the whole call.
pub fn copy_missing(from: &dyn Bucket, to: &dyn Bucket, folder: FolderId) -> Result<CopyStats> {
    let mut there = survey::survey(to)?.origins;
    let here = survey::survey(from)?;
    let mut stats = CopyStats::default();
    for (origin, objects) in &here.origins {
        let present = there.remove(origin).unwrap_or_default();
        Copier::new(to, origin, &mut stats).run(from, folder, objects, &present)?;
    }
    for (origin, objects) in &there {
        stats.reached.insert(*origin, gapless(objects.iter().map(|o| (o.from, o.to)).collect()));
    }
    stats.problems.extend(here.odd.iter().map(|(name, _)| (name.clone(), survey::odd_name(name))));
    Ok(stats)
}

/// The same for one origin.
pub fn copy_origin_missing(
    from: &dyn Bucket,
    to: &dyn Bucket,
    folder: FolderId,
    origin: &OriginId,
) -> Result<CopyStats> {
    let objects = survey(from)?.remove(origin).unwrap_or_default();
    let present = survey(to)?.remove(origin).unwrap_or_default();
    let mut stats = CopyStats::default();
    Copier::new(to, origin, &mut stats).run(from, folder, &objects, &present)?;
    Ok(stats)
}

struct Copier<'a> {
    to: &'a dyn Bucket,
    origin: &'a OriginId,
    stats: &'a mut CopyStats,
    /// Verified, and not put yet.
    waiting: Vec<(String, Vec<u8>)>,
    bytes: usize,
    /// First and last entry of what the target has by now.
    there: Vec<(u64, u64)>,
}

impl<'a> Copier<'a> {
    fn new(to: &'a dyn Bucket, origin: &'a OriginId, stats: &'a mut CopyStats) -> Self {
        Self { to, origin, stats, waiting: Vec::new(), bytes: 0, there: Vec::new() }
    }

    fn run(
        mut self,
        from: &dyn Bucket,
        folder: FolderId,
        objects: &[LogObject],
        present: &[LogObject],
    ) -> Result<()> {
        self.there = present.iter().map(|o| (o.from, o.to)).collect();
        let copied = self.copy(from, folder, objects, present);
        self.stats.reached.insert(*self.origin, gapless(self.there));
        copied
    }

    fn copy(
        &mut self,
        from: &dyn Bucket,
        folder: FolderId,
        objects: &[LogObject],
        present: &[LogObject],
    ) -> Result<()> {
        let names: BTreeSet<&str> = present.iter().map(|o| o.name.as_str()).collect();
        let mut missing: Vec<(bool, &LogObject)> =
            objects.iter().filter(|o| !names.contains(o.name.as_str())).map(|o| (false, o)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // What is already there goes first: of two objects with one position it wins.
        missing.extend(present.iter().map(|o| (true, o)));
        missing.sort_by_key(|(is_there, o)| (o.from, !is_there, o.to));
        let wanted = missing.iter().filter(|(is_there, _)| !is_there).map(|(_, o)| *o);
        let mut reader = LogReader::new(from, folder, self.origin, wanted);
        let followed = self.follow(&mut reader, &missing);
        // What was read before a failure is as good as any.
        self.put()?;
        followed
    }

    /// Copies what follows without a gap.
    fn follow(&mut self, reader: &mut LogReader, objects: &[(bool, &LogObject)]) -> Result<()> {
        let (mut number, mut hash, mut clean) = (0, None, true);
        for (is_there, object) in objects {
            if object.from > number + 1 {
                if clean {
                    self.problem(&object.name, gap(self.origin, number + 1, object.from - 1));
                }
                return Ok(());
            }
            let next = if object.from <= number {
                Err(Error::corrupt(&object.name, "overlaps another batch of its origin: the history forked"))
            } else if *is_there {
                Ok(None)
            } else {
                fetch(reader, object, hash).map(Some)
            };
            match next {
                Ok(None) => (number, hash) = (object.to, None),
                Ok(Some((batch, bytes))) => {
                    (number, hash) = (object.to, Some(batch.hash));
                    self.stats.entries += batch.entries.len() as u64;
                    self.bytes += bytes.len();
                    self.waiting.push((object.name.clone(), bytes));
                    self.there.push((object.from, object.to));
                    if self.bytes >= TOGETHER {
                        self.put()?;
                    }
                }
                Err(e) if is_fatal(&e) => return Err(e),
                Err(e) => {
                    clean = false;
                    self.problem(&object.name, e);
                }
            }
        }
        Ok(())
    }

    /// Puts what waits.
    fn put(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        match self.to.put_all(&waiting) {
            // Somebody else was faster, with the same objects.
            Err(Error::Refused(_)) => {
                waiting.iter().try_for_each(|(name, bytes)| self.put_one(name, bytes))?
            }
            done => done?,
        }
        self.stats.objects += waiting.len() as u64;
        Ok(())
    }

    fn put_one(&self, name: &str, bytes: &[u8]) -> Result<()> {
        match self.to.put(name, &[bytes]) {
            Err(Error::Refused(_)) if self.to.get(name, 0..bytes.len() as u64 + 1)? == bytes => Ok(()),
            done => done,
        }
    }

    fn problem(&mut self, name: &str, error: Error) {
        self.stats.problems.push((name.to_string(), error));
    }
}

/// Up to which entry these objects (first, last) have all from the first on.
fn gapless(mut objects: Vec<(u64, u64)>) -> u64 {
    objects.sort_unstable();
    let more = |last: u64, (from, to): (u64, u64)| (from <= last.saturating_add(1)).then_some(last.max(to));
    objects.into_iter().try_fold(0, |last, object| more(last, object).ok_or(last)).unwrap_or_else(|last| last)
}

/// Reads and verifies one object; `prev` is the hash it must be chained to, where it is known.
fn fetch(reader: &mut LogReader, object: &LogObject, prev: Option<[u8; 32]>) -> Result<(Batch, Vec<u8>)> {
    let (batch, bytes) = reader.load(object)?;
    let starts_wrong = batch.head.from == 1 && batch.head.prev != [0; 32];
    if starts_wrong || prev.is_some_and(|prev| prev != batch.head.prev) {
        return Err(unchained(&object.name));
    }
    Ok((batch, bytes))
}

/// Entries that should be there and are not.
pub(super) fn gap(origin: &OriginId, from: u64, to: u64) -> Error {
    Error::Missing(format!("history of {}: entries {from} to {to}", origin.short()))
}

/// A batch that does not follow the one before it.
pub(super) fn unchained(name: &str) -> Error {
    Error::corrupt(name, "does not continue the batch before it: the history forked")
}
