//! Files being written while the pieces of their contents come in.
//!
//! Promises that a file is begun at its first piece, so that few are open at once; that each one begun is
//! either finished or given up when the outcomes are asked for; and that none is begun after the first for
//! which there was no room. Knows neither what the files are, nor what is to be done about an outcome.

use std::sync::{Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::fetch::Sink;
use crate::base::error::{Error, Result};
use crate::local::stat::Stat;

/// A file that can be written piece by piece, in any order, from several threads.
pub trait Output: Send + Sync {
    /// Reserves room for everything but these holes (start, length).
    fn reserve(&self, holes: &[(u64, u64)]) -> Result<()>;
    /// Writes a part; each byte once.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;
    /// Ends it: everything but these holes (start, length) was written.
    fn finish(self, holes: &[(u64, u64)]) -> Result<Stat>;
    /// Leaves things as they were before.
    fn abandon(self) -> Result<()>;
}

/// How writing a file ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The file, or why there is none; `None` if it was never begun.
    pub result: Option<Result<Stat>>,
    /// It could be neither finished nor left as it was.
    pub is_torn: bool,
}

impl Outcome {
    /// Whether it was finished.
    pub fn is_whole(&self) -> bool {
        matches!(self.result, Some(Ok(_)))
    }
}

/// Begins the file of that number.
pub type Begin<'a, O> = &'a (dyn Fn(usize) -> Result<O> + Sync);

/// Told how many bytes more were written.
pub type Advance<'a> = &'a (dyn Fn(u64) + Sync);

/// Some files on their way, by their places in the list of what is wanted.
pub struct Writing<'a, O> {
    begin: Begin<'a, O>,
    advance: Advance<'a>,
    /// The first file for which there was no room.
    full: &'a OnceLock<Error>,
    slots: Vec<Slot<O>>,
}

struct Slot<O> {
    /// What stays hole: no room is reserved for it.
    holes: OnceLock<Vec<(u64, u64)>>,
    output: RwLock<Option<O>>,
    is_reserved: Mutex<bool>,
    outcome: Mutex<Outcome>,
}

impl<O> Default for Slot<O> {
    fn default() -> Self {
        Self {
            holes: OnceLock::new(),
            output: RwLock::new(None),
            is_reserved: Mutex::new(false),
            outcome: Mutex::default(),
        }
    }
}

impl<'a, O: Output> Writing<'a, O> {
    /// That many files, none of them begun.
    pub fn new(count: usize, begin: Begin<'a, O>, advance: Advance<'a>, full: &'a OnceLock<Error>) -> Self {
        Self { begin, advance, full, slots: (0..count).map(|_| Slot::default()).collect() }
    }

    /// Begins a file, unless that was done.
    pub fn begin(&self, i: usize) -> Result<()> {
        let slot = &self.slots[i];
        if read(&slot.output).is_some() {
            return Ok(());
        }
        if let Some(full) = self.full.get() {
            return Err(full.again());
        }
        let mut output = write(&slot.output);
        if output.is_none() {
            // It was given up meanwhile.
            if lock(&slot.outcome).result.is_some() {
                return Err(Error::Interrupted);
            }
            *output = Some((self.begin)(i)?);
        }
        Ok(())
    }

    /// How each ended; what was begun and not finished (an interruption) is given up.
    pub fn end(self) -> Vec<Outcome> {
        for (i, slot) in self.slots.iter().enumerate() {
            if read(&slot.output).is_some() {
                self.failed(i, Error::Interrupted);
            }
        }
        let outcome = |slot: Slot<O>| slot.outcome.into_inner().unwrap_or_else(|e| e.into_inner());
        self.slots.into_iter().map(outcome).collect()
    }
}

impl<O: Output> Slot<O> {
    fn holes(&self) -> &[(u64, u64)] {
        self.holes.get().map_or(&[], Vec::as_slice)
    }

    /// Reserves room for all of it, once, before the first byte.
    fn reserve(&self, output: &O) -> Result<()> {
        let mut is_reserved = lock(&self.is_reserved);
        if !*is_reserved {
            output.reserve(self.holes())?;
            *is_reserved = true;
        }
        Ok(())
    }
}

impl<O: Output> Sink for Writing<'_, O> {
    fn holes(&self, i: usize, holes: &[(u64, u64)]) {
        // Told once per content.
        let _ = self.slots[i].holes.set(holes.to_vec());
    }

    fn piece(&self, i: usize, bytes: &[u8], offset: u64) -> Result<()> {
        let slot = &self.slots[i];
        self.begin(i)?;
        // Several threads write pieces of one file; it is only taken out at the end.
        if let Some(output) = read(&slot.output).as_ref() {
            slot.reserve(output)?;
            output.write_at(bytes, offset)?;
            (self.advance)(bytes.len() as u64);
        }
        Ok(())
    }

    fn whole(&self, i: usize, holes: &[(u64, u64)]) -> Result<()> {
        let slot = &self.slots[i];
        self.begin(i)?;
        if let Some(output) = write(&slot.output).take() {
            let stat = output.finish(holes).inspect_err(|_| lock(&slot.outcome).is_torn = true)?;
            lock(&slot.outcome).result = Some(Ok(stat));
        }
        Ok(())
    }

    fn failed(&self, i: usize, error: Error) {
        let slot = &self.slots[i];
        let given_up = write(&slot.output).take().map(O::abandon);
        let mut outcome = lock(&slot.outcome);
        let error = match given_up {
            Some(Err(also)) => {
                outcome.is_torn = true;
                Error::Changed(format!("{error}; and it could not be left as it was: {also}"))
            }
            _ => error,
        };
        if matches!(error, Error::NoSpace(_)) {
            // A later one changes nothing.
            let _ = self.full.set(error.again());
        }
        outcome.result = Some(Err(error));
    }

    fn wants_more(&self) -> bool {
        self.full.get().is_none()
    }
}

// A panic elsewhere already ends the run; what the locks keep is only a handle or an outcome.

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|e| e.into_inner())
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|e| e.into_inner())
}
