//! Opening `history.db`, setting a broken one aside, and running transactions.
//!
//! Promises that `open` always ends with a usable index: whatever is not a readable database of
//! ours is kept under another name and a fresh one made. Knows no history.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};
use rusqlite_migration::{M, MigrationDefinitionError, Migrations};

use super::origins::Origins;
use super::sql::db;
use crate::base::error::{Error, Result};
use crate::disk;

const APPLICATION_ID: i32 = 0x6464_7268;
const SCHEMA: &[M<'static>] = &[
    M::up(include_str!("schema/1.sql")),
    M::up(include_str!("schema/2.sql")),
    M::up(include_str!("schema/3.sql")),
    M::up(include_str!("schema/4.sql")),
];

/// The index over a folder's logs, and the table of what the working tree held.
#[derive(Debug)]
pub struct History {
    pub(super) conn: Connection,
    pub(super) origins: RefCell<Origins>,
    path: PathBuf,
    reset: bool,
}

/// What SQLite makes beside a database takes no more.
const LEAST_ROOM: u64 = 64 << 10;

/// Why a database could not be opened.
enum Failure {
    /// It is no usable database of ours: set aside.
    Broken,
    /// Anything else, for the caller.
    Other(Error),
}

impl History {
    /// Opens for writing, and creates what is missing. A broken file is renamed aside
    /// (`.broken-N`) and replaced by an empty one; see [`History::was_reset`].
    pub fn open(path: &Path) -> Result<Self> {
        let existed = path.exists();
        let connected = match connect(path, Locking::Normal) {
            // SQLite says only that it could not make a file: the index of its log, which is shared memory.
            // Alone it does without, so that on a full disk one can at least look.
            Err(Failure::Other(Error::Db(_) | Error::NoSpace(_))) if existed && is_disk_full(path) => {
                connect(path, Locking::Exclusive)
            }
            connected => connected,
        };
        match connected {
            Ok(conn) => Ok(Self::with(conn, path, !existed)),
            Err(Failure::Other(Error::Db(_))) if is_disk_full(path) => {
                Err(Error::NoSpace("while opening history.db".into()))
            }
            Err(Failure::Other(e)) => Err(e),
            Err(Failure::Broken) => {
                set_aside(path)?;
                match connect(path, Locking::Normal) {
                    Ok(conn) => Ok(Self::with(conn, path, true)),
                    Err(Failure::Other(e)) => Err(e),
                    Err(Failure::Broken) => Err(Error::Db("a fresh history.db is unreadable".into())),
                }
            }
        }
    }

    /// Opens an existing database beside a process that may be writing.
    pub fn open_read_only(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::Missing(path.display().to_string()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags).map_err(db)?;
        tune(&conn).map_err(db)?;
        let version: i64 = pragma(&conn, "user_version").map_err(db)?;
        if version != SCHEMA.len() as i64 {
            return Err(Error::Unsupported(format!("history.db has schema {version}")));
        }
        Ok(Self::with(conn, path, false))
    }

    fn with(conn: Connection, path: &Path, reset: bool) -> Self {
        Self { conn, origins: RefCell::default(), path: path.to_path_buf(), reset }
    }

    /// Whether `open` made an empty database, so that everything is still to be caught up.
    pub fn was_reset(&self) -> bool {
        self.reset
    }

    /// Whether everybody else has to wait until it is closed: on a full disk there is no other way.
    pub fn is_alone(&self) -> bool {
        pragma(&self.conn, "locking_mode").is_ok_and(|mode: String| mode == "exclusive")
    }

    /// Looks for damage in the whole file.
    pub fn check(&self) -> Result<()> {
        let answer: String = pragma(&self.conn, "quick_check").map_err(db)?;
        if answer == "ok" { Ok(()) } else { Err(Error::corrupt("history.db", answer)) }
    }

    /// A small fact by name.
    pub fn meta(&self, key: &str) -> Result<Option<String>> {
        self.conn
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")
            .and_then(|mut s| s.query_row([key], |r| r.get(0)).optional())
            .map_err(db)
    }

    /// Keys of the small facts whose key begins so.
    pub fn meta_keys(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys = self
            .conn
            .prepare_cached("SELECT key FROM meta WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key")
            .map_err(db)?;
        let found = keys.query_map([prefix], |row| row.get(0)).map_err(db)?;
        found.collect::<rusqlite::Result<_>>().map_err(db)
    }

    /// Remembers a small fact.
    pub fn set_meta(&mut self, key: &str, value: &str) -> Result<()> {
        self.write(|conn, _| {
            conn.execute("INSERT OR REPLACE INTO meta VALUES (?1, ?2)", [key, value]).map_err(db).map(drop)
        })
    }

    /// Forgets a small fact.
    pub fn clear_meta(&mut self, key: &str) -> Result<()> {
        self.write(|conn, _| conn.execute("DELETE FROM meta WHERE key = ?1", [key]).map_err(db).map(drop))
    }

    /// Runs `act` in one transaction: all of it, or nothing.
    pub(super) fn write<T>(&mut self, act: impl FnOnce(&Connection, &mut Origins) -> Result<T>) -> Result<T> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(db)?;
        let origins = self.origins.get_mut();
        let done = act(&tx, origins).and_then(|value| {
            disk::point(disk::Op::Write).map_err(|e| Error::io("updating", &self.path, e))?;
            tx.commit().map_err(db)?;
            Ok(value)
        });
        if done.is_err() {
            // Numbers given in this transaction are gone with it.
            *origins = Origins::default();
        }
        done
    }
}

/// How a database is locked, in SQLite's words.
#[derive(PartialEq, Eq)]
enum Locking {
    /// For as long as each transaction takes.
    Normal,
    /// For as long as it is open; others wait.
    Exclusive,
}

fn connect(path: &Path, locking: Locking) -> Result<Connection, Failure> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(path, flags).map_err(sort)?;
    // Before it is read for the first time.
    if locking == Locking::Exclusive {
        let _: String = conn.query_row("PRAGMA locking_mode = EXCLUSIVE", [], |r| r.get(0)).map_err(sort)?;
    }
    tune(&conn).map_err(sort)?;
    let id: i32 = pragma(&conn, "application_id").map_err(sort)?;
    let version: i64 = pragma(&conn, "user_version").map_err(sort)?;
    if id != APPLICATION_ID && (id, version) != (0, 0) {
        return Err(Failure::Broken);
    }
    let _: String = conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0)).map_err(sort)?;
    conn.pragma_update(None, "wal_autocheckpoint", 8192).map_err(sort)?;
    conn.pragma_update(None, "journal_size_limit", 64 << 20).map_err(sort)?;
    migrate(&mut conn)?;
    // A table that cannot even be entered shows now, not in the middle of a run.
    for table in ["origins", "messages", "entries", "heads", "covered", "local", "meta", "used"] {
        let first = format!("SELECT 1 FROM {table} LIMIT 1");
        conn.query_row(&first, [], |_| Ok(())).optional().map_err(sort)?;
    }
    Ok(conn)
}

fn is_disk_full(path: &Path) -> bool {
    let fs = path.parent().and_then(|dir| rustix::fs::statvfs(dir).ok());
    fs.is_some_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) < LEAST_ROOM)
}

fn migrate(conn: &mut Connection) -> Result<(), Failure> {
    use rusqlite_migration::Error as E;
    match Migrations::from_slice(SCHEMA).to_latest(conn) {
        Ok(()) => Ok(()),
        Err(E::RusqliteError { err, .. }) => Err(sort(err)),
        Err(E::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead)) => {
            Err(Failure::Other(Error::Unsupported("history.db was made by a newer ddr; use that".into())))
        }
        Err(_) => Err(Failure::Broken),
    }
}

fn tune(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.set_prepared_statement_cache_capacity(64);
    conn.execute_batch(
        "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -16384; PRAGMA cell_size_check = ON; \
         PRAGMA trusted_schema = OFF; PRAGMA temp_store = FILE;",
    )
}

fn pragma<T: rusqlite::types::FromSql>(conn: &Connection, name: &str) -> rusqlite::Result<T> {
    conn.query_row(&format!("PRAGMA {name}"), [], |r| r.get(0))
}

fn sort(e: rusqlite::Error) -> Failure {
    match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Failure::Broken,
        // "no such table", "no such column": tables that are not ours.
        Some(ErrorCode::Unknown) => Failure::Broken,
        _ => Failure::Other(db(e)),
    }
}

/// Renames the database and its companions to the first free `.broken-N`.
fn set_aside(path: &Path) -> Result<()> {
    let dir_path = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = File::open(dir_path).map_err(|e| Error::io("opening", dir_path, e))?;
    let base = path.file_name().unwrap_or_default();
    let name = |n: u32, suffix: &str| {
        let mut name = OsString::from(base);
        if n > 0 {
            name.push(format!(".broken-{n}"));
        }
        name.push(suffix);
        name
    };
    let free = |n: &u32| ["", "-wal", "-shm"].iter().all(|s| !dir_path.join(name(*n, s)).exists());
    let n = (1..u32::MAX).find(free).unwrap_or(u32::MAX);
    // The database itself last: a fresh one must never find the old one's write-ahead log.
    for suffix in ["-wal", "-shm", ""] {
        let (from, to) = (name(0, suffix), name(n, suffix));
        match disk::rename_new(&dir, from.as_bytes(), &dir, to.as_bytes()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("setting aside", dir_path.join(from), e));
            }
            _ => {}
        }
    }
    disk::sync_dir(&dir, dir_path)
}
