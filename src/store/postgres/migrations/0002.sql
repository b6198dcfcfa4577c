-- Version 2: many nodes.

-- How long a node is taken to live without a word. Its leases last as long.
ALTER TABLE nodes ADD COLUMN alive_until timestamptz NOT NULL DEFAULT '-infinity';

-- How often the resources have changed. Whoever changes them locks the row until the commit.
CREATE TABLE resources (
    id int PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    revision bigint NOT NULL
) WITH (fillfactor = 20);
INSERT INTO resources (revision) VALUES (1);

-- What somebody wants of the holder of a dispatch shard, who takes it away.
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard int NOT NULL,
    body text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
