//! A stub gets its content back, in place.
//!
//! Promises that the file counts as half filled (mark and header both say so) until the last byte
//! is in, that it ends as the whole content or as the stub it was, and that bytes written by
//! somebody else are never written over: work stops before the kernel lets a waiting opener in.
//! Syncs nothing. Does not know where the bytes come from; the caller has verified them.

use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::guard::Hold;
use super::inode::{Exclusive, Target, clear_mark, keeps_order, punch_tail, reserve};
use super::inspect::{State, first_block, marked, read_stub};
use super::lease::patience;
use super::mount::MountId;
use super::stat::Stat;
use crate::base::error::{Error, Result};
use crate::disk;
use crate::format::key::Keys;
use crate::format::stub::{HEADER_LEN, InodeMark, MarkState, StubHead, looks_like_stub};

/// A stub being filled. Dropping it unfinished makes it a stub again, as [`Filling::abandon`] does.
pub struct Filling<'h> {
    held: Exclusive<'h>,
    /// The header as it is in the file, whatever name it mentions.
    header: Vec<u8>,
    mark: InodeMark,
    /// The content's first block, kept back until everything else is in.
    first: Mutex<Vec<u8>>,
    /// Whether that is to get a block of its own, instead of the header's.
    renews: bool,
    written: AtomicU64,
    begun: Instant,
    /// Milliseconds after `begun` when the lease was last seen whole.
    held_at: AtomicU64,
    done: bool,
}

impl<'h> Filling<'h> {
    /// Takes the file exclusively and checks that it is the stub of `target.head`.
    pub fn begin(target: &Target<'h>) -> Result<Self> {
        let mut held = target.open()?;
        // A guard that is gone keeps nobody out; the lease does.
        if let Some(hold) = target.held.filter(|hold| hold.check().is_ok()) {
            held.rely_on_guard(hold);
        }
        let mount = target.root.mount_of(&held.file);
        Self::of(held, target.keys, target.head, mount)
    }

    /// The same for an open file whose openers all wait at the guard.
    pub fn guarded(reader: &File, keys: &Keys, head: &StubHead, hold: Option<Hold<'h>>) -> Result<Self> {
        // Nobody is let in before it is marked as filled.
        Self::of(Exclusive::guarded(reader, hold)?, keys, head, None)
    }

    fn of(mut held: Exclusive<'h>, keys: &Keys, head: &StubHead, mount: Option<MountId>) -> Result<Self> {
        let begun = Instant::now();
        let header = first_block(&held.file)?;
        if marked(&held.file)?.is_some_and(|m| m.state == MarkState::Filling) {
            return Err(Error::Refused("it is half filled by an interrupted ddr".into()));
        }
        if !looks_like_stub(&header) {
            return Err(Error::Changed("it is no longer a stub".into()));
        }
        match read_stub(&held.file, &held.stat, &header, keys, head.folder)? {
            State::Stub(found) if found.content == head.content && found.body == head.body => {}
            State::Odd(why) => return Err(Error::Refused(why)),
            _ => return Err(Error::Changed("it is now the stub of another content".into())),
        }
        let mark = InodeMark {
            mtime: held.stat.mtime,
            inode: held.stat.ino as u32,
            mount: mount.unwrap_or_default(),
            ..InodeMark::of(head, MarkState::Filling)
        };
        match held.mark(&mark) {
            // Without attributes the intent alone explains the file.
            Err(e) if e.errno() != Some(libc::EOPNOTSUPP) => return Err(e),
            _ => held.give_back()?,
        }
        Ok(Self {
            held,
            header,
            mark,
            first: Mutex::new(vec![0; HEADER_LEN]),
            renews: false,
            written: AtomicU64::new(0),
            begun,
            held_at: AtomicU64::new(0),
            done: false,
        })
    }

    /// Reserves room for all but these holes (start, length), so that a full disk shows before the work.
    pub fn reserve(&self, holes: &[(u64, u64)]) -> Result<()> {
        reserve(&self.held.file, self.held.stat.size, holes, &self.held.path)
    }

    /// Writes a part of the content; each byte once, in any order, from any thread.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.held.stat.size);
        if end.is_none() {
            return Err(Error::corrupt("content", "it is longer than its stub says"));
        }
        self.check_lease()?;
        let early = (HEADER_LEN as u64).saturating_sub(offset).min(bytes.len() as u64) as usize;
        let (front, rest) = bytes.split_at(early);
        if !front.is_empty() {
            let mut first = self.first.lock().unwrap_or_else(|e| e.into_inner());
            first[offset as usize..offset as usize + early].copy_from_slice(front);
        }
        if !rest.is_empty() {
            self.held.write(rest, offset + early as u64)?;
        }
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Has the mark reach the disk before anything of the filling does: it explains whatever a power cut leaves,
    /// where no intent does. A journal keeps what changes in extents and attributes in order, and what is
    /// written to new blocks behind it; only the header's block, which is there already, must then be given back
    /// instead of being written over. Other file systems have the mark synced.
    pub fn order_mark(&mut self) -> Result<()> {
        self.renews = keeps_order(&self.held.file);
        if self.renews { Ok(()) } else { disk::sync_file(&self.held.file, &self.held.path) }
    }

    /// Ends it: everything but these holes (start, length) has been written. On an error the file is
    /// a stub again, or still marked as half filled.
    pub fn finish(mut self, holes: &[(u64, u64)]) -> Result<Stat> {
        let stat = self.complete(holes)?;
        // Before anybody is let in.
        clear_mark(&self.held.file)?;
        Ok(Stat::of(&self.held.file).unwrap_or(stat))
    }

    /// The same, but a mark stays, that all is there: it must go ([`clear_mark`]) only after the content is
    /// durable. `mount` is that of the file system (`Root::mount_of`).
    pub fn finish_marked(mut self, holes: &[(u64, u64)], mount: Option<MountId>) -> Result<Stat> {
        let stat = self.complete(holes)?;
        let mount = mount.unwrap_or_default();
        self.held.mark(&InodeMark { state: MarkState::Filled, mount, ..self.mark })?;
        Ok(Stat::of(&self.held.file).unwrap_or(stat))
    }

    fn complete(&mut self, holes: &[(u64, u64)]) -> Result<Stat> {
        let hole_bytes: u64 = holes.iter().map(|(_, len)| len).sum();
        let written = self.written.load(Ordering::Relaxed);
        if written.checked_add(hole_bytes) != Some(self.held.stat.size) {
            let why = format!("{written} bytes came instead of {}", self.held.stat.size - hole_bytes);
            return Err(Error::corrupt("content", why));
        }
        self.check_lease()?;
        let front = HEADER_LEN as u64;
        if holes.iter().any(|(start, len)| *start == 0 && *len >= front) {
            self.held.punch(0, front)?;
        } else {
            if self.renews {
                self.held.punch(0, front)?;
            }
            let first = self.first.lock().unwrap_or_else(|e| e.into_inner());
            self.held.write(&first, 0)?;
        }
        // From here on the content is whole; going back would be the larger risk.
        self.done = true;
        self.held.settle(self.mark.mtime)
    }

    /// Makes it the stub again that it was.
    pub fn abandon(mut self) -> Result<()> {
        self.done = true;
        self.back()
    }

    fn back(&mut self) -> Result<()> {
        self.held.check_hold()?;
        self.check_lease()?;
        // What is freed may be what the header needs.
        punch_tail(&self.held.file, self.held.stat.size, &self.held.path)?;
        self.held.write(&self.header, 0)?;
        self.held.settle(self.mark.mtime)?;
        if self.renews {
            // The header may lie in a new block, which a mark must not overtake.
            disk::sync_file(&self.held.file, &self.held.path)?;
        }
        let mark = InodeMark { state: MarkState::Stub, inode: 0, mount: MountId::default(), ..self.mark };
        match self.held.mark(&mark) {
            Err(e) if e.errno() != Some(libc::EOPNOTSUPP) => Err(e),
            _ => Ok(()),
        }
    }

    /// Fails once an opener has waited so long that the kernel may soon let it in.
    fn check_lease(&self) -> Result<()> {
        let now = self.begun.elapsed().as_millis() as u64;
        if self.held.is_undisturbed() {
            self.held_at.fetch_max(now, Ordering::Relaxed);
            return Ok(());
        }
        let waited = now.saturating_sub(self.held_at.load(Ordering::Relaxed));
        if u128::from(waited) <= patience().as_millis() {
            return Ok(());
        }
        Err(Error::Changed("another program opened it and could wait no longer".into()))
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        if !self.done {
            // Failing leaves the mark and the intent, which explain the file.
            let _ = self.back();
        }
    }
}
