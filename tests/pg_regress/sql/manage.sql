-- Managing tables that are partitioned already: registered, otherwise untouched.
CREATE SCHEMA manage;
SET search_path = manage, public;
CREATE VIEW managed AS
    SELECT t.relation, t.shard_key, t.leaf_keys FROM repart.sharded_tables t JOIN pg_class c ON c.oid = t.relation
     WHERE c.relnamespace = 'manage'::regnamespace;
CREATE TABLE ranged (id bigint PRIMARY KEY, note text) PARTITION BY RANGE (id);
SELECT repart_manage('ranged');
SELECT repart_unmanage('ranged');
CREATE TABLE ranged_a PARTITION OF ranged FOR VALUES FROM (MINVALUE) TO (100);
CREATE TABLE ranged_b PARTITION OF ranged FOR VALUES FROM (100) TO (200);
CREATE TABLE ranged_rest PARTITION OF ranged DEFAULT;
INSERT INTO ranged SELECT i, 'x' FROM generate_series(1, 300) i;

-- DEFAULT is no shard; the key may be named.
SELECT repart_manage('ranged', 'id');
SELECT * FROM managed;
SELECT repart_manage('ranged');
\echo :SQLSTATE
SELECT tableoid::regclass, count(*) FROM ranged GROUP BY 1 ORDER BY 1;

-- Every key type that btree can order.
CREATE TABLE by_int2 (k int2) PARTITION BY RANGE (k);
CREATE TABLE by_int2_1 PARTITION OF by_int2 FOR VALUES FROM (0) TO (10);
CREATE TABLE by_int4 (k int4) PARTITION BY RANGE (k);
CREATE TABLE by_int4_1 PARTITION OF by_int4 FOR VALUES FROM (0) TO (10);
CREATE TABLE by_numeric (k numeric) PARTITION BY RANGE (k);
CREATE TABLE by_numeric_1 PARTITION OF by_numeric FOR VALUES FROM (0.5) TO (10);
CREATE TABLE by_date (k date) PARTITION BY RANGE (k);
CREATE TABLE by_date_1 PARTITION OF by_date FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE by_timestamp (k timestamp) PARTITION BY RANGE (k);
CREATE TABLE by_timestamp_1 PARTITION OF by_timestamp FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE by_timestamptz (k timestamptz) PARTITION BY RANGE (k);
CREATE TABLE by_timestamptz_1 PARTITION OF by_timestamptz FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE by_text (k text) PARTITION BY RANGE (k);
CREATE TABLE by_text_1 PARTITION OF by_text FOR VALUES FROM ('a') TO ('b');
CREATE TABLE by_uuid (k uuid) PARTITION BY RANGE (k);
CREATE TABLE by_uuid_1 PARTITION OF by_uuid FOR VALUES FROM ('00000000-0000-0000-0000-000000000000') TO (MAXVALUE);
SET client_min_messages = warning;
SELECT t, repart_manage(t::regclass)
  FROM unnest('{by_int2,by_int4,by_numeric,by_date,by_timestamp,by_timestamptz,by_text,by_uuid}'::text[]) t;
RESET client_min_messages;
SELECT relation, shard_key FROM managed ORDER BY relation::text;

-- Unmanaging forgets what is known about the shards, and nothing else.
INSERT INTO repart.counters VALUES ('ranged_a'::regclass, now(), 1, 1, 1), ('by_int2_1'::regclass, now(), 1, 1, 1)
    ON CONFLICT DO NOTHING;
INSERT INTO repart.samples VALUES ('ranged_a'::regclass, now(), 1, 1, 1, 1, 1), ('by_int2_1'::regclass, now(), 1, 1, 1, 1, 1);
INSERT INTO repart.lineage VALUES ('ranged_a'::regclass, 1, 1, now()), ('by_int2_1'::regclass, 1, 1, now());
BEGIN;
INSERT INTO repart.journal (id, kind, relation, relation_name, spec, start_at) OVERRIDING SYSTEM VALUE
VALUES (-1, 'split', 'ranged'::regclass, 'ranged', '{}', now() + '1 day');
SELECT repart_unmanage('ranged');
\echo :SQLSTATE
ROLLBACK;
SELECT repart_unmanage('ranged');
SELECT of, shard::regclass
  FROM (SELECT 'counters' AS of, shard FROM repart.counters UNION SELECT 'samples', shard FROM repart.samples
        UNION SELECT 'lineage', shard FROM repart.lineage) history
 WHERE shard IN ('ranged_a'::regclass, 'by_int2_1'::regclass) ORDER BY 1;
SELECT repart_unmanage('ranged');
\echo :SQLSTATE
SELECT repart_unmanage(NULL);
\echo :SQLSTATE
SELECT count(*) FROM ranged;
SELECT repart_manage('ranged');

-- Only the owner may, and only roles that were given the functions.
CREATE ROLE regress_repart_owner;
CREATE ROLE regress_repart_other;
GRANT CREATE, USAGE ON SCHEMA manage TO regress_repart_owner;
GRANT USAGE ON SCHEMA manage TO regress_repart_other;
SET ROLE regress_repart_other;
SELECT repart_manage('by_int2');
\echo :SQLSTATE
SELECT repart_unmanage('by_int2');
\echo :SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION repart_manage(regclass, name, regclass, boolean), repart_unmanage(regclass)
   TO regress_repart_other, regress_repart_owner;
SET ROLE regress_repart_other;
SELECT repart_manage('by_int2');
\echo :SQLSTATE
SELECT repart_unmanage('by_int2');
\echo :SQLSTATE
SELECT repart_manage('pg_class');
\echo :SQLSTATE
RESET ROLE;
SET ROLE regress_repart_owner;
CREATE TABLE theirs (id int PRIMARY KEY, note text);
SELECT repart_manage('theirs');
SELECT repart_unmanage('theirs');
SELECT repart_manage('theirs');
RESET ROLE;

-- A dropped table does no harm.
DROP TABLE theirs;
SELECT relation FROM managed WHERE relation::text LIKE 'their%';

SET client_min_messages = warning;
DELETE FROM repart.sharded_tables t USING pg_class c WHERE c.oid = t.relation AND c.relnamespace = 'manage'::regnamespace;
DELETE FROM repart.lineage WHERE ancestor = 1;
REVOKE EXECUTE ON FUNCTION repart_manage(regclass, name, regclass, boolean), repart_unmanage(regclass)
  FROM regress_repart_other, regress_repart_owner;
DROP SCHEMA manage CASCADE;
DROP ROLE regress_repart_owner, regress_repart_other;
