//! What was at a path at some time: the state of the log up to a clock value.
//!
//! Promises what a peer would have shown that knew all entries up to then, whoever recorded them, and
//! one path's entries in memory.

use rusqlite::{OptionalExtension, params};

use super::db::History;
use super::row::{self, Stored, columns};
use super::sql::{self, db, int};
use super::summary::ENTRIES;
use crate::base::error::{Error, Result};
use crate::base::path::RelPath;
use crate::model::entry::{Dot, Version};
use crate::model::version::Vector;

const OF_PATH: &str = concat!("SELECT ", columns!(), " FROM entries e WHERE e.path = ?1");

/// What was there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Then {
    /// Its number among the versions of the path.
    pub n: u64,
    /// The entry.
    pub dot: Dot,
    /// What was there.
    pub version: Version,
    /// Where it had been before.
    pub moved_from: Option<RelPath>,
    /// Its content is no longer kept.
    pub is_forgotten: bool,
}

impl History {
    /// Calls `sink` for every path under `under` that was there at any of these clock values, in path
    /// order, with what was there at each.
    pub fn each_then(
        &self,
        under: &RelPath,
        cuts: &[u64],
        sink: &mut dyn FnMut(RelPath, Vec<Option<Then>>) -> Result<()>,
    ) -> Result<()> {
        self.grouped(ENTRIES, under, &mut |path, all| {
            let keyed = self.keyed(all)?;
            let thens = cuts.iter().map(|cut| self.at(&keyed, *cut)).collect::<Result<Vec<_>>>()?;
            if thens.iter().any(Option::is_some) { sink(path, thens) } else { Ok(()) }
        })
    }

    /// What was at one path.
    pub fn then(&self, path: &RelPath, cut: u64) -> Result<Option<Then>> {
        let mut statement = self.conn.prepare_cached(OF_PATH).map_err(db)?;
        let mut rows = statement.query([path.as_bytes()]).map_err(db)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(db)? {
            all.push(row::read(row)?);
        }
        self.at(&self.keyed(all)?, cut)
    }

    /// In the order of clocks and origins.
    fn keyed(&self, all: Vec<Stored>) -> Result<Vec<((u64, Dot), Stored)>> {
        let key = |s: Stored| Ok(((s.entry.hlc, self.dot(&s)?), s));
        let mut keyed = all.into_iter().map(key).collect::<Result<Vec<_>>>()?;
        keyed.sort_by_key(|(key, _)| *key);
        Ok(keyed)
    }

    /// The head among the entries up to a clock value that owns the name.
    fn at(&self, keyed: &[((u64, Dot), Stored)], cut: u64) -> Result<Option<Then>> {
        let seen_now = &keyed[..keyed.partition_point(|((hlc, _), _)| *hlc <= cut)];
        let mut covered = Vector::default();
        seen_now.iter().flat_map(|(_, s)| &s.entry.seen).for_each(|dot| covered.add(*dot));
        // In the order of clocks and origins, so the last one is the winner.
        let heads = seen_now.iter().enumerate().rev().filter(|(_, ((_, dot), _))| !covered.covers(*dot));
        for (i, ((_, dot), stored)) in heads {
            if let Some(version) = stored.entry.version() {
                let n = i as u64 + 1;
                let is_forgotten = self.is_forgotten(&stored.entry.path, stored.origin, stored.number)?;
                let (version, moved_from) = (version.clone(), stored.entry.moved_from.clone());
                return Ok(Some(Then { n, dot: *dot, version, moved_from, is_forgotten }));
            }
        }
        Ok(None)
    }

    /// The clock of an entry; `who` is what its origin calls itself, or the front of its id.
    pub fn clock_of(&self, who: &str, number: u64) -> Result<u64> {
        let mut found = Vec::new();
        for dot in self.knowledge()? {
            if super::origins::name(&self.conn, &dot.origin)? == who
                || dot.origin.to_string().starts_with(who)
            {
                found.push(dot.origin);
            }
        }
        let mut clocks = Vec::new();
        for origin in found {
            let Some(num) = self.origins.borrow_mut().num(&self.conn, &origin)? else { continue };
            let mut statement = self
                .conn
                .prepare_cached("SELECT hlc FROM entries WHERE origin = ?1 AND number = ?2")
                .map_err(db)?;
            let clock = statement.query_row(params![num, number as i64], |r| r.get::<_, i64>(0));
            clocks.extend(clock.optional().map_err(db)?.map(|clock| clock as u64));
        }
        match clocks[..] {
            [clock] => Ok(clock),
            [] => Err(Error::Missing(format!("entry {who}:{number}"))),
            _ => Err(Error::Invalid(format!(
                "{who}:{number} may be entries of several peers; use more of the id"
            ))),
        }
    }

    /// Where the content of a path that was deleted up to a clock value lives on.
    pub fn moved_to(&self, path: &RelPath, cut: u64) -> Result<Option<RelPath>> {
        let mut statement = self
            .conn
            .prepare_cached(
                "SELECT moved_to, hlc FROM entries WHERE path = ?1 AND hlc <= ?2 ORDER BY hlc DESC LIMIT 1",
            )
            .map_err(db)?;
        let mut rows =
            statement.query(params![path.as_bytes(), cut.min(i64::MAX as u64) as i64]).map_err(db)?;
        match rows.next().map_err(db)? {
            Some(row) if int(row, 1)? >= 0 => sql::opt_blob(row, 0)?.map(RelPath::new).transpose(),
            _ => Ok(None),
        }
    }
}
