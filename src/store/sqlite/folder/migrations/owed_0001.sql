-- owed.db: the deliveries that have not ended. Derived: it follows the redo rows of the segments at
-- a distance, is not synced at each commit, and catches up from them when it is opened.

CREATE TABLE owed (
    destination INTEGER NOT NULL,
    lane        INTEGER NOT NULL,     -- with its highest bit turned over, so that it sorts without a sign
    position    INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    entries     INTEGER NOT NULL,
    due         INTEGER,              -- microseconds since 1970; set after a failed attempt
    accepted_at INTEGER NOT NULL,
    PRIMARY KEY (destination, lane, position, seq)
) WITHOUT ROWID;

CREATE INDEX owed_due ON owed (destination, due) WHERE due IS NOT NULL;

-- `applied`: the last redo row that this file has.
CREATE TABLE facts (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
