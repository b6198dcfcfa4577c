-- Made when a segment is sealed: nothing is added to it any more, so they cost the hot path nothing.
CREATE INDEX IF NOT EXISTS events_by_project ON events (project, type, seq);
CREATE INDEX IF NOT EXISTS deliveries_by_destination ON deliveries (destination, seq);
-- For lists from new to old. Each holds all that its queries ask, but for the entries themselves.
CREATE INDEX IF NOT EXISTS activity_by_destination ON activity (destination, delivery, number);
CREATE INDEX IF NOT EXISTS activity_by_failure
    ON activity (delivery, number, destination, class) WHERE class > 0;
CREATE INDEX IF NOT EXISTS activity_by_end
    ON activity (ended, delivery, destination, project) WHERE ended > 1;

-- Whose events the segment has, and when they were received: a look here saves a search.
CREATE TABLE IF NOT EXISTS contents (
    project  INTEGER PRIMARY KEY,
    events   INTEGER NOT NULL,
    earliest INTEGER NOT NULL,        -- microseconds since 1970
    latest   INTEGER NOT NULL
);
DELETE FROM contents;
INSERT INTO contents
    SELECT project, count(*), min(received_at), max(received_at) FROM events GROUP BY project;
INSERT OR REPLACE INTO facts VALUES ('sealed', 1);
