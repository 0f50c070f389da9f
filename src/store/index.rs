//! The opener's own index of one store: which record lies where in which pack.
//!
//! Promises to be only an index: it can be deleted at any time, and a file that SQLite finds
//! corrupt is set aside and begun anew. Several handles and processes may share a file. Knows no
//! bucket; what it says was true when the store was last listed.

mod file;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Row as SqlRow, Transaction, TransactionBehavior, params};

use crate::base::error::Result;
use crate::base::id::{PackId, RecordId, StoreId};
use crate::format::pack::Row;
use crate::model::entry::Kind;

/// Value of [`Location::verified`] for a record that failed its check.
pub const BAD: i64 = -1;

/// Where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    /// Number of the pack in this index.
    pub pack: i64,
    /// The row of the pack's table.
    pub row: Row,
    /// When it was last decoded and hashed: seconds since 1970, 0 for never, [`BAD`] if it failed.
    pub verified: i64,
}

/// One record in one pack, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The record.
    pub id: RecordId,
    /// Number of the pack in this index.
    pub pack: i64,
    /// What it is.
    pub kind: Kind,
    /// Its sealed length in bytes.
    pub stored: u32,
    /// As in [`Location::verified`].
    pub verified: i64,
}

/// A pack as the index knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownPack {
    /// Its number in this index.
    pub num: i64,
    /// Its name.
    pub name: PackId,
    /// What it holds.
    pub kind: Kind,
    /// Size of the object.
    pub size: u64,
    /// Whether the newest gc mark condemns it.
    pub condemned: bool,
    /// Why its table could not be read.
    pub damaged: Option<String>,
}

/// A pack to add, with its rows or with what is wrong with it.
pub struct NewPack<'a> {
    /// Its name.
    pub name: PackId,
    /// What it holds.
    pub kind: Kind,
    /// Size of the object.
    pub size: u64,
    /// Its table, or why there is none.
    pub rows: std::result::Result<&'a [Row], &'a str>,
    /// When its records were decoded and hashed, 0 if they were not.
    pub verified: i64,
}

/// The index file, open.
pub struct Index {
    path: PathBuf,
    corrupt: AtomicBool,
    read: Mutex<Connection>,
    write: Mutex<Connection>,
    /// Last, so that it is released after the connections are closed.
    lock: File,
}

impl Index {
    /// Opens or creates the index of a store in a directory. Damaged or foreign files are set aside.
    pub fn open(dir: &Path, store: StoreId) -> Result<Self> {
        let file::Opened { path, read, write, lock } = file::open(dir, store)?;
        Ok(Self { path, corrupt: AtomicBool::new(false), read: read.into(), write: write.into(), lock })
    }

    /// Whether SQLite found the file corrupt since it was opened. It is set aside when the last
    /// handle is dropped.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt.load(Ordering::Relaxed)
    }

    /// All packs, by number.
    pub fn packs(&self) -> Result<Vec<KnownPack>> {
        self.run(&self.read, |db| {
            let mut all = db
                .prepare_cached("SELECT num, name, kind, size, condemned, damaged FROM packs ORDER BY num")?;
            let rows = all.query_map((), |row| {
                Ok(KnownPack {
                    num: row.get(0)?,
                    name: PackId(row.get(1)?),
                    kind: kind(row.get(2)?)?,
                    size: row.get::<_, i64>(3)? as u64,
                    condemned: row.get(4)?,
                    damaged: row.get(5)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Adds packs and their records in one transaction; returns their numbers. Packs and records
    /// that another handle added meanwhile stay, with the newer verification time.
    pub fn add(&self, packs: &[NewPack]) -> Result<Vec<i64>> {
        self.change(|tx| {
            let nums = packs.iter().map(|pack| add_pack(tx, pack)).collect::<rusqlite::Result<Vec<_>>>()?;
            add_rows(tx, packs, &nums)?;
            Ok(nums)
        })
    }

    /// Forgets packs and their records.
    pub fn remove(&self, nums: &[i64]) -> Result<()> {
        if nums.is_empty() {
            return Ok(());
        }
        self.change(|tx| {
            let mut pack = tx.prepare_cached("DELETE FROM packs WHERE num = ?1")?;
            nums.iter().try_for_each(|num| pack.execute([num]).map(drop))?;
            // One scan for all: vanished packs are too rare to pay for an index by pack.
            tx.execute("DELETE FROM records WHERE pack NOT IN (SELECT num FROM packs)", ())?;
            Ok(())
        })
    }

    /// Sets which packs are condemned, as pairs of number and state.
    pub fn set_condemned(&self, states: &[(i64, bool)]) -> Result<()> {
        if states.is_empty() {
            return Ok(());
        }
        self.change(|tx| {
            let mut set = tx.prepare_cached("UPDATE packs SET condemned = ?2 WHERE num = ?1")?;
            states.iter().try_for_each(|(num, state)| set.execute(params![num, state]).map(drop))
        })
    }

    /// Notes when records of packs were verified, or [`BAD`].
    pub fn set_verified(&self, records: &[(RecordId, i64)], at: i64) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.change(|tx| {
            let mut set =
                tx.prepare_cached("UPDATE records SET verified = ?3 WHERE id = ?1 AND pack = ?2")?;
            records.iter().try_for_each(|(id, pack)| set.execute(params![id.0, pack, at]).map(drop))
        })
    }

    /// Calls `sink` with the position in `ids` and the pack and verification time of every row of
    /// each id. The cheap form of [`Index::locations`], for asking only whether something is there.
    pub fn presence(&self, ids: &[RecordId], mut sink: impl FnMut(usize, i64, i64)) -> Result<()> {
        self.run(&self.read, |db| {
            let tx = db.unchecked_transaction()?;
            let mut find = tx.prepare_cached("SELECT pack, verified FROM records WHERE id = ?1")?;
            for (at, id) in ids.iter().enumerate() {
                let mut rows = find.query([id.0.as_slice()])?;
                while let Some(row) = rows.next()? {
                    sink(at, row.get(0)?, row.get(1)?);
                }
            }
            Ok(())
        })
    }

    /// Calls `sink` with the position in `ids` and every place of each id.
    pub fn locations(&self, ids: &[RecordId], mut sink: impl FnMut(usize, Location)) -> Result<()> {
        self.run(&self.read, |db| {
            let tx = db.unchecked_transaction()?;
            let mut find = tx.prepare_cached(
                "SELECT pack, offset, stored, raw, kind, flags, verified FROM records WHERE id = ?1",
            )?;
            for (at, id) in ids.iter().enumerate() {
                let mut rows = find.query([id.0.as_slice()])?;
                while let Some(row) = rows.next()? {
                    sink(at, location(*id, row)?);
                }
            }
            Ok(())
        })
    }

    /// Up to `limit` rows after a given one in the order of id and pack.
    pub fn page(&self, after: Option<(RecordId, i64)>, limit: usize) -> Result<Vec<Place>> {
        let (id, pack) = after.unwrap_or((RecordId([0; 32]), i64::MIN));
        self.run(&self.read, |db| {
            let mut page = db.prepare_cached(
                "SELECT id, pack, kind, stored, verified FROM records WHERE (id, pack) > (?1, ?2)
                 ORDER BY id, pack LIMIT ?3",
            )?;
            let rows = page.query_map(params![id.0, pack, limit as i64], |row| {
                let (id, kind) = (RecordId(row.get(0)?), kind(row.get(2)?)?);
                Ok(Place { id, pack: row.get(1)?, kind, stored: row.get(3)?, verified: row.get(4)? })
            })?;
            rows.collect()
        })
    }

    fn run<T>(
        &self,
        connection: &Mutex<Connection>,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        work(&mut guard(connection)).map_err(|e| {
            if file::is_corruption(&e) {
                self.corrupt.store(true, Ordering::Relaxed);
            }
            file::failed(&self.path, &e)
        })
    }

    fn change<T>(&self, work: impl FnOnce(&Transaction) -> rusqlite::Result<T>) -> Result<T> {
        self.run(&self.write, |db| {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&tx)?;
            tx.commit()?;
            Ok(done)
        })
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if !self.is_corrupt() {
            return;
        }
        // Closed first: SQLite removes the files beside the database by name.
        for connection in [&mut self.read, &mut self.write] {
            let Ok(other) = Connection::open_in_memory() else { return };
            *connection.get_mut().unwrap_or_else(PoisonError::into_inner) = other;
        }
        file::discard(&self.path, &self.lock);
    }
}

fn guard(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add_pack(tx: &Transaction, pack: &NewPack) -> rusqlite::Result<i64> {
    let mut add = tx.prepare_cached(
        "INSERT INTO packs (name, kind, size, damaged) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name, kind) DO UPDATE SET size = excluded.size, damaged = excluded.damaged
         RETURNING num",
    )?;
    let values = params![pack.name.0, pack.kind.byte(), pack.size as i64, pack.rows.err()];
    add.query_row(values, |row| row.get(0))
}

fn add_rows(tx: &Transaction, packs: &[NewPack], nums: &[i64]) -> rusqlite::Result<()> {
    let mut rows: Vec<(&Row, i64, i64)> = Vec::new();
    for (pack, num) in packs.iter().zip(nums) {
        rows.extend(pack.rows.unwrap_or_default().iter().map(|row| (row, *num, pack.verified)));
    }
    // In the order of the tree, which then takes a third of the time.
    rows.sort_unstable_by_key(|(row, ..)| row.id);
    let mut insert = tx.prepare_cached(
        "INSERT INTO records (id, pack, offset, stored, raw, kind, flags, verified)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (id, pack) DO UPDATE SET verified = max(verified, excluded.verified)",
    )?;
    for (row, num, verified) in rows {
        let kind = row.kind.byte();
        insert.execute(params![row.id.0, num, row.offset, row.stored, row.raw, kind, row.flags, verified])?;
    }
    Ok(())
}

fn location(id: RecordId, row: &SqlRow) -> rusqlite::Result<Location> {
    let table_row = Row {
        id,
        offset: row.get(1)?,
        stored: row.get(2)?,
        raw: row.get(3)?,
        kind: kind(row.get(4)?)?,
        flags: row.get(5)?,
    };
    Ok(Location { pack: row.get(0)?, row: table_row, verified: row.get(6)? })
}

fn kind(byte: u8) -> rusqlite::Result<Kind> {
    Kind::from_byte(byte).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, i64::from(byte)))
}
