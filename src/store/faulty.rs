//! A bucket that fails, lies or loses data on a script.
//!
//! Promises that calls the script does not name behave as the wrapped bucket's. Knows nothing of
//! what is stored; it exists so that everything above can be shown to survive such a bucket.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Bucket;
use crate::base::error::{Error, Result};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// The call that a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultOp {
    /// [`Bucket::put`].
    Put,
    /// [`Bucket::get`].
    Get,
    /// [`Bucket::list`].
    List,
    /// [`Bucket::delete`].
    Delete,
}

/// What happens instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Fails with EIO and does nothing.
    Error,
    /// A put that answers Ok, but the object is not there.
    LosesPut,
    /// A put that fails and leaves nothing.
    TornPut,
    /// A get with one bit changed.
    FlipsBit,
    /// A get that says there is no such object.
    Missing,
    /// This put and every later one finds no room.
    Full,
    /// From this call on nothing of the bucket can be reached.
    Gone,
}

/// One line of the script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which kind of call.
    pub op: FaultOp,
    /// Which one of these, from 1.
    pub nth: u64,
    /// What it does.
    pub what: What,
}

/// A bucket under a script of faults.
pub struct Faulty<B: Bucket> {
    inner: B,
    faults: Vec<Fault>,
    seen: [AtomicU64; 4],
    full: AtomicBool,
    gone: AtomicBool,
}

impl<B: Bucket> Faulty<B> {
    /// Wraps a bucket.
    pub fn new(inner: B, faults: Vec<Fault>) -> Self {
        Self { inner, faults, seen: Default::default(), full: false.into(), gone: false.into() }
    }

    /// The bucket inside, which has no faults.
    pub fn inner(&self) -> &B {
        &self.inner
    }

    /// From now on nothing of it can be reached, or everything again.
    pub fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::SeqCst);
    }

    /// From now on there is no room, or there is again.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// How many calls of a kind there were.
    pub fn calls(&self, op: FaultOp) -> u64 {
        self.seen[op as usize].load(Ordering::SeqCst)
    }

    /// Counts a call and looks up its fault.
    fn fault(&self, op: FaultOp) -> Option<What> {
        let nth = self.seen[op as usize].fetch_add(1, Ordering::SeqCst) + 1;
        let what = self.faults.iter().find(|f| f.op == op && f.nth == nth).map(|f| f.what);
        match what {
            Some(What::Full) => self.set_full(true),
            Some(What::Gone) => self.set_gone(true),
            _ => {}
        }
        let full = self.full.load(Ordering::SeqCst) && op == FaultOp::Put;
        match self.gone.load(Ordering::SeqCst) {
            true => Some(What::Gone),
            false if full => Some(What::Full),
            false => what,
        }
    }
}

/// The error that a fault is.
fn error(what: What, doing: &'static str, name: &str) -> Error {
    match what {
        What::Full => Error::io(doing, name, io::Error::from_raw_os_error(ENOSPC)),
        What::Gone => Error::Offline { name: "faulty".into(), why: "the script says so".into() },
        _ => Error::io(doing, name, io::Error::from_raw_os_error(EIO)),
    }
}

impl<B: Bucket> Bucket for Faulty<B> {
    fn put(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        match self.fault(FaultOp::Put) {
            None => self.inner.put(name, parts),
            Some(What::LosesPut) => Ok(()),
            Some(what) => Err(error(what, "writing", name)),
        }
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        match self.fault(FaultOp::Get) {
            None => self.inner.get(name, range),
            Some(What::FlipsBit) => {
                let mut bytes = self.inner.get(name, range)?;
                let middle = bytes.len() / 2;
                bytes.get_mut(middle).into_iter().for_each(|b| *b ^= 1);
                Ok(bytes)
            }
            Some(What::Missing) => Err(Error::Missing(name.into())),
            Some(what) => Err(error(what, "reading", name)),
        }
    }

    fn list(&self, prefix: &str, sink: &mut dyn FnMut(&str, u64) -> Result<()>) -> Result<()> {
        match self.fault(FaultOp::List) {
            None => self.inner.list(prefix, sink),
            Some(what) => Err(error(what, "listing", prefix)),
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        match self.fault(FaultOp::Delete) {
            None => self.inner.delete(name),
            Some(what) => Err(error(what, "deleting", name)),
        }
    }
}
