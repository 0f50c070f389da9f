-- When ddr itself saw a file of the working tree being used: checked out by it, later also opened under
-- its watch. Access times tell less: a mount option may keep them from being written at all. Derived
-- from what happened on this machine; losing it costs only that.
CREATE TABLE used (
    path    BLOB    NOT NULL PRIMARY KEY,
    used_s  INTEGER NOT NULL,
    used_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
