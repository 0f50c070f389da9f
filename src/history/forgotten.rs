//! Which entries are forgotten, and the versions of one path after another that might be.
//!
//! Promises that the ranges are the same in whatever order they were added, and that a head is never
//! forgotten. Why something is forgotten is `model::retention`'s business.

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::db::History;
use super::origins::Origins;
use super::sql::{self, db, int, just_after, ranges};
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::model::entry::{Body, Dot, FileKind, Runs};

/// SQL that is true of a row `e` whose content is not kept.
macro_rules! is_forgotten {
    () => {
        "(ifnull((SELECT f.last FROM forgotten f WHERE f.origin = e.origin AND f.first <= e.number \
          ORDER BY f.first DESC LIMIT 1), 0) >= e.number AND NOT EXISTS (SELECT 1 FROM heads h \
          WHERE h.path = e.path AND h.origin = e.origin AND h.number = e.number))"
    };
}
pub(super) use is_forgotten;

/// An entry of a path, as far as retention looks at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Light {
    /// Its name.
    pub dot: Dot,
    /// Its clock.
    pub hlc: u64,
    /// What is there after it; `None` for a deletion.
    pub kind: Option<FileKind>,
    /// Where its bytes are.
    pub body: Option<Body>,
    /// How many there are.
    pub size: u64,
    /// Nothing has superseded it.
    pub is_head: bool,
    /// It is forgotten already.
    pub is_forgotten: bool,
    /// A deletion whose content lives on at another path.
    pub is_moved: bool,
}

const LIGHT: &str = concat!(
    "SELECT e.path, e.origin, e.number, e.hlc, e.kind, e.body_kind, e.body, e.size, e.moved_to IS NOT NULL, \
     EXISTS (SELECT 1 FROM heads h WHERE h.path = e.path AND h.origin = e.origin AND h.number = e.number), ",
    is_forgotten!(),
    " FROM entries e WHERE e.path >= ?1 AND e.path < ?2 ORDER BY e.path"
);
const ONE: &str = concat!(
    "SELECT ",
    is_forgotten!(),
    " FROM entries e WHERE e.path = ?1 AND e.origin = ?2 AND e.number = ?3"
);

impl History {
    /// Calls `sink` with the entries of each path under `under`, after `after` if that is given, in path
    /// order and oldest first, until it answers `false`.
    pub fn each_path(
        &self,
        under: &RelPath,
        after: Option<&RelPath>,
        sink: &mut dyn FnMut(RelPath, Vec<Light>) -> Result<bool>,
    ) -> Result<()> {
        let mut statement = self.conn.prepare_cached(LIGHT).map_err(db)?;
        let floor = after.map_or_else(Vec::new, just_after);
        for (low, high) in ranges(under) {
            let mut rows = statement.query([low.max(floor.clone()), high]).map_err(db)?;
            let mut group: Option<(RelPath, Vec<Light>)> = None;
            while let Some(row) = rows.next().map_err(db)? {
                if group
                    .as_ref()
                    .is_some_and(|(path, _)| Some(path.as_bytes()) != sql::opt_blob(row, 0).ok().flatten())
                    && let Some((path, all)) = group.take()
                    && !sink(path, in_order(all))?
                {
                    return Ok(());
                }
                let light = self.light(row)?;
                match &mut group {
                    Some((_, all)) => all.push(light),
                    None => group = Some((sql::path(row, 0)?, vec![light])),
                }
            }
            if let Some((path, all)) = group
                && !sink(path, in_order(all))?
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether an entry's content is no longer kept.
    pub(super) fn is_forgotten(&self, path: &RelPath, origin: i64, number: i64) -> Result<bool> {
        let found: Option<bool> = self
            .conn
            .prepare_cached(ONE)
            .and_then(|mut s| s.query_row(params![path.as_bytes(), origin, number], |r| r.get(0)).optional())
            .map_err(db)?;
        Ok(found.unwrap_or(false))
    }

    /// Every range, in the order of origin ids.
    pub(super) fn forgotten_ranges(&self) -> Result<Vec<(Dot, u64)>> {
        let mut statement = self
            .conn
            .prepare_cached(
                "SELECT f.origin, f.first, f.last FROM forgotten f JOIN origins o ON o.num = f.origin \
                 ORDER BY o.id, f.first",
            )
            .map_err(db)?;
        let mut rows = statement.query([]).map_err(db)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(db)? {
            let first = self.origins.borrow_mut().dot(&self.conn, int(row, 0)?, int(row, 1)?)?;
            all.push((first, int(row, 2)? as u64));
        }
        Ok(all)
    }

    fn light(&self, row: &rusqlite::Row) -> Result<Light> {
        Ok(Light {
            dot: self.origins.borrow_mut().dot(&self.conn, int(row, 1)?, int(row, 2)?)?,
            hlc: int(row, 3)? as u64,
            kind: sql::opt_int(row, 4)?.map(sql::kind).transpose()?,
            body: sql::body(row, 5)?,
            size: sql::opt_int(row, 7)?.unwrap_or(0) as u64,
            is_moved: int(row, 8)? != 0,
            is_head: int(row, 9)? != 0,
            is_forgotten: int(row, 10)? != 0,
        })
    }
}

fn in_order(mut all: Vec<Light>) -> Vec<Light> {
    all.sort_by_key(|l| (l.hlc, l.dot));
    all
}

/// Adds what one entry forgets, inside the caller's transaction.
pub(super) fn add(conn: &Connection, origins: &mut Origins, all: &[Runs]) -> Result<()> {
    let prepare = |sql| conn.prepare_cached(sql).map_err(db);
    let mut statements = Statements {
        near: prepare(
            "SELECT first, last FROM forgotten WHERE origin = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1",
        )?,
        drop: prepare("DELETE FROM forgotten WHERE origin = ?1 AND first = ?2")?,
        put: prepare("INSERT INTO forgotten VALUES (?1, ?2, ?3)")?,
    };
    for runs in all {
        let origin = origins.num_or_new(conn, &runs.origin)?;
        for (first, last) in runs.ranges() {
            statements.merge(origin, first as i64, last as i64)?;
        }
    }
    Ok(())
}

struct Statements<'c> {
    near: CachedStatement<'c>,
    drop: CachedStatement<'c>,
    put: CachedStatement<'c>,
}

impl Statements<'_> {
    /// Puts one range in place of all that it overlaps or touches.
    fn merge(&mut self, origin: i64, mut first: i64, mut last: i64) -> Result<()> {
        loop {
            let near: Option<(i64, i64)> = self
                .near
                .query_row([origin, last.saturating_add(1)], |r| Ok((r.get(0)?, r.get(1)?)))
                .optional()
                .map_err(db)?;
            let Some((from, to)) = near.filter(|(_, to)| to.saturating_add(1) >= first) else { break };
            (first, last) = (first.min(from), last.max(to));
            self.drop.execute([origin, from]).map_err(db)?;
        }
        self.put.execute([origin, first, last]).map_err(db).map(drop)
    }
}
