//! Holds, owners, marks, and what condemning does.

use ddr::base::error::Error;
use ddr::base::id::{OriginId, PackId, RecordId};
use ddr::base::units::Time;
use ddr::format::hold::Hold;
use ddr::format::mark::{Condemned, Instant, Mark, Owner};
use ddr::model::entry::{Body, Kind};
use ddr::store::memory::MemoryBucket;
use ddr::store::{Bucket, Prune, Store, holds, marks, names};

use super::{FOLDER, assert_reads_back, buckets, chunk, is_refused, list, memory, objects, put_all, stores};

fn mark(number: u64, condemned: &[PackId]) -> Mark {
    let at = Instant { wall: Time { secs: 5, nanos: 0 }, uptime: 5, boot: "b".into() };
    let condemned = condemned.iter().map(|pack| Condemned { pack: *pack, since: at.clone() }).collect();
    Mark { requires: vec![], folder: FOLDER, number, owner_epoch: 1, at, condemned }
}

fn pack_names(store: &ddr::store::packs::Packs) -> Vec<PackId> {
    let mut all = Vec::new();
    store
        .packs(&mut |p| {
            all.push(p.name);
            Ok(())
        })
        .unwrap();
    all
}

#[test]
fn condemned_is_absent_but_readable_and_can_be_put_anew() {
    for place in stores() {
        let store = place.open();
        let record = chunk(1, 100);
        put_all(&store, std::slice::from_ref(&record));
        let old = pack_names(&store);
        marks::put(place.bucket.as_ref(), &mark(1, &old)).unwrap();
        store.refresh().unwrap();
        assert_eq!(store.has(&[record.id]).unwrap(), [false], "{}", place.label);
        assert!(list(&store).is_empty() && !store.is_empty().unwrap());
        assert_reads_back(&store, std::slice::from_ref(&record));
        assert_eq!(store.verify_stale(&[record.id], 1000, 1).unwrap().len(), 1);

        put_all(&store, std::slice::from_ref(&record));
        assert_eq!((store.has(&[record.id]).unwrap(), list(&store).len()), (vec![true], 1));
        let new: Vec<_> = pack_names(&store).into_iter().filter(|p| !old.contains(p)).collect();
        assert!(is_refused(&store.remove(&[old[0], new[0]])));
        assert_eq!(pack_names(&store).len(), 2, "a refusal deletes nothing");
        store.remove(&old).unwrap();
        store.remove(&old).unwrap();
        assert_eq!((pack_names(&store), objects(place.bucket.as_ref(), "data/").len()), (new, 1));
        assert_reads_back(&store, std::slice::from_ref(&record));
    }
}

#[test]
fn a_newer_mark_takes_condemnation_back() {
    for place in stores() {
        let store = place.open();
        let record = chunk(1, 100);
        put_all(&store, std::slice::from_ref(&record));
        marks::put(place.bucket.as_ref(), &mark(1, &pack_names(&store))).unwrap();
        let other = place.open_elsewhere("other");
        assert_eq!(other.has(&[record.id]).unwrap(), [false]);
        marks::put(place.bucket.as_ref(), &mark(2, &[])).unwrap();
        other.refresh().unwrap();
        assert_eq!(other.has(&[record.id]).unwrap(), [true], "{}", place.label);
    }
}

#[test]
fn an_unreadable_mark_stops_deduplication_not_reading() {
    let (place, bucket) = memory();
    let record = chunk(1, 100);
    put_all(&place.open(), std::slice::from_ref(&record));
    marks::put(&bucket, &mark(1, &[])).unwrap();
    bucket.damage(&names::mark(1), |b| b[20] ^= 1).unwrap();
    let store = place.open();
    assert_eq!(store.refresh().unwrap().damaged.len(), 1);
    assert!(matches!(store.has(&[record.id]), Err(Error::Corrupt { .. })));
    assert!(store.list(&mut |_, _| Ok(())).is_err());
    assert!(store.remove(&pack_names(&store)).is_err());
    assert_reads_back(&store, std::slice::from_ref(&record));
    bucket.damage(&names::mark(1), |b| b[20] ^= 1).unwrap();
    store.refresh().unwrap();
    assert_eq!(store.has(&[record.id]).unwrap(), [true]);
}

#[test]
fn the_highest_mark_and_owner_are_the_valid_ones() {
    for place in buckets() {
        let b = place.bucket.as_ref();
        assert!(marks::newest(b).unwrap().is_none() && marks::owner(b).unwrap().is_none());
        for n in [1, 2, 10] {
            marks::put(b, &mark(n, &[PackId([n as u8; 32])])).unwrap();
            assert_eq!(marks::newest(b).unwrap().unwrap().number, n);
        }
        assert_eq!(objects(b, "gc/").len(), 1, "{}: older marks go", place.label);
        let origin = OriginId([3; 32]);
        let owner = |epoch| Owner {
            requires: vec![],
            folder: FOLDER,
            origin,
            epoch,
            name: "nas".into(),
            peer_epoch: 3,
        };
        marks::claim(b, &owner(1)).unwrap();
        assert!(is_refused(&marks::claim(b, &owner(1))));
        marks::claim(b, &owner(2)).unwrap();
        assert_eq!(marks::owner(b).unwrap().unwrap().epoch, 2);
    }
}

#[test]
fn unreadable_marks_and_owners_are_errors() {
    let bucket = MemoryBucket::default();
    bucket.put(&names::mark(3), &[&mark(2, &[]).encode()]).unwrap();
    assert!(matches!(marks::newest(&bucket), Err(Error::Corrupt { .. })), "misnamed");
    bucket.put(&names::owner(3), &[b"garbage"]).unwrap();
    assert!(matches!(marks::owner(&bucket), Err(Error::Corrupt { .. })));
}

fn body(n: u8) -> Body {
    Body { kind: Kind::Chunk, id: RecordId([n; 32]) }
}

fn hold(origin: u8, number: u64, adds: &[u8], releases: &[u8]) -> Hold {
    let bodies = |of: &[u8]| of.iter().map(|n| body(*n)).collect();
    let origin = OriginId([origin; 32]);
    let (adds, releases) = (bodies(adds), bodies(releases));
    Hold { requires: vec![], folder: FOLDER, origin, number, adds, releases, since: None }
}

fn held(bucket: &dyn Bucket) -> Vec<(OriginId, Body)> {
    let mut all = Vec::new();
    holds::held(bucket, |origin, body| all.push((origin, body))).unwrap();
    all
}

#[test]
fn holds_add_up_in_order_for_each_origin() {
    for place in buckets() {
        let b = place.bucket.as_ref();
        let (one, two) = (OriginId([1; 32]), OriginId([2; 32]));
        assert_eq!((holds::next_number(b, one).unwrap(), held(b).len()), (1, 0));
        for batch in [hold(1, 1, &[1, 2, 3], &[]), hold(1, 2, &[4], &[2, 9]), hold(2, 1, &[2], &[])] {
            holds::put_hold(b, &batch).unwrap();
        }
        assert!(is_refused(&holds::put_hold(b, &hold(1, 2, &[], &[]))), "{}", place.label);
        assert_eq!(holds::next_number(b, one).unwrap(), 3);
        assert_eq!(held(b), [(one, body(1)), (one, body(3)), (one, body(4)), (two, body(2))]);
        holds::put_hold(b, &hold(1, 3, &[2], &[3])).unwrap();
        assert_eq!(held(b), [(one, body(1)), (one, body(2)), (one, body(4)), (two, body(2))]);
    }
}

#[test]
fn holds_that_cannot_be_trusted_are_errors() {
    let with = |change: &dyn Fn(&MemoryBucket)| {
        let bucket = MemoryBucket::default();
        (1..=3).for_each(|n| holds::put_hold(&bucket, &hold(1, n, &[n as u8], &[])).unwrap());
        change(&bucket);
        holds::held(&bucket, |_, _| {})
    };
    let name = |n| names::hold(OriginId([1; 32]), n);
    with(&|_| {}).unwrap();
    for n in [1, 2] {
        assert!(matches!(with(&|b| b.delete(&name(n)).unwrap()), Err(Error::Missing(_))), "a gap");
    }
    assert!(with(&|b| b.damage(&name(2), |bytes| bytes[15] ^= 1).unwrap()).is_err());
    assert!(with(&|b| b.put(&name(4), &[&hold(1, 5, &[], &[]).encode()]).unwrap()).is_err(), "misnamed");
    assert!(with(&|b| b.put("holds/stray", &[b"x"]).unwrap()).is_err());
}

/// Compaction writes everything anew and then deletes the old batches in order: whatever of that a
/// crash leaves says the same.
#[test]
fn holds_say_the_same_wherever_compaction_ends() {
    let since = |number, adds: &[u8], since| Hold { since, ..hold(1, number, adds, &[]) };
    let before = [hold(1, 1, &[1, 2], &[]), hold(1, 2, &[3], &[1]), hold(1, 3, &[1], &[3])];
    let after = [since(4, &[1], None), since(5, &[2], Some(4)), hold(1, 6, &[7], &[])];
    let origin = OriginId([1; 32]);
    let want = [(origin, body(1)), (origin, body(2))];
    for written in 0..=2 {
        let bucket = MemoryBucket::default();
        before.iter().chain(&after[..written]).for_each(|h| holds::put_hold(&bucket, h).unwrap());
        assert_eq!(held(&bucket), want, "{written} new batches written");
        for deleted in 1..=if written == 2 { 3 } else { 0 } {
            bucket.delete(&names::hold(origin, deleted)).unwrap();
            assert_eq!(held(&bucket), want, "{deleted} old batches deleted");
            let numbers = holds::of_origin(&bucket, origin).unwrap();
            assert_eq!(holds::first_valid(&bucket, origin, &numbers).unwrap(), 4);
        }
        if written == 2 {
            holds::put_hold(&bucket, &after[2]).unwrap();
            assert_eq!(held(&bucket).len(), 3);
            bucket.delete(&names::hold(origin, 5)).unwrap();
            assert!(holds::held(&bucket, |_, _| {}).is_err(), "a gap");
        }
    }
}
