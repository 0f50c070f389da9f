//! Reading from buckets that fail or lie.

use std::sync::{Arc, Mutex};

use ddr::base::error::Error;
use ddr::format::seal::{Opener, Sealed};
use ddr::store::faulty::{Fault, FaultOp, Faulty, What};
use ddr::store::memory::MemoryBucket;
use ddr::store::packs::{Packs, move_away};
use ddr::store::{Bucket, Prune, Store};

use super::{
    FOLDER, Place, assert_reads_back, chunk, get, head, ids, is_refused, keys, memory, objects, only_pack,
    put_all,
};

/// A store of a few records, and a handle under which the given gets fail.
fn with_get_faults(records: &[Sealed], what: What, from: u64, count: u64) -> (Packs, tempfile::TempDir) {
    let (dirs, inner) = (tempfile::tempdir().unwrap(), MemoryBucket::default());
    Packs::init(&inner, &head()).unwrap();
    let open = |bucket: Arc<dyn Bucket>| Packs::open("x", bucket, FOLDER, &keys(), dirs.path()).unwrap();
    put_all(&open(Arc::new(inner.clone())), records);
    let faults = (from..from + count).map(|nth| Fault { op: FaultOp::Get, nth, what }).collect();
    (open(Arc::new(Faulty::new(inner, faults))), dirs)
}

#[test]
fn flipped_bits_never_become_verified_bytes() {
    let records: Vec<_> = (0..6).map(|n| chunk(n, 70_000)).collect();
    let mut opener = Opener::new(&keys()).unwrap();
    // The first get of the second handle is the `folder` object.
    for count in 1..12 {
        let (store, _dirs) = with_get_faults(&records, What::FlipsBit, 2, count);
        let got = get(&store, &ids(&records));
        for record in &records {
            if let Ok(raw) = &got[&record.id] {
                assert_eq!(raw, &opener.open(record).unwrap());
            }
        }
        assert!(got.values().any(Result::is_ok) || count > 6);
    }
}

#[test]
fn one_unreadable_range_does_not_spoil_its_neighbours() {
    let records: Vec<_> = (0..6).map(|n| chunk(n, 70_000)).collect();
    // The joint read fails, then the second of the single ones, also when it is tried again.
    let faults = [2, 4, 9].map(|nth| Fault { op: FaultOp::Get, nth, what: What::Error });
    let (dirs, inner) = (tempfile::tempdir().unwrap(), MemoryBucket::default());
    Packs::init(&inner, &head()).unwrap();
    put_all(&Packs::open("x", Arc::new(inner.clone()), FOLDER, &keys(), dirs.path()).unwrap(), &records);
    let bucket = Arc::new(Faulty::new(inner, faults.to_vec()));
    let store = Packs::open("x", bucket, FOLDER, &keys(), dirs.path()).unwrap();
    let got = get(&store, &ids(&records));
    assert_eq!(got.values().filter(|r| r.is_ok()).count(), 6, "each is read on its own, twice if need be");
}

#[test]
fn unreadable_records_are_reported_one_by_one() {
    let records: Vec<_> = (0..4).map(|n| chunk(n, 70_000)).collect();
    for what in [What::Error, What::Missing] {
        let (store, _dirs) = with_get_faults(&records, what, 2, 100);
        let got = get(&store, &ids(&records));
        assert!(got.len() == 4 && got.values().all(Result::is_err));
    }
}

/// A bucket of which one area cannot be listed.
struct Closed {
    inner: MemoryBucket,
    prefix: Mutex<Option<&'static str>>,
}

impl Bucket for Closed {
    fn put(&self, name: &str, parts: &[&[u8]]) -> ddr::base::error::Result<()> {
        self.inner.put(name, parts)
    }

    fn get(&self, name: &str, range: std::ops::Range<u64>) -> ddr::base::error::Result<Vec<u8>> {
        self.inner.get(name, range)
    }

    fn list(
        &self,
        prefix: &str,
        sink: &mut dyn FnMut(&str, u64) -> ddr::base::error::Result<()>,
    ) -> ddr::base::error::Result<()> {
        match *self.prefix.lock().unwrap() == Some(prefix) {
            true => Err(Error::io("listing", prefix, std::io::Error::from_raw_os_error(5))),
            false => self.inner.list(prefix, sink),
        }
    }

    fn delete(&self, name: &str) -> ddr::base::error::Result<()> {
        self.inner.delete(name)
    }
}

#[test]
fn a_failed_listing_is_an_error_and_changes_nothing() {
    let (place, bucket) = memory();
    let record = chunk(1, 100);
    put_all(&place.open(), std::slice::from_ref(&record));
    for prefix in ["data/", "meta/", "gc/"] {
        let sealed = Arc::new(Closed { inner: bucket.clone(), prefix: Mutex::default() });
        let store = Packs::open("x", sealed.clone(), FOLDER, &keys(), &place.index()).unwrap();
        assert_eq!(store.has(&[record.id]).unwrap(), [true]);
        *sealed.prefix.lock().unwrap() = Some(prefix);
        if prefix != "gc/" {
            assert!(store.refresh().is_err(), "{prefix}");
        } else {
            // The marks cannot be read: who knows what is condemned?
            assert_eq!(store.refresh().unwrap().damaged.len(), 1);
            assert!(store.has(&[record.id]).is_err());
        }
        *sealed.prefix.lock().unwrap() = None;
        assert_reads_back(&store, std::slice::from_ref(&record));
        assert_eq!(store.refresh().unwrap().vanished_packs, 0);
        assert_eq!(store.has(&[record.id]).unwrap(), [true]);
    }
}

#[test]
fn a_vanished_pack_is_noticed_and_its_records_can_be_put_again() {
    for place in super::stores() {
        let store = place.open();
        let record = chunk(1, 100);
        put_all(&store, std::slice::from_ref(&record));
        place.bucket.delete(&only_pack(place.bucket.as_ref())).unwrap();
        assert!(matches!(get(&store, &[record.id])[&record.id], Err(Error::Missing(_))));
        assert_eq!(store.refresh().unwrap().vanished_packs, 1, "{}", place.label);
        assert_eq!(store.has(&[record.id]).unwrap(), [false]);
        put_all(&store, std::slice::from_ref(&record));
        assert_reads_back(&store, &[record]);
    }
}

fn damage(bucket: &MemoryBucket, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let name = only_pack(bucket);
    bucket.damage(&name, change).unwrap();
    name
}

fn names_of_damaged(store: &Packs) -> Vec<String> {
    store.refresh().unwrap().damaged.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_damaged_pack_is_reported_and_costs_only_itself() {
    type Change = fn(&mut Vec<u8>);
    let changes: [Change; 6] = [
        |b| *b.last_mut().unwrap() ^= 1,
        |b| {
            let at = b.len() - 60;
            b[at] ^= 1;
        },
        |b| b.truncate(b.len() - 1),
        |b| b.truncate(10),
        |b| b.push(0),
        |b| b[9] ^= 1,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let (place, bucket) = memory();
        let (bad, good) = (chunk(1, 100), chunk(2, 100));
        put_all(&place.open(), std::slice::from_ref(&bad));
        let name = damage(&bucket, change);
        put_all(&place.open(), std::slice::from_ref(&good));
        let store = place.open_elsewhere("fresh");
        assert_eq!(names_of_damaged(&store), vec![name.clone()], "change {n}");
        assert_eq!(store.has(&ids(&[bad.clone(), good.clone()])).unwrap(), [false, true]);
        assert_reads_back(&store, std::slice::from_ref(&good));
        put_all(&store, std::slice::from_ref(&bad));
        assert_reads_back(&store, &[bad, good]);
        assert_eq!(names_of_damaged(&store), [name], "still reported");
    }
}

#[test]
fn a_pack_that_changed_its_size_is_read_anew() {
    let (place, bucket) = memory();
    let record = chunk(1, 100);
    let store = place.open();
    put_all(&store, std::slice::from_ref(&record));
    let name = damage(&bucket, |b| b.push(7));
    assert_eq!(names_of_damaged(&store), [name]);
    assert_eq!(store.has(&[record.id]).unwrap(), [false]);
    damage(&bucket, |b| b.truncate(b.len() - 1));
    assert!(names_of_damaged(&store).is_empty());
    assert_eq!(store.has(&[record.id]).unwrap(), [true]);
}

#[test]
fn a_mended_pack_is_found_by_a_recheck() {
    let (place, bucket) = memory();
    let record = chunk(1, 100);
    put_all(&place.open(), std::slice::from_ref(&record));
    damage(&bucket, |b| *b.last_mut().unwrap() ^= 1);
    let store = place.open_elsewhere("fresh");
    assert_eq!(names_of_damaged(&store).len(), 1);
    damage(&bucket, |b| *b.last_mut().unwrap() ^= 1);
    assert_eq!(names_of_damaged(&store).len(), 1, "not read again every time");
    assert!(store.recheck().unwrap().damaged.is_empty());
    assert_reads_back(&store, &[record]);
}

#[test]
fn stale_records_are_read_back_and_bad_ones_count_as_absent() {
    let (place, bucket) = memory();
    let (good, bad) = (chunk(2, 9000), chunk(4, 9000));
    put_all(&place.open(), &[bad.clone(), good.clone()]);
    let store = place.open_elsewhere("fresh");
    let both = ids(&[good.clone(), bad.clone()]);
    let verified = |id| store.locate(&id).unwrap().unwrap().verified;
    assert_eq!(verified(good.id), 0, "known from a table only");
    let at = store.locate(&bad.id).unwrap().unwrap().row.offset as usize;
    damage(&bucket, |b| b[at + 100] ^= 1);
    assert_eq!(store.has(&both).unwrap(), [true, true]);

    let failed = store.verify_stale(&both, 1000, 50).unwrap();
    assert!(failed.len() == 1 && failed[0].0 == bad.id && failed[0].1.is_corruption());
    assert_eq!((verified(good.id), store.has(&both).unwrap()), (1000, vec![true, false]));
    put_all(&store, std::slice::from_ref(&bad));
    assert_eq!(store.has(&both).unwrap(), [true, true]);
    let now = verified(bad.id);
    assert!(store.verify_stale(&both, now, now).unwrap().is_empty());
    assert_reads_back(&store, &[good.clone(), bad]);

    // Fresh ones are not read; a time in the future proves nothing.
    damage_all(&place, &bucket);
    assert!(store.verify_stale(&[good.id], 1050, 50).unwrap().is_empty());
    assert_eq!(store.verify_stale(&[good.id], 900, 50).unwrap().len(), 1);
    assert_eq!(store.verify_stale(&[super::RecordId([1; 32])], 1, 1).unwrap().len(), 1);
}

fn damage_all(place: &Place, bucket: &MemoryBucket) {
    for name in objects(place.bucket.as_ref(), "data/").into_keys() {
        bucket.damage(&name, |b| b[40..].fill(0)).unwrap();
    }
}

#[test]
fn another_pack_stands_in_for_a_bad_one() {
    let (place, bucket) = memory();
    let record = chunk(1, 5000);
    // Two handles that do not know of each other store it twice.
    let (a, b) = (place.open_elsewhere("a"), place.open_elsewhere("b"));
    put_all(&a, std::slice::from_ref(&record));
    let first = only_pack(&bucket);
    put_all(&b, std::slice::from_ref(&record));
    assert_eq!(objects(&bucket, "data/").len(), 2);
    let store = place.open();
    bucket.damage(&first, |b| b[50..90].fill(0)).unwrap();
    assert_reads_back(&store, std::slice::from_ref(&record));
    assert!(store.verify_stale(&[record.id], 1000, 1).unwrap().is_empty());
    bucket.delete(&first).unwrap();
    store.refresh().unwrap();
    assert_eq!(store.has(&[record.id]).unwrap(), [true]);
    assert_reads_back(&store, &[record]);
}

#[test]
fn damaged_packs_move_to_quarantine_whole_and_are_never_deleted() {
    let (place, bucket) = memory();
    let record = chunk(1, 5000);
    put_all(&place.open(), std::slice::from_ref(&record));
    let name = damage(&bucket, |b| *b.last_mut().unwrap() ^= 1);
    let bytes = bucket.get(&name, 0..u64::MAX).unwrap();
    let store = place.open_elsewhere("fresh");
    let mut packs = Vec::new();
    store
        .packs(&mut |p| {
            packs.push(p);
            Ok(())
        })
        .unwrap();
    assert!(packs[0].damaged);
    assert!(is_refused(&store.remove(&[packs[0].name])));
    let moved = store.quarantine(packs[0].name).unwrap();
    assert_eq!(moved, format!("quarantine/{name}"));
    assert_eq!(bucket.get(&moved, 0..u64::MAX).unwrap(), bytes);
    assert!(objects(&bucket, "data/").is_empty());
    assert!(store.refresh().unwrap().damaged.is_empty() && store.is_empty().unwrap());
    assert!(matches!(store.quarantine(packs[0].name), Err(Error::Missing(_))));

    // An interrupted move ends in one copy; another object of the name gets a place of its own.
    bucket.put(&name, &[&bytes]).unwrap();
    assert_eq!(move_away(&bucket, &name).unwrap(), moved);
    bucket.put(&name, &[b"other"]).unwrap();
    assert_eq!(move_away(&bucket, &name).unwrap(), format!("{moved}.1"));
}
