-- directory.db: what projects know of people, companies and things of their own. Every change synced.

CREATE TABLE entities (
    project    BLOB NOT NULL,         -- 16 bytes, big-endian
    tab        TEXT NOT NULL,         -- `people`, `companies`, or a table of the project's own
    key        TEXT NOT NULL,
    fields     TEXT NOT NULL,         -- a JSON object
    updated_at INTEGER NOT NULL,      -- microseconds since 1970
    PRIMARY KEY (project, tab, key)
) WITHOUT ROWID;
