//! The table of what the working tree held when it was last looked at.
//!
//! Promises path byte order and flat memory however many rows there are. Knows no file system:
//! whether a row still describes its file is the scanner's comparison.

use std::borrow::Borrow;
use std::vec::IntoIter;

use rusqlite::{CachedStatement, Connection, Row, params};

use super::db::History;
use super::origins::Origins;
use super::read::Head;
use super::sql::{self, db, int, just_after, ranges};
use crate::base::error::Result;
use crate::base::id::{ContentId, OriginId};
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::model::entry::{Body, Dot, FileKind, Version};
use crate::model::residency::Residency;

const PAGE: usize = 4096;

/// One path of the working tree as it was last seen.
#[derive(Clone, PartialEq, Debug)]
pub struct LocalRow {
    /// The path.
    pub path: RelPath,
    /// The entry that what is on disk corresponds to.
    pub dot: Dot,
    /// File, directory or symlink.
    pub kind: FileKind,
    /// Bytes of a regular file.
    pub size: u64,
    /// Modification time.
    pub mtime: Time,
    /// Permission bits.
    pub mode: u16,
    /// Change time, which no user sets.
    pub ctime: Time,
    /// Inode number.
    pub ino: u64,
    /// Content of a regular file.
    pub content: Option<ContentId>,
    /// Where its bytes are.
    pub body: Option<Body>,
    /// Target of a symlink.
    pub target: Option<Vec<u8>>,
    /// Whether the bytes were here.
    pub residency: Residency,
    /// The fingerprint was taken under a read lease: while it matches, the bytes may be freed.
    pub proven: bool,
}

macro_rules! local_columns {
    () => {
        "SELECT path, origin, number, kind, size, mtime_s, mtime_ns, mode, ctime_s, ctime_ns, ino, content, \
         body_kind, body, target, residency, proven FROM local "
    };
}

const RANGE: &str = concat!(local_columns!(), "WHERE path >= ?1 AND path < ?2 ORDER BY path");
const PAGED: &str = concat!(local_columns!(), "WHERE path >= ?1 AND path < ?2 ORDER BY path LIMIT 4096");

impl History {
    /// The row of one path.
    pub fn local(&self, path: &RelPath) -> Result<Option<LocalRow>> {
        let mut statement =
            self.conn.prepare_cached(concat!(local_columns!(), "WHERE path = ?1")).map_err(db)?;
        let mut rows = statement.query([path.as_bytes()]).map_err(db)?;
        let Some(row) = rows.next().map_err(db)? else { return Ok(None) };
        read(&self.conn, &mut self.origins.borrow_mut(), row).map(Some)
    }

    /// How many rows are stubs.
    pub fn stub_count(&self) -> Result<u64> {
        let stub = i64::from(Residency::Stub.byte());
        self.conn
            .query_row("SELECT count(*) FROM local WHERE residency = ?1", [stub], |r| r.get::<_, i64>(0))
            .map(|n| n as u64)
            .map_err(db)
    }

    /// Calls `sink` for every row under a path, in path byte order.
    pub fn each_local(&self, under: &RelPath, sink: &mut dyn FnMut(LocalRow) -> Result<()>) -> Result<()> {
        let mut statement = self.conn.prepare_cached(RANGE).map_err(db)?;
        for (low, high) in ranges(under) {
            let mut rows = statement.query([&low, &high]).map_err(db)?;
            while let Some(row) = rows.next().map_err(db)? {
                let row = read(&self.conn, &mut self.origins.borrow_mut(), row)?;
                sink(row)?;
            }
        }
        Ok(())
    }

    /// The same rows, to be pulled one by one.
    pub fn local_cursor(&self, under: &RelPath) -> LocalCursor<&Self> {
        LocalCursor::new(self, under)
    }

    /// Writes rows, in one transaction.
    pub fn put_local(&mut self, rows: &[LocalRow]) -> Result<()> {
        self.write(|conn, origins| put(conn, origins, rows))
    }

    /// Gives rows to what this origin recorded after entry `after` and has no row: its tree held that, or
    /// it could not have recorded it, but a crash came before the rows. Without them a path that is
    /// deleted next would pass for one that was never here. They match no file's change time, so that
    /// whatever is there is looked at again.
    pub fn adopt(&mut self, origin: &OriginId, after: u64) -> Result<()> {
        let mut last: Option<RelPath> = None;
        loop {
            let page = self.heads_after(last.as_ref(), PAGE)?;
            let Some((end, _)) = page.last() else { return Ok(()) };
            last = Some(end.clone());
            let mut rows = Vec::new();
            for (path, head) in page {
                let is_news = head.dot.origin == *origin && head.dot.number > after;
                if is_news && self.local(&path)?.is_none() {
                    rows.push(unseen(path, head));
                }
            }
            if !rows.is_empty() {
                self.put_local(&rows)?;
            }
        }
    }

    /// Removes the rows of these paths, in one transaction.
    pub fn drop_local(&mut self, paths: &[RelPath]) -> Result<()> {
        self.write(|conn, _| {
            let mut drop = prepare_drop(conn)?;
            paths.iter().try_for_each(|path| remove(&mut drop, path))
        })
    }
}

/// The row of a version that nobody has compared with its file yet.
fn unseen(path: RelPath, head: Head) -> LocalRow {
    let Head { dot, version, .. } = head;
    let (ctime, ino, residency, proven) = (Time::default(), 0, Residency::Full, false);
    let Version { kind, content, body, size, mtime, mode, target } = version;
    LocalRow { path, dot, kind, size, mtime, mode, ctime, ino, content, body, target, residency, proven }
}

/// Pulls rows in path byte order, a page at a time: between pages it holds no lock, so rows may
/// be written meanwhile (those behind the cursor's page are seen).
///
/// Borrows a [`History`], or owns one (a second connection) so that it can move to a thread.
#[derive(Debug)]
pub struct LocalCursor<H: Borrow<History>> {
    history: H,
    /// Still to be read, the current one last.
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
    page: IntoIter<LocalRow>,
}

impl<H: Borrow<History>> LocalCursor<H> {
    /// A cursor before the first row under a path.
    pub fn new(history: H, under: &RelPath) -> Self {
        let mut ranges = ranges(under);
        ranges.reverse();
        Self { history, ranges, page: Vec::new().into_iter() }
    }

    /// The next row; `None` at the end.
    // An Iterator of Results would end a `while let Some(Ok(row))` silently on an error.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<LocalRow>> {
        loop {
            if let Some(row) = self.page.next() {
                return Ok(Some(row));
            }
            let Some((low, high)) = self.ranges.pop() else { return Ok(None) };
            let page = read_page(self.history.borrow(), &low, &high)?;
            if let (PAGE, Some(last)) = (page.len(), page.last()) {
                self.ranges.push((just_after(&last.path), high));
            }
            self.page = page.into_iter();
        }
    }
}

fn read_page(history: &History, low: &[u8], high: &[u8]) -> Result<Vec<LocalRow>> {
    let mut statement = history.conn.prepare_cached(PAGED).map_err(db)?;
    let mut rows = statement.query([low, high]).map_err(db)?;
    let mut origins = history.origins.borrow_mut();
    let mut page = Vec::with_capacity(PAGE);
    while let Some(row) = rows.next().map_err(db)? {
        page.push(read(&history.conn, &mut origins, row)?);
    }
    Ok(page)
}

fn read(conn: &Connection, origins: &mut Origins, row: &Row) -> Result<LocalRow> {
    Ok(LocalRow {
        path: sql::path(row, 0)?,
        dot: origins.dot(conn, int(row, 1)?, int(row, 2)?)?,
        kind: sql::kind(int(row, 3)?)?,
        size: int(row, 4)? as u64,
        mtime: sql::time(row, 5)?,
        mode: sql::small(row, 7)?,
        ctime: sql::time(row, 8)?,
        ino: int(row, 10)? as u64,
        content: sql::content(row, 11)?,
        body: sql::body(row, 12)?,
        target: sql::opt_blob(row, 14)?.map(<[u8]>::to_vec),
        residency: Residency::from_byte(sql::small(row, 15)?)?,
        proven: int(row, 16)? != 0,
    })
}

/// Writes rows inside the caller's transaction.
pub(super) fn put(conn: &Connection, origins: &mut Origins, rows: &[LocalRow]) -> Result<()> {
    let mut put = conn
        .prepare_cached(
            "INSERT OR REPLACE INTO local VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        )
        .map_err(db)?;
    for row in rows {
        put.execute(params![
            row.path.as_bytes(),
            origins.num_or_new(conn, &row.dot.origin)?,
            row.dot.number as i64,
            sql::kind_number(row.kind),
            row.size as i64,
            row.mtime.secs,
            row.mtime.nanos,
            row.mode,
            row.ctime.secs,
            row.ctime.nanos,
            row.ino as i64,
            row.content.as_ref().map(|c| &c.0[..]),
            row.body.as_ref().map(|b| b.kind.byte()),
            row.body.as_ref().map(|b| &b.id.0[..]),
            row.target.as_deref(),
            row.residency.byte(),
            row.proven,
        ])
        .map_err(db)?;
    }
    Ok(())
}

/// Prepares the statement that [`remove`] executes.
pub(super) fn prepare_drop(conn: &Connection) -> Result<CachedStatement<'_>> {
    conn.prepare_cached("DELETE FROM local WHERE path = ?1").map_err(db)
}

/// Removes one row inside the caller's transaction.
pub(super) fn remove(drop: &mut CachedStatement, path: &RelPath) -> Result<()> {
    drop.execute([path.as_bytes()]).map_err(db).map(|_| ())
}
