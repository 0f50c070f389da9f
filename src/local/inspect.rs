//! What a file is, decided by its bytes and extents (I5).
//!
//! Promises that nothing but an intact header of this folder with nothing behind it counts as a
//! stub, and that stub bytes in any other shape are reported as [`State::Odd`], never as content.
//! Knows no database.

use std::fs::File;

use super::inode::name_of;
pub use super::inode::{clear_mark, marked};
use super::read::{next_data, read_full_at};
use super::stat::Stat;
use crate::base::error::{Error, Result};
use crate::base::id::FolderId;
use crate::format::key::Keys;
use crate::format::stub::{self, FIRST_LINE, HEADER_LEN, InodeMark, MarkState, StubHead};

/// What a file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// An ordinary file with its own content.
    Full,
    /// A stub of this folder.
    Stub(StubHead),
    /// Its content is being written back, or is not known to be durable since; or that was so when ddr stopped.
    Filling(InodeMark),
    /// Neither, why, and what to do: the user's writing into a stub, or damage. Never to be taken in,
    /// never to be filled.
    Odd(String),
}

/// Why a file that is being filled is left alone.
pub const HALF_FILLED: &str = "its content is being written back, or was when ddr was interrupted";

/// What the user can do about a stub that something was written into.
const RESCUE: &str = "to keep what was written, copy it elsewhere; then `rm` it and `ddr restore` it";

/// What a file is, from its first 4 KiB, its mark and its extents.
pub fn inspect(file: &File, stat: &Stat, keys: &Keys, folder: FolderId) -> Result<State> {
    if stat.size == 0 {
        return Ok(State::Full);
    }
    judge(file, stat, marked(file)?, &first_block(file)?, keys, folder)
}

/// The same, and whether it is a full file that still carries the mark of the stub it once was;
/// `block` are its first 4 KiB, or all of a shorter file.
pub fn inspect_mark(
    file: &File,
    stat: &Stat,
    block: &[u8],
    keys: &Keys,
    folder: FolderId,
) -> Result<(State, bool)> {
    let mark = marked(file)?;
    let state = if stat.size == 0 { State::Full } else { judge(file, stat, mark, block, keys, folder)? };
    let outlived = mark.is_some() && state == State::Full;
    Ok((state, outlived))
}

fn judge(
    file: &File,
    stat: &Stat,
    mark: Option<InodeMark>,
    block: &[u8],
    keys: &Keys,
    folder: FolderId,
) -> Result<State> {
    let odd = |why: &str| Ok(State::Odd(why.to_string()));
    // One that names another inode came along with a copy of a file that was full already.
    let here = |mark: &InodeMark| mark.inode == 0 || mark.inode == stat.ino as u32;
    if let Some(mark) = mark.filter(|mark| mark.state != MarkState::Stub && here(mark)) {
        return Ok(State::Filling(mark));
    }
    if stub::looks_like_stub(block) {
        return read_stub(file, stat, block, keys, folder);
    }
    if mark.is_some() && (stub::has_stub_remains(block) || FIRST_LINE.starts_with(block)) {
        return odd(&format!("its stub header was written over in part; {RESCUE}"));
    }
    Ok(State::Full)
}

/// The first 4 KiB, or less of a shorter file.
pub fn first_block(file: &File) -> Result<Vec<u8>> {
    let mut block = vec![0u8; HEADER_LEN];
    let len = read_full_at(file, &mut block, 0).map_err(|e| Error::io("reading", name_of(file), e))?;
    block.truncate(len);
    Ok(block)
}

/// A file that begins like a stub: is it one?
pub(super) fn read_stub(
    file: &File,
    stat: &Stat,
    block: &[u8],
    keys: &Keys,
    folder: FolderId,
) -> Result<State> {
    let head = match StubHead::decode(block, keys, folder) {
        Ok(head) => head,
        Err(Error::Refused(why)) => {
            return Ok(State::Odd(format!("{why}; check it out there, then copy it again")));
        }
        Err(Error::Corrupt { why, .. }) => {
            return Ok(State::Odd(format!(
                "it begins like a stub, but its header is damaged: {why}; {RESCUE}"
            )));
        }
        Err(e) => return Err(e),
    };
    if head.size != stat.size {
        return Ok(State::Odd(format!(
            "it is a stub whose size was changed from {} to {} bytes; {RESCUE}",
            head.size, stat.size
        )));
    }
    match data_behind(file, stat.size)? {
        Some(at) => Ok(State::Odd(format!("something was written into the stub at byte {at}; {RESCUE}"))),
        None => Ok(State::Stub(head)),
    }
}

/// The first byte behind the header block that is not zero.
fn data_behind(file: &File, size: u64) -> Result<Option<u64>> {
    let fail = |e| Error::io("looking for data in", name_of(file), e);
    let mut at = HEADER_LEN as u64;
    let mut buf = Vec::new();
    while let Some((start, end)) = next_data(file, at, size).map_err(fail)? {
        buf.resize((end - start).min(1 << 20) as usize, 0);
        let len = read_full_at(file, &mut buf, start).map_err(fail)?;
        if let Some(i) = buf[..len].iter().position(|b| *b != 0) {
            return Ok(Some(start + i as u64));
        }
        if len == 0 {
            break;
        }
        at = start + len as u64;
    }
    Ok(None)
}
