-- control.db: resources. Written rarely, every change synced.

CREATE TABLE documents (
    kind TEXT NOT NULL,
    id   BLOB NOT NULL,               -- 16 bytes, big-endian
    body TEXT NOT NULL,               -- JSON, secrets sealed
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;

-- The small number that stands for a resource in the rows of segments. Never used twice, and kept
-- after the resource is gone, since old rows still name it.
CREATE TABLE numbers (
    number INTEGER PRIMARY KEY,
    id     BLOB NOT NULL UNIQUE
);

-- Single values, such as the key of the gate's hash.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;
