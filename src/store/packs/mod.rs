//! A store of packs on any bucket, with the opener's own index.
//!
//! Promises what [`Store`] and [`Prune`] promise, on top of a [`Bucket`] that keeps its own. What
//! lies where is asked of the index; the bucket is listed only by [`Packs::refresh`]. Knows nothing
//! of what the records mean.

mod catalog;
mod listing;
mod prune;
mod reader;
mod verify;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use self::catalog::Catalog;
pub use self::listing::OpenStats;
pub use self::prune::move_away;
use self::writer::Writer;
use super::index::{Index, Location, Place};
use super::{Bucket, Prune, Store, names};
use crate::base::error::{Error, Result};
use crate::base::id::{FolderId, PackId, RecordId, StoreId};
use crate::format::key::Keys;
use crate::format::pack::Row;
use crate::format::seal::Sealed;
use crate::format::store::StoreHead;
use crate::model::entry::Kind;

/// Threads that write packs, unless said otherwise.
const WRITERS: usize = 2;
/// Rows that `list` takes from the index at a time.
const PAGE: usize = 4096;
/// The `folder` object is a few hundred bytes.
const MAX_HEAD: u64 = 64 << 10;

/// What is known of one pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackInfo {
    /// Its number in this handle's index.
    pub num: i64,
    /// Its name.
    pub name: PackId,
    /// Whether it holds chunks or manifests.
    pub kind: Kind,
    /// Size of the object.
    pub size: u64,
    /// Whether the newest gc mark condemns it.
    pub condemned: bool,
    /// Whether its table cannot be read.
    pub damaged: bool,
}

impl PackInfo {
    /// Name of the object.
    pub fn object(&self) -> String {
        names::pack(self.kind, self.name)
    }
}

/// An open store.
pub struct Packs {
    name: String,
    id: StoreId,
    folder: FolderId,
    keys: Keys,
    bucket: Arc<dyn Bucket>,
    catalog: Arc<Catalog>,
    writer: Writer,
    refreshing: Mutex<()>,
}

impl Packs {
    /// Opens the store of a folder in a bucket: reads its `folder` object, opens or creates
    /// `index_dir/STOREID.db` and brings it up to date. `name` is what messages call it; `keys`
    /// are needed to verify records before a pack is put.
    pub fn open(
        name: &str,
        bucket: Arc<dyn Bucket>,
        folder: FolderId,
        keys: &Keys,
        index_dir: &Path,
    ) -> Result<Self> {
        Self::open_with(Self::head(bucket.as_ref())?, name, bucket, folder, keys, index_dir)
    }

    /// The same where the `folder` object was read already.
    pub fn open_with(
        head: StoreHead,
        name: &str,
        bucket: Arc<dyn Bucket>,
        folder: FolderId,
        keys: &Keys,
        index_dir: &Path,
    ) -> Result<Self> {
        if head.folder != folder {
            let whose = if head.name.is_empty() { head.folder.to_string() } else { head.name };
            return Err(Error::Refused(format!("{name} is a store of another folder ({whose})")));
        }
        let catalog = open_catalog(bucket.as_ref(), folder, index_dir, head.store)?;
        let writer = Writer::new(Arc::clone(&bucket), Arc::clone(&catalog), folder, keys, WRITERS);
        let (name, keys) = (name.to_string(), keys.clone());
        Ok(Self { name, id: head.store, folder, keys, bucket, catalog, writer, refreshing: Mutex::default() })
    }

    /// Uses `threads` threads to write packs.
    pub fn with_writers(mut self, threads: usize) -> Self {
        self.writer.set_limit(threads);
        self
    }

    /// Makes an empty bucket a store.
    pub fn init(bucket: &dyn Bucket, head: &StoreHead) -> Result<()> {
        bucket.list("", &mut |name, _| {
            Err(Error::Refused(match name {
                names::FOLDER => "there is a store already".into(),
                _ => format!("it is not empty (it holds {name})"),
            }))
        })?;
        bucket.put(names::FOLDER, &[&head.encode()])
    }

    /// What a bucket says about the store in it; `Missing` if it holds none.
    pub fn head(bucket: &dyn Bucket) -> Result<StoreHead> {
        match bucket.get(names::FOLDER, 0..MAX_HEAD) {
            Ok(bytes) => StoreHead::decode(&bytes),
            Err(Error::Missing(_)) => Err(Error::Missing("a ddr store (its `folder` object)".into())),
            Err(e) => Err(e),
        }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// The bucket under it.
    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    /// Lists the bucket and brings the index up to date: new packs, vanished packs, what the newest
    /// gc mark condemns. One listing if nothing changed. Also says what is known to be damaged.
    pub fn refresh(&self) -> Result<OpenStats> {
        let _alone = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        listing::refresh(self.bucket.as_ref(), self.folder, &self.catalog)
    }

    /// Like [`Packs::refresh`], but reads the tables of damaged packs again: they may be mended.
    pub fn recheck(&self) -> Result<OpenStats> {
        let damaged = self.catalog.packs().into_iter().filter(|p| p.damaged.is_some());
        self.catalog.remove(&damaged.map(|p| p.num).collect::<Vec<_>>())?;
        self.refresh()
    }

    /// The best place of a record; also one that [`Store::has`] does not count, if there is no
    /// better.
    pub fn locate(&self, id: &RecordId) -> Result<Option<Location>> {
        let places = self.catalog.places(std::slice::from_ref(id))?;
        Ok(places.into_iter().flatten().next())
    }

    /// Makes sure of records before they count for a receipt: those not verified within
    /// `max_age_secs` are read back, decoded and marked verified. Returns those that failed; they
    /// count as absent from now on, so that they can be put again. Records that were put but not
    /// flushed are not looked at: they are verified when written.
    pub fn verify_stale(
        &self,
        ids: &[RecordId],
        now: i64,
        max_age_secs: i64,
    ) -> Result<Vec<(RecordId, Error)>> {
        let mut pending = vec![false; ids.len()];
        self.writer.mark_pending(ids, &mut pending);
        let settled: Vec<RecordId> =
            ids.iter().zip(&pending).filter(|(_, pending)| !**pending).map(|(id, _)| *id).collect();
        let (bucket, now) = (self.bucket.as_ref(), now.max(1));
        verify::verify_stale(bucket, &self.catalog, &self.keys, &settled, now, max_age_secs)
    }

    /// Notes that records in given packs were decoded and hashed at `at` (seconds since 1970), or
    /// with [`super::index::BAD`] that they failed.
    pub fn mark_verified(&self, records: &[(RecordId, i64)], at: i64) -> Result<()> {
        self.catalog.index().set_verified(records, at)
    }

    /// Whether the store holds no pack and nothing waits to be written.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.catalog.is_empty() && self.writer.is_idle())
    }

    /// Calls `sink` for every pack, condemned and damaged ones too.
    pub fn packs(&self, sink: &mut dyn FnMut(PackInfo) -> Result<()>) -> Result<()> {
        self.catalog.packs().into_iter().try_for_each(|p| {
            let damaged = p.damaged.is_some();
            let (num, name, kind, size, condemned) = (p.num, p.name, p.kind, p.size, p.condemned);
            sink(PackInfo { num, name, kind, size, condemned, damaged })
        })
    }

    /// Calls `sink` for every place of every record, in the order of ids, and whether it counts: whether
    /// its pack is neither condemned nor damaged, and it did not fail its last check.
    pub fn places(&self, sink: &mut dyn FnMut(Place, bool) -> Result<()>) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.catalog.index().page(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some((last.id, last.pack));
            for place in page {
                sink(place, self.catalog.row_counts(place.pack, place.verified)?)?;
            }
        }
    }

    /// Per id, the numbers of the packs in which it counts.
    pub fn counting(&self, ids: &[RecordId]) -> Result<Vec<Vec<i64>>> {
        self.catalog.check_doubt()?;
        let places = self.catalog.places(ids)?.into_iter();
        let counting = |places: Vec<Location>| {
            places.into_iter().filter(|p| self.catalog.counts(p)).map(|p| p.pack).collect()
        };
        Ok(places.map(counting).collect())
    }

    /// Calls `sink` for every row of a pack's table, read from the bucket.
    pub fn rows(&self, pack: i64, sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
        let Some(pack) = self.catalog.pack(pack) else {
            return Err(Error::Missing(format!("pack number {pack}")));
        };
        let bucket = self.bucket.as_ref();
        listing::read_table(bucket, self.folder, pack.kind, pack.name, pack.size)?
            .into_iter()
            .try_for_each(sink)
    }
}

/// Opens the index and brings it up to date; once more from nothing if it turns out corrupt.
fn open_catalog(
    bucket: &dyn Bucket,
    folder: FolderId,
    index_dir: &Path,
    store: StoreId,
) -> Result<Arc<Catalog>> {
    let attempt = || {
        let index = Index::open(index_dir, store)?;
        let found = index.packs().map(drop);
        if found.is_err() && index.is_corrupt() {
            return Ok(None);
        }
        found?;
        let catalog = Catalog::new(index)?;
        match listing::refresh(bucket, folder, &catalog) {
            // Dropping the index sets the file aside.
            Err(Error::Db(_)) if catalog.index().is_corrupt() => Ok(None),
            Err(e) => Err(e),
            Ok(_) => Ok(Some(Arc::new(catalog))),
        }
    };
    if let Some(catalog) = attempt()? {
        return Ok(catalog);
    }
    attempt()?.ok_or_else(|| Error::Db(format!("the index of store {store} is damaged and in use")))
}

impl Store for Packs {
    fn has(&self, ids: &[RecordId]) -> Result<Vec<bool>> {
        // Pending first: what leaves it meanwhile is in the index by then.
        let mut pending = vec![false; ids.len()];
        self.writer.mark_pending(ids, &mut pending);
        let mut found = self.catalog.present(ids)?;
        found.iter_mut().zip(pending).for_each(|(found, pending)| *found |= pending);
        Ok(found)
    }

    fn get(
        &self,
        ids: &[RecordId],
        sink: &mut dyn FnMut(RecordId, Result<Sealed>) -> Result<()>,
    ) -> Result<()> {
        if self.writer.has_pending(ids) {
            self.flush()?;
        }
        reader::read(self.bucket.as_ref(), &self.catalog, ids, sink)
    }

    fn put(&self, _: RecordId, sealed: Sealed) -> Result<()> {
        self.writer.put(sealed)
    }

    fn flush(&self) -> Result<()> {
        self.writer.flush()
    }

    fn list(&self, sink: &mut dyn FnMut(RecordId, Kind) -> Result<()>) -> Result<()> {
        self.catalog.check_doubt()?;
        if !self.writer.is_idle() {
            self.flush()?;
        }
        let mut last = None;
        self.places(&mut |place, counts| {
            if counts && last != Some(place.id) {
                last = Some(place.id);
                sink(place.id, place.kind)?;
            }
            Ok(())
        })
    }
}

impl Prune for Packs {
    fn remove(&self, packs: &[PackId]) -> Result<()> {
        prune::remove(self.bucket.as_ref(), &self.catalog, packs)
    }

    fn quarantine(&self, pack: PackId) -> Result<String> {
        prune::quarantine(self.bucket.as_ref(), &self.catalog, pack)
    }
}
