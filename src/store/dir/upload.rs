//! Objects on their way into a directory: temporary files that get their names when they are whole.
//!
//! Promises that what was not published is no object; that a failed publication leaves nothing behind;
//! and that one process at a time writes to an upload that can be resumed. Whether the bytes
//! are the right ones is the caller's business.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{DirBucket, TEMP, check_name, fail, is_content, parent};
use crate::base::error::{Error, Result};
use crate::disk::{self, Op};
use crate::store::names;

/// Files that are synced side by side.
const SYNCS: usize = 16;

/// An object that comes in pieces.
pub struct Upload {
    file: File,
    dir: OwnedFd,
    name: String,
    path: PathBuf,
    len: u64,
    /// Whether dropping it leaves the bytes for a later attempt.
    keeps: bool,
}

impl Upload {
    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds bytes at the end; not durable yet.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<()> {
        disk::write_parts(&self.file, parts, &self.path)?;
        self.len += parts.iter().map(|p| p.len() as u64).sum::<u64>();
        Ok(())
    }

    /// Forgets all bytes.
    pub fn restart(&mut self) -> Result<()> {
        if self.len > 0 {
            let fail = |e: io::Error| Error::io("writing", &self.path, e);
            disk::point(Op::Write).map_err(fail)?;
            self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(fail)?;
            self.len = 0;
        }
        Ok(())
    }

    /// Fills `bytes` from an offset; an error if there are not that many.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(|e| Error::io("reading", &self.path, e))
    }

    /// Removes the bytes.
    pub fn discard(mut self) {
        self.keeps = false;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.keeps {
            // Failing here costs only space, which `sweep_temp` finds later.
            let _ = disk::unlink(&self.dir, self.name.as_bytes());
        }
    }
}

impl DirBucket {
    /// Starts an object; dropped before it is published, it is gone.
    pub fn upload(&self) -> Result<Upload> {
        let name = format!("{:x}-{:016x}", std::process::id(), names::fresh());
        self.create_temp(name, OFlags::EXCL)
    }

    /// Starts an object, or goes on with it where an earlier upload with this mark (the hash of what is
    /// to come) ended. `None` if somebody is at it right now.
    pub fn resume(&self, mark: &[u8; 32]) -> Result<Option<Upload>> {
        let name = format!("up-{}", blake3::Hash::from_bytes(*mark).to_hex());
        let mut upload = self.create_temp(name, OFlags::empty())?;
        // Until it is ours, dropping it must not touch it.
        upload.keeps = true;
        let failed = |doing, e| Err(fail(doing, &upload.path, e));
        match rustix::fs::flock(&upload.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return failed("locking", e),
        }
        // Before we had the lock it may have become an object, or gone.
        let stat = match rustix::fs::fstat(&upload.file) {
            Ok(stat) => stat,
            Err(e) => return failed("examining", e),
        };
        match rustix::fs::statat(&upload.dir, upload.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(now) if (now.st_dev, now.st_ino) == (stat.st_dev, stat.st_ino) => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(None),
            Err(e) => return failed("examining", e),
        }
        upload.len = stat.st_size as u64;
        upload.file.seek(SeekFrom::End(0)).map_err(|e| Error::io("reading", &upload.path, e))?;
        Ok(Some(upload))
    }

    fn create_temp(&self, name: String, how: OFlags) -> Result<Upload> {
        let dir = self.make_dir(TEMP)?;
        let path = self.path.join(TEMP).join(&name);
        disk::point(Op::Link).map_err(|e| Error::io("creating", &path, e))?;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, name.as_str(), flags | how, Mode::RUSR | Mode::WUSR)
            .map_err(|e| fail("creating", &path, e))?;
        Ok(Upload { file: file.into(), dir, name, path, len: 0, keeps: false })
    }

    /// Makes uploads objects, which appear in this order; durable on return. After an error the first of
    /// them may have appeared; the others are gone. An existing name is `Refused`.
    pub fn publish(&self, mut objects: Vec<(String, Upload)>) -> Result<()> {
        objects.iter_mut().for_each(|(_, upload)| upload.keeps = false);
        self.check_root()?;
        let has_content = objects.iter().any(|(name, _)| is_content(name));
        if has_content && self.reserve().is_needed_beside(0) {
            return Err(self.is_full());
        }
        sync_all(&objects)?;
        // Renames in one directory stay in order by themselves.
        let mut open: Option<(String, OwnedFd)> = None;
        for (name, upload) in objects {
            check_name(&name)?;
            if open.as_ref().is_none_or(|(dir, _)| *dir != parent(&name)) {
                if let Some((last, dir)) = &open {
                    disk::sync_dir(dir, &self.path.join(last))?;
                }
                open = Some((parent(&name).into(), self.make_dir(parent(&name))?));
            }
            if let Some((_, dir)) = &open {
                self.name(upload, dir, &name)?;
            }
        }
        if let Some((last, dir)) = &open {
            disk::sync_dir(dir, &self.path.join(last))?;
        }
        if has_content {
            self.reserve().tend();
        }
        self.check_root()
    }

    /// Gives a durable temporary file its name in `dir`.
    fn name(&self, mut upload: Upload, dir: &OwnedFd, name: &str) -> Result<()> {
        let path = self.path.join(name);
        let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
        match disk::rename_new(&upload.dir, upload.name.as_bytes(), dir, last.as_bytes()) {
            Ok(()) => {
                upload.keeps = true;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::Refused(format!("{} exists already", path.display())))
            }
            Err(e) => Err(Error::io("naming", path, e)),
        }
    }
}

/// Makes all files durable, side by side.
fn sync_all(objects: &[(String, Upload)]) -> Result<()> {
    let sync = |(_, upload): &(String, Upload)| disk::sync_file(&upload.file, &upload.path);
    if let [one] = objects {
        return sync(one);
    }
    let share = objects.len().div_ceil(SYNCS).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            objects.chunks(share).map(|some| scope.spawn(|| some.iter().try_for_each(sync))).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or(Err(Error::Interrupted)))
    })
}
