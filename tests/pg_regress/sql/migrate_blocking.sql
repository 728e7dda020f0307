-- A table without a key that identifies its rows: refused, unless writers may wait while its rows are copied.
CREATE SCHEMA migrate_blocking;
SET search_path = migrate_blocking, public;
SET client_min_messages = warning;
SELECT setval(pg_get_serial_sequence('repart.journal', 'id'), 5000);
CREATE TABLE t (k int, n int, note text DEFAULT 'x', doubled int GENERATED ALWAYS AS (n * 2) STORED) PARTITION BY RANGE (k);
CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100);
CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200);
CREATE TABLE t_rest PARTITION OF t DEFAULT;
CREATE INDEX ON t (n);
CREATE INDEX ON t (lower(note)) WHERE n > 5;
-- Identical rows, rows that differ in nothing but NULLs, rows of the DEFAULT partition.
INSERT INTO t (k, n) SELECT g % 300, g % 7 FROM generate_series(0, 29999) g;
INSERT INTO t (k, n, note) SELECT 50, NULL, NULL FROM generate_series(1, 20);
INSERT INTO t (k, n) VALUES (NULL, 1), (NULL, 1);
ANALYZE t;
SELECT repart_manage('t');
CREATE TABLE before AS SELECT * FROM t;
CREATE VIEW difference AS (TABLE before EXCEPT ALL TABLE t) UNION ALL (TABLE t EXCEPT ALL TABLE before);
SELECT repart_split('t1', '50');
\echo :SQLSTATE
SET repart.allow_blocking = on;
SET client_min_messages = notice;
SELECT repart_split('t1', '50', '75') AS id \gset
SET client_min_messages = warning;
RESET repart.allow_blocking;
SELECT repart_wait(:id, '60 s');
SELECT state, error, reason, rows_done, pause_ms > 0 AS paused, progress FROM repart.migrations WHERE id = :id;
SELECT key_from, key_to FROM repart.shards WHERE relation = 't'::regclass ORDER BY shard::text COLLATE "C";
SELECT count(*) FROM difference;
SELECT count(*), count(DISTINCT t) FROM t WHERE k = 50;
SELECT shard AS low FROM repart.shards WHERE relation = 't'::regclass AND key_from = 'MINVALUE' \gset
\d :low
SELECT relpages > 0 AS analyzed, reltuples FROM pg_class WHERE oid = :'low'::regclass;
SELECT round(sum(share)::numeric, 3) FROM repart.lineage l JOIN repart.shards s USING (shard) WHERE s.relation = 't'::regclass;
-- The value when it was queued counts; other kinds of migration.
SELECT array_agg(shard ORDER BY key_to::int) AS shards FROM repart.shards
 WHERE relation = 't'::regclass AND key_to::int <= 100 \gset
SELECT repart_merge(VARIADIC :'shards'::regclass[]);
\echo :SQLSTATE
SET repart.allow_blocking = on;
SELECT repart_merge(VARIADIC :'shards'::regclass[]) AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT shard AS low FROM repart.shards WHERE relation = 't'::regclass AND key_from = 'MINVALUE' \gset
SELECT repart_shift(:'low', 't2', '120') AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT key_from, key_to FROM repart.shards WHERE relation = 't'::regclass ORDER BY shard::text COLLATE "C";
SELECT count(*) FROM difference;
-- Old shards cannot be followed without a key, and so are not kept; a revert copies, with the same leave.
ALTER SYSTEM SET repart.retain_source = '1h';
SELECT pg_reload_conf();
SELECT pg_sleep(1); -- until the postmaster, from which movers have it, has taken it
SELECT shard AS low FROM repart.shards WHERE relation = 't'::regclass AND key_from = 'MINVALUE' \gset
SELECT repart_split(:'low', '60') AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT message FROM repart.events WHERE migration = :id;
ALTER SYSTEM RESET repart.retain_source;
SELECT pg_reload_conf();
SET repart.allow_blocking = off;
SELECT repart_revert(:id);
\echo :SQLSTATE
SET repart.allow_blocking = on;
SELECT repart_revert(:id) AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT key_from, key_to FROM repart.shards WHERE relation = 't'::regclass ORDER BY shard::text COLLATE "C";
SELECT count(*) FROM difference;
-- A table with a key is migrated online all the same.
CREATE TABLE keyed (k int PRIMARY KEY) PARTITION BY RANGE (k);
CREATE TABLE keyed1 PARTITION OF keyed FOR VALUES FROM (0) TO (100);
INSERT INTO keyed SELECT generate_series(0, 99);
SELECT repart_manage('keyed');
SET client_min_messages = notice;
SELECT repart_split('keyed1', '50') AS id \gset
SET client_min_messages = warning;
SELECT repart_wait(:id, '60 s');
SELECT spec -> 'blocking' AS blocking FROM repart.journal WHERE id = :id;
-- Nothing is left behind.
SELECT relname FROM pg_class c WHERE relnamespace = 'repart'::regnamespace AND relkind IN ('r', 'i')
   AND relname ~ '^(t|i|old|log)_[0-9]+';
SELECT conrelid::regclass, conname FROM pg_constraint WHERE conname LIKE 'repart%' AND connamespace <> 'repart'::regnamespace;
SELECT repart_unmanage('t'), repart_unmanage('keyed');
