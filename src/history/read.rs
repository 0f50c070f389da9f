//! Questions about paths: what is there now, which versions there were, what was deleted.
//!
//! Promises path byte order (or newest first, where it says so) and one path's versions in memory
//! at most.

use rusqlite::{OptionalExtension, Rows, params};

use super::db::History;
use super::row::{self, Stored, columns};
use super::sql::{db, ranges};
use super::{origins, sql};
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::model::entry::{Dot, Entry, Op, Version};
use crate::model::version::{self, Vector};

/// A version that nothing has superseded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// The entry.
    pub dot: Dot,
    /// Its clock.
    pub hlc: u64,
    /// What is there.
    pub version: Version,
    /// What the entry had seen.
    pub seen: Vector,
}

/// One entry in the history of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Past {
    /// Its place, from 1 for the oldest: the N of `PATH#N`.
    pub n: u64,
    /// Its name.
    pub dot: Dot,
    /// The entry.
    pub entry: Entry,
    /// What the user said of the commit.
    pub message: Option<String>,
    /// What its origin calls itself.
    pub origin_name: String,
    /// Its content is no longer kept.
    pub is_forgotten: bool,
}

const HEADS: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM heads h CROSS JOIN entries e ON e.path = h.path AND e.origin = h.origin AND e.number = h.number \
     WHERE h.path >= ?1 AND h.path < ?2 ORDER BY h.path"
);
const HEADS_OF: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM heads h CROSS JOIN entries e ON e.path = h.path AND e.origin = h.origin AND e.number = h.number \
     WHERE h.path = ?1"
);
const VERSIONS: &str = concat!("SELECT ", columns!(), " FROM entries e WHERE e.path = ?1");
const DELETED: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM entries e WHERE e.path >= ?1 AND e.path < ?2 \
     AND NOT EXISTS (SELECT 1 FROM heads h WHERE h.path = e.path) ORDER BY e.path"
);
const RECENT: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM entries e JOIN origins o ON o.num = e.origin \
     WHERE (e.path >= ?1 AND e.path < ?2) OR (e.path >= ?3 AND e.path < ?4) \
     ORDER BY e.hlc DESC, o.id DESC, e.number DESC LIMIT ?5"
);
const PLACE: &str = "SELECT 1 + count(*) FROM entries e JOIN origins o ON o.num = e.origin \
     WHERE e.path = ?1 AND (e.hlc, o.id, e.number) < (?2, ?3, ?4)";
const MESSAGE: &str = "SELECT message, last FROM messages WHERE origin = ?1 AND first <= ?2 \
     ORDER BY first DESC LIMIT 1";

impl History {
    /// The heads of a path, the winner first; none if there is nothing. More than one with
    /// different content is a conflict.
    pub fn heads(&self, path: &RelPath) -> Result<Vec<Head>> {
        let mut statement = self.conn.prepare_cached(HEADS_OF).map_err(db)?;
        let mut rows = statement.query([path.as_bytes()]).map_err(db)?;
        let mut heads = Vec::new();
        while let Some(stored) = next(&mut rows)? {
            heads.extend(self.head(stored)?.1);
        }
        heads.sort_by_key(|h: &Head| std::cmp::Reverse((h.hlc, h.dot)));
        Ok(heads)
    }

    /// The version vector that a new entry of this path is made on: all heads, and all that any
    /// entry of the path had seen.
    pub fn seen(&self, path: &RelPath) -> Result<Vec<Dot>> {
        let covered: Option<Vec<u8>> = self
            .conn
            .prepare_cached("SELECT seen FROM covered WHERE path = ?1")
            .and_then(|mut s| s.query_row([path.as_bytes()], |r| r.get(0)).optional())
            .map_err(db)?;
        let mut all = Vector::from_dots(&covered.map_or(Ok(vec![]), |bytes| row::unpack(&bytes))?);
        let mut statement =
            self.conn.prepare_cached("SELECT origin, number FROM heads WHERE path = ?1").map_err(db)?;
        let mut rows = statement.query([path.as_bytes()]).map_err(db)?;
        while let Some(row) = rows.next().map_err(db)? {
            all.add(self.origins.borrow_mut().dot(&self.conn, sql::int(row, 0)?, sql::int(row, 1)?)?);
        }
        Ok(all.dots())
    }

    /// Calls `sink` for every path under `under` that has heads, in path order, with the head
    /// that owns the name.
    pub fn each_head(
        &self,
        under: &RelPath,
        sink: &mut dyn FnMut(RelPath, Head) -> Result<()>,
    ) -> Result<()> {
        self.grouped(HEADS, under, &mut |path, all| {
            let heads = all.into_iter().map(|s| Ok(self.head(s)?.1)).collect::<Result<Vec<_>>>()?;
            let heads: Vec<Head> = heads.into_iter().flatten().collect();
            match version::winner(&heads, |h| (h.hlc, h.dot)) {
                Some(head) => sink(path, head.clone()),
                None => Ok(()),
            }
        })
    }

    /// The next heads in path order, the winner per path, at most `limit` paths: a cursor between
    /// whose pages rows may be written.
    pub fn heads_after(&self, after: Option<&RelPath>, limit: usize) -> Result<Vec<(RelPath, Head)>> {
        self.heads_page(after, limit, |_| Ok(true))
    }

    /// The same, without paths that have a local row.
    pub fn absent_after(&self, after: Option<&RelPath>, limit: usize) -> Result<Vec<(RelPath, Head)>> {
        let mut row = self.conn.prepare_cached("SELECT 1 FROM local WHERE path = ?1").map_err(db)?;
        self.heads_page(after, limit, |path| row.exists([path.as_bytes()]).map(|there| !there).map_err(db))
    }

    fn heads_page(
        &self,
        after: Option<&RelPath>,
        limit: usize,
        mut wanted: impl FnMut(&RelPath) -> Result<bool>,
    ) -> Result<Vec<(RelPath, Head)>> {
        let low = after.map_or_else(|| sql::FIRST.to_vec(), sql::just_after);
        let mut statement = self.conn.prepare_cached(HEADS).map_err(db)?;
        let mut rows = statement.query([low, vec![0xff; crate::base::path::MAX_PATH + 1]]).map_err(db)?;
        let mut page: Vec<(RelPath, Head)> = Vec::new();
        while let Some(stored) = next(&mut rows)? {
            let (path, Some(head)) = self.head(stored)? else { continue };
            if let Some((last, best)) = page.last_mut()
                && *last == path
            {
                if (best.hlc, best.dot) < (head.hlc, head.dot) {
                    *best = head;
                }
            } else if page.len() == limit {
                break;
            } else if wanted(&path)? {
                page.push((path, head));
            }
        }
        Ok(page)
    }

    /// All entries of a path, oldest first by clock, then by origin.
    pub fn versions(&self, path: &RelPath) -> Result<Vec<Past>> {
        let mut statement = self.conn.prepare_cached(VERSIONS).map_err(db)?;
        let mut rows = statement.query([path.as_bytes()]).map_err(db)?;
        let mut all = Vec::new();
        while let Some(stored) = next(&mut rows)? {
            all.push(stored);
        }
        self.pasts(all)
    }

    /// Calls `sink` for every path under `under` that has no head, in path order: its newest
    /// deletion and the newest version that is still kept.
    pub fn deleted(
        &self,
        under: &RelPath,
        sink: &mut dyn FnMut(RelPath, Past, Version) -> Result<()>,
    ) -> Result<()> {
        self.grouped(DELETED, under, &mut |path, all| {
            let pasts = self.pasts(all)?;
            let mut kept = pasts.iter().rev().filter(|p| !p.is_forgotten);
            let last = kept.find_map(|p| p.entry.version().cloned());
            let deletion = pasts.into_iter().rev().find(|p| p.entry.op == Op::Del);
            match (deletion, last) {
                (Some(deletion), Some(last)) => sink(path, deletion, last),
                _ => Ok(()),
            }
        })
    }

    /// Calls `sink` for the newest entries under `under`, newest first.
    pub fn recent(
        &self,
        under: &RelPath,
        limit: u64,
        sink: &mut dyn FnMut(RelPath, Past) -> Result<()>,
    ) -> Result<()> {
        let ranges = ranges(under);
        let ((low, high), (low2, high2)) = (&ranges[0], &ranges[ranges.len() - 1]);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut statement = self.conn.prepare_cached(RECENT).map_err(db)?;
        let mut rows = statement.query(params![low, high, low2, high2, limit]).map_err(db)?;
        while let Some(stored) = next(&mut rows)? {
            let dot = self.dot(&stored)?;
            let place =
                params![stored.entry.path.as_bytes(), stored.entry.hlc as i64, dot.origin.0, stored.number];
            let n: i64 = self
                .conn
                .prepare_cached(PLACE)
                .and_then(|mut s| s.query_row(place, |r| r.get(0)))
                .map_err(db)?;
            sink(stored.entry.path.clone(), self.past(n as u64, stored)?)?;
        }
        Ok(())
    }

    /// Collects the rows of each path and hands them over.
    pub(super) fn grouped(
        &self,
        sql: &str,
        under: &RelPath,
        each: &mut dyn FnMut(RelPath, Vec<Stored>) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self.conn.prepare_cached(sql).map_err(db)?;
        for (low, high) in ranges(under) {
            let mut rows = statement.query([&low, &high]).map_err(db)?;
            let mut group: Vec<Stored> = Vec::new();
            loop {
                let stored = next(&mut rows)?;
                let path = group.first().map(|s| &s.entry.path);
                if path.is_some() && path != stored.as_ref().map(|s| &s.entry.path) {
                    let path = group[0].entry.path.clone();
                    each(path, std::mem::take(&mut group))?;
                }
                let Some(stored) = stored else { break };
                group.push(stored);
            }
        }
        Ok(())
    }

    pub(super) fn dot(&self, stored: &Stored) -> Result<Dot> {
        self.origins.borrow_mut().dot(&self.conn, stored.origin, stored.number)
    }

    /// A stored put as a head; `None` for a deletion, which no ddr makes a head.
    fn head(&self, stored: Stored) -> Result<(RelPath, Option<Head>)> {
        let dot = self.dot(&stored)?;
        let Entry { path, hlc, op, seen, .. } = stored.entry;
        let seen = Vector::from_dots(&seen);
        Ok(match op {
            Op::Put(version) => (path, Some(Head { dot, hlc, version, seen })),
            Op::Del | Op::Forget(_) => (path, None),
        })
    }

    fn pasts(&self, all: Vec<Stored>) -> Result<Vec<Past>> {
        let mut keyed =
            all.into_iter().map(|s| Ok(((s.entry.hlc, self.dot(&s)?), s))).collect::<Result<Vec<_>>>()?;
        keyed.sort_by_key(|(key, _)| *key);
        (1..).zip(keyed).map(|(n, (_, stored))| self.past(n, stored)).collect()
    }

    fn past(&self, n: u64, stored: Stored) -> Result<Past> {
        let dot = self.dot(&stored)?;
        let message: Option<(String, i64)> = self
            .conn
            .prepare_cached(MESSAGE)
            .and_then(|mut s| {
                s.query_row([stored.origin, stored.number], |r| Ok((r.get(0)?, r.get(1)?))).optional()
            })
            .map_err(db)?;
        let message = message.filter(|(_, last)| *last >= stored.number).map(|(text, _)| text);
        let origin_name = origins::name(&self.conn, &dot.origin)?;
        let is_forgotten = self.is_forgotten(&stored.entry.path, stored.origin, stored.number)?;
        Ok(Past { n, dot, entry: stored.entry, message, origin_name, is_forgotten })
    }
}

fn next(rows: &mut Rows) -> Result<Option<Stored>> {
    rows.next().map_err(db)?.map(row::read).transpose()
}
