//! What every bucket and every store promises, checked on all of them.

mod buckets;
mod dir;
mod faults;
mod gc;
mod index;
mod layouts;
mod records;
mod writing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ddr::base::error::{Error, Result};
use ddr::base::id::{FolderId, RecordId, StoreId};
use ddr::format::key::{FolderKey, Keys};
use ddr::format::seal::{Opener, Sealed, Sealer};
use ddr::format::store::{FORMAT, StoreHead};
use ddr::model::entry::Kind;
use ddr::peer::bucket::RemoteBucket;
use ddr::peer::sftp::SftpBucket;
use ddr::store::dir::DirBucket;
use ddr::store::faulty::Faulty;
use ddr::store::memory::MemoryBucket;
use ddr::store::packs::Packs;
use ddr::store::{Bucket, Store};
use tempfile::TempDir;

use crate::support::peers::{BucketDial, QUICK};

const FOLDER: FolderId = FolderId([7; 16]);
const STORE: StoreId = StoreId([8; 16]);

fn keys() -> Keys {
    Keys::new(&FolderKey([9; 32]))
}

fn head() -> StoreHead {
    StoreHead {
        format: FORMAT,
        requires: vec![],
        folder: FOLDER,
        store: STORE,
        key: None,
        name: "docs".into(),
    }
}

/// Bytes that do not compress, unlike those of any other seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn seal(kind: Kind, raw: Vec<u8>) -> Sealed {
    Sealer::new().unwrap().seal(keys().record_id(kind, &raw), kind, raw)
}

/// A chunk of its own for each number: compressible if odd, else not.
fn chunk(n: u64, len: usize) -> Sealed {
    let raw = if n % 2 == 1 { n.to_le_bytes().repeat(len / 8 + 1) } else { noise(n, len) };
    seal(Kind::Chunk, raw)
}

fn manifest(n: u64) -> Sealed {
    seal(Kind::Manifest, noise(n ^ 0xff00, 100))
}

fn ids(records: &[Sealed]) -> Vec<RecordId> {
    records.iter().map(|r| r.id).collect()
}

/// A bucket, and the directories that live as long as the test.
struct Place {
    label: &'static str,
    bucket: Arc<dyn Bucket>,
    dirs: TempDir,
}

impl Place {
    fn index(&self) -> PathBuf {
        self.dirs.path().join("index")
    }

    fn open(&self) -> Packs {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Packs> {
        Packs::open("disk2", Arc::clone(&self.bucket), FOLDER, &keys(), &self.index())
    }

    /// A handle with an index of its own, as on another machine.
    fn open_elsewhere(&self, name: &str) -> Packs {
        let index = self.dirs.path().join(name);
        Packs::open("disk2", Arc::clone(&self.bucket), FOLDER, &keys(), &index).unwrap()
    }
}

fn memory() -> (Place, MemoryBucket) {
    let bucket = MemoryBucket::default();
    Packs::init(&bucket, &head()).unwrap();
    let place =
        Place { label: "memory", bucket: Arc::new(bucket.clone()), dirs: tempfile::tempdir().unwrap() };
    (place, bucket)
}

/// One of each kind of bucket, empty.
fn buckets() -> Vec<Place> {
    let place = |label, bucket, dirs| Place { label, bucket, dirs };
    let dirs = tempfile::tempdir().unwrap();
    let dir = DirBucket::create(&dirs.path().join("a/b/store")).unwrap();
    let fresh = || tempfile::tempdir().unwrap();
    let mut all = vec![
        place("dir", Arc::new(dir), dirs),
        place("memory", Arc::new(MemoryBucket::default()), fresh()),
        place("faulty", Arc::new(Faulty::new(MemoryBucket::default(), vec![])), fresh()),
        far(1),
        far(3),
    ];
    if let Some(sshd) = crate::ssh::shared() {
        let dirs = fresh();
        let host = crate::ssh::host(sshd, &dirs.path().join("a/b/store"));
        all.push(place("sftp", Arc::new(SftpBucket::create(host).unwrap()), dirs));
    }
    all
}

/// A directory that another ddr serves, over so many connections.
fn far(sessions: usize) -> Place {
    let dirs = tempfile::tempdir().unwrap();
    let dir = DirBucket::create(&dirs.path().join("far")).unwrap();
    let dial = Arc::new(BucketDial(Arc::new(dir)));
    let bucket = RemoteBucket::new("nas", dial, None, sessions, QUICK);
    Place { label: "peer", bucket: Arc::new(bucket), dirs }
}

/// An empty store on each kind of bucket.
fn stores() -> Vec<Place> {
    let places = buckets();
    places.iter().for_each(|place| Packs::init(place.bucket.as_ref(), &head()).unwrap());
    places
}

fn put(store: &dyn Store, sealed: Sealed) -> Result<()> {
    store.put(sealed.id, sealed)
}

fn put_all(store: &dyn Store, records: &[Sealed]) {
    records.iter().for_each(|r| put(store, r.clone()).unwrap());
    store.flush().unwrap();
}

/// What `get` answers, opened and verified.
fn get(store: &dyn Store, ids: &[RecordId]) -> BTreeMap<RecordId, Result<Arc<Vec<u8>>>> {
    let mut opener = Opener::new(&keys()).unwrap();
    let mut got = BTreeMap::new();
    store
        .get(ids, &mut |id, sealed| {
            let raw = sealed.and_then(|sealed| opener.open(&sealed));
            assert!(got.insert(id, raw).is_none(), "one answer per record");
            Ok(())
        })
        .unwrap();
    got
}

fn assert_reads_back(store: &dyn Store, records: &[Sealed]) {
    let mut opener = Opener::new(&keys()).unwrap();
    let got = get(store, &ids(records));
    for record in records {
        assert_eq!(got[&record.id].as_ref().unwrap(), &opener.open(record).unwrap());
    }
}

fn list(store: &dyn Store) -> Vec<(RecordId, Kind)> {
    let mut all = Vec::new();
    store
        .list(&mut |id, kind| {
            all.push((id, kind));
            Ok(())
        })
        .unwrap();
    all
}

fn objects(bucket: &dyn Bucket, prefix: &str) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    bucket
        .list(prefix, &mut |name, size| {
            assert!(all.insert(name.to_string(), size).is_none());
            Ok(())
        })
        .unwrap();
    all
}

fn only_pack(bucket: &dyn Bucket) -> String {
    let packs = objects(bucket, "data/");
    assert_eq!(packs.len(), 1);
    packs.into_keys().next().unwrap()
}

fn is_offline<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Offline { .. }))
}

fn is_refused<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Refused(_)))
}
