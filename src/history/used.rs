//! When ddr itself saw files of the working tree being used.
//!
//! Promises path byte order and flat memory. Losing the table costs nothing but that access times
//! have to do.

use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, Row, params};

use super::db::History;
use super::sql::{self, db};
use crate::base::error::Result;
use crate::base::path::RelPath;
use crate::base::units::Time;
use crate::model::policy::bursts::Bursts;

/// Name of the fact.
const BURSTS: &str = "bursts";

/// What lies ahead of the clock is no use that anybody believes.
const PUT: &str = "INSERT INTO used (path, used_s, used_ns) VALUES (?1, ?2, ?3) ON CONFLICT (path) DO UPDATE
    SET used_s = excluded.used_s, used_ns = excluded.used_ns
    WHERE (excluded.used_s, excluded.used_ns) > (used_s, used_ns) OR used_s > ?4";

/// Asked for now: there is nothing newer.
const ASK: &str = "INSERT OR REPLACE INTO used VALUES (?1, ?2, ?3, ?2, ?3)";

const ONE: &str = "SELECT used_s, used_ns, asked_s, asked_ns FROM used WHERE path = ?1";

const PAGED: &str =
    "SELECT path, used_s, used_ns, asked_s, asked_ns FROM used WHERE path > ?1 ORDER BY path LIMIT 4096";

/// When a file was seen used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    /// When last, in whatever way.
    pub at: Time,
    /// When somebody last asked for it by a command.
    pub asked: Option<Time>,
}

impl Used {
    /// The last use that tells something: what is opened in a burst does not, what is asked for does.
    pub fn telling(&self, bursts: &Bursts) -> Option<Time> {
        if bursts.cover(self.at) { self.asked } else { Some(self.at) }
    }
}

impl History {
    /// Remembers that these paths were used then, in one transaction; a later use that is known stays.
    pub fn put_used<'p>(&mut self, paths: impl IntoIterator<Item = &'p RelPath>, at: Time) -> Result<()> {
        self.put_uses(paths.into_iter().map(|path| (path, at)))
    }

    /// The same, each at its own time.
    pub fn put_uses<'p>(&mut self, uses: impl IntoIterator<Item = (&'p RelPath, Time)>) -> Result<()> {
        self.write(|conn, _| {
            let mut put = conn.prepare_cached(PUT).map_err(db)?;
            let now = Time::now().secs;
            for (path, at) in uses {
                put.execute(params![path.as_bytes(), at.secs, at.nanos, now]).map_err(db)?;
            }
            Ok(())
        })
    }

    /// Remembers that somebody asked for these paths just now, in one transaction.
    pub fn put_asked<'p>(&mut self, paths: impl IntoIterator<Item = &'p RelPath>, now: Time) -> Result<()> {
        self.write(|conn, _| {
            let mut put = conn.prepare_cached(ASK).map_err(db)?;
            for path in paths {
                put.execute(params![path.as_bytes(), now.secs, now.nanos]).map_err(db)?;
            }
            Ok(())
        })
    }

    /// When a path was last seen used.
    pub fn used(&self, path: &RelPath) -> Result<Option<Used>> {
        let mut statement = self.conn.prepare_cached(ONE).map_err(db)?;
        let found = statement.query_row([path.as_bytes()], |row| Ok(used(row, 0))).optional();
        found.map_err(db)?.transpose()
    }

    /// When so many files were opened that nothing of it tells of use.
    pub fn bursts(&self) -> Result<Bursts> {
        Ok(self.meta(BURSTS)?.map_or_else(Bursts::default, |text| Bursts::decode(&text)))
    }

    /// Remembers that.
    pub fn put_bursts(&mut self, bursts: &Bursts) -> Result<()> {
        self.set_meta(BURSTS, &bursts.encode())
    }

    /// Forgets what was seen of paths that are no longer there.
    pub fn tidy_used(&mut self) -> Result<()> {
        self.write(|conn, _| {
            conn.execute("DELETE FROM used WHERE path NOT IN (SELECT path FROM local)", [])
                .map_err(db)
                .map(drop)
        })
    }

    /// The table, to be asked in path order.
    pub fn used_cursor(&self) -> UsedCursor<'_> {
        UsedCursor { history: self, page: Vec::new().into_iter(), next: None, after: Vec::new(), over: false }
    }
}

/// Answers for paths that are asked for in path byte order, a page of the table at a time.
#[derive(Debug)]
pub struct UsedCursor<'h> {
    history: &'h History,
    page: std::vec::IntoIter<(RelPath, Used)>,
    next: Option<(RelPath, Used)>,
    after: Vec<u8>,
    over: bool,
}

impl UsedCursor<'_> {
    /// When `path`, which lies behind all that were asked for before, was seen used.
    pub fn of(&mut self, path: &RelPath) -> Result<Option<Used>> {
        loop {
            match &self.next {
                Some((at, used)) if at == path => return Ok(Some(*used)),
                Some((at, _)) if at > path => return Ok(None),
                None if self.over => return Ok(None),
                _ => self.step()?,
            }
        }
    }

    fn step(&mut self) -> Result<()> {
        self.next = self.page.next();
        if self.next.is_none() {
            self.page = read_page(self.history, &self.after)?.into_iter();
            self.next = self.page.next();
            self.over = self.next.is_none();
            if let Some((last, _)) = self.page.as_slice().last().or(self.next.as_ref()) {
                self.after = last.as_bytes().to_vec();
            }
        }
        Ok(())
    }
}

fn used(row: &Row, first: usize) -> Result<Used> {
    let asked = row.get_ref(first + 2).map_err(db)? != ValueRef::Null;
    let asked = asked.then(|| sql::time(row, first + 2)).transpose()?;
    Ok(Used { at: sql::time(row, first)?, asked })
}

fn read_page(history: &History, after: &[u8]) -> Result<Vec<(RelPath, Used)>> {
    let mut statement = history.conn.prepare_cached(PAGED).map_err(db)?;
    let mut rows = statement.query([after]).map_err(db)?;
    let mut page = Vec::new();
    while let Some(row) = rows.next().map_err(db)? {
        page.push((sql::path(row, 0)?, used(row, 1)?));
    }
    Ok(page)
}
