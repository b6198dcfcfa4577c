-- Made when a segment is sealed: nothing is added to it any more, so they cost the hot path nothing.
CREATE INDEX IF NOT EXISTS events_by_project ON events (project, type, seq);
CREATE INDEX IF NOT EXISTS deliveries_by_destination ON deliveries (destination, seq);
CREATE INDEX IF NOT EXISTS activity_by_destination ON activity (destination, at);
CREATE INDEX IF NOT EXISTS activity_by_end ON activity (ended, destination, delivery) WHERE ended > 1;
