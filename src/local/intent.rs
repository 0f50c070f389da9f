//! Durable record of what a batch is about to do to files, written before it touches the first.
//!
//! Promises that a visible intent is whole and durable, so that after a crash every file that may be
//! half-way is named, with what it was or is to become. `local::mend` decides about each. Knows no
//! stores.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use minicbor::{Decode, Encode};

use crate::base::error::{Error, Result};
use crate::base::id::{ContentId, FolderId};
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::disk;
use crate::format::stub::StubHead;
use crate::format::wire;
use crate::model::entry::Body;

const MAGIC: &[u8; 8] = b"ddrtodo1";
const WHAT: &str = "intent";

/// What a batch does to its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum Task {
    /// Full files become stubs.
    #[n(1)]
    Stash,
    /// Stubs become full files.
    #[n(2)]
    Fill,
    /// New files and stubs appear.
    #[n(3)]
    Create,
}

/// One file of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// Where.
    pub path: RelPath,
    /// Its content.
    pub head: StubHead,
    /// Its nine permission bits.
    pub mode: u16,
    /// Its inode number, where it exists already: by that it is found again under another name.
    pub ino: Option<u64>,
}

/// An open intent; dropping it leaves it open, as a crash would.
#[derive(Debug)]
pub struct Intent {
    path: PathBuf,
}

impl Intent {
    /// Records a batch; durable on return.
    pub fn begin(dir: &Path, task: Task, items: &[Item]) -> Result<Self> {
        let handle = open_dir(dir)?;
        let intent = Self::write(dir, &handle, task, items, true)?;
        disk::sync_dir(&handle, dir)?;
        Ok(intent)
    }

    /// Records a long batch as several intents of at most `most` files, made durable by one sync of
    /// the file system instead of two per intent.
    pub fn begin_all(dir: &Path, task: Task, items: &[Item], most: usize) -> Result<Vec<Self>> {
        if items.len() <= most {
            return Ok(vec![Self::begin(dir, task, items)?]);
        }
        let handle = open_dir(dir)?;
        let all = items.chunks(most).map(|part| Self::write(dir, &handle, task, part, false));
        let all = all.collect::<Result<Vec<_>>>()?;
        disk::sync_fs(&handle, dir)?;
        Ok(all)
    }

    fn write(dir: &Path, handle: &File, task: Task, items: &[Item], sync: bool) -> Result<Self> {
        static TEMPS: AtomicU32 = AtomicU32::new(0);
        let unique = TEMPS.fetch_add(1, Ordering::Relaxed);
        let temp_name = format!("{}-{unique}.new", std::process::id());
        let temp = dir.join(&temp_name);
        // A process of that number may have left one.
        let file = File::create(&temp).map_err(|e| Error::io("creating", &temp, e))?;
        disk::write_parts(&file, &[&encode(task, items)], &temp)?;
        if sync {
            disk::sync_file(&file, &temp)?;
        }
        let mut number = numbers(dir)?.last().map_or(1, |n| n + 1);
        let path = loop {
            let name = format!("{number:03}");
            match disk::rename_new(handle, temp_name.as_bytes(), handle, name.as_bytes()) {
                Ok(()) => break dir.join(name),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(Error::io("naming", &temp, e)),
            }
        };
        Ok(Self { path })
    }

    /// Takes over a [`pending`] intent, to close it once all its files are mended.
    pub fn resume(path: PathBuf) -> Self {
        Self { path }
    }

    /// Ends it: every file is as it should be, and durable. A closed intent that comes back after a
    /// power cut does no harm, so the directory is not synced.
    pub fn close(self) -> Result<()> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(()) };
        let handle = File::open(dir).map_err(|e| Error::io("opening", dir, e))?;
        disk::unlink(&handle, name.as_bytes()).map_err(|e| Error::io("removing", &self.path, e))
    }
}

fn open_dir(dir: &Path) -> Result<File> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
    File::open(dir).map_err(|e| Error::io("opening", dir, e))
}

/// All open intents, oldest first. A file that never became visible is not one.
pub fn pending(dir: &Path) -> Result<Vec<(PathBuf, Task, Vec<Item>)>> {
    let mut out = Vec::new();
    for number in numbers(dir)? {
        let path = dir.join(format!("{number:03}"));
        let bytes = std::fs::read(&path).map_err(|e| Error::io("reading", &path, e))?;
        let (task, items) = decode(&bytes).map_err(|e| {
            if e.is_corruption() { Error::corrupt(path.display().to_string(), e.to_string()) } else { e }
        })?;
        out.push((path, task, items));
    }
    Ok(out)
}

fn numbers(dir: &Path) -> Result<Vec<u64>> {
    let mut out = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(out),
        other => other.map_err(|e| Error::io("listing", dir, e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("listing", dir, e))?;
        out.extend(entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    out.sort_unstable();
    Ok(out)
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Batch {
    #[n(0)]
    requires: Vec<String>,
    #[n(1)]
    task: Task,
    #[n(2)]
    items: Vec<Record>,
}

#[derive(Encode, Decode)]
struct Record {
    #[n(0)]
    path: RelPath,
    #[n(1)]
    folder: FolderId,
    #[n(2)]
    content: ContentId,
    #[n(3)]
    body: Body,
    #[n(4)]
    size: u64,
    #[n(5)]
    mtime: Time,
    #[n(6)]
    mode: u16,
    #[n(7)]
    ino: Option<u64>,
}

fn encode(task: Task, items: &[Item]) -> Vec<u8> {
    let record = |item: &Item| {
        let StubHead { folder, content, body, size, mtime } = item.head.clone();
        Record { path: item.path.clone(), folder, content, body, size, mtime, mode: item.mode, ino: item.ino }
    };
    let batch = Batch { requires: Vec::new(), task, items: items.iter().map(record).collect() };
    wire::envelope(MAGIC, &wire::to_cbor(&batch))
}

fn decode(bytes: &[u8]) -> Result<(Task, Vec<Item>)> {
    let batch: Batch = wire::from_cbor(WHAT, wire::open_envelope(WHAT, MAGIC, bytes)?)?;
    wire::check_requires(WHAT, &batch.requires)?;
    let item = |r: Record| {
        let head =
            StubHead { folder: r.folder, content: r.content, body: r.body, size: r.size, mtime: r.mtime };
        Item { path: r.path, head, mode: r.mode, ino: r.ino }
    };
    Ok((batch.task, batch.items.into_iter().map(item).collect()))
}
