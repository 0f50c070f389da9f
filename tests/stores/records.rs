//! What every store of records promises, whatever bucket is under it.

use std::collections::BTreeSet;
use std::sync::Arc;

use ddr::base::error::Error;
use ddr::base::id::{FolderId, RecordId};
use ddr::format::store::StoreHead;
use ddr::model::entry::Kind;
use ddr::store::packs::Packs;
use ddr::store::{Bucket, Store};

use super::{
    FOLDER, STORE, assert_reads_back, buckets, chunk, get, head, ids, is_refused, keys, list, manifest,
    objects, put, put_all, stores,
};

#[test]
fn what_was_put_and_flushed_is_there() {
    for place in stores() {
        let store = place.open();
        assert_eq!((store.name(), store.id()), ("disk2", STORE));
        assert!(store.is_empty().unwrap());
        let records: Vec<_> =
            (0..40).map(|n| chunk(n, 10 + n as usize * 3000)).chain((0..5).map(manifest)).collect();
        assert_eq!(store.has(&ids(&records)).unwrap(), [false; 45], "{}", place.label);
        put_all(&store, &records);
        assert!(!store.is_empty().unwrap());
        assert_eq!(store.has(&ids(&records)).unwrap(), [true; 45]);
        assert_reads_back(&store, &records);
        let mut expect: Vec<_> = records.iter().map(|r| (r.id, r.kind)).collect();
        expect.sort();
        assert_eq!(list(&store), expect);
        let other = place.open_elsewhere("second");
        assert_eq!(list(&other), expect, "a second handle sees what the first flushed");
        assert_reads_back(&other, &records);
    }
}

#[test]
fn chunks_and_manifests_lie_in_packs_of_their_own() {
    for place in stores() {
        put_all(&place.open(), &[chunk(1, 500), manifest(2)]);
        assert_eq!(objects(place.bucket.as_ref(), "data/").len(), 1, "{}", place.label);
        assert_eq!(objects(place.bucket.as_ref(), "meta/").len(), 1);
    }
}

#[test]
fn nothing_asked_nothing_done() {
    for place in stores() {
        let store = place.open();
        store.flush().unwrap();
        assert_eq!(store.has(&[]).unwrap(), [] as [bool; 0]);
        store.get(&[], &mut |_, _| panic!("nothing was asked for")).unwrap();
        assert!(store.verify_stale(&[], 1, 0).unwrap().is_empty());
        assert!(list(&store).is_empty());
        assert_eq!(
            objects(place.bucket.as_ref(), "").len(),
            1,
            "{}: an empty flush writes nothing",
            place.label
        );
    }
}

#[test]
fn an_empty_record_is_a_record() {
    for place in stores() {
        let store = place.open();
        let empty = super::seal(Kind::Chunk, vec![]);
        put_all(&store, std::slice::from_ref(&empty));
        assert_reads_back(&store, &[empty]);
    }
}

#[test]
fn duplicates_are_stored_once_and_answered_once() {
    for place in stores() {
        let store = place.open();
        let a = chunk(1, 100_000);
        put_all(&store, &[a.clone(), a.clone()]);
        let size: u64 = objects(place.bucket.as_ref(), "data/").values().sum();
        assert!(size < 150_000, "{}: {size} bytes for one record", place.label);
        // Put again by somebody who did not ask first: kept twice, answered once.
        put_all(&store, std::slice::from_ref(&a));
        assert_eq!(store.has(&[a.id, a.id]).unwrap(), [true, true]);
        assert_eq!(get(&store, &[a.id, a.id, a.id]).len(), 1);
        assert_eq!(list(&store).len(), 1);
    }
}

#[test]
fn missing_records_are_said_to_be_missing() {
    for place in stores() {
        let store = place.open();
        let a = chunk(1, 100);
        put_all(&store, std::slice::from_ref(&a));
        let none = RecordId([0xee; 32]);
        assert_eq!(store.has(&[none, a.id]).unwrap(), [false, true]);
        let got = get(&store, &[none, a.id]);
        assert!(matches!(got[&none], Err(Error::Missing(_))) && got[&a.id].is_ok(), "{}", place.label);
        assert!(store.locate(&none).unwrap().is_none());
        assert_eq!(store.locate(&a.id).unwrap().unwrap().row.id, a.id);
    }
}

#[test]
fn what_was_put_is_had_and_readable_before_it_is_flushed() {
    for place in stores() {
        let store = place.open();
        let a = chunk(1, 100);
        put(&store, a.clone()).unwrap();
        assert_eq!(store.has(&[a.id]).unwrap(), [true]);
        assert!(!store.is_empty().unwrap());
        assert!(objects(place.bucket.as_ref(), "data/").is_empty(), "{}", place.label);
        assert_reads_back(&store, &[a]);
    }
}

#[test]
fn what_was_not_flushed_need_not_be_there() {
    for place in stores() {
        put(&place.open(), chunk(1, 100)).unwrap();
        assert!(place.open().is_empty().unwrap(), "{}", place.label);
    }
}

#[test]
fn an_error_of_the_sink_ends_the_call() {
    for place in stores() {
        let store = place.open();
        let records = [chunk(1, 100), chunk(2, 100)];
        put_all(&store, &records);
        let mut calls = 0;
        let result = store.get(&ids(&records), &mut |_, _| {
            calls += 1;
            Err(Error::Interrupted)
        });
        assert!(matches!(result, Err(Error::Interrupted)) && calls == 1, "{}", place.label);
        let result = store.list(&mut |_, _| Err(Error::Interrupted));
        assert!(matches!(result, Err(Error::Interrupted)));
    }
}

#[test]
fn rows_of_a_pack_are_its_records() {
    for place in stores() {
        let store = place.open();
        let records: Vec<_> = (0..9).map(|n| chunk(n, 999)).collect();
        put_all(&store, &records);
        let mut packs = Vec::new();
        store
            .packs(&mut |p| {
                packs.push(p);
                Ok(())
            })
            .unwrap();
        assert_eq!(packs.len(), 1);
        let (name, size) = objects(place.bucket.as_ref(), "data/").pop_first().unwrap();
        assert_eq!((format!("data/{}", packs[0].name), packs[0].size), (name, size), "{}", place.label);
        assert!(packs[0].kind == Kind::Chunk && !packs[0].condemned && !packs[0].damaged);
        let mut rows = BTreeSet::new();
        store
            .rows(packs[0].num, &mut |row| {
                rows.insert(row.id);
                Ok(())
            })
            .unwrap();
        assert_eq!(rows, ids(&records).into_iter().collect());
        assert!(matches!(store.rows(99, &mut |_| Ok(())), Err(Error::Missing(_))));
    }
}

#[test]
fn a_store_is_made_once_and_only_in_an_empty_bucket() {
    for place in buckets() {
        let b = place.bucket.as_ref();
        assert!(matches!(Packs::head(b), Err(Error::Missing(_))));
        assert!(matches!(place.try_open(), Err(Error::Missing(_))), "{}", place.label);
        b.put("data/x", &[b"1"]).unwrap();
        assert!(is_refused(&Packs::init(b, &head())));
        b.delete("data/x").unwrap();
        Packs::init(b, &head()).unwrap();
        assert!(is_refused(&Packs::init(b, &head())));
        assert_eq!(Packs::head(b).unwrap(), head());
    }
}

#[test]
fn stores_of_other_folders_and_newer_formats_are_refused() {
    let dirs = tempfile::tempdir().unwrap();
    let open = |head: &StoreHead| {
        let bucket = ddr::store::memory::MemoryBucket::default();
        bucket.put("folder", &[&head.encode()]).unwrap();
        Packs::open("x", Arc::new(bucket), FOLDER, &keys(), dirs.path()).map(drop)
    };
    let other = StoreHead { folder: FolderId([1; 16]), ..head() };
    assert!(is_refused(&open(&other)));
    let newer = StoreHead { format: 2, ..head() };
    assert!(matches!(open(&newer), Err(Error::Unsupported(_))));
    let demanding = StoreHead { requires: vec!["telepathy".into()], ..head() };
    assert!(matches!(open(&demanding), Err(Error::Unsupported(_))));
    let damaged = ddr::store::memory::MemoryBucket::default();
    damaged.put("folder", &[b"garbage"]).unwrap();
    assert!(matches!(Packs::head(&damaged), Err(Error::Corrupt { .. })));
    open(&head()).unwrap();
}
