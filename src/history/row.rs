//! Entries as rows of the `entries` table, and version vectors as blobs.
//!
//! Promises that what was written is read back equal.

use rusqlite::{CachedStatement, Connection, Row, params};

use super::sql::{self, db, int, odd, opt_blob};
use crate::base::error::Result;
use crate::base::id::{ContentId, OriginId};
use crate::base::path::RelPath;
use crate::model::entry::{Dot, Entry, Op, Version};

/// The columns that [`read`] expects, in order, of a table called `e`.
macro_rules! columns {
    () => {
        "e.path, e.origin, e.number, e.hlc, e.kind, e.content, e.body_kind, e.body, e.size, e.mtime_s, \
         e.mtime_ns, e.mode, e.target, e.seen, e.base, e.moved_from, e.moved_to"
    };
}
pub(super) use columns;

/// An entry as it lies in the table.
#[derive(Debug)]
pub struct Stored {
    /// Number that stands for its origin.
    pub origin: i64,
    /// Its number there.
    pub number: i64,
    /// The entry.
    pub entry: Entry,
}

/// Prepares the statement that [`write`] executes; one that is there already stays as it is.
pub fn prepare(conn: &Connection) -> Result<CachedStatement<'_>> {
    conn.prepare_cached(
        "INSERT OR IGNORE INTO entries VALUES \
         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )
    .map_err(db)
}

/// Adds a row, dated `hlc`; `false` if it was there.
pub fn write(add: &mut CachedStatement, origin: i64, number: u64, entry: &Entry, hlc: u64) -> Result<bool> {
    let version = entry.version();
    let body = version.and_then(|v| v.body.as_ref());
    let added = add
        .execute(params![
            entry.path.as_bytes(),
            origin,
            number as i64,
            hlc as i64,
            version.map(|v| sql::kind_number(v.kind)),
            version.and_then(|v| v.content.as_ref()).map(|c| &c.0[..]),
            body.map(|b| b.kind.byte()),
            body.map(|b| &b.id.0[..]),
            version.map(|v| v.size as i64),
            version.map(|v| v.mtime.secs),
            version.map(|v| v.mtime.nanos),
            version.map(|v| v.mode),
            version.and_then(|v| v.target.as_deref()),
            pack(&entry.seen),
            entry.base.as_ref().map(|c| &c.0[..]),
            entry.moved_from.as_ref().map(RelPath::as_bytes),
            entry.moved_to.as_ref().map(RelPath::as_bytes),
        ])
        .map_err(db)?;
    Ok(added > 0)
}

/// Reads a row of [`columns`].
pub fn read(row: &Row) -> Result<Stored> {
    let op = match sql::opt_int(row, 4)? {
        Some(kind) => Op::Put(version(row, kind)?),
        None => Op::Del,
    };
    let path_at = |at| opt_blob(row, at)?.map(RelPath::new).transpose();
    let entry = Entry {
        hlc: int(row, 3)? as u64,
        path: sql::path(row, 0)?,
        op,
        seen: unpack(sql::blob(row, 13)?)?,
        base: opt_blob(row, 14)?.map(ContentId::from_slice).transpose()?,
        moved_from: path_at(15)?,
        moved_to: path_at(16)?,
    };
    Ok(Stored { origin: int(row, 1)?, number: int(row, 2)?, entry })
}

fn version(row: &Row, kind: i64) -> Result<Version> {
    Ok(Version {
        kind: sql::kind(kind)?,
        content: sql::content(row, 5)?,
        body: sql::body(row, 6)?,
        size: int(row, 8)? as u64,
        mtime: sql::time(row, 9)?,
        mode: sql::small(row, 11)?,
        target: opt_blob(row, 12)?.map(<[u8]>::to_vec),
    })
}

const DOT: usize = OriginId::LEN + 8;

/// Dots as one blob.
pub fn pack(dots: &[Dot]) -> Vec<u8> {
    let mut out = Vec::with_capacity(dots.len() * DOT);
    for dot in dots {
        out.extend_from_slice(&dot.origin.0);
        out.extend_from_slice(&dot.number.to_le_bytes());
    }
    out
}

/// The inverse of [`pack`].
pub fn unpack(bytes: &[u8]) -> Result<Vec<Dot>> {
    let (dots, rest) = bytes.as_chunks::<DOT>();
    if !rest.is_empty() {
        return Err(odd("version vector"));
    }
    let read = |d: &[u8; DOT]| {
        let (origin, number) = d.split_first_chunk::<32>()?;
        Some(Dot { origin: OriginId(*origin), number: u64::from_le_bytes(number.try_into().ok()?) })
    };
    dots.iter().map(|d| read(d).ok_or_else(|| odd("version vector"))).collect()
}
