//! One store within a layout: whether it is at work, how fast it answers, what of it is damaged.
//!
//! Promises that a member which failed to write is not written to again in this run, that one which
//! could not be read is not asked at all, and that the first reason stays. Knows nothing of the other
//! members.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Store;
use crate::base::error::{Error, Result};
use crate::base::id::RecordId;
use crate::format::seal::Sealed;

/// Damaged records remembered per member; what is beyond is found again another time.
const MAX_DAMAGED: usize = 100_000;
/// Assumed before anything was read: nanoseconds per byte at 200 MB/s.
const NOMINAL: u64 = 5;

/// Why a member is no longer at work.
#[derive(Default)]
struct Out {
    /// The first failure of any kind: nothing more is written.
    writing: Option<Error>,
    /// Nothing is read any more either.
    deaf: bool,
}

/// A store with what became of it in this run. Shared by everybody who uses the store.
pub struct Member {
    name: String,
    store: Arc<dyn Store>,
    latency: Duration,
    read_nanos: AtomicU64,
    read_bytes: AtomicU64,
    out: Mutex<Out>,
    damaged: Mutex<BTreeSet<RecordId>>,
}

impl Member {
    /// A store that is at work; `latency` is how long it took to answer something small.
    pub fn new(name: &str, store: Arc<dyn Store>, latency: Duration) -> Self {
        Self {
            name: name.into(),
            store,
            latency,
            read_nanos: AtomicU64::default(),
            read_bytes: AtomicU64::default(),
            out: Mutex::default(),
            damaged: Mutex::default(),
        }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it can be written to: nothing of it has failed in this run.
    pub fn is_at_work(&self) -> bool {
        lock(&self.out).writing.is_none()
    }

    /// Whether it can be read: a full store can, one that is gone cannot.
    pub fn is_readable(&self) -> bool {
        !lock(&self.out).deaf
    }

    /// Why it is no longer at work.
    pub fn why_out(&self) -> Option<Error> {
        lock(&self.out).writing.as_ref().map(Error::again)
    }

    /// Ends its part in this run.
    pub fn drop_out(&self, why: Error) {
        let mut out = lock(&self.out);
        out.deaf = true;
        out.writing.get_or_insert(why);
    }

    /// Writes to the store, unless it is not at work; whether it did. After a failure it is not: nothing
    /// more is written to it in this run. An interruption is nobody's fault.
    pub fn write(&self, work: impl FnOnce(&dyn Store) -> Result<()>) -> Result<bool> {
        if !self.is_at_work() {
            return Ok(false);
        }
        match work(self.store.as_ref()) {
            Ok(()) => Ok(true),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(e) => {
                let mut out = lock(&self.out);
                out.deaf |= matches!(e, Error::Offline { .. });
                out.writing.get_or_insert(e);
                Ok(false)
            }
        }
    }

    /// Asks the store; `None` if it cannot be read (any more). A failure ends its part in this run.
    pub fn ask<T>(&self, work: impl FnOnce(&dyn Store) -> Result<T>) -> Result<Option<T>> {
        if !self.is_readable() {
            return Ok(None);
        }
        match work(self.store.as_ref()) {
            Ok(answer) => Ok(Some(answer)),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(e) => {
                self.drop_out(e);
                Ok(None)
            }
        }
    }

    /// Reads records; damaged ones are remembered. An error of `sink` ends the call; one of the store
    /// ends its part in this run, and what was not answered until then is for others to answer.
    pub fn read(
        &self,
        ids: &[RecordId],
        sink: &mut dyn FnMut(RecordId, Result<Sealed>) -> Result<()>,
    ) -> Result<()> {
        let (start, mut elsewhere, mut bytes) = (Instant::now(), Duration::ZERO, 0);
        let mut refused = None;
        self.ask(|store| {
            let read = store.get(ids, &mut |id, got| {
                match &got {
                    Ok(sealed) => bytes += sealed.payload.len() as u64,
                    Err(e) if !e.is_missing() => self.note_damaged(id),
                    Err(_) => {}
                }
                let before = Instant::now();
                let taken = sink(id, got);
                elsewhere += before.elapsed();
                taken.map_err(|e| {
                    refused = Some(e);
                    Error::Interrupted
                })
            });
            match read {
                Err(_) if refused.is_some() => Ok(()),
                read => read,
            }
        })?;
        if bytes > 0 {
            self.read_bytes.fetch_add(bytes, Relaxed);
            let spent = start.elapsed().saturating_sub(elsewhere).as_nanos();
            self.read_nanos.fetch_add(u64::try_from(spent).unwrap_or(u64::MAX), Relaxed);
        }
        refused.map_or(Ok(()), Err)
    }

    /// Expected time to read one MiB: how far away it is.
    pub fn distance(&self) -> Duration {
        let (nanos, bytes) = (self.read_nanos.load(Relaxed), self.read_bytes.load(Relaxed));
        let per_mib = match bytes {
            0 => NOMINAL << 20,
            bytes => (u128::from(nanos) << 20).checked_div(u128::from(bytes)).unwrap_or(0) as u64,
        };
        self.latency + Duration::from_nanos(per_mib)
    }

    /// Remembers that its copy of a record is not good.
    pub fn note_damaged(&self, id: RecordId) {
        let mut damaged = lock(&self.damaged);
        if damaged.len() < MAX_DAMAGED {
            damaged.insert(id);
        }
    }

    /// The damaged records noted since this was asked last.
    pub fn take_damaged(&self) -> Vec<RecordId> {
        std::mem::take(&mut *lock(&self.damaged)).into_iter().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
