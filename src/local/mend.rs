//! Recovery of one file that a pending intent names, or its mark.
//!
//! Promises (I5) that a file is changed only if every byte of it is the content's own, or missing where ddr may
//! have freed or not yet written it, or belongs to a whole sector of the stub header; anything else is the user's
//! writing and stays as it is, zeros, too. Does not know where the original bytes come from; they arrive verified.

use std::fs::File;
use std::io;
use std::path::Path;

use super::guard::Hold;
use super::inode::{
    Exclusive, Target, chmod, clear_mark, doubt_mark, keeps_order, marked, name_of, punch_tail, set_mtime,
};
use super::inspect::{State, first_block, read_stub};
use super::intent::Task;
use super::mount::MountId;
use super::read::{next_data, read_full_at};
use super::root::{Access, Root};
use super::stat::{FileType, Fingerprint, Stat};
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::disk;
use crate::format::key::Keys;
use crate::format::stub::{HEADER_LEN, InodeMark, MIN_STUB, MarkState, StubHead, looks_like_stub};

/// What a file turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// All original bytes: a full file. Its mark is cleared and its time restored.
    Intact,
    /// A proper stub.
    Stub,
    /// Half-way, and every byte is explained: as long as it has this fingerprint it may be made a
    /// stub again ([`restub`]) or filled ([`refill`]).
    Explained(Fingerprint),
    /// Anything else, and why: the user's writing, to be left alone.
    Theirs(String),
    /// Nothing is there.
    Gone,
}

/// Yields the content's bytes from an offset on, as many as the buffer holds.
pub type Original<'a> = dyn FnMut(u64, &mut [u8]) -> Result<()> + 'a;

/// The unit in which a disk writes all or nothing.
const SECTOR: usize = 512;
const WINDOW: u64 = 1 << 20;
/// More on disk than a stub's header, its attributes and what a file system rounds up to.
const KEPT: u64 = 16 << 10;

/// Decides what a file is that an intent for `task` names; `at` is where it lies now, and the name that
/// the intent knows it by (a header being written says that one).
pub fn judge(
    root: &Root,
    task: Task,
    at: (&RelPath, &[u8]),
    head: &StubHead,
    keys: &Keys,
    original: &mut Original,
) -> Result<Verdict> {
    let (path, name) = at;
    match root.stat(path)? {
        None => return Ok(Verdict::Gone),
        Some(stat) if stat.kind != FileType::File => return theirs("it is no longer a regular file"),
        Some(_) => {}
    }
    judge_open(&root.open_file(path, Access::Read)?, root, task, name, (head, keys), original)
}

/// The same for a file that is open, wherever it lies by now.
pub fn judge_open(
    file: &File,
    root: &Root,
    task: Task,
    name: &[u8],
    (head, keys): (&StubHead, &Keys),
    original: &mut Original,
) -> Result<Verdict> {
    let full = name_of(file);
    let fail = |e: io::Error| Error::io("inspecting", &full, e);
    let stat = Stat::of(file).map_err(fail)?;
    let mark = marked(file)?.filter(|mark| mark.body == head.body.id);
    if mark.as_ref().is_some_and(|mark| is_finished(root, file, mark)) {
        disk::sync_file(file, &full).or_else(|e| doubt_mark(file).and(Err(e)))?;
        return clear_mark(file).map(|()| Verdict::Intact);
    }
    let is_marked = mark.as_ref().is_some_and(|mark| mark.state != MarkState::Stub);
    let prefix = task == Task::Create && stat.size < head.size;
    if stat.size != head.size && !prefix && !is_marked {
        return theirs("its size was changed");
    }
    let block = first_block(file)?;
    let header = match read_header(file, &stat, &block, keys, head)? {
        // Nothing of a new one is missing; what time it has is the user's.
        Header::Stub if task == Task::Create => return Ok(Verdict::Stub),
        // A power cut may keep the room that was reserved for filling and forget the mark that said so.
        Header::Stub if at_rest(file, &stat, head)? && stat.blocks * 512 <= KEPT => {
            return Ok(Verdict::Stub);
        }
        Header::Stub => return Ok(Verdict::Explained(stat.fingerprint())),
        Header::Whole => block.clone(),
        Header::None => head.encode(keys, name).to_vec(),
    };
    let size = stat.size.min(head.size);
    let comparison = Comparison { file, size, header: &header, is_thorough: is_marked, path: &full };
    let found = comparison.run(original)?;
    if Stat::of(file).map_err(fail)?.fingerprint() != stat.fingerprint() {
        return Err(Error::Changed("it is being written to".into()));
    }
    if found.is_whole() && stat.size == head.size {
        return tidy(file, mark.as_ref(), &full).map(|()| Verdict::Intact);
    }
    let is_over = mark.as_ref().is_some_and(|mark| is_of_now(root, file, mark))
        && !found.is_open()
        && !looks_like_stub(&block)
        && !is_zero(&block);
    if is_marked && (!found.is_missing() || is_over) {
        // It was whole (the first block comes last), and the user wrote to it.
        return clear_mark(file).map(|()| Verdict::Intact);
    }
    let gap = gap(file, task, &stat, head, (mark.as_ref(), found.header.is_some()));
    match found.unexplained(gap) {
        None if stat.size == head.size || prefix && stat.mtime == head.mtime => {
            Ok(Verdict::Explained(stat.fingerprint()))
        }
        at => theirs(&format!("bytes at {} are neither the content's nor ddr's", at.unwrap_or(size))),
    }
}

/// Whether all of a file was written back, and nothing of that was lost since. Whatever it holds now, its users
/// wrote; only its mark is left, until it is durable.
pub fn is_finished(root: &Root, file: &File, mark: &InodeMark) -> bool {
    mark.state == MarkState::Filled && is_of_now(root, file, mark)
}

/// Whether its file system stayed mounted since it was marked.
fn is_of_now(root: &Root, file: &File, mark: &InodeMark) -> bool {
    mark.mount != MountId::default() && root.mount_of(file) == Some(mark.mount)
}

/// What may stand where bytes of the content are missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gap {
    Nothing,
    /// Holes behind the first block, which is never freed: nobody has written there.
    Freed,
    /// Holes: nobody has written there.
    Holes,
    /// Zeros, written or not.
    Zeros,
}

/// What of the content ddr may have freed, or not written yet. Zeros that were written may be the user's: they
/// count as missing only while mark and time show that nobody but ddr has written.
fn gap(
    file: &File,
    task: Task,
    stat: &Stat,
    head: &StubHead,
    (mark, has_header): (Option<&InodeMark>, bool),
) -> Gap {
    let unless_later = |time, gap| if stat.mtime == time { Gap::Zeros } else { gap };
    match (task, mark.map(|mark| (mark.state, mark.mtime))) {
        // Its time is set before it has a name.
        (Task::Create, _) => unless_later(head.mtime, Gap::Nothing),
        (_, Some((MarkState::Filling, _))) => Gap::Zeros,
        // Its time is set back before it is marked so.
        (_, Some((MarkState::Filled, mtime))) => unless_later(mtime, Gap::Nothing),
        // Its mark changes before its header goes; where the disk may see that later, anything may be.
        (Task::Fill, Some((MarkState::Stub, _))) if has_header || !keeps_order(file) => Gap::Zeros,
        (Task::Fill, Some((MarkState::Stub, _))) => Gap::Nothing,
        // Its time is set back before the mark goes; which time that is only the mark knew.
        (Task::Fill, None) => unless_later(head.mtime, Gap::Holes),
        // The mark comes before the first byte is freed.
        (Task::Stash, None) if keeps_order(file) => Gap::Nothing,
        (Task::Stash, _) => Gap::Freed,
    }
}

fn theirs(why: &str) -> Result<Verdict> {
    Ok(Verdict::Theirs(why.to_string()))
}

enum Header {
    /// A proper stub of this content.
    Stub,
    /// The header is whole, but something lies behind it.
    Whole,
    /// None, or not whole.
    None,
}

fn read_header(file: &File, stat: &Stat, block: &[u8], keys: &Keys, head: &StubHead) -> Result<Header> {
    let ours = looks_like_stub(block)
        && StubHead::decode(block, keys, head.folder).is_ok_and(|found| found.content == head.content);
    if !ours {
        return Ok(Header::None);
    }
    match read_stub(file, stat, block, keys, head.folder)? {
        State::Stub(_) => Ok(Header::Stub),
        _ => Ok(Header::Whole),
    }
}

/// Whether a proper stub needs nothing more: not marked as filling, time as it should be.
fn at_rest(file: &File, stat: &Stat, head: &StubHead) -> Result<bool> {
    let mark = marked(file)?;
    let mtime = mark.map_or(head.mtime, |m| m.mtime);
    Ok(mark.is_none_or(|m| m.state == MarkState::Stub) && stat.mtime == mtime)
}

/// Time and mark of a full file. Without a mark its time was never touched, or set back already; so it was when it
/// was marked as filled.
fn tidy(file: &File, mark: Option<&InodeMark>, path: &Path) -> Result<()> {
    let Some(mark) = mark else { return Ok(()) };
    if mark.state != MarkState::Filled {
        set_mtime(file, mark.mtime, path)?;
    }
    clear_mark(file)
}

/// Where a file first differs from the content, by the way it does.
#[derive(Default)]
struct Found {
    header: Option<u64>,
    hole: Option<u64>,
    zeros: Option<u64>,
    foreign: Option<u64>,
}

impl Found {
    fn is_missing(&self) -> bool {
        self.header.or(self.hole).or(self.zeros).is_some()
    }

    fn is_whole(&self) -> bool {
        !self.is_missing() && self.foreign.is_none()
    }

    /// Whether something was never written, or freed.
    fn is_open(&self) -> bool {
        self.header.or(self.hole).is_some()
    }

    /// Where something stands that is not missing, either.
    fn unexplained(&self, gap: Gap) -> Option<u64> {
        let zeros = self.zeros.filter(|_| gap != Gap::Zeros);
        let hole = self.hole.filter(|at| match gap {
            Gap::Nothing => true,
            Gap::Freed => *at < HEADER_LEN as u64,
            Gap::Holes | Gap::Zeros => false,
        });
        self.foreign.or(zeros).or(hole)
    }
}

struct Comparison<'a> {
    file: &'a File,
    size: u64,
    header: &'a [u8],
    /// Go on behind foreign bytes.
    is_thorough: bool,
    path: &'a Path,
}

impl Comparison<'_> {
    fn run(&self, original: &mut Original) -> Result<Found> {
        let fail = |e| Error::io("reading", self.path, e);
        // What the disk has counts; the cache may hold what could not be written.
        let _ = rustix::fs::fadvise(self.file, 0, None, rustix::fs::Advice::DontNeed);
        // Punching zeroes what is left of a block that the header does not fill.
        let block = rustix::fs::fstatfs(self.file).map_or(0, |fs| fs.f_bsize as u64);
        let (mut here, mut there) = (Vec::new(), Vec::new());
        let (mut found, mut at) = (Found::default(), 0);
        while at < self.size && (found.foreign.is_none() || self.is_thorough) {
            let (start, end) =
                next_data(self.file, at, self.size).map_err(fail)?.unwrap_or((self.size, self.size));
            // One hole is as good as many.
            let from = if found.hole.is_none() { at } else { start };
            let to = if start > from { start } else { end }.min(from + WINDOW);
            if from >= to {
                break;
            }
            there.resize((to - from) as usize, 0);
            original(from, &mut there)?;
            if start > from {
                found.hole = (!is_zero(&there)).then_some(from);
            } else {
                here.resize(there.len(), 0);
                let len = read_full_at(self.file, &mut here, from).map_err(fail)?;
                here[len..].fill(0);
                self.sectors(from, (&here, &there), block, &mut found);
            }
            at = to;
        }
        Ok(found)
    }

    fn sectors(&self, from: u64, (here, there): (&[u8], &[u8]), block: u64, found: &mut Found) {
        for (i, (now, then)) in here.chunks(SECTOR).zip(there.chunks(SECTOR)).enumerate() {
            if now == then {
                continue;
            }
            let at = from + (i * SECTOR) as u64;
            let header = usize::try_from(at).ok().and_then(|at| self.header.get(at..at + now.len()));
            // Chunks end anywhere, so what was written in may begin or end inside a sector.
            let has_zeros = now.iter().zip(then).all(|(n, t)| n == t || *n == 0);
            let kind = match has_zeros {
                _ if header == Some(now) => &mut found.header,
                true if (HEADER_LEN as u64..block).contains(&at) => &mut found.hole,
                true => &mut found.zeros,
                false => &mut found.foreign,
            };
            kind.get_or_insert(at);
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

/// Opens a file that [`judge`] explained, still as it was then.
fn retake<'t>(target: &Target<'t>, expect: &Fingerprint) -> Result<Exclusive<'t>> {
    let held = match target.held.is_some() {
        true => {
            let file = target.root.open_file(target.path, Access::Read)?;
            target.same(Exclusive::guarded(&file, target.held)?)?
        }
        false => target.open()?,
    };
    unchanged(&held, expect)?;
    Ok(held)
}

fn unchanged(held: &Exclusive, expect: &Fingerprint) -> Result<()> {
    match held.seen == *expect {
        true => Ok(()),
        false => Err(Error::Changed("it changed since it was looked at".into())),
    }
}

/// Takes an explained file away that was about to appear; it is made once more.
pub fn remove(target: &Target, expect: &Fingerprint) -> Result<()> {
    let held = target.open()?;
    unchanged(&held, expect)?;
    let (parent, name) = target.root.parent_of(target.path)?;
    disk::unlink(&parent, name).map_err(|e| Error::io("removing", &held.path, e))
}

/// Makes an explained file a proper stub.
pub fn restub(target: &Target, expect: &Fingerprint) -> Result<Stat> {
    if target.head.size < MIN_STUB {
        return Err(Error::Refused("it is too small for a stub".into()));
    }
    empty(retake(target, expect)?, target.head, &target.block())
}

/// The mark comes last, and after the rest is durable: as long as it says that the file is being filled, it
/// explains every state in between, where no intent does.
fn empty(mut held: Exclusive, head: &StubHead, block: &[u8]) -> Result<Stat> {
    let mark = marked(&held.file)?.filter(|m| m.body == head.body.id);
    let mtime = mark.map_or(head.mtime, |m| m.mtime);
    if mark.is_some_and(|mark| mark.state == MarkState::Filled) {
        mark_filling(&held, head, mtime)?;
    }
    held.write(block, 0)?;
    punch_tail(&held.file, head.size, &held.path)?;
    held.settle(mtime)?;
    if mark.is_some_and(|mark| mark.state != MarkState::Stub) {
        disk::sync_file(&held.file, &held.path)?;
    }
    match held.mark(&InodeMark { mtime, ..InodeMark::of(head, MarkState::Stub) }) {
        Err(e) if e.errno() != Some(libc::EOPNOTSUPP) => Err(e),
        _ => Stat::of(&held.file).map_err(|e| Error::io("inspecting", &held.path, e)),
    }
}

/// Says that a file is neither whole nor a stub from here on, before it is so.
fn mark_filling(held: &Exclusive, head: &StubHead, mtime: Time) -> Result<()> {
    let mark = InodeMark { mtime, inode: held.stat.ino as u32, ..InodeMark::of(head, MarkState::Filling) };
    match held.mark(&mark) {
        Err(e) if e.errno() != Some(libc::EOPNOTSUPP) => Err(e),
        _ if keeps_order(&held.file) => Ok(()),
        _ => disk::sync_file(&held.file, &held.path),
    }
}

/// Makes an explained file of any size the full file, while all its openers wait at the guard.
pub fn refill(
    (file, hold): (&File, Option<Hold>),
    head: &StubHead,
    expect: &Fingerprint,
    original: &mut Original,
) -> Result<Stat> {
    let held = Exclusive::guarded(file, hold)?;
    unchanged(&held, expect)?;
    complete(held, head, original)
}

/// The first block goes and comes back last: until then nothing there looks like a whole file.
fn complete(mut held: Exclusive, head: &StubHead, original: &mut Original) -> Result<Stat> {
    let mtime = restored_mtime(&held, head)?;
    let front = (HEADER_LEN as u64).min(head.size);
    mark_filling(&held, head, mtime)?;
    held.punch(0, HEADER_LEN as u64)?;
    let mut buf = Vec::new();
    let mut copy = |from: u64, to: u64| -> Result<()> {
        let mut at = from;
        while at < to {
            buf.resize((to - at).min(WINDOW) as usize, 0);
            original(at, &mut buf)?;
            held.write(&buf, at)?;
            at += buf.len() as u64;
        }
        Ok(())
    };
    copy(front, head.size)?;
    copy(0, front)?;
    held.settle(mtime)?;
    disk::sync_file(&held.file, &held.path)?;
    clear_mark(&held.file)?;
    Stat::of(&held.file).map_err(|e| Error::io("inspecting", &held.path, e))
}

fn restored_mtime(held: &Exclusive, head: &StubHead) -> Result<Time> {
    let mark = marked(&held.file)?.filter(|m| m.body == head.body.id);
    Ok(mark.map_or(head.mtime, |m| m.mtime))
}

/// Takes back the write permission that a read-only file was lent when ddr was interrupted; any
/// other difference from `mode` is the user's. Comes before [`judge`], since it moves the ctime.
pub fn restore_mode(root: &Root, path: &RelPath, mode: u16) -> Result<()> {
    let Some(stat) = root.stat(path)?.filter(|s| s.kind == FileType::File) else { return Ok(()) };
    let lent = [mode | 0o200, mode | 0o600];
    if stat.mode == mode || !lent.contains(&stat.mode) {
        return Ok(());
    }
    let file = root.open_file(path, Access::Read)?;
    let full = root.full(path);
    let raw = rustix::fs::fstat(&file).map_err(|e| Error::io("inspecting", &full, e))?;
    chmod(&file, raw.st_mode & 0o7000 | u32::from(mode), &full)
}
