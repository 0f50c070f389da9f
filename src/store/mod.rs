//! Chunks at rest: buckets of write-once objects, and stores of records built on them.
//!
//! Promises stated per trait below and checked by one conformance suite (`tests/stores.rs`) for
//! every implementation. Knows nothing of files, folders' trees or policy.

use std::ops::Range;

use crate::base::error::Result;
use crate::base::id::{PackId, RecordId};
use crate::format::seal::Sealed;
use crate::model::entry::Kind;

pub mod dir;
pub mod domain;
pub mod faulty;
mod group;
pub mod holds;
pub mod index;
pub mod marks;
pub mod member;
pub mod memory;
pub mod mirror;
pub mod names;
pub mod packs;
pub mod spread;

/// A flat set of named, write-once objects: a directory, an sftp path, later S3.
///
/// Names are relative, `/`-separated, of `[a-z0-9._-]` components. All methods may be called from
/// many threads.
pub trait Bucket: Send + Sync {
    /// Makes an object of these parts. It appears only when whole, and is durable (file and name)
    /// on return. An existing name is [`Error::Refused`](crate::base::error::Error::Refused) and stays as it was.
    fn put(&self, name: &str, parts: &[&[u8]]) -> Result<()>;

    /// Makes several objects, which appear in this order; durable on return. After an error the first
    /// of them may have appeared.
    fn put_all(&self, objects: &[(String, Vec<u8>)]) -> Result<()> {
        objects.iter().try_for_each(|(name, bytes)| self.put(name, &[bytes]))
    }

    /// The bytes of a range; fewer at the end of the object. `Missing` if there is no such object;
    /// `Offline` if the bucket itself is not there.
    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>>;

    /// Reads many ranges, each as [`Bucket::get`] does, and hands them on in this order by their place in
    /// the list; a bucket far away asks for several ahead. An error of the sink ends the call.
    fn get_all(
        &self,
        wanted: &[(String, Range<u64>)],
        sink: &mut dyn FnMut(usize, Result<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        wanted.iter().enumerate().try_for_each(|(i, (name, range))| sink(i, self.get(name, range.clone())))
    }

    /// Calls `sink` with name and size of every object whose name starts with `prefix` (which ends
    /// in `/` or is empty), in any order. An error means that the listing is not complete.
    fn list(&self, prefix: &str, sink: &mut dyn FnMut(&str, u64) -> Result<()>) -> Result<()>;

    /// Removes an object, durably on return; no error if it is already gone.
    fn delete(&self, name: &str) -> Result<()>;

    /// Removes objects, in any order, durably on return; after an error some of them may be gone. A bucket far
    /// away removes several at once.
    fn delete_all(&self, names: &[String]) -> Result<()> {
        names.iter().try_for_each(|name| self.delete(name))
    }

    /// Bytes that can still be put, where the bucket can tell.
    fn room(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Keeps records: chunks and manifests under their keyed ids.
///
/// Nothing is durable until [`Store::flush`] returns. Putting a record twice is harmless.
pub trait Store: Send + Sync {
    /// Per id, whether the record is readable here or was put through this handle. Records in
    /// condemned packs count as absent.
    fn has(&self, ids: &[RecordId]) -> Result<Vec<bool>>;

    /// Reads records, in an order that suits the store, each once per distinct id; `sink` gets the
    /// record or why it cannot be read (`Missing`, `Corrupt`, ...). The bytes are unverified until
    /// opened ([`crate::format::seal::Opener`]). An error from `sink` ends the call.
    fn get(
        &self,
        ids: &[RecordId],
        sink: &mut dyn FnMut(RecordId, Result<Sealed>) -> Result<()>,
    ) -> Result<()>;

    /// Takes a record to keep; may return before it is written. `content` is the first chunk of the
    /// content it belongs to: records of one content are kept together. Callers ask [`Store::has`]
    /// first: a record that is already there may be kept twice. After a failed write every later `put`
    /// and `flush` of this handle fails.
    fn put(&self, content: RecordId, sealed: Sealed) -> Result<()>;

    /// Returns once every record put before is decoded, verified, durable and visible.
    fn flush(&self) -> Result<()>;

    /// Calls `sink` for every record that `has` would report, in id order.
    fn list(&self, sink: &mut dyn FnMut(RecordId, Kind) -> Result<()>) -> Result<()>;
}

/// Takes packs away; only gc (for condemned packs) and repair (for damaged ones) may call this.
pub trait Prune {
    /// Deletes packs, objects first, then their rows. A pack that is not condemned by the newest
    /// gc mark, or is damaged, is [`Error::Refused`](crate::base::error::Error::Refused), and then nothing is deleted. Packs
    /// already gone are no error.
    fn remove(&self, packs: &[PackId]) -> Result<()>;

    /// Moves a pack to `quarantine/` as it is: copied whole, then deleted. Returns its new name.
    fn quarantine(&self, pack: PackId) -> Result<String>;
}
