//! Reading the log objects of one origin, one after another.
//!
//! Promises that what it returns is signed and is what its name says, and that a bucket far away is asked
//! for many at a time, within bounded memory. Whether batches follow each other is the caller's business.

use std::collections::{HashMap, VecDeque};

use super::survey::LogObject;
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, OriginId};
use crate::format::log::{self as format, Batch, MAX_RAW};
use crate::store::Bucket;

/// Larger objects are refused unread: a batch at its limits, its head and signature.
const MAX_OBJECT: u64 = (MAX_RAW + (128 << 10)) as u64;
/// Objects read together, and their bytes.
const TOGETHER: usize = 256;
const TOGETHER_BYTES: u64 = 8 << 20;

/// Objects that are about to be loaded.
pub struct LogReader<'a> {
    bucket: &'a dyn Bucket,
    folder: FolderId,
    /// Whose they are.
    pub origin: &'a OriginId,
    ahead: VecDeque<&'a LogObject>,
    held: HashMap<&'a str, Result<Vec<u8>>>,
}

impl<'a> LogReader<'a> {
    /// Nothing is read yet; `objects` in the order in which they will be loaded.
    pub fn new(
        bucket: &'a dyn Bucket,
        folder: FolderId,
        origin: &'a OriginId,
        objects: impl Iterator<Item = &'a LogObject>,
    ) -> Self {
        let readable = objects.filter(|o| o.size <= MAX_OBJECT);
        Self { bucket, folder, origin, ahead: readable.collect(), held: HashMap::new() }
    }

    /// Reads and verifies one object: its signature, and that it is what its name says. Returns its bytes
    /// too.
    pub fn load(&mut self, object: &LogObject) -> Result<(Batch, Vec<u8>)> {
        let bad = |why: &str| Error::corrupt(&object.name, why);
        if object.size > MAX_OBJECT {
            return Err(bad("too large for a log object"));
        }
        let bytes = self.bytes(object)?;
        if bytes.len() as u64 != object.size {
            return Err(bad("shorter than listed"));
        }
        let batch = format::decode(&bytes).map_err(|e| match e {
            Error::Corrupt { what, why } => bad(&format!("{what}: {why}")),
            other => other,
        })?;
        if batch.head.folder != self.folder {
            return Err(bad("belongs to another folder"));
        }
        let named = (object.from, object.to);
        if batch.head.origin() != *self.origin || (batch.head.from, batch.head.to()) != named {
            return Err(bad("is not the batch its name says"));
        }
        // SQLite integers are signed; no honest clock gets near.
        if batch.entries.iter().any(|e| e.hlc > i64::MAX as u64) {
            return Err(bad("clock value out of range"));
        }
        Ok((batch, bytes))
    }

    fn bytes(&mut self, object: &LogObject) -> Result<Vec<u8>> {
        if let Some(held) = self.held.remove(object.name.as_str()) {
            return held;
        }
        match self.ahead.iter().position(|o| o.name == object.name) {
            Some(at) => {
                // Those before it are not wanted any more.
                self.ahead.drain(..at);
                self.read_ahead()?;
                self.held.remove(object.name.as_str()).unwrap_or(Err(Error::Interrupted))
            }
            None => self.bucket.get(&object.name, 0..object.size),
        }
    }

    /// Reads the next few.
    fn read_ahead(&mut self) -> Result<()> {
        let (mut some, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.ahead.front()
            && some.len() < TOGETHER
            && (some.is_empty() || bytes + next.size <= TOGETHER_BYTES)
        {
            bytes += next.size;
            some.extend(self.ahead.pop_front());
        }
        let wanted: Vec<_> = some.iter().map(|o| (o.name.clone(), 0..o.size)).collect();
        let held = &mut self.held;
        // What was read before and not taken is not wanted any more.
        held.clear();
        self.bucket.get_all(&wanted, &mut |i, got| {
            held.insert(&some[i].name, got);
            Ok(())
        })
    }
}
