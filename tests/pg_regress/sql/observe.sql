-- Sampling: what PostgreSQL counts becomes rates, whatever happens to the counters.
SET client_min_messages = warning;
-- The observer must not sample, plan or purge meanwhile.
ALTER SYSTEM SET repart.mode = 'off';
SELECT pg_reload_conf(), pg_sleep(0.2);
CREATE TABLE observed (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
CREATE TABLE observed_1 PARTITION OF observed FOR VALUES FROM (MINVALUE) TO (1000);
CREATE TABLE observed_2 PARTITION OF observed FOR VALUES FROM (1000) TO (MAXVALUE);
CREATE TABLE observed_rest PARTITION OF observed DEFAULT;
SELECT repart_manage('observed');
RESET client_min_messages;

-- The first sample remembers, the second one tells.
SELECT repart_sample();
INSERT INTO observed SELECT i, 'x' FROM generate_series(1, 500) i;
SELECT count(note) FROM observed WHERE id < 1000;
SELECT pg_stat_force_next_flush();
SELECT pg_sleep(0.1);
SELECT repart_sample();
SELECT shard, round(reads * seconds) AS read, round(writes * seconds) AS written, bytes > 0 AS bytes, size > 0 AS size
  FROM repart.load WHERE relation = 'observed'::regclass ORDER BY shard::text;

-- Statistics that are reset are nothing to the access sampler. Without it they leave a gap, never a negative rate.
SELECT pg_stat_reset_single_table_counters('observed_1'::regclass);
SELECT repart_sample();
SELECT count(*) FROM repart.samples WHERE shard = 'observed_1'::regclass;
SELECT count(note) FROM observed WHERE id < 1000;
SELECT pg_stat_force_next_flush();
SELECT repart_sample();
SELECT count(*) FROM repart.samples WHERE shard = 'observed_1'::regclass;
DELETE FROM repart.access_counters;
SELECT pg_stat_reset_single_table_counters('observed_1'::regclass);
SELECT repart_sample();
SELECT count(*) FROM repart.samples WHERE shard = 'observed_1'::regclass;
SELECT count(*) FROM repart.samples WHERE shard = 'observed_2'::regclass;
SELECT count(*) FROM repart.samples WHERE reads < 0 OR writes < 0 OR bytes < 0;

-- A shard that was made again starts anew.
DROP TABLE observed_1;
CREATE TABLE observed_1 PARTITION OF observed FOR VALUES FROM (MINVALUE) TO (1000);
SELECT repart_sample();
SELECT count(*) FROM repart.samples WHERE shard = 'observed_1'::regclass;

-- An index-only scan reads rows too.
INSERT INTO observed SELECT i, 'x' FROM generate_series(1, 900) i;
VACUUM ANALYZE observed_1;
SELECT pg_stat_force_next_flush();
SELECT pg_sleep(0.1);
SELECT repart_sample();
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT count(id) FROM observed WHERE id BETWEEN 101 AND 300;
SELECT pg_stat_force_next_flush();
SELECT pg_sleep(0.1);
SELECT repart_sample();
RESET enable_seqscan;
RESET enable_bitmapscan;
SELECT round(reads * seconds) AS read FROM repart.load WHERE shard = 'observed_1'::regclass;

-- Imported load.
SELECT repart_import_samples('observed_2', '[
    {"at": "2020-01-01 00:00:00+00", "reads": 10, "writes": 1, "bytes": 100},
    {"at": 1577840400, "reads": 20, "writes": 2.5, "bytes": 0}]');
SELECT extract(epoch FROM at)::bigint AS at, seconds, reads, writes, bytes
  FROM repart.samples WHERE shard = 'observed_2'::regclass AND at < '2020-01-02' ORDER BY at;
SELECT repart_import_samples('observed_2', '[]');

-- What is refused.
SELECT repart_import_samples(NULL, '[]');
SELECT repart_import_samples('observed_2', NULL);
SELECT repart_import_samples('observed', '[]');
SELECT repart_import_samples('observed_rest', '[]');
SELECT repart_import_samples('observed_2', '{"at": 1}');
SELECT repart_import_samples('observed_2', '[{"at": "noon", "reads": 1, "writes": 1, "bytes": 1}]');
SELECT repart_import_samples('observed_2', '[{"at": "2020-01-01", "reads": -1, "writes": 1, "bytes": 1}]');
SELECT repart_import_samples('observed_2', '[{"at": "2020-01-01", "reads": 1, "writes": 1}]');
SELECT repart_import_samples('observed_2', '[{"at": "2020-01-01", "reads": 1, "writes": 1e999, "bytes": 1}]');
SELECT repart_import_samples('observed_2', '[{"at": "2999-01-01", "reads": 1, "writes": 1, "bytes": 1}]');

-- Who may.
CREATE ROLE regress_repart_reader;
SET ROLE regress_repart_reader;
SELECT repart_sample();
SELECT repart_import_samples('observed_2', '[]');
SELECT * FROM repart.load;
RESET ROLE;
GRANT EXECUTE ON FUNCTION repart_import_samples(regclass, jsonb) TO regress_repart_reader;
GRANT pg_monitor TO regress_repart_reader;
SET ROLE regress_repart_reader;
SELECT repart_import_samples('observed_2', '[]');
SELECT count(*) > 0 FROM repart.load;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION repart_import_samples(regclass, jsonb) FROM regress_repart_reader;
DROP ROLE regress_repart_reader;

DROP TABLE observed;
ALTER SYSTEM RESET repart.mode;
SELECT pg_reload_conf();
