//! The small numbers that stand for origin ids in the tables, and what is known of each origin.
//!
//! Promises to find origins that another process has added meanwhile.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::log::Tail;
use super::sql::{db, odd};
use crate::base::error::Result;
use crate::base::id::OriginId;
use crate::model::entry::Dot;

/// Both directions of the `origins` table, read at first use.
#[derive(Default, Debug)]
pub struct Origins {
    nums: HashMap<OriginId, i64>,
    ids: HashMap<i64, OriginId>,
}

impl Origins {
    fn reload(&mut self, conn: &Connection) -> Result<()> {
        let mut statement = conn.prepare_cached("SELECT num, id FROM origins").map_err(db)?;
        let mut rows = statement.query([]).map_err(db)?;
        while let Some(row) = rows.next().map_err(db)? {
            self.insert(super::sql::int(row, 0)?, OriginId::from_slice(super::sql::blob(row, 1)?)?);
        }
        Ok(())
    }

    fn insert(&mut self, num: i64, id: OriginId) {
        self.nums.insert(id, num);
        self.ids.insert(num, id);
    }

    /// The id behind a number.
    pub fn id(&mut self, conn: &Connection, num: i64) -> Result<OriginId> {
        if !self.ids.contains_key(&num) {
            self.reload(conn)?;
        }
        self.ids.get(&num).copied().ok_or_else(|| odd("origin number"))
    }

    /// The dot behind a number and an entry number.
    pub fn dot(&mut self, conn: &Connection, num: i64, number: i64) -> Result<Dot> {
        Ok(Dot { origin: self.id(conn, num)?, number: number as u64 })
    }

    /// The number of an id, if it has one.
    pub fn num(&mut self, conn: &Connection, id: &OriginId) -> Result<Option<i64>> {
        if !self.nums.contains_key(id) {
            self.reload(conn)?;
        }
        Ok(self.nums.get(id).copied())
    }

    /// The number of an id, given now if need be (inside a transaction).
    pub fn num_or_new(&mut self, conn: &Connection, id: &OriginId) -> Result<i64> {
        if let Some(num) = self.num(conn, id)? {
            return Ok(num);
        }
        conn.execute("INSERT INTO origins (id) VALUES (?1)", params![id.0]).map_err(db)?;
        let num = conn.last_insert_rowid();
        self.insert(num, *id);
        Ok(num)
    }
}

/// Where an origin's applied entries end; all zeros when it is unknown.
pub fn tail(conn: &Connection, origin: &OriginId) -> Result<Tail> {
    let found = conn
        .prepare_cached("SELECT known, tail_hash, tail_hlc FROM origins WHERE id = ?1")
        .and_then(|mut s| {
            let read = |r: &rusqlite::Row| Ok((r.get::<_, i64>(0)?, r.get(1)?, r.get::<_, i64>(2)?));
            s.query_row([&origin.0], read).optional()
        })
        .map_err(db)?;
    Ok(found
        .map(|(number, hash, hlc)| Tail { number: number as u64, hash, hlc: hlc as u64 })
        .unwrap_or_default())
}

/// Records a new end, and the name the origin calls itself by where that is given.
pub fn set_tail(conn: &Connection, num: i64, tail: &Tail, name: Option<&str>) -> Result<()> {
    conn.prepare_cached(
        "UPDATE origins SET known = ?2, tail_hash = ?3, tail_hlc = ?4, name = ifnull(?5, name) WHERE num = ?1",
    )
    .and_then(|mut s| s.execute(params![num, tail.number as i64, tail.hash, tail.hlc as i64, name]))
    .map_err(db)?;
    Ok(())
}

/// Origins with at least one applied entry, and their tails, in id order.
pub fn known(conn: &Connection) -> Result<Vec<(OriginId, Tail)>> {
    let mut statement = conn
        .prepare_cached("SELECT id, known, tail_hash, tail_hlc FROM origins WHERE known > 0 ORDER BY id")
        .map_err(db)?;
    let mut rows = statement.query([]).map_err(db)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(db)? {
        let hash = row.get(2).map_err(db)?;
        let (number, hlc) = (super::sql::int(row, 1)? as u64, super::sql::int(row, 3)? as u64);
        all.push((OriginId::from_slice(super::sql::blob(row, 0)?)?, Tail { number, hash, hlc }));
    }
    Ok(all)
}

/// What an origin calls itself; the front of its id if it never said.
pub fn name(conn: &Connection, origin: &OriginId) -> Result<String> {
    let name: Option<String> = conn
        .prepare_cached("SELECT name FROM origins WHERE id = ?1")
        .and_then(|mut s| s.query_row([&origin.0], |r| r.get(0)).optional())
        .map_err(db)?;
    Ok(name.filter(|n| !n.is_empty()).unwrap_or_else(|| origin.short()))
}
