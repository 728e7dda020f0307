-- Unique indexes move from a sharded table to its shards.
CREATE SCHEMA leaf;
SET search_path = leaf, public;
SET client_min_messages = warning;

CREATE VIEW keys AS
SELECT i.indrelid::regclass::text AS of, x.relname, i.indisunique AS uniq, i.indisprimary AS prim, i.indisvalid AS valid,
       c.conname, c.conislocal AS local, c.coninhcount AS inherited, p.inhparent::regclass::text AS parent
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
  LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.conrelid = i.indrelid
  LEFT JOIN pg_inherits p ON p.inhrelid = i.indexrelid
 WHERE x.relnamespace = 'leaf'::regnamespace;

CREATE TABLE orders (id int, day date, code text, note text, CONSTRAINT orders_pkey PRIMARY KEY (id, day)) PARTITION BY RANGE (id);
CREATE TABLE orders_a PARTITION OF orders FOR VALUES FROM (MINVALUE) TO (1000);
CREATE TABLE orders_b PARTITION OF orders FOR VALUES FROM (1000) TO (2000);
CREATE TABLE orders_rest PARTITION OF orders DEFAULT;
CREATE UNIQUE INDEX orders_code ON orders (code, id);
CREATE INDEX orders_note ON orders (note);
COMMENT ON CONSTRAINT orders_a_pkey ON orders_a IS 'stays';
INSERT INTO orders SELECT n, '2027-01-01', n::text, 'x' FROM generate_series(1, 1999) n;
SELECT repart_manage('orders');
CREATE TABLE files AS SELECT oid, relname, relfilenode FROM pg_class
 WHERE relnamespace = 'leaf'::regnamespace AND relname ~ '^orders_(a|b|rest)';

-- Named by the error where it is needed: once there is a node; see tests/tests/nodes.rs.
SELECT repart_move('orders_a', node => 'elsewhere');
\echo :SQLSTATE

-- A table that is managed already; no index is built.
SET client_min_messages = notice;
SELECT repart_manage('orders', leaf_keys => true);
SET client_min_messages = warning;
SELECT * FROM keys ORDER BY of COLLATE "C", relname COLLATE "C";
SELECT count(*) FROM files f FULL JOIN (
       SELECT oid, relname, relfilenode FROM pg_class
        WHERE relnamespace = 'leaf'::regnamespace AND relname ~ '^orders_(a|b|rest)') c USING (oid, relname, relfilenode)
 WHERE f.relname IS NULL OR c.relname IS NULL;
SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conrelid = 'orders_a'::regclass AND contype = 'p';
SELECT leaf_keys FROM repart.sharded_tables WHERE relation = 'orders'::regclass;
SELECT repart_manage('orders', leaf_keys => true);
\echo :SQLSTATE

-- Keys are unique as before; what needs them on the table itself is lost.
INSERT INTO orders VALUES (1, '2027-01-01', 'again', '');
\echo :SQLSTATE
INSERT INTO orders VALUES (1, '2027-01-02', '1', '');
\echo :SQLSTATE
INSERT INTO orders VALUES (1, '2027-01-01', '1', '') ON CONFLICT (id, day) DO NOTHING;
\echo :SQLSTATE
INSERT INTO orders VALUES (1, '2027-01-01', '1', '') ON CONFLICT DO NOTHING;
CREATE TABLE items (id int, day date, FOREIGN KEY (id, day) REFERENCES orders);
\echo :SQLSTATE

-- New shards have them too.
SELECT repart_split('orders_a', '500') AS split \gset
SELECT repart_wait(:split);
SELECT repart_merge('orders_b', (SELECT shard FROM repart.shards WHERE relation = 'orders'::regclass AND key_from = '500')) AS merge \gset
SELECT repart_wait(:merge);
SELECT key_from, key_to, prim, valid, count(*)
  FROM repart.shards s JOIN keys k ON k.of = s.shard::text WHERE relation = 'orders'::regclass AND uniq
 GROUP BY 1, 2, 3, 4 ORDER BY key_to, prim;
SELECT count(*), count(DISTINCT id) FROM orders;
\set VERBOSITY sqlstate
INSERT INTO orders VALUES (700, '2027-01-01', 'again', '');
\set VERBOSITY default
SELECT repart_unmanage('orders');

-- A plain table, at once.
CREATE TABLE plain (id int PRIMARY KEY, v text, UNIQUE (v, id));
INSERT INTO plain SELECT n, n FROM generate_series(1, 100) n;
SELECT pg_relation_filenode('plain_pkey') AS file \gset
SELECT repart_manage('plain', leaf_keys => true);
SELECT of, relname, uniq, prim, valid, local, inherited, parent FROM keys WHERE of LIKE 'plain%' ORDER BY relname COLLATE "C";
SELECT pg_relation_filenode('plain_0_pkey') = :file AS same_file;
SELECT repart_unmanage('plain');
-- The way back.
ALTER TABLE plain ADD PRIMARY KEY (id);
SELECT of, relname, prim, valid, local, inherited, parent FROM keys WHERE of LIKE 'plain%' ORDER BY relname COLLATE "C";
SELECT pg_relation_filenode('plain_0_pkey') = :file AS same_file;

-- Refused: foreign keys that point at it, and an index that a partition lacks. Nothing is changed.
CREATE TABLE target (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE target_a PARTITION OF target FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
CREATE TABLE pointing (id int REFERENCES target);
SELECT repart_manage('target', leaf_keys => true);
\echo :SQLSTATE
DROP TABLE pointing;
CREATE TABLE partly (id int, v int) PARTITION BY RANGE (id);
CREATE TABLE partly_a PARTITION OF partly FOR VALUES FROM (MINVALUE) TO (10);
CREATE TABLE partly_b PARTITION OF partly FOR VALUES FROM (10) TO (MAXVALUE);
CREATE UNIQUE INDEX partly_key ON ONLY partly (id);
CREATE UNIQUE INDEX partly_a_key ON partly_a (id);
ALTER INDEX partly_key ATTACH PARTITION partly_a_key;
SELECT repart_manage('partly', leaf_keys => true);
\echo :SQLSTATE
SELECT of, relname, valid, parent FROM keys WHERE of ~ '^(target|partly)' ORDER BY of COLLATE "C", relname COLLATE "C";
SELECT count(*) FROM repart.sharded_tables WHERE relation::text ~ 'target|partly';
-- Without keys there is nothing to move.
CREATE TABLE keyless (id int) PARTITION BY RANGE (id);
CREATE TABLE keyless_a PARTITION OF keyless FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
SET client_min_messages = notice;
SELECT repart_manage('keyless', leaf_keys => true);
SELECT repart_unmanage('keyless');
SET client_min_messages = warning;
DROP SCHEMA leaf CASCADE;
