-- Which publications a sharded table may be in. What subscribers get, tests/tests/publications.rs looks at.
CREATE SCHEMA migrate_publications;
SET search_path = migrate_publications, public;
SET client_min_messages = error; -- wal_level may be too low for publications to be of use
SELECT setval(pg_get_serial_sequence('repart.journal', 'id'), 6000);
CREATE TABLE t (k int PRIMARY KEY, n int) PARTITION BY RANGE (k);
CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100);
CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200);
INSERT INTO t SELECT g, g FROM generate_series(0, 199) g;

-- What may not be managed.
CREATE PUBLICATION every FOR ALL TABLES;
SELECT repart_manage('t');
\echo :SQLSTATE
DROP PUBLICATION every;
CREATE PUBLICATION by_leaf FOR TABLE t;
SELECT repart_manage('t');
\echo :SQLSTATE
DROP PUBLICATION by_leaf;
CREATE PUBLICATION a_shard FOR TABLE t1 WITH (publish_via_partition_root = true);
SELECT repart_manage('t');
\echo :SQLSTATE
DROP PUBLICATION a_shard;
CREATE TABLE plain (k int PRIMARY KEY);
CREATE PUBLICATION of_plain FOR TABLE plain WITH (publish_via_partition_root = true);
SELECT repart_manage('plain');
\echo :SQLSTATE
DROP PUBLICATION of_plain;
CREATE PUBLICATION of_plain FOR TABLES IN SCHEMA migrate_publications WITH (publish_via_partition_root = true);
SELECT repart_manage('plain');
\echo :SQLSTATE
DROP PUBLICATION of_plain;

-- As the table's own, with a row filter and a column list, and by schema.
CREATE PUBLICATION via_root FOR TABLE t (k) WHERE (k < 150) WITH (publish_via_partition_root = true);
CREATE PUBLICATION by_schema FOR TABLES IN SCHEMA migrate_publications WITH (publish_via_partition_root = true);
SELECT repart_manage('t');
SELECT repart_split('t1', '50') AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT pubname, tablename, attnames, rowfilter FROM pg_publication_tables WHERE tablename LIKE 't%' ORDER BY 1, 2;
DROP PUBLICATION by_schema;

-- What came later is refused when a migration is queued.
CREATE PUBLICATION every FOR ALL TABLES WITH (publish_via_partition_root = true);
SELECT repart_split('t2', '150');
\echo :SQLSTATE
DROP PUBLICATION every;
CREATE PUBLICATION ours FOR TABLES IN SCHEMA repart WITH (publish_via_partition_root = true);
SELECT repart_split('t2', '150');
\echo :SQLSTATE
DROP PUBLICATION ours;
CREATE PUBLICATION by_leaf FOR TABLE t;
SELECT repart_split('t2', '150');
\echo :SQLSTATE
DROP PUBLICATION by_leaf;
CREATE PUBLICATION a_shard FOR TABLE t2 WITH (publish_via_partition_root = true);
SELECT repart_split('t2', '150');
\echo :SQLSTATE
DROP PUBLICATION a_shard;
CREATE PUBLICATION by_schema FOR TABLES IN SCHEMA migrate_publications;
SELECT repart_split('t2', '150');
\echo :SQLSTATE
DROP PUBLICATION by_schema;
-- Shards in a published schema, the table in another.
CREATE SCHEMA migrate_publications_shards;
ALTER TABLE t2 SET SCHEMA migrate_publications_shards;
CREATE PUBLICATION by_schema FOR TABLES IN SCHEMA migrate_publications_shards WITH (publish_via_partition_root = true);
SELECT repart_split('migrate_publications_shards.t2', '150');
\echo :SQLSTATE
ALTER PUBLICATION by_schema ADD TABLES IN SCHEMA migrate_publications;
SELECT repart_split('migrate_publications_shards.t2', '150') AS id \gset
SELECT repart_wait(:id, '60 s');
DROP PUBLICATION by_schema;

-- What came during a migration ends it, with nothing changed.
ALTER SYSTEM SET repart.hold_at = 'cutting_over';
SELECT pg_reload_conf();
SELECT shard AS top FROM repart.shards WHERE relation = 't'::regclass AND key_to = '200' \gset
SELECT repart_split(:'top', '180') AS id \gset
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
CALL wait_for(format('SELECT reason = ''held at cutting_over'' FROM repart.migrations WHERE id = %s', :id));
CREATE PUBLICATION by_leaf FOR TABLE t;
ALTER SYSTEM RESET repart.hold_at;
SELECT pg_reload_conf();
SELECT repart_wait(:id, '60 s');
SELECT error FROM repart.migrations WHERE id = :id;
DROP PUBLICATION by_leaf;
-- So does one of the schema, which would publish the rows that leave a shard that keeps its place.
CREATE TABLE kept (k int PRIMARY KEY, n text) PARTITION BY RANGE (k);
CREATE TABLE kept1 PARTITION OF kept FOR VALUES FROM (0) TO (100000);
INSERT INTO kept SELECT g, repeat('x', 400) FROM generate_series(0, 19999) g;
VACUUM ANALYZE kept;
SELECT repart_manage('kept');
ALTER SYSTEM SET repart.hold_at = 'cutting_over';
SELECT pg_reload_conf();
SELECT repart_split('kept1', '19990') AS id \gset
CALL wait_for(format('SELECT reason = ''held at cutting_over'' FROM repart.migrations WHERE id = %s', :id));
SELECT spec -> 'targets' -> 0 ->> 'keeps' AS keeps FROM repart.journal WHERE id = :id;
CREATE PUBLICATION by_schema FOR TABLES IN SCHEMA migrate_publications WITH (publish_via_partition_root = true);
ALTER SYSTEM RESET repart.hold_at;
SELECT pg_reload_conf();
SELECT repart_wait(:id, '60 s');
SELECT error FROM repart.migrations WHERE id = :id;
SELECT repart_split('kept1', '19990') AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT spec -> 'targets' -> 0 ->> 'keeps' AS keeps FROM repart.journal WHERE id = :id;
DROP PUBLICATION by_schema;
SELECT repart_unmanage('kept');
DROP PUBLICATION via_root;
SELECT count(*), sum(n) FROM t;
SELECT repart_unmanage('t');
