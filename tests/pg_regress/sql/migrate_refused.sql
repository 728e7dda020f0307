-- What the functions that queue migrations refuse: each with its SQLSTATE and a hint; nothing is queued.
CREATE SCHEMA migrate_refused;
SET search_path = migrate_refused, public;
SET client_min_messages = warning;
CREATE TABLE t (k int PRIMARY KEY, n int) PARTITION BY RANGE (k);
CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100);
CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200);
CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (300) TO (400);
CREATE TABLE other (k int PRIMARY KEY) PARTITION BY RANGE (k);
CREATE TABLE other1 PARTITION OF other FOR VALUES FROM (200) TO (300);
SELECT repart_split('t1', '50');
\echo :SQLSTATE
SELECT repart_manage('t'), repart_manage('other');
SELECT count(*) AS migrations_before FROM repart.migrations \gset

-- Arguments.
SELECT repart_split(NULL, '50');
\echo :SQLSTATE
SELECT repart_split('t1', NULL);
\echo :SQLSTATE
SELECT repart_split('t1', VARIADIC '{}');
\echo :SQLSTATE
SELECT repart_split('t1', '100');
\echo :SQLSTATE
SELECT repart_split('t2', '100');
\echo :SQLSTATE
SELECT repart_split('t2', '150', '120');
\echo :SQLSTATE
SELECT repart_split('t1', 'abc');
\echo :SQLSTATE
SELECT repart_split('t', '50');
\echo :SQLSTATE
SELECT repart_split('pg_class', '50');
\echo :SQLSTATE
SELECT repart_merge('t1');
\echo :SQLSTATE
SELECT repart_merge('t1', 't1');
\echo :SQLSTATE
SELECT repart_merge('t1', NULL);
\echo :SQLSTATE
SELECT repart_merge('t2', 't3');
\echo :SQLSTATE
SELECT repart_merge('t2', 'other1');
\echo :SQLSTATE
SELECT repart_shift('t1', NULL, '50');
\echo :SQLSTATE
SELECT repart_shift('t1', 't2', NULL);
\echo :SQLSTATE
SELECT repart_shift('t1', 't2', '100');
\echo :SQLSTATE
SELECT repart_shift('t1', 't2', '200');
\echo :SQLSTATE
SELECT repart_shift('t2', 't1', '50');
\echo :SQLSTATE
SELECT repart_shift('t2', 'other1', '150');
\echo :SQLSTATE
SELECT repart_move('t1');
\echo :SQLSTATE
SELECT repart_move('t1', tablespace => 'nowhere');
\echo :SQLSTATE
SELECT repart_move('t1', tablespace => 'pg_default');
\echo :SQLSTATE
SELECT repart_move('t1', node => 'elsewhere');
\echo :SQLSTATE
SELECT repart_wait(NULL);
\echo :SQLSTATE
SELECT repart_wait(0);
\echo :SQLSTATE
SELECT repart_cancel(NULL);
\echo :SQLSTATE
SELECT repart_cancel(0);
\echo :SQLSTATE
SELECT repart_apply(0);
\echo :SQLSTATE

-- What a migration could not carry over.
CREATE VIEW on_shard AS SELECT * FROM t1;
SELECT repart_split('t1', '50');
\echo :SQLSTATE
DROP VIEW on_shard;
CREATE TABLE t_default PARTITION OF t DEFAULT;
INSERT INTO t VALUES (250, 0);
SELECT repart_split('t_default', '50');
\echo :SQLSTATE
DROP TABLE t_default;
ALTER TABLE t2 SET UNLOGGED;
SELECT repart_split('t2', '150');
\echo :SQLSTATE
ALTER TABLE t2 SET LOGGED;
CREATE TABLE keyless (k int NOT NULL, n int) PARTITION BY RANGE (k);
CREATE TABLE keyless1 PARTITION OF keyless FOR VALUES FROM (0) TO (100);
SELECT repart_manage('keyless');
SELECT repart_split('keyless1', '50');
\echo :SQLSTATE

-- Somebody else's table.
CREATE ROLE migrate_stranger;
GRANT USAGE ON SCHEMA migrate_refused TO migrate_stranger;
SET ROLE migrate_stranger;
SELECT repart_split('t1', '50');
\echo :SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION repart_split(regclass, text[]) TO migrate_stranger;
SET ROLE migrate_stranger;
SELECT repart_split('t1', '50');
\echo :SQLSTATE
SELECT * FROM repart.migrations;
\echo :SQLSTATE
RESET ROLE;
REVOKE EXECUTE ON FUNCTION repart_split(regclass, text[]) FROM migrate_stranger;

SELECT count(*) - :migrations_before AS queued FROM repart.migrations;
SELECT repart_unmanage('t'), repart_unmanage('other'), repart_unmanage('keyless');
