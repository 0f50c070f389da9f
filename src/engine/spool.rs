//! Paths set aside on disk between two passes, so that no list of all files is held in memory.
//!
//! Promises to give back what was put, in order; the file has no name and goes with the handle. Short
//! lists stay in memory, so that a full disk can be relieved.

use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::base::error::{Error, Result};
use crate::base::path::RelPath;

/// Bytes before each path: size, length.
const HEAD: usize = 10;

/// Bytes up to which a list stays in memory.
const IN_MEMORY: usize = 1 << 20;

/// A list of paths with their sizes, being written.
pub struct Spool {
    // Nothing is written before the buffer is full.
    out: BufWriter<File>,
    /// How many were put.
    pub count: u64,
}

impl Spool {
    /// Starts an empty list on the file system of `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        Ok(Self { out: BufWriter::with_capacity(IN_MEMORY, unnamed(dir)?), count: 0 })
    }

    /// Adds a path with a size.
    pub fn put(&mut self, size: u64, path: &RelPath) -> Result<()> {
        let bytes = path.as_bytes();
        let mut head = [0u8; HEAD];
        head[..8].copy_from_slice(&size.to_le_bytes());
        head[8..].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
        self.count += 1;
        self.out
            .write_all(&head)
            .and_then(|()| self.out.write_all(bytes))
            .map_err(|e| Error::io("writing", "a temporary list", e))
    }

    /// Reads the list from its start.
    pub fn read(self) -> Result<impl Iterator<Item = Result<(u64, RelPath)>>> {
        let fail = |e| Error::io("reading", "a temporary list", e);
        let (mut file, buffer) = self.out.into_parts();
        // A panic within a write is the only way to lose it.
        let rest = buffer.map_err(|_| fail(std::io::Error::other("a write was cut short")))?;
        file.rewind().map_err(fail)?;
        let mut input = BufReader::with_capacity(1 << 16, file.chain(Cursor::new(rest)));
        let mut left = self.count;
        Ok(std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let (mut size, mut len) = ([0u8; 8], [0u8; 2]);
            let mut bytes = Vec::new();
            let read = input.read_exact(&mut size).and_then(|()| input.read_exact(&mut len)).and_then(|()| {
                bytes.resize(usize::from(u16::from_le_bytes(len)), 0);
                input.read_exact(&mut bytes)
            });
            Some(read.map_err(fail).and_then(|()| Ok((u64::from_le_bytes(size), RelPath::new(bytes)?))))
        }))
    }
}

/// A new file without a name on the file system of `dir`.
pub fn unnamed(dir: &Path) -> Result<File> {
    match rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from(0o600)) {
        Ok(fd) => Ok(File::from(fd)),
        // Not every file system has them.
        Err(_) => named_then_unlinked(dir),
    }
}

fn named_then_unlinked(dir: &Path) -> Result<File> {
    let path = dir.join(format!(
        "list-{}-{:x}",
        std::process::id(),
        rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec
    ));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| Error::io("creating", &path, e))?;
    std::fs::remove_file(&path).map_err(|e| Error::io("removing", &path, e))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_in_comes_out_in_order() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = Spool::new(dir.path()).expect("spool");
        let paths: Vec<_> = (0..1000)
            .map(|i| RelPath::new(format!("{}/{i}", "d".repeat(i % 200 + 1))).expect("valid"))
            .collect();
        for (i, path) in paths.iter().enumerate() {
            spool.put(i as u64, path).expect("put");
        }
        let back: Vec<_> = spool.read().expect("read").map(|r| r.expect("item").1).collect();
        assert_eq!(back, paths);
    }

    #[test]
    fn a_short_list_needs_no_disk_and_a_long_one_not_much_memory() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (count, on_disk) in [(1000, false), (100_000, true)] {
            let mut spool = Spool::new(dir.path()).expect("spool");
            let path = RelPath::new("a/path/of/some/length").expect("valid");
            (0..count).for_each(|i| spool.put(i, &path).expect("put"));
            assert_eq!(spool.out.get_ref().metadata().expect("stat").len() > 0, on_disk);
            let sizes = spool.read().expect("read").map(|item| item.expect("item").0);
            assert!(sizes.eq(0..count));
        }
    }
}
