//! Placing: files are read under a lease, cut, hashed, sealed and put on stores by a few threads.
//!
//! Promises that a file comes out as [`Found`] only after each of its records was put to the store
//! (durable after its `flush`), with the proof of which bytes were read; that stub
//! bytes never become content (I5); and that memory is bounded by the queues. Local files are only
//! read here.

use std::fs::File;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Result};
use crate::base::id::{ContentId, FolderId, RecordId};
use crate::base::path::RelPath;
use crate::base::progress::Progress;
use crate::format::key::Keys;
use crate::format::seal::Sealer;
use crate::format::stub::{HEADER_LEN, StubHead};
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
    /// A regular file, whole in the store.
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
    /// Gets every record, if any store can be reached.
    pub store: Option<&'a dyn Store>,
    /// Receives bytes read.
    pub progress: &'a dyn Progress,
    /// Ends the run early.
    pub cancel: &'a Cancel,
}

/// Set when one thread has failed, so that the others do not carry on for nothing.
type Failed = std::sync::atomic::AtomicBool;

/// A record's decoded bytes.
struct Raw {
    id: RecordId,
    /// First chunk of the content it belongs to.
    content: RecordId,
    kind: Kind,
    bytes: Vec<u8>,
}

/// One record on its way to the sealers.
struct Job {
    raw: Raw,
    /// Dropped when the record was put; carries an error back if it was not.
    done: Sender<Error>,
}

/// Bytes held while a large file is cut: at least twice the largest chunk.
const WINDOW: usize = 16 << 20;

impl Placer<'_> {
    /// Reads every path of `paths` (each with its size) and hands each to `sink` on the calling thread, in
    /// the order in which they are finished.
    pub fn run(
        &self,
        paths: &mut (dyn Iterator<Item = Result<(u64, RelPath)>> + Send),
        sink: &mut dyn FnMut(RelPath, Found) -> Result<()>,
    ) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).max(2);
        let (path_tx, path_rx) = bounded::<Vec<RelPath>>(threads * 2);
        let (job_tx, job_rx) = bounded::<Job>(threads * 2);
        let (found_tx, found_rx) = bounded::<Vec<(RelPath, Found)>>(512);
        let failed = Failed::new(false);
        let failed = &failed;
        std::thread::scope(|scope| {
            let feeder = scope.spawn(move || -> Result<()> {
                let mut portion = Portion::default();
                for item in paths {
                    let (size, path) = item?;
                    let full = portion.push(size, path);
                    // The receivers are gone only if the run has failed elsewhere.
                    if self.cancel.is_cancelled() || (full && path_tx.send(portion.take()).is_err()) {
                        return Ok(());
                    }
                }
                // As above.
                let _ = path_tx.send(portion.take());
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
            for portion in found_rx.iter() {
                result = portion.into_iter().try_for_each(|(path, found)| sink(path, found));
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
        portions: &Receiver<Vec<RelPath>>,
        jobs: &Sender<Job>,
        out: &Sender<Vec<(RelPath, Found)>>,
        failed: &Failed,
    ) -> Result<()> {
        let mut sealer = Sealer::new()?;
        for portion in portions.iter() {
            let mut done = Vec::with_capacity(portion.len());
            let mut small = Vec::new();
            for path in portion {
                if failed.load(Relaxed) || self.cancel.is_cancelled() {
                    break;
                }
                let found = match self.look(&path, jobs, &mut small) {
                    Ok(found) => found,
                    Err(e) if is_store_error(&e) => {
                        failed.store(true, Relaxed);
                        return Err(e);
                    }
                    Err(e) if e.is_missing() => Found::Gone,
                    Err(e) => Found::Problem(e),
                };
                done.push((path, found));
            }
            self.put_all(&mut sealer, small).inspect_err(|_| failed.store(true, Relaxed))?;
            if out.send(done).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn look(&self, path: &RelPath, jobs: &Sender<Job>, small: &mut Vec<Raw>) -> Result<Found> {
        // Nearly everything is a file: opening it tells as much as looking first.
        match Reading::open(self.tree, path) {
            Ok(reading) => return self.file(reading, jobs, small),
            Err(e) if e.is_missing() => return Ok(Found::Gone),
            Err(_) => {}
        }
        let Some(stat) = self.tree.stat(path)? else { return Ok(Found::Gone) };
        match stat.kind {
            FileType::Dir => Ok(Found::Dir(stat)),
            FileType::Symlink => Ok(Found::Symlink(stat, self.tree.read_link(path)?)),
            FileType::Other(what) => Err(Error::Unsupported(format!("a {what}, which ddr does not keep"))),
            FileType::File => self.file(Reading::open(self.tree, path)?, jobs, small),
        }
    }

    fn file(&self, reading: Reading, jobs: &Sender<Job>, small: &mut Vec<Raw>) -> Result<Found> {
        let cutting = Cutting::default();
        let size = reading.stat().size;
        let extents = reading.extents()?;
        let whole = matches!(extents.as_slice(), [] | [Extent::Data { .. }]);
        if whole && size <= cutting.min() as u64 {
            return self.small(reading, small);
        }
        let first = inspect::first_block(reading.file())?;
        match self.only_full(reading, &first)? {
            Ok(reading) => self.large(reading, &extents, cutting, jobs),
            Err(stub) => Ok(stub),
        }
    }

    /// Goes on with a full file, freed of a mark it outlived; a stub is a finding, anything odd is the
    /// user's and left alone.
    fn only_full(&self, reading: Reading, first: &[u8]) -> Result<std::result::Result<Reading, Found>> {
        let stat = reading.stat();
        match inspect::inspect_mark(reading.file(), stat, first, self.keys, self.folder)? {
            (State::Full, false) => Ok(Ok(reading)),
            (State::Full, true) => Ok(Ok(reading.unmark()?)),
            (State::Stub(head), _) => Ok(Err(Found::Stub(stat.clone(), head))),
            (State::Filling(_), _) => Err(Error::Refused(inspect::HALF_FILLED.into())),
            (State::Odd(why), _) => Err(Error::Refused(why)),
        }
    }

    /// One read, one record; it is put together with the others of its portion.
    fn small(&self, reading: Reading, small: &mut Vec<Raw>) -> Result<Found> {
        let size = reading.stat().size;
        let mut raw = vec![0u8; size as usize];
        if reading.read_at(&mut raw, 0)? as u64 != size {
            return Err(Error::Changed("changed while it was read".into()));
        }
        let first = &raw[..raw.len().min(HEADER_LEN)];
        let reading = match self.only_full(reading, first)? {
            Ok(reading) => reading,
            Err(stub) => return Ok(stub),
        };
        let proof = reading.finish()?;
        self.progress.advance(size);
        let content = ContentId(*blake3::hash(&raw).as_bytes());
        if raw.is_empty() {
            return Ok(Found::File(Placed { proof, content, body: None, records: vec![] }));
        }
        let id = self.keys.record_id(Kind::Chunk, &raw);
        small.push(Raw { id, content: id, kind: Kind::Chunk, bytes: raw });
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
        let mut first = None;
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
                        let content = *first.get_or_insert(id);
                        let raw = Raw { id, content, kind: Kind::Chunk, bytes: raw };
                        send(jobs, Job { raw, done: done_tx.clone() })
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
                let raw = Raw { id, content: first.unwrap_or(id), kind: Kind::Manifest, bytes: raw };
                send(jobs, Job { raw, done: done_tx.clone() })?;
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
        for Job { raw, done } in jobs.iter() {
            if let Err(e) = self.put_all(&mut sealer, vec![raw]) {
                // The file's worker is waiting for this; if it is gone, so is the run.
                let _ = done.send(e);
            }
        }
        Ok(())
    }

    /// Seals each record that the store lacks, and puts it there.
    fn put_all(&self, sealer: &mut Sealer, raw: Vec<Raw>) -> Result<()> {
        let Some(store) = self.store else { return Ok(()) };
        let ids: Vec<RecordId> = raw.iter().map(|r| r.id).collect();
        let has = store.has(&ids).map_err(store_error)?;
        for (Raw { id, content, kind, bytes }, has) in raw.into_iter().zip(has) {
            if !has {
                store.put(content, sealer.seal(id, kind, bytes)).map_err(store_error)?;
            }
        }
        Ok(())
    }
}

/// Paths that one worker takes at once: many small files, or one large one.
#[derive(Default)]
struct Portion {
    paths: Vec<RelPath>,
    bytes: u64,
}

impl Portion {
    /// Adds a path; tells whether it is enough.
    fn push(&mut self, size: u64, path: RelPath) -> bool {
        self.paths.push(path);
        self.bytes += size;
        self.paths.len() >= 64 || self.bytes >= 1 << 20
    }

    fn take(&mut self) -> Vec<RelPath> {
        self.bytes = 0;
        std::mem::take(&mut self.paths)
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
