//! A new file or link that takes the place of whatever has its name.
//!
//! Promises that a crash leaves the old one or the new one under the name, never a third name beside
//! it where that can be helped: until it is whole a file has no name at all, then for a moment one
//! in a directory of ours, from where [`sweep`] removes it. It is made in its own directory, so that
//! group and default ACLs are those of any new file there.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::create::{link_unnamed, temp_name};
use super::inode::times;
use crate::base::error::{Error, Result};
use crate::base::units::Time;
use crate::disk::{self, Op};

/// The one name used in the directory of ours: its owner holds the folder's lock.
const ASIDE: &[u8] = b"replacing";

/// Where a new file gets its name.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The name it takes, old owner or not.
    pub to: &'a Path,
    /// A directory of ours, best on the same file system.
    pub aside: &'a Path,
}

/// Puts the file that `write` fills and makes durable in its place; durable on return.
pub fn replace_file(place: Place, write: &mut dyn FnMut(&File) -> Result<()>) -> Result<()> {
    let mut naming = Naming::begin(place)?;
    let file = naming.unnamed()?;
    write(&file)?;
    if naming.temp.is_none() {
        naming.with_temp(&mut |dir, name| link_unnamed(&file, dir, name))?;
    }
    naming.finish()
}

/// The same for a symlink.
pub fn replace_link(place: Place, target: &[u8], mtime: Time) -> Result<()> {
    let mut naming = Naming::begin(place)?;
    naming.with_temp(&mut |dir, name| {
        disk::point(Op::Link)?;
        rustix::fs::symlinkat(target, dir, name)?;
        Ok(rustix::fs::utimensat(dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    })?;
    naming.finish()
}

/// Removes what an interrupted replacement left in a directory of ours; whether there was anything.
pub fn sweep(aside: &Path) -> Result<bool> {
    let Ok(dir) = open_dir(aside) else { return Ok(false) };
    match rustix::fs::statat(&dir, ASIDE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => disk::unlink(&dir, ASIDE).map(|()| true).map_err(|e| Error::io("clearing", aside, e)),
        Err(_) => Ok(false),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("opening", path, e))
}

/// A name on its way to a file.
struct Naming<'a> {
    to: &'a Path,
    parent_path: &'a Path,
    parent: OwnedFd,
    aside: OwnedFd,
    /// The temporary name, and whether it lies aside; removed if it is still there at the end.
    temp: Option<(bool, Vec<u8>)>,
}

impl<'a> Naming<'a> {
    fn begin(place: Place<'a>) -> Result<Self> {
        let parent_path = match place.to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        sweep(place.aside)?;
        let (parent, aside) = (open_dir(parent_path)?, open_dir(place.aside)?);
        Ok(Self { to: place.to, parent_path, parent, aside, temp: None })
    }

    /// A new file in the directory, without a name where the file system has such files.
    fn unnamed(&mut self) -> Result<File> {
        let (flags, mode) = (OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
        let fail = |e: std::io::Error| Error::io("creating", self.to, e);
        disk::point(Op::Write).map_err(fail)?;
        match rustix::fs::openat(&self.parent, c".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => Ok(file.into()),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let mut made = None;
                self.with_temp(&mut |dir, name| {
                    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                    made = Some(rustix::fs::openat(dir, name, flags, mode)?);
                    Ok(())
                })?;
                made.map(File::from).ok_or_else(|| Error::Missing("the file just made".into()))
            }
            Err(e) => Err(fail(e.into())),
        }
    }

    /// Makes a temporary name aside; beside, where aside is another file system.
    fn with_temp(&mut self, make: &mut dyn FnMut(&OwnedFd, &[u8]) -> std::io::Result<()>) -> Result<()> {
        let fail = |e: std::io::Error| Error::io("creating", self.to, e);
        let device = |dir: &OwnedFd| rustix::fs::fstat(dir).map(|s| s.st_dev);
        let same = device(&self.parent).ok() == device(&self.aside).ok();
        let (dir, name) = match same {
            true => (&self.aside, ASIDE.to_vec()),
            false => (&self.parent, temp_name().map_err(|e| fail(e.into()))?),
        };
        make(dir, &name).map_err(fail)?;
        self.temp = Some((same, name));
        Ok(())
    }

    /// The new one takes its name.
    fn finish(mut self) -> Result<()> {
        let Some((aside, name)) = self.temp.take() else { return Ok(()) };
        let from = if aside { &self.aside } else { &self.parent };
        let last = self.to.file_name().unwrap_or_default().as_bytes();
        let moved = disk::rename_over(from, &name, &self.parent, last);
        if let Err(e) = moved {
            self.temp = Some((aside, name));
            return Err(Error::io("naming", self.to, e));
        }
        disk::sync_dir(&self.parent, self.parent_path)
    }
}

impl Drop for Naming<'_> {
    fn drop(&mut self) {
        if let Some((aside, name)) = &self.temp {
            // What is left is ours by its place or its name.
            let _ = disk::unlink(if *aside { &self.aside } else { &self.parent }, name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_new_file_takes_the_name_and_leaves_nothing_behind() {
        let temp = tempfile::tempdir().expect("tempdir");
        let aside = temp.path().join("aside");
        std::fs::create_dir(&aside).expect("mkdir");
        std::fs::write(aside.join("replacing"), "left by a crash").expect("write");
        let to = temp.path().join("name");
        std::fs::write(&to, "old").expect("write");
        let place = Place { to: &to, aside: &aside };
        let failed = replace_file(place, &mut |_| Err(Error::Interrupted));
        assert!(failed.is_err() && std::fs::read(&to).expect("read") == b"old");
        replace_file(place, &mut |mut f| f.write_all(b"new").map_err(|e| Error::io("writing", "name", e)))
            .expect("replace");
        assert_eq!(std::fs::read(&to).expect("read"), b"new");
        replace_link(place, b"target", Time { secs: 5, nanos: 7 }).expect("replace");
        assert_eq!(std::fs::read_link(&to).expect("link"), Path::new("target"));
        assert!(!sweep(&aside).expect("sweep"));
        assert_eq!(std::fs::read_dir(temp.path()).expect("list").count(), 2);
    }
}
