//! Small change of talking to SQLite: errors, columns, path ranges.
//!
//! Promises that a column of an unexpected type or length is an error, never a panic.

use rusqlite::types::ValueRef;
use rusqlite::{ErrorCode, Row};

use crate::base::error::{Error, Result};
use crate::base::id::{ContentId, RecordId};
use crate::base::path::{MAX_PATH, RelPath};
use crate::base::units::Time;
use crate::model::entry::{Body, FileKind, Kind};

/// Sorts SQLite's errors by what the caller can do.
pub fn db(e: rusqlite::Error) -> Error {
    match e.sqlite_error_code() {
        Some(_) if is_full(&e) => Error::NoSpace("while updating history.db".into()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::Locked("another ddr that is writing history.db".into())
        }
        _ => Error::Db(format!("history.db: {e}")),
    }
}

/// Whether there was no room, also for the index that SQLite shares in memory.
pub fn is_full(e: &rusqlite::Error) -> bool {
    let no_shm = e.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE);
    no_shm || e.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// A value that no ddr writes.
pub fn odd(what: &str) -> Error {
    Error::Db(format!("history.db: unexpected {what}"))
}

/// An integer column.
pub fn int(row: &Row, at: usize) -> Result<i64> {
    row.get(at).map_err(db)
}

/// An integer column that may be NULL.
pub fn opt_int(row: &Row, at: usize) -> Result<Option<i64>> {
    row.get(at).map_err(db)
}

/// An integer column that holds a smaller type.
pub fn small<T: TryFrom<i64>>(row: &Row, at: usize) -> Result<T> {
    T::try_from(int(row, at)?).map_err(|_| odd("number"))
}

/// A blob column that may be NULL.
pub fn opt_blob<'r>(row: &'r Row, at: usize) -> Result<Option<&'r [u8]>> {
    match row.get_ref(at).map_err(db)? {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(bytes) => Ok(Some(bytes)),
        _ => Err(odd("column type")),
    }
}

/// A blob column.
pub fn blob<'r>(row: &'r Row, at: usize) -> Result<&'r [u8]> {
    opt_blob(row, at)?.ok_or_else(|| odd("NULL"))
}

/// A path column.
pub fn path(row: &Row, at: usize) -> Result<RelPath> {
    RelPath::new(blob(row, at)?)
}

/// Two columns: seconds and nanoseconds.
pub fn time(row: &Row, at: usize) -> Result<Time> {
    Ok(Time { secs: int(row, at)?, nanos: small(row, at + 1)? })
}

/// A content id that may be NULL.
pub fn content(row: &Row, at: usize) -> Result<Option<ContentId>> {
    opt_blob(row, at)?.map(ContentId::from_slice).transpose()
}

/// Two columns, both NULL or neither: kind and id of a body.
pub fn body(row: &Row, at: usize) -> Result<Option<Body>> {
    let Some(id) = opt_blob(row, at + 1)? else { return Ok(None) };
    Ok(Some(Body { kind: Kind::from_byte(small(row, at)?)?, id: RecordId::from_slice(id)? }))
}

/// The number that stands for a file kind.
pub fn kind_number(kind: FileKind) -> i64 {
    match kind {
        FileKind::File => 0,
        FileKind::Dir => 1,
        FileKind::Symlink => 2,
    }
}

/// The inverse of [`kind_number`].
pub fn kind(number: i64) -> Result<FileKind> {
    match number {
        0 => Ok(FileKind::File),
        1 => Ok(FileKind::Dir),
        2 => Ok(FileKind::Symlink),
        _ => Err(odd("file kind")),
    }
}

/// Not above any path but the root: that one has a version, too (its mode and time), but is asked for by
/// name and is in no listing.
pub const FIRST: [u8; 1] = [0];

/// Half-open ranges of path bytes that hold exactly the paths under `under`, in order.
///
/// Two where `under` is not the root: in byte order `a.txt` lies between `a` and `a/b`.
pub fn ranges(under: &RelPath) -> Vec<(Vec<u8>, Vec<u8>)> {
    let path = under.as_bytes();
    if under.is_root() {
        return vec![(FIRST.to_vec(), vec![0xff; MAX_PATH + 1])];
    }
    // No path holds a NUL and `0` follows `/`.
    let with = |end: u8| [path, &[end]].concat();
    vec![(path.to_vec(), with(0)), (with(b'/'), with(b'0'))]
}

/// The smallest bytes after this path.
pub fn just_after(path: &RelPath) -> Vec<u8> {
    [path.as_bytes(), &[0]].concat()
}
