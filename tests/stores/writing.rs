//! The write path: order, room, threads, failures.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ddr::base::error::{Error, Result};
use ddr::format::seal::Sealed;
use ddr::store::faulty::{Fault, FaultOp, Faulty, What};
use ddr::store::memory::MemoryBucket;
use ddr::store::packs::Packs;
use ddr::store::{Bucket, Store};

use super::{
    FOLDER, assert_reads_back, chunk, head, ids, keys, list, manifest, memory, noise, objects, put, put_all,
};

const MIB: usize = 1 << 20;

/// Takes its time over chunks and notes when each put ended and how many ran at once.
#[derive(Default)]
struct Slow {
    inner: MemoryBucket,
    ended: Mutex<Vec<String>>,
    at_once: AtomicU64,
    most: AtomicU64,
}

impl Bucket for Slow {
    fn put(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        if name.starts_with("data/") {
            std::thread::sleep(Duration::from_millis(50));
        }
        let done = self.inner.put(name, parts);
        self.ended.lock().unwrap().push(name.into());
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        done
    }
    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.inner.get(name, range)
    }
    fn list(&self, prefix: &str, sink: &mut dyn FnMut(&str, u64) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, sink)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
}

fn open_on(bucket: Arc<dyn Bucket>, dirs: &tempfile::TempDir) -> Packs {
    Packs::init(bucket.as_ref(), &head()).unwrap();
    Packs::open("slow", bucket, FOLDER, &keys(), dirs.path()).unwrap()
}

#[test]
fn manifests_become_visible_after_their_chunks() {
    for writers in [1, 2, 4] {
        let (slow, dirs) = (Arc::new(Slow::default()), tempfile::tempdir().unwrap());
        let store = open_on(slow.clone(), &dirs).with_writers(writers);
        for n in 0..3 {
            put(&store, manifest(n)).unwrap();
            put(&store, chunk(n, 1000)).unwrap();
            store.flush().unwrap();
            let ended = slow.ended.lock().unwrap();
            let last: Vec<_> = ended.iter().rev().take(2).map(|name| &name[..5]).collect();
            assert_eq!(last, ["meta/", "data/"], "{writers} writers");
        }
    }
}

#[test]
fn many_packs_are_written_by_several_threads_and_read_back() {
    let (slow, dirs) = (Arc::new(Slow::default()), tempfile::tempdir().unwrap());
    let store = open_on(slow.clone(), &dirs);
    let records: Vec<Sealed> = (0..80).map(|n| chunk(n * 2, 2 * MIB)).collect();
    put_all(&store, &records);
    assert_eq!(slow.most.load(Ordering::SeqCst), 2);
    let sizes = objects(slow.as_ref(), "data/");
    assert!(sizes.len() >= 5 && sizes.values().all(|size| *size <= (33 * MIB) as u64), "{sizes:?}");
    assert_reads_back(&store, &records);
}

#[test]
fn several_threads_may_put_while_others_flush() {
    let (place, _) = memory();
    let store = place.open();
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let store = &store;
            s.spawn(move || {
                for n in 0..200 {
                    let record = if n % 9 == 0 { manifest(t * 1000 + n) } else { chunk(t * 500 + n, 3000) };
                    put(store, record.clone()).unwrap();
                    assert_eq!(store.has(&[record.id]).unwrap(), [true]);
                    if n % 40 == t {
                        store.flush().unwrap();
                        assert_reads_back(store, &[record]);
                    }
                }
            });
        }
    });
    store.flush().unwrap();
    let all = list(&store);
    assert_eq!(list(&place.open_elsewhere("other")), all);
    assert!(all.len() > 500);
}

#[test]
fn a_record_that_is_not_what_it_says_is_never_written() {
    let (place, bucket) = memory();
    let store = place.open();
    let good = chunk(2, 1000);
    put(&store, good.clone()).unwrap();
    put(&store, Sealed { payload: Arc::new(noise(5, 1000)), ..chunk(4, 1000) }).unwrap();
    assert!(matches!(store.flush(), Err(Error::Corrupt { .. })));
    assert!(objects(&bucket, "data/").is_empty());
    assert_eq!(store.has(&[good.id]).unwrap(), [false]);
    assert!(matches!(put(&store, good.clone()), Err(Error::Corrupt { .. })), "poisoned");
    put_all(&place.open(), &[good]);
}

fn failing(op: FaultOp, nth: u64, what: What) -> (Packs, Arc<Faulty<MemoryBucket>>, tempfile::TempDir) {
    let dirs = tempfile::tempdir().unwrap();
    let inner = MemoryBucket::default();
    Packs::init(&inner, &head()).unwrap();
    let faulty = Arc::new(Faulty::new(inner, vec![Fault { op, nth, what }]));
    let store = Packs::open("faulty", faulty.clone(), FOLDER, &keys(), dirs.path()).unwrap();
    (store, faulty, dirs)
}

#[test]
fn after_a_failed_write_every_put_and_flush_fails_the_same_way() {
    for what in [What::Error, What::TornPut] {
        let (store, faulty, dirs) = failing(FaultOp::Put, 2, what);
        let (first, second) = (chunk(1, 100), chunk(2, 100));
        put_all(&store, std::slice::from_ref(&first));
        put(&store, second.clone()).unwrap();
        for _ in 0..2 {
            assert_eq!(store.flush().unwrap_err().errno(), Some(libc::EIO));
            assert_eq!(put(&store, chunk(3, 100)).unwrap_err().errno(), Some(libc::EIO));
        }
        assert_eq!(store.has(&ids(&[first.clone(), second.clone()])).unwrap(), [true, false]);
        assert_reads_back(&store, std::slice::from_ref(&first));
        assert_eq!(list(&store).len(), 1);
        drop(store);
        let again = Packs::open("faulty", faulty, FOLDER, &keys(), dirs.path()).unwrap();
        put_all(&again, &[second]);
        assert_eq!(list(&again).len(), 2, "a new handle carries on");
    }
}

#[test]
fn manifests_are_not_put_when_their_chunks_failed() {
    let (store, faulty, _dirs) = failing(FaultOp::Put, 1, What::Error);
    put(&store, chunk(1, 100)).unwrap();
    put(&store, manifest(1)).unwrap();
    assert!(store.flush().is_err());
    assert!(objects(faulty.inner(), "meta/").is_empty());
}

#[test]
fn a_failure_frees_those_who_wait_for_room() {
    let (store, _faulty, _dirs) = failing(FaultOp::Put, 1, What::Error);
    let store = store.with_writers(1);
    let mut result = Ok(());
    for n in 0..200 {
        result = put(&store, chunk(n * 2, 2 * MIB));
        if result.is_err() {
            break;
        }
    }
    assert_eq!(result.unwrap_err().errno(), Some(libc::EIO));
}

#[test]
fn a_put_that_was_lost_is_noticed_at_the_next_refresh() {
    let (store, faulty, _dirs) = failing(FaultOp::Put, 1, What::LosesPut);
    let record = chunk(1, 100);
    put_all(&store, std::slice::from_ref(&record));
    assert!(objects(faulty.inner(), "data/").is_empty());
    assert!(super::get(&store, &[record.id])[&record.id].is_err());
    assert_eq!(store.refresh().unwrap().vanished_packs, 1);
    assert_eq!(store.has(&[record.id]).unwrap(), [false]);
    put_all(&store, std::slice::from_ref(&record));
    assert_reads_back(&store, &[record]);
}
