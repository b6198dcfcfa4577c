-- What steps remember. The rows of the newest segment that has any tell all of it: one that is whole, and
-- what changed since, in order. Each is a list of entries (store/sqlite/memories.rs).
CREATE TABLE memories (
    number   INTEGER PRIMARY KEY,
    is_whole INTEGER NOT NULL,
    entries  BLOB NOT NULL
);

-- What happened at each place of a pipeline, by minute. Several segments may hold a part of the same minute.
CREATE TABLE tallies (
    pipeline INTEGER NOT NULL,
    minute   INTEGER NOT NULL,        -- minutes since 1970
    version  INTEGER NOT NULL,        -- of the pipeline
    counts   BLOB NOT NULL,           -- packed (store/sqlite/tallies.rs)
    PRIMARY KEY (pipeline, minute, version)
) WITHOUT ROWID;
