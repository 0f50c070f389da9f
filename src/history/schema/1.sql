-- "ddrh": keeps other programs' databases from being taken for ours.
PRAGMA application_id = 0x64647268;

-- Whose entries are indexed. `known` is the highest entry number applied without a gap, tail_hash
-- the hash of the log object that ends there, tail_hlc the highest clock value seen; `num` stands
-- for the 32-byte id in the other tables. An origin that is only mentioned has known = 0.
CREATE TABLE origins (
    num       INTEGER PRIMARY KEY,
    id        BLOB    NOT NULL UNIQUE,
    name      TEXT    NOT NULL DEFAULT '',
    known     INTEGER NOT NULL DEFAULT 0,
    tail_hash BLOB    NOT NULL DEFAULT x'0000000000000000000000000000000000000000000000000000000000000000',
    tail_hlc  INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What users said of their commits: one row per batch of entries that has a message.
CREATE TABLE messages (
    origin  INTEGER NOT NULL,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    message TEXT    NOT NULL,
    PRIMARY KEY (origin, first)
) STRICT, WITHOUT ROWID;

-- Every retained entry, in path order so that listings and the versions of one path are range
-- scans. kind is 0 file, 1 directory, 2 symlink, NULL for a deletion (and then so is all up to
-- `target`). `seen` is a row of dots, 32 bytes of origin id and 8 of number (little endian) each.
CREATE TABLE entries (
    path       BLOB    NOT NULL,
    origin     INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    hlc        INTEGER NOT NULL,
    kind       INTEGER,
    content    BLOB,
    body_kind  INTEGER,
    body       BLOB,
    size       INTEGER,
    mtime_s    INTEGER,
    mtime_ns   INTEGER,
    mode       INTEGER,
    target     BLOB,
    seen       BLOB    NOT NULL,
    base       BLOB,
    moved_from BLOB,
    moved_to   BLOB,
    PRIMARY KEY (path, origin, number)
) STRICT, WITHOUT ROWID;

-- Entries that no other entry of their path has seen, deletions excepted: what is there now. More
-- than one row for a path with different content is a conflict.
CREATE TABLE heads (
    path   BLOB    NOT NULL,
    origin INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (path, origin, number)
) STRICT, WITHOUT ROWID;

-- The union of what all entries of a path had seen, in the form of entries.seen; no row when that
-- is nothing. It makes heads independent of the order in which origins are applied: an entry that
-- arrives after the one that superseded it (even a deletion, which is no head) stays superseded.
CREATE TABLE covered (
    path BLOB NOT NULL PRIMARY KEY,
    seen BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- What the working tree held when it was last looked at, and which entry that is. Derived from the
-- tree, not from the logs; losing it costs a scan that hashes again.
CREATE TABLE local (
    path      BLOB    NOT NULL PRIMARY KEY,
    origin    INTEGER NOT NULL,
    number    INTEGER NOT NULL,
    kind      INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    mtime_s   INTEGER NOT NULL,
    mtime_ns  INTEGER NOT NULL,
    mode      INTEGER NOT NULL,
    ctime_s   INTEGER NOT NULL,
    ctime_ns  INTEGER NOT NULL,
    ino       INTEGER NOT NULL,
    content   BLOB,
    body_kind INTEGER,
    body      BLOB,
    target    BLOB,
    residency INTEGER NOT NULL,
    proven    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Small facts of this index, by name.
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
