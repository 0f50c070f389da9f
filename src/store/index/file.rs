//! The file of an index: opening, sharing, setting aside.
//!
//! Promises that a file which SQLite finds damaged, or that is no index, is replaced only while
//! nobody else has it open. Knows of the schema only its version.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension};
use rusqlite_migration::{M, Migrations};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::base::error::{Error, Result};
use crate::base::id::StoreId;
use crate::base::units::Time;

/// `ddri`: tells that a file is such an index.
const APPLICATION_ID: i64 = 0x6464_7269;
const SCHEMA: &[M] = &[M::up(include_str!("../schema/1.sql"))];
/// Negative: KiB. Look-ups of random ids hit nothing in SQLite's own 2 MiB.
const CACHE_KIB: i64 = -32_000;
const BUSY: Duration = Duration::from_secs(10);
/// An open file: two connections (read, write) and the lock that is released after them.
pub struct Opened {
    /// Where it is.
    pub path: std::path::PathBuf,
    /// For look-ups.
    pub read: Connection,
    /// For changes.
    pub write: Connection,
    /// Held shared.
    pub lock: File,
}

/// Opens or creates the index of a store in a directory.
pub fn open(dir: &Path, store: StoreId) -> Result<Opened> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).map_err(|e| Error::io("making directory", dir, e))?;
    let path = dir.join(format!("{store}.db"));
    let lock_path = dir.join(format!("{store}.lock"));
    let mut options = File::options();
    let lock = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
    let lock = lock.map_err(|e| Error::io("opening", &lock_path, e))?;
    let (read, write) = connect_locked(&lock, &path)?;
    Ok(Opened { path, read, write, lock })
}

/// Sets a damaged file aside if nobody else has it open; the caller's connections are closed.
pub fn discard(path: &Path, lock: &File) {
    if flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        // If this fails the next open finds the damage again.
        let _ = set_aside(path);
    }
}

/// Opens both connections under the shared lock. Whoever gets the lock alone may create or replace
/// the file; with others at work it must be as they opened it.
fn connect_locked(lock: &File, path: &Path) -> Result<(Connection, Connection)> {
    let io = |e: Errno| Error::io("locking", path.with_extension("lock"), e);
    let alone = match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => true,
        Err(Errno::WOULDBLOCK) => false,
        Err(e) => return Err(io(e)),
    };
    if !alone {
        flock(lock, FlockOperation::LockShared).map_err(io)?;
    }
    let connected = match connect(path) {
        Err(e) if alone && !is_busy(&e) && is_replaceable(&e) => {
            set_aside(path)?;
            connect(path)
        }
        other => other,
    };
    if alone {
        flock(lock, FlockOperation::LockShared).map_err(io)?;
    }
    connected.map_err(|e| failed(path, &e))
}

fn connect(path: &Path) -> rusqlite::Result<(Connection, Connection)> {
    let mut write = open_one(path)?;
    prepare_file(&mut write)?;
    Ok((open_one(path)?, write))
}

fn open_one(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY)?;
    db.pragma_update(None, "cache_size", CACHE_KIB)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(db)
}

/// Checks or writes the application id, brings the schema up to date, sets WAL.
fn prepare_file(db: &mut Connection) -> rusqlite::Result<()> {
    let id: i64 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let first: Option<String> =
        db.query_row("SELECT name FROM sqlite_schema LIMIT 1", (), |row| row.get(0)).optional()?;
    if id != APPLICATION_ID && (id != 0 || first.is_some()) {
        return Err(not_ours("it is not an index of ddr"));
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    if id == 0 {
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    Migrations::from_slice(SCHEMA).to_latest(db).map_err(|e| match e {
        rusqlite_migration::Error::RusqliteError { err, .. } => err,
        other => not_ours(&other.to_string()),
    })
}

fn not_ours(why: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
    rusqlite::Error::SqliteFailure(code, Some(why.into()))
}

fn code(e: &rusqlite::Error) -> Option<ErrorCode> {
    e.sqlite_error_code()
}

fn is_busy(e: &rusqlite::Error) -> bool {
    matches!(code(e), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// What a fresh file mends; a full or unreadable disk is not among it.
fn is_replaceable(e: &rusqlite::Error) -> bool {
    is_corruption(e) || matches!(code(e), Some(ErrorCode::Unknown))
}

/// Whether SQLite, or a value in the file, says that it is damaged.
pub fn is_corruption(e: &rusqlite::Error) -> bool {
    match e {
        rusqlite::Error::SqliteFailure(..) => {
            matches!(code(e), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        }
        // A value of the wrong type or range: the file is a database, but not a sound index.
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    }
}

/// Moves a damaged file out of the way, with what SQLite keeps beside it.
fn set_aside(path: &Path) -> Result<()> {
    let aside = path.with_extension(format!("damaged-{}", Time::now().secs));
    std::fs::rename(path, &aside).map_err(|e| Error::io("setting aside", path, e))?;
    for suffix in ["db-wal", "db-shm"] {
        let beside = path.with_extension(suffix);
        match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("removing", beside, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A failure as the rest of the program sees it.
pub fn failed(path: &Path, e: &rusqlite::Error) -> Error {
    let no_shm = e.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE);
    if no_shm || code(e) == Some(ErrorCode::DiskFull) {
        return Error::NoSpace(format!("while writing {}", path.display()));
    }
    Error::Db(format!("{}: {e}", path.display()))
}
