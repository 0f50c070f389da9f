//! Placing: files are read under a lease, cut, hashed, sealed and put on stores by a few threads.
//!
//! Promises that a file comes out as [`Found`] only after each of its records was put on every
//! target (durable after the targets' `flush`), with the proof of which bytes were read; that stub
//! bytes never become content (I5); and that memory is bounded by the queues. Local files are only
//! read here.

use std::fs::File;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::remotes::Remote;
use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::id::{ContentId, FolderId, RecordId};
use crate::base::path::RelPath;
use crate::base::progress::Progress;
use crate::format::key::Keys;
use crate::format::seal::Sealer;
use crate::format::stub::StubHead;
use crate::format::{chunker, manifest};
use crate::local::inspect::{self, State};
use crate::local::read::{Extent, Proof, Reading};
use crate::local::root::Root;
use crate::local::stat::{FileType, Stat};
use crate::model::entry::{Body, Kind};
use crate::model::manifest::{Cutting, Manifest, Run};
use crate::store::Store;

/// What was at a path.
#[derive(Debug)]
pub enum Found {
    /// A regular file, whole on every target.
    File(Placed),
    /// A stub of this folder: nothing to read.
    Stub(Stat, StubHead),
    /// A directory.
    Dir(Stat),
    /// A symlink and its target.
    Symlink(Stat, Vec<u8>),
    /// Nothing any more.
    Gone,
    /// Could not be read whole; reported, left alone.
    Problem(Error),
}

/// A content that was read and put.
#[derive(Debug)]
pub struct Placed {
    /// Which bytes were read, and whether they may be freed.
    pub proof: Proof,
    /// Plain hash of them.
    pub content: ContentId,
    /// Where they are; `None` if empty.
    pub body: Option<Body>,
    /// Every record the content needs.
    pub records: Vec<RecordId>,
}

/// What the threads share.
pub struct Placer<'a> {
    /// The tree.
    pub tree: &'a Root,
    /// The folder's keys.
    pub keys: &'a Keys,
    /// The folder.
    pub folder: FolderId,
    /// Stores that get every record.
    pub targets: &'a [Remote],
    /// Receives bytes read.
    pub progress: &'a dyn Progress,
    /// Ends the run early.
    pub cancel: &'a Cancel,
}

/// Set when one thread has failed, so that the others do not carry on for nothing.
type Failed = std::sync::atomic::AtomicBool;

/// Bytes of one chunk on their way to the sealers.
struct Job {
    id: RecordId,
    kind: Kind,
    raw: Vec<u8>,
    /// Dropped when the record was put; carries an error back if it was not.
    done: Sender<Error>,
}

/// Bytes held while a large file is cut: at least twice the largest chunk.
const WINDOW: usize = 16 << 20;

impl Placer<'_> {
    /// Reads every path of `paths` and hands each with its tag to `sink` on the calling thread, in
    /// the order in which they are finished.
    pub fn run(
        &self,
        paths: &mut (dyn Iterator<Item = Result<(u8, RelPath)>> + Send),
        sink: &mut dyn FnMut(u8, RelPath, Found) -> Result<()>,
    ) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).max(2);
        let (path_tx, path_rx) = bounded::<(u8, RelPath)>(512);
        let (job_tx, job_rx) = bounded::<Job>(threads * 2);
        let (found_tx, found_rx) = bounded::<(u8, RelPath, Found)>(4096);
        let failed = Failed::new(false);
        let failed = &failed;
        std::thread::scope(|scope| {
            let feeder = scope.spawn(move || -> Result<()> {
                for item in paths {
                    // The receivers are gone only if the run has failed elsewhere.
                    if self.cancel.is_cancelled() || path_tx.send(item?).is_err() {
                        break;
                    }
                }
                Ok(())
            });
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let (rx, jobs, tx) = (path_rx.clone(), job_tx.clone(), found_tx.clone());
                    scope.spawn(move || self.work(&rx, &jobs, &tx, failed))
                })
                .collect();
            let sealers: Vec<_> = (0..threads)
                .map(|_| {
                    let rx = job_rx.clone();
                    scope.spawn(move || self.seal_all(&rx))
                })
                .collect();
            drop((path_rx, job_tx, job_rx, found_tx));
            let mut result = Ok(());
            for (tag, path, found) in found_rx.iter() {
                result = sink(tag, path, found);
                if result.is_err() {
                    break;
                }
            }
            // Lets the workers end: they stop when nobody takes what they found.
            drop(found_rx);
            let mut all = vec![feeder];
            all.extend(workers);
            all.extend(sealers);
            for thread in all {
                let ended = thread.join().map_err(|_| Error::Invalid("a worker thread panicked".into()));
                result = result.and(ended.and_then(|r| r));
            }
            result.and_then(|()| self.cancel.check())
        })
    }

    fn work(
        &self,
        paths: &Receiver<(u8, RelPath)>,
        jobs: &Sender<Job>,
        out: &Sender<(u8, RelPath, Found)>,
        failed: &Failed,
    ) -> Result<()> {
        let mut sealer = Sealer::new()?;
        for (tag, path) in paths.iter() {
            if failed.load(Relaxed) {
                break;
            }
            let found = match self.look(&path, &mut sealer, jobs) {
                Ok(found) => found,
                Err(e) if is_store_error(&e) => {
                    failed.store(true, Relaxed);
                    return Err(e);
                }
                Err(e) if e.is_missing() => Found::Gone,
                Err(e) => Found::Problem(e),
            };
            if out.send((tag, path, found)).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn look(&self, path: &RelPath, sealer: &mut Sealer, jobs: &Sender<Job>) -> Result<Found> {
        let Some(stat) = self.tree.stat(path)? else { return Ok(Found::Gone) };
        match stat.kind {
            FileType::Dir => Ok(Found::Dir(stat)),
            FileType::Symlink => Ok(Found::Symlink(stat, self.tree.read_link(path)?)),
            FileType::Other(what) => Err(Error::Unsupported(format!("a {what}, which ddr does not keep"))),
            FileType::File => self.file(path, sealer, jobs),
        }
    }

    fn file(&self, path: &RelPath, sealer: &mut Sealer, jobs: &Sender<Job>) -> Result<Found> {
        let mut reading = Reading::open(self.tree, path)?;
        match inspect::inspect_mark(reading.file(), reading.stat(), self.keys, self.folder)? {
            (State::Full, false) => {}
            (State::Full, true) => reading = reading.unmark()?,
            (State::Stub(head), _) => return Ok(Found::Stub(reading.stat().clone(), head)),
            (State::Odd(why), _) => return Err(Error::Refused(why)),
        }
        let stat = reading.stat().clone();
        let cutting = Cutting::default();
        let extents = reading.extents()?;
        let whole = matches!(extents.as_slice(), [] | [Extent::Data { .. }]);
        if whole && stat.size <= cutting.min() as u64 {
            return self.small(reading, sealer);
        }
        self.large(reading, &extents, cutting, jobs)
    }

    /// One read, one record, all in this thread.
    fn small(&self, reading: Reading, sealer: &mut Sealer) -> Result<Found> {
        let size = reading.stat().size;
        // One byte more than expected, so that growth is noticed.
        let mut raw = vec![0u8; size as usize + 1];
        let n = reading.read_at(&mut raw, 0)?;
        if n as u64 != size {
            return Err(Error::Changed("changed while it was read".into()));
        }
        raw.truncate(n);
        let proof = reading.finish()?;
        self.progress.advance(size);
        let content = ContentId(*blake3::hash(&raw).as_bytes());
        if raw.is_empty() {
            return Ok(Found::File(Placed { proof, content, body: None, records: vec![] }));
        }
        let id = self.keys.record_id(Kind::Chunk, &raw);
        self.put(sealer, id, Kind::Chunk, raw)?;
        let body = Body { kind: Kind::Chunk, id };
        Ok(Found::File(Placed { proof, content, body: Some(body), records: vec![id] }))
    }

    /// Cut here, sealed and put by the sealers.
    fn large(
        &self,
        reading: Reading,
        extents: &[Extent],
        cutting: Cutting,
        jobs: &Sender<Job>,
    ) -> Result<Found> {
        let (done_tx, done_rx) = unbounded();
        let mut hasher = blake3::Hasher::new();
        let mut runs = Vec::new();
        for extent in extents {
            match *extent {
                Extent::Hole { len, .. } => {
                    hash_zeros(&mut hasher, len, self.cancel)?;
                    runs.push(Run::Hole { len });
                }
                Extent::Data { start, len } => {
                    self.cut(&reading, start, len, cutting, &mut hasher, &mut |raw| {
                        let id = self.keys.record_id(Kind::Chunk, &raw);
                        runs.push(Run::Data { id, len: raw.len() as u32 });
                        send(jobs, Job { id, kind: Kind::Chunk, raw, done: done_tx.clone() })
                    })?;
                }
            }
        }
        let proof = reading.finish()?;
        let content = ContentId(*hasher.finalize().as_bytes());
        let mut records: Vec<RecordId> = runs
            .iter()
            .filter_map(|run| match run {
                Run::Data { id, .. } => Some(*id),
                Run::Hole { .. } => None,
            })
            .collect();
        let body = match runs.as_slice() {
            [Run::Data { id, .. }] => Body { kind: Kind::Chunk, id: *id },
            _ => {
                let raw = manifest::encode(&Manifest { cutting, runs });
                let id = self.keys.record_id(Kind::Manifest, &raw);
                if raw.len() > crate::format::seal::MAX_MANIFEST {
                    return Err(Error::Unsupported("larger than about 1.5 TiB of data".into()));
                }
                send(jobs, Job { id, kind: Kind::Manifest, raw, done: done_tx.clone() })?;
                records.push(id);
                Body { kind: Kind::Manifest, id }
            }
        };
        // Ends when every job was dropped, that is put; anything received is why one was not.
        drop(done_tx);
        if let Some(error) = done_rx.iter().next() {
            return Err(error);
        }
        Ok(Found::File(Placed { proof, content, body: Some(body), records }))
    }

    /// Cuts one stretch of data into chunks.
    fn cut(
        &self,
        reading: &Reading,
        start: u64,
        len: u64,
        cutting: Cutting,
        hasher: &mut blake3::Hasher,
        sink: &mut dyn FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut window = vec![0u8; WINDOW.min(len as usize).max(1)];
        let (mut held, mut read) = (0usize, 0u64);
        while read < len || held > 0 {
            let room = (window.len() - held).min((len - read) as usize);
            if room > 0 {
                self.cancel.check()?;
                let n = reading.read_at(&mut window[held..held + room], start + read)?;
                if n < room {
                    return Err(Error::Changed("changed while it was read".into()));
                }
                hasher.update(&window[held..held + n]);
                self.progress.advance(n as u64);
                held += n;
                read += n as u64;
            }
            let mut at = 0;
            while held - at >= cutting.max() || (read == len && at < held) {
                let n = chunker::cut(&cutting, &window[at..held.min(at + cutting.max())]);
                sink(window[at..at + n].to_vec())?;
                at += n;
            }
            window.copy_within(at..held, 0);
            held -= at;
        }
        Ok(())
    }

    fn seal_all(&self, jobs: &Receiver<Job>) -> Result<()> {
        let mut sealer = Sealer::new()?;
        for Job { id, kind, raw, done } in jobs.iter() {
            if let Err(e) = self.put(&mut sealer, id, kind, raw) {
                // The file's worker is waiting for this; if it is gone, so is the run.
                let _ = done.send(e);
            }
        }
        Ok(())
    }

    /// Seals once, puts on every target that lacks the record.
    fn put(&self, sealer: &mut Sealer, id: RecordId, kind: Kind, raw: Vec<u8>) -> Result<()> {
        let mut lacking = Vec::with_capacity(self.targets.len());
        for target in self.targets {
            if !target.packs.has(&[id]).map_err(store_error)?[0] {
                lacking.push(&target.packs);
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        let sealed = sealer.seal(id, kind, raw);
        lacking.into_iter().try_for_each(|packs| packs.put(sealed.clone()).map_err(store_error))
    }
}

/// Marks an error as the store's, not the file's: it ends the run instead of skipping a file.
fn store_error(error: Error) -> Error {
    match error {
        Error::Io { doing, path, source } => {
            Error::Offline { name: "store".into(), why: format!("{doing} {}: {source}", path.display()) }
        }
        e => e,
    }
}

fn is_store_error(error: &Error) -> bool {
    matches!(error, Error::Offline { .. } | Error::NoSpace(_) | Error::Db(_) | Error::Interrupted)
}

fn send(jobs: &Sender<Job>, job: Job) -> Result<()> {
    jobs.send(job).map_err(|_| Error::Interrupted)
}

/// Hashes a hole: what `b3sum` would read there.
fn hash_zeros(hasher: &mut blake3::Hasher, len: u64, cancel: &Cancel) -> Result<()> {
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    let mut left = len;
    while left > 0 {
        cancel.check()?;
        let n = left.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..n as usize]);
        left -= n;
    }
    Ok(())
}

/// Reads a whole file again under a lease that is already held, and tells whether it still has
/// this content (for kernels whose ctime cannot tell).
pub fn still_hashes_to(file: &File, content: ContentId) -> Result<bool> {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0u64;
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let n = std::os::unix::fs::FileExt::read_at(file, &mut buffer, at)
            .map_err(|e| Error::io("reading", "a file", e))?;
        if n == 0 {
            return Ok(hasher.finalize() == blake3::Hash::from_bytes(content.0));
        }
        hasher.update(&buffer[..n]);
        at += n as u64;
    }
}
