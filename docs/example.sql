-- The example of README.md: psql -X -a -f docs/example.sql, in a database of its own.

CREATE EXTENSION repart;

-- A table as any application has one, with a million rows.
CREATE TABLE orders (order_id bigint PRIMARY KEY, placed_at timestamptz NOT NULL DEFAULT now(), note text);
INSERT INTO orders (order_id, note) SELECT n, repeat('x', 80) FROM generate_series(1, 1000000) n;
ANALYZE orders;

-- From now on it is a sharded table; its rows have not moved.
SELECT repart_manage('orders');

-- Split its only shard into four, while applications go on reading and writing.
SELECT repart_split('orders_0', '250001', '500001', '750001');
SELECT repart_wait(1);
SELECT id, kind, sources, state, rows_done, round(pause_ms) AS pause_ms FROM repart.migrations;
SELECT shard, key_from, key_to, rows, pg_size_pretty(bytes) AS size FROM repart.shards ORDER BY shard;

-- Load that something else has recorded, here invented: two weeks, by the hour, with a peak every day that
-- is twelve hours away now.
SELECT repart_import_samples('orders_1_4', jsonb_agg(jsonb_build_object(
           'at', at,
           'reads', 30000 - 22000 * cos(extract(epoch FROM now() - at) / 86400 * 2 * pi()) + 2000 * random(),
           'writes', 300,
           'bytes', 20e6)))
  FROM generate_series(date_trunc('hour', now()) - interval '14 days', now(), '1 hour') at;

-- What will come, and what should be done about it.
SELECT at, round(q50) AS q50, round(q90) AS q90, model
  FROM repart_forecast('orders', '1 day') WHERE metric = 'reads' ORDER BY q50 DESC LIMIT 3;
SET repart.dwell = 0;  -- else a shard rests for an hour after a migration
\pset format wrapped
\pset columns 100
SELECT action, shard, key_from, key_to, why, start_by, deadline, round(load_before) AS load_before,
       round(load_after) AS load_after FROM repart_plan('orders') \gx

\pset format aligned

-- Do it: each step waits for its quiet time. In repart.mode = 'auto' this happens by itself.
SELECT repart_apply();
SELECT id, kind, state, start_at > now() AS waits_for_its_time FROM repart.migrations ORDER BY id;
