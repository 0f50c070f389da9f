-- Packs listed in the store when it was last looked at. `num` is never used twice, so a number that
-- another process remembers cannot come to mean another pack. `kind` is that of the pack's records
-- (1 chunk, 2 manifest). `damaged` says what is wrong with a pack whose trailer could not be read;
-- its size is kept so that it is read again only when it changed.
CREATE TABLE packs (
    num       INTEGER PRIMARY KEY AUTOINCREMENT,
    name      BLOB    NOT NULL,
    kind      INTEGER NOT NULL,
    size      INTEGER NOT NULL,
    condemned INTEGER NOT NULL DEFAULT 0,
    damaged   TEXT,
    UNIQUE (name, kind)
) STRICT;

-- Rows of the packs' tables: a record may lie in several packs. `verified` is the time (seconds
-- since 1970) at which the record was last read back, decoded and hashed; 0 if it is known from a
-- pack's table only, -1 if that check failed.
CREATE TABLE records (
    id       BLOB    NOT NULL,
    pack     INTEGER NOT NULL,
    offset   INTEGER NOT NULL,
    stored   INTEGER NOT NULL,
    raw      INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    flags    INTEGER NOT NULL,
    verified INTEGER NOT NULL,
    PRIMARY KEY (id, pack)
) STRICT, WITHOUT ROWID;
