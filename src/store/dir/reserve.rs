//! Room that a store's directory sets aside for the day its disk is full to the last byte.
//!
//! Whoever frees room must first write a little: history, an intent, a hold, a mark. Promises that the
//! file is really allocated, that it is made only where there is plenty of room, and that it never
//! makes anything else fail: whatever goes wrong with it, there is just no reserve. Its length is all that
//! it says; the bytes mean nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};

use crate::store::names;

/// Its name. No object can be called so, so that no listing ever shows it.
pub const NAME: &str = "RESERVE";
const MIB: u64 = 1 << 20;
/// Bytes at most: what SQLite, logs and intents of a batch of stubs take.
const MOST: u64 = 16 * MIB;
/// Never more than this part of a disk.
const PART: u64 = 100;
/// A first one is made where so many times its size is free.
const PLENTY: u64 = 8;
/// Given at once, beside what is asked for: directories grow, too.
const STEP: u64 = MIB;
/// File systems in memory: what is full there is not a disk.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58F6];

/// A disk, and how long the reserve on it is, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Facts {
    total: u64,
    free: u64,
    len: Option<u64>,
}

impl Facts {
    /// How long it should be: none on a disk that is tiny.
    fn target(&self) -> u64 {
        (self.total / PART).min(MOST) / MIB * MIB
    }

    /// Bytes of it that were given and not put back: nobody else of us may take them.
    fn missing(&self) -> u64 {
        self.len.map_or(0, |len| self.target().saturating_sub(len))
    }

    /// How long it is to be made now, if longer. What was given is put back as soon as it fits twice.
    fn wanted(&self) -> Option<u64> {
        let target = self.target();
        let has_room = match self.len {
            Some(_) => self.free >= 2 * self.missing(),
            None => self.free >= PLENTY * target,
        };
        (has_room && self.len.unwrap_or(0) < target).then_some(target)
    }

    /// How long it is to stay so that `need` bytes are free, if shorter.
    fn left(&self, need: u64) -> Option<u64> {
        let need = need.saturating_add(STEP);
        let len = self.len.filter(|len| *len > 0 && self.free < need)?;
        Some(len.saturating_sub(need.next_multiple_of(STEP)))
    }
}

/// The reserve of a directory.
pub struct Reserve<'a>(pub BorrowedFd<'a>);

impl Reserve<'_> {
    /// Bytes that must stay free so that it can be filled up again.
    pub fn missing(&self) -> u64 {
        self.facts().map_or(0, |facts| facts.missing())
    }

    /// Whether `need` bytes more would leave less free than must stay so.
    pub fn is_needed_beside(&self, need: u64) -> bool {
        self.facts().is_ok_and(|facts| {
            let missing = facts.missing();
            missing > 0 && missing.saturating_add(need) > facts.free
        })
    }

    /// Makes it, or fills it up, where there is room for that.
    pub fn tend(&self) {
        let grow = |len| self.open(OFlags::CREATE).and_then(|file| allocate(&file, len));
        if let Ok(facts) = self.facts()
            && let Some(len) = facts.wanted()
            && grow(len).is_err()
        {
            // Others were faster: what it takes now must not be more than it was.
            let _ = self.cut(facts.len.unwrap_or(0));
        }
    }

    /// Gives so much of it that `need` bytes and some more can be written; nothing where all of it is not enough.
    pub fn give(&self, need: u64) {
        let helps = |facts: &Facts| facts.free.saturating_add(facts.len.unwrap_or(0)) >= need;
        self.facts().into_iter().filter(helps).for_each(|facts| self.give_of(&facts, need));
    }

    /// Gives all of it if the disk is nearly full.
    pub fn give_all(&self) {
        self.facts().into_iter().for_each(|facts| self.give_of(&facts, facts.target()));
    }

    fn give_of(&self, facts: &Facts, need: u64) {
        let Some(len) = facts.left(need) else { return };
        if self.cut(len).is_err() {
            // A file system that must write in order to cut may still be able to remove.
            let _ = rustix::fs::unlinkat(self.0, NAME, AtFlags::empty());
        }
        // Freed blocks can be taken again only once that is durable; best effort, as all of this.
        let _ = rustix::fs::syncfs(self.0);
    }

    fn facts(&self) -> io::Result<Facts> {
        let kind = rustix::fs::fstatfs(self.0)?.f_type as u64 & 0xFFFF_FFFF;
        let fs = rustix::fs::fstatvfs(self.0)?;
        let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
        let total = if IN_MEMORY.contains(&kind) { 0 } else { bytes(fs.f_blocks) };
        let len = match rustix::fs::statat(self.0, NAME, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Some(stat.st_size as u64)
            }
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(rustix::io::Errno::NOENT) => None,
            Err(e) => return Err(e.into()),
        };
        Ok(Facts { total, free: bytes(fs.f_bavail), len })
    }

    fn open(&self, how: OFlags) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | how;
        Ok(rustix::fs::openat(self.0, NAME, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        let file = self.open(OFlags::empty())?;
        file.set_len(len)
    }
}

/// Makes a file so long, in blocks that are its own.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    let old = file.metadata()?.len();
    let promised = rustix::fs::fallocate(file.as_fd(), FallocateFlags::empty(), 0, len);
    // Some file systems only promise, some do not even that: what is written there is noise, which no
    // file system can keep in less.
    let blocks = || file.metadata().map(|meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512);
    if promised.is_err() || blocks()? < len {
        let mut noise = blake3::Hasher::new().update(&names::fresh().to_le_bytes()).finalize_xof();
        let mut bytes = vec![0; MIB as usize];
        let mut at = old;
        while at < len {
            noise.fill(&mut bytes);
            let some = (len - at).min(MIB);
            file.write_all_at(&bytes[..some as usize], at)?;
            at += some;
        }
    }
    // A promise of room that is not durable is one that a power cut breaks, and no harm.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_small_and_made_only_where_there_is_plenty() {
        let wanted = |total, free, len| Facts { total, free, len }.wanted().map(|len| len / MIB);
        assert_eq!(wanted(1 << 40, 1 << 39, None), Some(16));
        assert_eq!(wanted(1000 * MIB, 500 * MIB, None), Some(10));
        assert_eq!(wanted(1000 * MIB, 79 * MIB, None), None, "not plenty");
        assert_eq!(wanted(99 * MIB, 99 * MIB, None), None, "tiny");
        assert_eq!(wanted(1000 * MIB, 20 * MIB, Some(0)), Some(10), "given, and there is room again");
        assert_eq!(wanted(1000 * MIB, 19 * MIB, Some(0)), None);
        assert_eq!(wanted(1 << 40, 1 << 39, Some(16 * MIB)), None, "it is there");
    }

    proptest! {
        /// However often it is asked: it gives only where room is short, never less than is asked for as
        /// long as it has that, and takes nothing back before that fits twice.
        #[test]
        fn it_gives_what_is_needed_and_no_more_than_it_has(
            total in 0u64..1 << 42, free in 0u64..1 << 30, len in 0u64..64 * MIB, need in 0u64..64 * MIB,
        ) {
            let facts = Facts { total, free, len: Some(len) };
            match facts.left(need) {
                Some(left) => {
                    prop_assert!(free < need + STEP && left < len);
                    prop_assert!(left == 0 || len - left >= need);
                    let after = Facts { free: free + len - left, len: Some(left), total };
                    prop_assert!(after.wanted().is_none_or(|len| after.free >= 2 * (len - left)));
                }
                None => prop_assert!(len == 0 || free >= need + STEP),
            }
            prop_assert!(facts.target() <= total / PART && facts.target() <= MOST);
        }
    }

    #[test]
    fn what_it_says_it_takes_it_takes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let handle = File::open(dir.path()).expect("directory");
        let reserve = Reserve(handle.as_fd());
        if reserve.facts().expect("facts").wanted().is_none() {
            return;
        }
        reserve.tend();
        let meta = std::fs::metadata(dir.path().join(NAME)).expect("made");
        assert!(std::os::unix::fs::MetadataExt::blocks(&meta) * 512 >= meta.len() && meta.len() >= MIB);
        reserve.cut(0).expect("given");
        assert_eq!(reserve.missing(), meta.len());
        reserve.tend();
        assert_eq!(reserve.missing(), 0);
    }
}
