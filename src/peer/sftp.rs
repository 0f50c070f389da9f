//! A bucket on a machine without ddr: plain objects, over sftp.
//!
//! Promises what [`Bucket`] promises, as far as the server lets it: an object is synced before and
//! after it gets its name (where the server knows `fsync@openssh.com`), and no name is ever written
//! over. Without that extension, and for deletions always, what is durable is up to the server. A place that
//! is not there is `Offline`, never empty.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ssh2::{OpenFlags, OpenType};

use self::pool::{Answer, Failure, Link, Pool};
use self::upload::Upload;
use super::host::Host;
use crate::base::error::{Error, Result};
use crate::store::{Bucket, names};

mod pool;
mod upload;

const TEMP: &str = "tmp";
const PARTS: [&str; 6] = [TEMP, "data", "meta", "log", "holds", "gc"];
const DIR_MODE: i32 = 0o700;
/// Directories in directories that a listing descends into; ddr makes three levels.
const MAX_DEPTH: usize = 8;
/// Reads of fewer bytes are made in one call.
const SMALL: usize = 16 << 10;
/// Room made before the first byte has come.
const ROOM: u64 = 8 << 20;

/// A directory on another machine as a bucket.
pub struct SftpBucket {
    pool: Pool,
    root: PathBuf,
    place: String,
    /// Directories known to be there.
    made: Mutex<BTreeSet<String>>,
}

impl SftpBucket {
    /// Opens what [`SftpBucket::create`] made, or the store of a bare peer; writes nothing. `Missing`
    /// if the machine has no such store, `Offline` if it cannot be asked.
    pub fn open(host: Arc<Host>) -> Result<Self> {
        let mut bucket = Self::at(host);
        let has = |root: &Path| -> Result<bool> { bucket.is_file(&root.join(names::FOLDER)) };
        let inner = bucket.root.join("store");
        if has(&inner)? {
            bucket.root = inner;
        } else if !has(&bucket.root)? {
            return Err(Error::Missing(format!("a store in {}", bucket.place)));
        }
        Ok(bucket)
    }

    /// Makes the directory (and its parents) and its parts; existing ones are kept.
    pub fn create(host: Arc<Host>) -> Result<Self> {
        let bucket = Self::at(host);
        let root = bucket.root.clone();
        let parents: Vec<&Path> = root.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
        let mut missing = Vec::new();
        for dir in parents {
            if bucket.is_dir(dir)? {
                break;
            }
            missing.push(dir);
        }
        missing.into_iter().rev().try_for_each(|dir| bucket.make(dir))?;
        PARTS.iter().try_for_each(|part| bucket.make(&root.join(part)))?;
        Ok(bucket)
    }

    fn at(host: Arc<Host>) -> Self {
        let (root, place) = (PathBuf::from(&host.address.path), format!("sftp://{}", host.address));
        Self { pool: Pool::new(host), root, place, made: Mutex::default() }
    }

    /// Whether the directory holds anything; a missing one does not.
    pub fn is_empty_place(&self) -> Result<bool> {
        let found = self.run("listing", &self.root, &mut |link| Ok(link.sftp.readdir(&self.root)?));
        match found {
            Ok(entries) => Ok(entries.iter().all(|(path, _)| path.ends_with("lost+found"))),
            Err(Error::Missing(_)) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// The same place before anything is there, to be looked at.
    pub fn look(host: Arc<Host>) -> Self {
        Self::at(host)
    }

    fn run<T>(
        &self,
        doing: &'static str,
        path: &Path,
        work: &mut dyn FnMut(&Link) -> Result<T, Failure>,
    ) -> Result<T> {
        self.pool.with(work).map_err(|failure| match failure {
            Failure::Cut(why) => self.offline(&why),
            Failure::Final(Error::Offline { why, .. }) => self.offline(&why),
            Failure::Final(e) => e,
            Failure::Answer(answer, said) => self.answer(doing, path, answer, &said),
        })
    }

    /// An answer of the server as the error it is for our caller.
    fn answer(&self, doing: &'static str, path: &Path, answer: Answer, said: &str) -> Error {
        let full = || PathBuf::from(format!("{}:{}", self.pool.host().address.host, path.display()));
        match answer {
            Answer::Missing => Error::Missing(full().display().to_string()),
            Answer::Exists => Error::Refused(format!("{} exists already", full().display())),
            Answer::Full => Error::NoSpace(format!("while {doing} {}", full().display())),
            Answer::Denied => {
                Error::io(doing, full(), std::io::Error::from(std::io::ErrorKind::PermissionDenied))
            }
            Answer::Unsupported | Answer::Failed => {
                Error::io(doing, full(), std::io::Error::other(format!("the server says: {said}")))
            }
        }
    }

    fn offline(&self, why: &str) -> Error {
        Error::Offline { name: self.place.clone(), why: why.into() }
    }

    fn kind(&self, path: &Path) -> Result<Option<ssh2::FileStat>> {
        match self.run("examining", path, &mut |link| Ok(link.sftp.stat(path)?)) {
            Ok(stat) => Ok(Some(stat)),
            Err(Error::Missing(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn is_file(&self, path: &Path) -> Result<bool> {
        Ok(self.kind(path)?.is_some_and(|s| s.is_file()))
    }

    fn is_dir(&self, path: &Path) -> Result<bool> {
        Ok(self.kind(path)?.is_some_and(|s| s.is_dir()))
    }

    /// Something is missing: is it the place itself?
    fn check_place(&self) -> Result<()> {
        match self.is_dir(&self.root.join("data"))? {
            true => Ok(()),
            false => Err(self.offline("the store is gone from that directory; was its disk unmounted?")),
        }
    }

    /// One directory; it may be there.
    fn make(&self, dir: &Path) -> Result<()> {
        match self.run("making directory", dir, &mut |link| Ok(link.sftp.mkdir(dir, DIR_MODE)?)) {
            Ok(()) => Ok(()),
            Err(e) if !matches!(e, Error::Offline { .. }) && self.is_dir(dir)? => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The directory of an object, with those above it.
    fn make_parent(&self, name: &str) -> Result<()> {
        let Some((parent, _)) = name.rsplit_once('/') else { return Ok(()) };
        if self.made.lock().unwrap_or_else(PoisonError::into_inner).contains(parent) {
            return Ok(());
        }
        // Where the disk was unmounted, nothing is to be made.
        self.check_place()?;
        for (at, _) in parent.match_indices('/').chain([(parent.len(), "")]) {
            self.make(&self.root.join(&parent[..at]))?;
        }
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(parent.to_string());
        Ok(())
    }

    /// Files and directories directly below a prefix: name, and size of a file.
    fn children(&self, prefix: &str) -> Result<Vec<(String, Option<u64>)>> {
        let dir = self.root.join(prefix.trim_end_matches('/'));
        let entries = match self.run("listing", &dir, &mut |link| Ok(link.sftp.readdir(&dir)?)) {
            Ok(entries) => entries,
            Err(Error::Missing(_)) => {
                self.check_place()?;
                return Ok(Vec::new());
            }
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for (path, stat) in entries {
            let last = path.file_name().and_then(|n| n.to_str());
            let Some(name) = last.filter(|n| names::is_component(n.as_bytes())) else { continue };
            match () {
                () if prefix.is_empty() && name == TEMP => {}
                () if stat.is_file() => match stat.size {
                    Some(size) => found.push((format!("{prefix}{name}"), Some(size))),
                    None => return Err(Error::Unsupported(format!("{}: it lists no sizes", self.place))),
                },
                () if stat.is_dir() => found.push((format!("{prefix}{name}/"), None)),
                () => {}
            }
        }
        Ok(found)
    }
}

/// The bytes of a range; fewer at the end.
fn read_range(link: &Link, path: &Path, range: Range<u64>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(range.end.saturating_sub(range.start).min(ROOM) as usize);
    read_on(link, path, range, &mut bytes)?;
    Ok(bytes)
}

/// Reads what of a range is not in `bytes` yet.
fn read_on(link: &Link, path: &Path, range: Range<u64>, bytes: &mut Vec<u8>) -> Result<(), Failure> {
    let mut file = link.sftp.open_mode(path, OpenFlags::READ, 0, OpenType::File)?;
    let mut at = range.start + bytes.len() as u64;
    file.seek(SeekFrom::Start(at)).map_err(|e| link.failure(&e))?;
    while at < range.end {
        // libssh2 asks for four times as much as it is told to read.
        let left = (range.end - at).min(4 * ROOM) as usize;
        let step = if left <= SMALL { left } else { left.div_ceil(4) };
        let before = bytes.len();
        bytes.resize(before + step, 0);
        let got = file.read(&mut bytes[before..]);
        bytes.truncate(before + *got.as_ref().unwrap_or(&0));
        match got {
            Ok(0) => break,
            Ok(n) => at += n as u64,
            Err(e) => return Err(link.failure(&e)),
        }
    }
    Ok(())
}

impl Bucket for SftpBucket {
    fn put(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        check_name(name)?;
        self.make_parent(name)?;
        let temp = format!("{:x}-{:016x}", std::process::id(), names::fresh());
        let (temp, target) = (self.root.join(TEMP).join(temp), self.root.join(name));
        let mut upload = Upload::new(parts, &temp, &target);
        let done = self.run("writing", &target, &mut |link| upload.go_on(link));
        match done {
            Ok(()) => Ok(()),
            Err(Error::Missing(_)) => {
                self.check_place()?;
                Err(Error::Missing(format!("{}/{TEMP} or {name}", self.place)))
            }
            Err(e @ Error::Offline { .. }) => Err(e),
            Err(e) => {
                // What stays behind costs only space.
                let _ = self.pool.with(&mut |link| upload::abandon(link, &temp));
                Err(e)
            }
        }
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        check_name(name)?;
        let path = self.root.join(name);
        // Larger offsets are errors to a server; no file reaches so far.
        let end = range.end.min(i64::MAX as u64);
        let range = range.start.min(end)..end;
        let mut bytes = Vec::with_capacity((range.end - range.start).min(ROOM) as usize);
        match self.run("reading", &path, &mut |link| read_on(link, &path, range.clone(), &mut bytes)) {
            Ok(()) => Ok(bytes),
            Err(Error::Missing(_)) => {
                self.check_place()?;
                Err(Error::Missing(name.into()))
            }
            Err(e) => Err(e),
        }
    }

    fn list(&self, prefix: &str, sink: &mut dyn FnMut(&str, u64) -> Result<()>) -> Result<()> {
        let mut todo = vec![prefix.to_string()];
        if prefix.is_empty() {
            self.check_place()?;
        }
        while let Some(dir) = todo.pop() {
            if dir.matches('/').count() > MAX_DEPTH {
                return Err(Error::Invalid(format!("{dir} in {} is too deep", self.place)));
            }
            for (name, size) in self.children(&dir)? {
                match size {
                    Some(size) => sink(&name, size)?,
                    None => todo.push(name),
                }
            }
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let path = self.root.join(name);
        match self.run("removing", &path, &mut |link| Ok(link.sftp.unlink(&path)?)) {
            Err(Error::Missing(_)) => self.check_place(),
            done => done,
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    names::check(name)?;
    if name == TEMP || name.starts_with("tmp/") {
        return Err(Error::Invalid(format!("{name:?} is kept for unfinished objects")));
    }
    Ok(())
}
