-- The example of README.md: psql -X -q -a -f docs/example.sql, in a database of its own.

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

-- Load that something else has recorded, here invented: two weeks, by the hour, with a peak every day; the
-- next one is 16 hours away.
SELECT repart_import_samples('orders_1_4', jsonb_agg(jsonb_build_object(
           'at', at,
           'reads', 30000 + 22000 * cos(2 * pi() * extract(epoch FROM at - now() - interval '16 hours') / 86400)
                          + 2000 * random(),
           'writes', 300,
           'bytes', 20e6)))
  FROM generate_series(date_trunc('hour', now()) - interval '14 days', now(), '1 hour') at;

-- What will come, and what should be done about it.
SELECT at, round(q50) AS q50, round(q90) AS q90, model
  FROM repart_forecast('orders', '1 day') WHERE metric = 'reads' ORDER BY q50 DESC LIMIT 3;
SET repart.dwell = 0;  -- else a shard rests for an hour after a migration
SELECT action, shard, key_from, key_to, replace(why, '; ', E';\n') AS why, start_by, deadline,
       round(load_before) AS load_before, round(load_after) AS load_after FROM repart_plan('orders') \gx

-- Do it: each step waits for its quiet time. In repart.mode = 'auto' this happens by itself.
SELECT repart_apply();
SELECT id, kind, state, date_trunc('minute', start_at - now()) AS starts_in FROM repart.migrations WHERE state <> 'done';
