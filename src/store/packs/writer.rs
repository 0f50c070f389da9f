//! Writing records: collected into packs, verified and put by a few threads.
//!
//! Promises that a pack is put only after each of its records was decoded and hashed from memory;
//! that a pack of manifests is put only when every chunk taken before it is durable; that what is
//! in memory stays within a few packs; and that after a failure nothing more is taken.

use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, RecordId};
use crate::base::units::Time;
use crate::format::key::Keys;
use crate::format::pack::PackWriter;
use crate::format::seal::{Opener, Sealed};
use crate::model::entry::Kind;
use crate::store::index::NewPack;
use crate::store::packs::catalog::Catalog;
use crate::store::{Bucket, names};

/// Packs that may wait for a thread before `put` waits, too.
const QUEUE: usize = 1;

/// A full pack on its way to the bucket.
struct Job {
    /// Place in the order in which packs were closed.
    seq: u64,
    kind: Kind,
    pack: PackWriter,
}

#[derive(Default)]
struct State {
    data: Option<PackWriter>,
    meta: Option<PackWriter>,
    /// Taken, but not in the index yet.
    pending: HashSet<RecordId>,
    waiting: VecDeque<Job>,
    /// Jobs that a thread is at work on.
    active: Vec<(u64, Kind)>,
    next: u64,
    threads: usize,
    failed: Option<Error>,
    closing: bool,
}

impl State {
    /// All jobs not done yet.
    fn unfinished(&self) -> impl Iterator<Item = (u64, Kind)> + '_ {
        self.waiting.iter().map(|j| (j.seq, j.kind)).chain(self.active.iter().copied())
    }

    /// The first job that may start: manifests wait for the chunks closed before them.
    fn take_ready(&mut self) -> Option<Job> {
        let chunks_before = |seq| self.unfinished().any(|(s, kind)| kind == Kind::Chunk && s < seq);
        let at = self.waiting.iter().position(|j| j.kind == Kind::Chunk || !chunks_before(j.seq))?;
        let job = self.waiting.remove(at)?;
        self.active.push((job.seq, job.kind));
        Some(job)
    }

    /// Closes the open pack of a kind; manifests close the chunks before them first.
    fn close(&mut self, kind: Kind) {
        if kind == Kind::Manifest {
            self.close(Kind::Chunk);
        }
        let open = match kind {
            Kind::Chunk => &mut self.data,
            Kind::Manifest => &mut self.meta,
        };
        if let Some(pack) = open.take() {
            self.waiting.push_back(Job { seq: self.next, kind, pack });
            self.next += 1;
        }
    }

    /// Drops all that is not with a thread: it will never be written.
    fn give_up(&mut self) {
        self.pending.clear();
        self.waiting.clear();
        (self.data, self.meta) = (None, None);
    }

    fn check(&self) -> Result<()> {
        self.failed.as_ref().map_or(Ok(()), |e| Err(e.again()))
    }
}

/// What the writing threads share with the handle.
struct Shared {
    bucket: Arc<dyn Bucket>,
    catalog: Arc<Catalog>,
    folder: FolderId,
    keys: Keys,
    state: Mutex<State>,
    /// A job came or may start, or the handle closes.
    work: Condvar,
    /// A job is done.
    done: Condvar,
}

/// The writing half of a handle.
pub struct Writer {
    shared: Arc<Shared>,
    limit: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Writer {
    /// `limit` threads at most; none is started before there is a pack to write.
    pub fn new(
        bucket: Arc<dyn Bucket>,
        catalog: Arc<Catalog>,
        folder: FolderId,
        keys: &Keys,
        limit: usize,
    ) -> Self {
        let (state, work, done) = (Mutex::default(), Condvar::new(), Condvar::new());
        let shared = Shared { bucket, catalog, folder, keys: keys.clone(), state, work, done };
        Self { shared: Arc::new(shared), limit: limit.max(1), threads: Mutex::default() }
    }

    /// Changes the number of threads.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Marks in `found` the ids that were put but are not in the index yet.
    pub fn mark_pending(&self, ids: &[RecordId], found: &mut [bool]) {
        let state = self.shared.state();
        if !state.pending.is_empty() {
            ids.iter().zip(found).for_each(|(id, found)| *found |= state.pending.contains(id));
        }
    }

    /// Whether any of these was put but is not in the index yet.
    pub fn has_pending(&self, ids: &[RecordId]) -> bool {
        let state = self.shared.state();
        !state.pending.is_empty() && ids.iter().any(|id| state.pending.contains(id))
    }

    /// Whether nothing waits to be written.
    pub fn is_idle(&self) -> bool {
        self.shared.state().pending.is_empty()
    }

    /// Takes a record; waits while too many packs are under way.
    pub fn put(&self, sealed: Sealed) -> Result<()> {
        let mut state = self.shared.state();
        state.check()?;
        if !state.pending.insert(sealed.id) {
            return Ok(());
        }
        let kind = sealed.kind;
        let open = match kind {
            Kind::Chunk => &mut state.data,
            Kind::Manifest => &mut state.meta,
        };
        let closes = open.as_ref().is_some_and(|pack| pack.is_full(sealed.payload.len()));
        if closes {
            state.close(kind);
        }
        let open = match kind {
            Kind::Chunk => &mut state.data,
            Kind::Manifest => &mut state.meta,
        };
        open.get_or_insert_with(|| PackWriter::new(self.shared.folder, names::fresh())).push(sealed);
        if closes {
            // The full pack is in the queue already, so that whoever flushes meanwhile waits for it.
            state = self.start(state)?;
            while state.waiting.len() > QUEUE && state.failed.is_none() {
                state = wait(&self.shared.done, state);
            }
            state.check()?;
        }
        Ok(())
    }

    /// Closes the open packs and waits until all that was put before is durable and in the index.
    pub fn flush(&self) -> Result<()> {
        let mut state = self.shared.state();
        state.check()?;
        state.close(Kind::Manifest);
        let mark = state.next;
        state = self.start(state)?;
        while state.failed.is_none() && state.unfinished().any(|(seq, _)| seq < mark) {
            state = wait(&self.shared.done, state);
        }
        state.check()
    }

    /// Wakes threads for the waiting jobs, and starts more if there are fewer than jobs.
    fn start<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>> {
        let wanted = state.unfinished().count().min(self.limit);
        while state.threads < wanted {
            let shared = Arc::clone(&self.shared);
            let spawned = std::thread::Builder::new().name("pack writer".into()).spawn(move || shared.run());
            match spawned {
                Ok(thread) => {
                    self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
                    state.threads += 1;
                }
                // One thread is enough to get on.
                Err(_) if state.threads > 0 => break,
                Err(e) => {
                    let e = Error::io("starting a thread for", "pack writing", e);
                    state.failed = Some(e.again());
                    state.give_up();
                    return Err(e);
                }
            }
        }
        self.shared.work.notify_all();
        Ok(state)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.closing = true;
            // Nobody flushed what is left, so nobody relies on it.
            state.give_up();
        }
        self.shared.work.notify_all();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic in a thread was already turned into a failure.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A writing thread's life.
    fn run(&self) {
        let mut opener = None;
        while let Some(job) = self.next_job() {
            let (seq, ids) = (job.seq, job.pack.records().iter().map(|r| r.id).collect::<Vec<_>>());
            let wrote = catch_unwind(AssertUnwindSafe(|| self.write(job, &mut opener)))
                .unwrap_or_else(|_| Err(Error::Changed("writing a pack failed unexpectedly".into())));
            let mut state = self.state();
            state.active.retain(|(active, _)| *active != seq);
            match wrote {
                Ok(()) => {
                    for id in &ids {
                        state.pending.remove(id);
                    }
                }
                Err(e) => {
                    state.failed.get_or_insert(e);
                    state.give_up();
                }
            }
            drop(state);
            self.done.notify_all();
            self.work.notify_all();
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            if state.closing {
                return None;
            }
            if state.failed.is_none()
                && let Some(job) = state.take_ready()
            {
                drop(state);
                // There is room in the queue now.
                self.done.notify_all();
                return Some(job);
            }
            state = wait(&self.work, state);
        }
    }

    /// Verifies, puts and indexes one pack.
    fn write(&self, job: Job, opener: &mut Option<Opener>) -> Result<()> {
        let opener = match opener {
            Some(opener) => opener,
            None => opener.insert(Opener::new(&self.keys)?),
        };
        job.pack.records().iter().try_for_each(|record| opener.verify(record))?;
        let verified = Time::now().secs.max(1);
        let pack = job.pack.finish();
        let parts: Vec<&[u8]> = pack.parts.iter().map(|p| p.as_slice()).collect();
        self.bucket.put(&names::pack(job.kind, pack.id), &parts)?;
        let size = pack.len();
        self.catalog.add(&NewPack { name: pack.id, kind: job.kind, size, rows: Ok(&pack.rows), verified })
    }
}

fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    condition.wait(state).unwrap_or_else(PoisonError::into_inner)
}
