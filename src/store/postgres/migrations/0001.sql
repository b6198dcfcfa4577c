-- Version 1. Times are microseconds since 1970; ids are UUIDs.
--
-- A shard is a log: the events of the projects that hash to it, numbered without gaps. A seq is
-- (shard << 40 | number); that of a delivery is (seq of its event << 11 | ordinal). What is about an
-- event is partitioned by the same ranges of seqs, so that all of it is dropped together.

CREATE TABLE meta (
    name text PRIMARY KEY,
    value bytea NOT NULL
);

-- Who takes part. `seen_at` is the database's time, as is everything about leases.
CREATE TABLE nodes (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    roles text[] NOT NULL,
    address text,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- Who does the work of a shard. `epoch` grows each time it changes hands.
CREATE TABLE leases (
    kind text NOT NULL,
    shard int NOT NULL,
    node uuid,
    epoch bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (kind, shard)
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- The last event of each shard. Who appends holds its row until the commit: so events become visible
-- in the order of their seqs. `room` is the last seq for which there are partitions.
CREATE TABLE logs (
    shard int PRIMARY KEY,
    last bigint NOT NULL,
    room bigint NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- Every event of the shard up to `through` has a plan.
CREATE TABLE plans (
    shard int PRIMARY KEY,
    through bigint NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- What makes two requests one event, for ever: a keyed hash of (project, key).
CREATE TABLE gate (
    hash uuid NOT NULL,
    id uuid NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (hash)
) PARTITION BY HASH (hash);

DO $$
BEGIN
    FOR part IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE gate_%s PARTITION OF gate FOR VALUES WITH (MODULUS 16, REMAINDER %s)',
            part, part);
    END LOOP;
END $$;

CREATE TABLE events (
    seq bigint NOT NULL,
    received_at bigint NOT NULL,
    timestamp bigint NOT NULL,
    -- Of the payload, never 0; 0 stands for a body that was erased.
    digest bigint NOT NULL,
    id uuid NOT NULL,
    project uuid NOT NULL,
    source uuid NOT NULL,
    type text COLLATE "C" NOT NULL,
    key text,
    metadata bytea NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (seq)
) PARTITION BY RANGE (seq);
CREATE INDEX events_by_id ON events (id);
CREATE INDEX events_by_type ON events (project, type, seq);
CREATE INDEX events_erased ON events (seq) WHERE digest = 0;

CREATE TABLE deliveries (
    seq bigint NOT NULL,
    -- So that its unsigned order is kept: bits of the lane, the highest one flipped.
    lane bigint NOT NULL,
    position bigint NOT NULL,
    -- NULL: when its event was received.
    accepted_at bigint,
    project uuid NOT NULL,
    destination uuid NOT NULL,
    pipeline uuid,
    replay uuid,
    version int NOT NULL,
    fresh_id boolean NOT NULL,
    copy bytea,
    PRIMARY KEY (seq)
) PARTITION BY RANGE (seq);
CREATE INDEX deliveries_by_destination ON deliveries (destination, seq);

CREATE TABLE activity (
    delivery bigint NOT NULL,
    at bigint NOT NULL,
    duration bigint,
    retry_after bigint,
    project uuid NOT NULL,
    destination uuid NOT NULL,
    number int NOT NULL,
    -- 0: no attempt, but a note.
    attempt int NOT NULL,
    class int,
    status int,
    ended int,
    reason bytea,
    response bytea,
    PRIMARY KEY (delivery, number)
) PARTITION BY RANGE (delivery);
CREATE INDEX activity_by_end ON activity (project, ended, delivery) WHERE ended > 1;
CREATE INDEX activity_by_failure ON activity (project, delivery, number) WHERE class > 0;

-- Why events, or parts of their plans, went no further.
CREATE TABLE skipped (
    event bigint NOT NULL,
    reasons text NOT NULL,
    PRIMARY KEY (event)
) PARTITION BY RANGE (event);

-- Events whose plan is not whole yet.
CREATE TABLE waiting (
    event bigint PRIMARY KEY
) WITH (fillfactor = 80);

-- What is owed: a row lives until its delivery ends. `due` is set by the first failure only, so that
-- the second index costs nothing to what is delivered at once.
CREATE TABLE open (
    destination uuid NOT NULL,
    lane bigint NOT NULL,
    position bigint NOT NULL,
    seq bigint NOT NULL,
    accepted_at bigint NOT NULL,
    due bigint,
    project uuid NOT NULL,
    attempts int NOT NULL,
    entries int NOT NULL,
    PRIMARY KEY (destination, lane, position, seq)
) WITH (
    fillfactor = 80, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_scale_factor = 0,
    autovacuum_analyze_threshold = 100000, autovacuum_analyze_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX open_by_due ON open (destination, due, lane, position, seq) WHERE due IS NOT NULL;

-- Several rows may be of the same minute: they are added up, so that no commit waits for another.
CREATE TABLE minutes (
    destination uuid NOT NULL,
    minute bigint NOT NULL,
    planned bigint NOT NULL,
    delivered bigint NOT NULL,
    failed_attempts bigint NOT NULL,
    dead bigint NOT NULL,
    dropped bigint NOT NULL,
    durations bigint[] NOT NULL
);
CREATE INDEX minutes_by_destination ON minutes (destination, minute);

-- What happened at the places of pipelines. Several rows may be of the same minute, as above.
CREATE TABLE tallies (
    pipeline uuid NOT NULL,
    minute bigint NOT NULL,
    version int NOT NULL,
    counts bytea NOT NULL
);
CREATE INDEX tallies_by_pipeline ON tallies (pipeline, minute);

-- What steps of pipelines remember of earlier events.
CREATE TABLE memories (
    pipeline uuid NOT NULL,
    step bigint NOT NULL,
    key bytea NOT NULL,
    shard int NOT NULL,
    memory bytea NOT NULL,
    PRIMARY KEY (pipeline, step, key)
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE replays (
    replay uuid PRIMARY KEY,
    cursor bigint,
    done bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE documents (
    kind text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (kind, id)
);

CREATE TABLE entities (
    project uuid NOT NULL,
    tab bytea NOT NULL,
    key bytea NOT NULL,
    fields bytea NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (project, tab, key)
);

-- Fails unless every one of these leases is held in its epoch, and keeps them from changing hands
-- until the transaction ends.
CREATE FUNCTION check_leases(of_kind text, shards int[], epochs bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE held int;
BEGIN
    SELECT count(*) INTO held FROM (
        SELECT 1 FROM leases l JOIN unnest(shards, epochs) AS w (shard, epoch)
            ON l.shard = w.shard AND l.epoch = w.epoch
            WHERE l.kind = of_kind ORDER BY l.shard FOR SHARE OF l) AS found;
    IF held <> cardinality(shards) THEN
        RAISE EXCEPTION 'a lease was lost' USING ERRCODE = 'TG001';
    END IF;
END $$;

-- Makes the partitions for the next `size` events of a shard, unless somebody else did.
-- It is attached, not made in place: that does not wait for those who read.
CREATE FUNCTION make_room(of_shard int, wanted bigint, size bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    low bigint;
    high bigint;
    part text;
    tab text;
    shift int;
BEGIN
    PERFORM pg_advisory_xact_lock(7234003, 1);
    LOOP
        SELECT room INTO low FROM logs WHERE shard = of_shard FOR UPDATE;
        EXIT WHEN low >= wanted;
        high := low + size;
        FOREACH tab IN ARRAY ARRAY['events', 'skipped', 'deliveries', 'activity'] LOOP
            shift := CASE WHEN tab IN ('events', 'skipped') THEN 0 ELSE 11 END;
            part := format('%s_%s_%s', tab, of_shard, (low & ((1::bigint << 40) - 1)) + 1);
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, tab);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                tab, part, (low + 1) << shift, (high + 1) << shift);
        END LOOP;
        UPDATE logs SET room = high WHERE shard = of_shard;
    END LOOP;
END $$;
