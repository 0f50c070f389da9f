//! A bucket in memory, peers that write logs, and short ways to make entries.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use ddr::base::error::{Error, Result};
use ddr::base::id::{ContentId, FolderId, OriginId, RecordId};
use ddr::base::path::RelPath;
use ddr::base::units::Time;
use ddr::history::log::{append, copy_missing};
use ddr::history::{CatchUp, History, Identity, LocalRow, Tail};
use ddr::model::entry::{Body, Dot, Entry, FileKind, Kind, Op, Version};
use ddr::model::residency::Residency;
use ddr::store::Bucket;

pub const FOLDER: FolderId = FolderId([9; 16]);

/// Objects in memory; tests may break them.
#[derive(Default)]
pub struct Mem(pub Mutex<BTreeMap<String, Vec<u8>>>);

impl Bucket for Mem {
    fn put(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        let mut all = self.0.lock().unwrap();
        if all.contains_key(name) {
            return Err(Error::Refused(format!("{name} exists")));
        }
        all.insert(name.to_string(), parts.concat());
        Ok(())
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let all = self.0.lock().unwrap();
        let bytes = all.get(name).ok_or_else(|| Error::Missing(name.to_string()))?;
        let end = (range.end as usize).min(bytes.len());
        Ok(bytes[(range.start as usize).min(end)..end].to_vec())
    }

    fn list(&self, prefix: &str, sink: &mut dyn FnMut(&str, u64) -> Result<()>) -> Result<()> {
        let all = self.0.lock().unwrap().clone();
        let mut found = all.iter().filter(|(name, _)| name.starts_with(prefix));
        found.try_for_each(|(name, bytes)| sink(name, bytes.len() as u64))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}

impl Mem {
    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    pub fn damage(&self, name: &str) {
        let mut all = self.0.lock().unwrap();
        let bytes = all.get_mut(name).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }

    pub fn copy(&self) -> Self {
        Self(Mutex::new(self.0.lock().unwrap().clone()))
    }
}

/// A peer that writes one log.
pub struct Peer {
    pub who: Identity,
    pub tail: Tail,
    pub origin: OriginId,
}

impl Peer {
    pub fn new(n: u8) -> Self {
        let who = Identity { secret: [n; 32], epoch: u64::from(n), name: format!("peer{n}") };
        Self { origin: who.origin(), who, tail: Tail::default() }
    }

    pub fn dot(&self, number: u64) -> Dot {
        Dot { origin: self.origin, number }
    }

    /// Appends a commit to the bucket.
    pub fn commit(&mut self, bucket: &Mem, message: Option<&str>, entries: &[Entry]) {
        self.tail = append(bucket, FOLDER, &self.who, &self.tail, message, entries).unwrap().tail;
    }
}

/// A history in a directory of its own.
pub struct Db {
    pub dir: tempfile::TempDir,
    pub history: History,
}

impl Db {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(&dir.path().join("history.db")).unwrap();
        Self { dir, history }
    }

    /// Copies a bucket's logs into another and applies them, as a pull does.
    pub fn pull(&mut self, own: &Mem, from: &Mem) -> CatchUp {
        assert!(copy_missing(from, own, FOLDER).unwrap().problems.is_empty());
        self.history.catch_up(own, FOLDER).unwrap()
    }

    pub fn rebuilt(bucket: &Mem) -> Self {
        let mut db = Self::new();
        db.history.catch_up(bucket, FOLDER).unwrap();
        db
    }
}

pub fn path(text: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(text.as_ref()).unwrap()
}

pub fn file(content: u64) -> Version {
    let hash = *blake3::hash(&content.to_le_bytes()).as_bytes();
    Version {
        kind: FileKind::File,
        content: Some(ContentId(hash)),
        body: Some(Body { kind: Kind::Chunk, id: RecordId(hash) }),
        size: content + 1,
        mtime: Time { secs: -5, nanos: 999_999_999 },
        mode: 0o640,
        target: None,
    }
}

pub fn entry(at: &RelPath, hlc: u64, op: Op, seen: &[Dot]) -> Entry {
    let seen = seen.to_vec();
    Entry { hlc, path: at.clone(), op, seen, base: None, moved_from: None, moved_to: None }
}

pub fn put(at: &str, hlc: u64, content: u64, seen: &[Dot]) -> Entry {
    entry(&path(at), hlc, Op::Put(file(content)), seen)
}

pub fn del(at: &str, hlc: u64, seen: &[Dot]) -> Entry {
    entry(&path(at), hlc, Op::Del, seen)
}

pub fn local(at: &RelPath, dot: Dot, version: &Version) -> LocalRow {
    LocalRow {
        path: at.clone(),
        dot,
        kind: version.kind,
        size: version.size,
        mtime: version.mtime,
        mode: version.mode,
        ctime: Time { secs: 1_700_000_000, nanos: 5 },
        ino: u64::MAX - dot.number,
        content: version.content,
        body: version.body,
        target: version.target.clone(),
        residency: Residency::Stub,
        proven: true,
    }
}
