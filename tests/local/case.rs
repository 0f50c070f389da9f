//! A small folder with files made of a seed, and the steps most cases share.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ddr::base::error::{Error, Result};
use ddr::base::id::{ContentId, FolderId, RecordId};
use ddr::base::path::RelPath;
use ddr::base::units::Time;
use ddr::format::key::{FolderKey, Keys};
use ddr::format::stub::StubHead;
use ddr::local::inspect::{State, inspect};
use ddr::local::read::{Extent, Reading};
use ddr::local::root::{Access, Root};
use ddr::local::stat::{Fingerprint, Stat};
use ddr::local::stub::{Filling, Target, convert};
use ddr::model::entry::{Body, Kind};

pub const FOLDER: FolderId = FolderId([7; 16]);
pub const OLD: Time = Time { secs: 1_000_000_000, nanos: 123_456_789 };

pub struct Case {
    pub dir: PathBuf,
    pub root: Root,
    pub keys: Keys,
}

impl Case {
    pub fn new(dir: PathBuf) -> Self {
        let root = Root::open(&dir).expect("root");
        Self { dir, root, keys: Keys::new(&FolderKey([3; 32])) }
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, bytes).expect("write");
        set_time(&path, OLD);
        path
    }

    pub fn target<'a>(&'a self, path: &'a RelPath, head: &'a StubHead) -> Target<'a> {
        Target { root: &self.root, path, keys: &self.keys, head, held: None }
    }

    /// What placing finds out, then conversion.
    pub fn stash(&self, name: &str) -> Result<StubHead> {
        // All of it again after a refusal: lending a write permission moves the ctime.
        patiently(|| {
            let (head, proof) = self.place(name);
            if let Some(why) = proof.unstashable {
                return Err(Error::Refused(why));
            }
            convert(&self.target(&rel(name), &head), &proof.stat.fingerprint(), &|_| Ok(true))?;
            Ok(head)
        })
    }

    pub fn convert(&self, name: &str, head: &StubHead, expect: &Fingerprint) -> Result<Stat> {
        patiently(|| convert(&self.target(&rel(name), head), expect, &|_| Ok(true)))
    }

    pub fn begin<'a>(&'a self, name: &str, head: &'a StubHead) -> Result<Filling<'a>> {
        // It may outlive the name given.
        let path: &'static RelPath = Box::leak(Box::new(rel(name)));
        patiently(|| Filling::begin(&self.target(path, head)))
    }

    /// Opens a file for reading, under a lease if that can be.
    pub fn reading(&self, name: &str) -> Reading {
        let mut last = None;
        let leased = patiently(|| {
            let reading = Reading::open(&self.root, &rel(name)).expect("open");
            let busy = reading.leased().map(|why| Error::Refused(why.to_string()));
            last = Some(reading);
            busy.map_or(Ok(()), Err)
        });
        drop(leased);
        last.expect("opened")
    }

    /// Reads a file as placing does.
    pub fn place(&self, name: &str) -> (StubHead, ddr::local::read::Proof) {
        let reading = self.reading(name);
        let mut bytes = vec![0; reading.stat().size as usize];
        assert_eq!(reading.read_at(&mut bytes, 0).expect("read"), bytes.len());
        let proof = reading.finish().expect("unchanged");
        (head_of(&bytes, proof.stat.mtime), proof)
    }

    pub fn fill(&self, name: &str, head: &StubHead, bytes: &[u8]) -> Result<Stat> {
        let filling = self.begin(name, head)?;
        filling.reserve(&[])?;
        // Out of order, on purpose.
        let parts: Vec<_> = bytes.chunks(100_000).enumerate().collect();
        for (i, part) in parts.iter().rev() {
            filling.write_at(part, *i as u64 * 100_000)?;
        }
        filling.finish(&[])
    }

    pub fn inspect(&self, name: &str) -> State {
        let file = self.root.open_file(&rel(name), Access::Read).expect("open");
        let stat = Stat::of(&file).expect("stat");
        inspect(&file, &stat, &self.keys, FOLDER).expect("inspect")
    }

    pub fn stat(&self, name: &str) -> Stat {
        self.root.stat(&rel(name)).expect("stat").expect("there")
    }

    pub fn extents(&self, name: &str) -> Vec<Extent> {
        self.reading(name).extents().expect("extents")
    }
}

/// Tries again while a file is busy: a process that another test starts holds copies of all
/// descriptors until it has become its program.
pub fn patiently<T>(mut run: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..50 {
        match run() {
            Err(Error::Refused(why)) if why.contains("by another program") => {
                std::thread::sleep(std::time::Duration::from_millis(4));
            }
            other => return other,
        }
    }
    run()
}

pub fn rel(name: &str) -> RelPath {
    RelPath::new(name).expect("valid path")
}

pub fn head_of(bytes: &[u8], mtime: Time) -> StubHead {
    let id = *blake3::hash(bytes).as_bytes();
    StubHead {
        folder: FOLDER,
        content: ContentId(id),
        body: Body { kind: Kind::Chunk, id: RecordId(id) },
        size: bytes.len() as u64,
        mtime,
    }
}

pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

pub fn set_time(path: &Path, time: Time) {
    filetime::set_file_mtime(path, filetime::FileTime::from_unix_time(time.secs, time.nanos)).expect("times");
}

/// Writes into the middle of a file without cutting it.
pub fn scribble(path: &Path, bytes: &[u8], offset: u64) {
    let file = File::options().write(true).open(path).expect("open");
    file.write_all_at(bytes, offset).expect("write");
}
