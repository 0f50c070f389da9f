-- Entries that some origin's log says are forgotten, as ranges of numbers per origin, merged where
-- they touch: `ddr prune`. Such an entry stays in `entries`; unless it is a head, its content is no
-- longer kept. A range may name entries that have not arrived yet.
CREATE TABLE forgotten (
    origin INTEGER NOT NULL,
    first  INTEGER NOT NULL,
    last   INTEGER NOT NULL,
    PRIMARY KEY (origin, first)
) STRICT, WITHOUT ROWID;
