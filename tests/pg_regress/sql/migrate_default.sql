-- A DEFAULT partition with rows: it stays as it is, and nothing is left on it.
CREATE SCHEMA migrate_default;
SET search_path = migrate_default, public;
SET client_min_messages = warning;
SELECT setval(pg_get_serial_sequence('repart.journal', 'id'), 4000);
CREATE VIEW left_behind AS SELECT conrelid::regclass, conname FROM pg_constraint
 WHERE conname LIKE 'repart%' AND connamespace <> 'repart'::regnamespace;
CREATE TABLE t (k int NOT NULL, n int, UNIQUE (k)) PARTITION BY RANGE (k);
CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (100) TO (200);
CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (300) TO (400);
CREATE TABLE t_rest PARTITION OF t DEFAULT;
INSERT INTO t SELECT g, g FROM generate_series(0, 499) g;
SELECT repart_manage('t');
CREATE TABLE before AS SELECT * FROM t;
CREATE VIEW difference AS (TABLE before EXCEPT ALL TABLE t) UNION ALL (TABLE t EXCEPT ALL TABLE before);
SELECT repart_split('t1', '120', '150') AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT error FROM repart.migrations WHERE id = :id;
SELECT key_from, key_to FROM repart.shards WHERE relation = 't'::regclass ORDER BY shard::text COLLATE "C";
SELECT count(*) FROM difference;
SELECT count(*), min(k), max(k) FROM ONLY t_rest;
TABLE left_behind;
\d t_rest
-- Rows go where they belong.
INSERT INTO t VALUES (-5, 1), (1000, 1), (250, 1) ON CONFLICT DO NOTHING;
SELECT tableoid::regclass, k FROM t WHERE k IN (-5, 1000, 120) ORDER BY k;
SELECT array_agg(shard ORDER BY key_to::int) AS shards FROM repart.shards
 WHERE relation = 't'::regclass AND key_from ~ '^1' \gset
SELECT repart_merge(VARIADIC :'shards'::regclass[]) AS id \gset
SELECT repart_wait(:id, '60 s');
TABLE left_behind;
CREATE PROCEDURE wait_for(what text) LANGUAGE plpgsql AS $$
DECLARE found bool; BEGIN
    FOR i IN 1..1200 LOOP
        EXECUTE what INTO found;
        IF found THEN RETURN; END IF;
        COMMIT;
        PERFORM pg_sleep(0.05);
    END LOOP;
    RAISE 'waited in vain: %', what;
END $$;
-- A cancelled and a failed migration leave nothing either.
ALTER SYSTEM SET repart.hold_at = 'verifying';
SELECT pg_reload_conf();
SELECT repart_split('t3', '350') AS id \gset
CALL wait_for(format('SELECT reason = ''held at verifying'' FROM repart.migrations WHERE id = %s', :id));
TABLE left_behind;
SELECT repart_cancel(:id);
ALTER SYSTEM RESET repart.hold_at;
SELECT pg_reload_conf();
SELECT repart_wait(:id, '60 s');
TABLE left_behind;
ALTER SYSTEM SET repart.hold_at = 'cutting_over';
SELECT pg_reload_conf();
SELECT repart_split('t3', '350') AS id \gset
CALL wait_for(format('SELECT reason = ''held at cutting_over'' FROM repart.migrations WHERE id = %s', :id));
CREATE VIEW on_shard AS SELECT * FROM t3;
ALTER SYSTEM RESET repart.hold_at;
SELECT pg_reload_conf();
SELECT repart_wait(:id, '60 s');
SELECT error FROM repart.migrations WHERE id = :id;
TABLE left_behind;
DROP VIEW on_shard;
-- A DEFAULT partition that appears, and one that goes, during a migration.
ALTER TABLE t DETACH PARTITION t_rest;
ALTER SYSTEM SET repart.hold_at = 'cutting_over';
SELECT pg_reload_conf();
SELECT repart_split('t3', '350') AS id \gset
CALL wait_for(format('SELECT reason = ''held at cutting_over'' FROM repart.migrations WHERE id = %s', :id));
ALTER TABLE t ATTACH PARTITION t_rest DEFAULT;
ALTER SYSTEM RESET repart.hold_at;
SELECT pg_reload_conf();
SELECT repart_wait(:id, '60 s');
SELECT error FROM repart.migrations WHERE id = :id;
TABLE left_behind;
SELECT shard AS last FROM repart.shards WHERE relation = 't'::regclass AND key_to = '400' \gset
ALTER SYSTEM SET repart.hold_at = 'cutting_over';
SELECT pg_reload_conf();
SELECT repart_split(:'last', '380') AS id \gset
CALL wait_for(format('SELECT reason = ''held at cutting_over'' FROM repart.migrations WHERE id = %s', :id));
ALTER TABLE t DETACH PARTITION t_rest;
ALTER TABLE t_rest RENAME TO elsewhere;
ALTER SYSTEM RESET repart.hold_at;
SELECT pg_reload_conf();
SELECT repart_wait(:id, '60 s');
SELECT error FROM repart.migrations WHERE id = :id;
TABLE left_behind;
-- A foreign table as DEFAULT partition, with which no unique key can be.
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE TABLE f (k int NOT NULL, n int) PARTITION BY RANGE (k);
CREATE TABLE f1 PARTITION OF f (PRIMARY KEY (k)) FOR VALUES FROM (100) TO (200);
INSERT INTO f SELECT g FROM generate_series(100, 199) g;
SELECT repart_manage('f');
CREATE FOREIGN TABLE f_rest PARTITION OF f DEFAULT SERVER nowhere;
SELECT repart_split('f1', '150') AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT error FROM repart.migrations WHERE id = :id;
SELECT tableoid::regclass, count(*) FROM f WHERE k BETWEEN 100 AND 199 GROUP BY 1 ORDER BY 1;
TABLE left_behind;
SELECT repart_unmanage('t'), repart_unmanage('f');
