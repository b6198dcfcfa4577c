-- segments/<first event seq, 16 digits>.db: events and what became of them. Append-only: one writer
-- adds to the newest segment; older ones are sealed and only read, until retention drops them.
-- A row about an old event (a late attempt, a replay) goes to the segment that is newest then.

-- The columns that lists filter by. The rest of the event is in its block.
CREATE TABLE events (
    seq         INTEGER PRIMARY KEY,  -- the place in accept order: 1, 2, 3, … without gaps
    id          BLOB NOT NULL,        -- 16 bytes, ours: it grows with seq, so that it is found by binary search
    given_id    BLOB,                 -- the id that the sender gave; the event then goes by this one
    project     INTEGER NOT NULL,     -- numbers.number in control.db, as for the others below
    source      INTEGER NOT NULL,
    type        TEXT NOT NULL,
    timestamp   INTEGER NOT NULL,     -- microseconds since 1970
    received_at INTEGER NOT NULL,     -- microseconds since 1970
    key         TEXT,                 -- the idempotency key
    digest      INTEGER NOT NULL      -- xxh3 of the payload: tells whether a duplicate is the same; 0: its body is erased
);

-- Up to 64 events in one zstd frame: for each, two lengths (u32, little-endian), metadata, payload.
CREATE TABLE blocks (
    first_seq INTEGER PRIMARY KEY,
    count     INTEGER NOT NULL,
    body      BLOB NOT NULL
);

-- Events whose id the sender gave. `id` has its 12 order bits cleared, so that a delivery's id finds
-- it too. Two projects may have given the same one.
CREATE TABLE given_ids (
    id  BLOB NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (id, seq)
) WITHOUT ROWID;

-- What a pipeline or a replay planned.
CREATE TABLE deliveries (
    seq         INTEGER PRIMARY KEY,  -- event seq << 11 | ordinal
    project     INTEGER NOT NULL,
    destination INTEGER NOT NULL,
    pipeline    INTEGER,
    version     INTEGER NOT NULL,
    lane        INTEGER NOT NULL,     -- 64 bits without a sign
    position    INTEGER NOT NULL,
    accepted_at INTEGER,              -- microseconds since 1970; NULL: when its event was received
    replay      INTEGER,
    fresh_id    INTEGER NOT NULL,
    copy        BLOB                  -- zstd; the destination's own copy of the payload, if a step changed it
);

-- Why events, or routes of them, went no further. An event with a plan has a row here or a delivery
-- with a pipeline that is no replay's: that is how the last planned event is found when the store is
-- opened. A delivery with neither was made outside of every order and recorded afterwards: a test.
-- Of an event whose plan came in parts, the row of the newest segment counts.
CREATE TABLE skipped (
    event   INTEGER PRIMARY KEY,
    reasons TEXT NOT NULL             -- JSON
);

-- The activity log: attempts, and ends without one.
CREATE TABLE activity (
    delivery    INTEGER NOT NULL,
    number      INTEGER NOT NULL,     -- within the delivery, from 1
    at          INTEGER NOT NULL,     -- microseconds since 1970
    project     INTEGER NOT NULL,
    destination INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,     -- from 1; 0: no attempt
    class       INTEGER,
    status      INTEGER,
    duration    INTEGER,              -- microseconds
    ended       INTEGER,              -- 1 delivered, 2 dead, 3 expired, 4 cancelled
    reason      TEXT,                 -- left out for 2xx
    retry_after INTEGER,              -- milliseconds
    response    BLOB,
    PRIMARY KEY (delivery, number)
) WITHOUT ROWID;

-- What each destination did, by minute. Several segments may hold a part of the same minute.
CREATE TABLE minutes (
    destination     INTEGER NOT NULL,
    minute          INTEGER NOT NULL, -- minutes since 1970
    planned         INTEGER NOT NULL,
    delivered       INTEGER NOT NULL,
    failed_attempts INTEGER NOT NULL,
    dead            INTEGER NOT NULL,
    dropped         INTEGER NOT NULL,
    below_10ms      INTEGER NOT NULL, -- attempts by duration
    below_50ms      INTEGER NOT NULL,
    below_100ms     INTEGER NOT NULL,
    below_500ms     INTEGER NOT NULL,
    below_1s        INTEGER NOT NULL,
    below_5s        INTEGER NOT NULL,
    longer          INTEGER NOT NULL,
    PRIMARY KEY (destination, minute)
) WITHOUT ROWID;

-- How far replays have come. The newest segment that has a row about a replay is right.
CREATE TABLE replays (
    replay INTEGER PRIMARY KEY,
    cursor INTEGER,
    done   INTEGER NOT NULL
);

-- What each commit changed in owed.db, until that has it for good. See store/sqlite/owed.rs.
CREATE TABLE redo (
    number  INTEGER PRIMARY KEY,      -- counts commits over all segments
    changes BLOB NOT NULL
);

-- `sealed`, `oldest_event` (the lowest event seq that any row here is about), and `waiting`: packed in a
-- blob, the last planned event, and the events whose plan is not whole yet (store/sqlite/waiting.rs).
CREATE TABLE facts (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
