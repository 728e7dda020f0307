-- Colocation groups: tables that share their boundaries are reshaped together.
SET client_min_messages = notice;
CREATE SCHEMA colocation;
SET search_path = colocation, public;
-- Names of new shards contain the migration's number.
SELECT setval(pg_get_serial_sequence('repart.journal', 'id'), 9000);

CREATE VIEW shards AS
    SELECT relation, shard, key_from, key_to, colocation_group FROM repart.shards
     WHERE relation::text IN ('accounts', 'orders', 'lines', 'notes', 'tags', 'ring')
     ORDER BY relation::text, nullif(key_from, 'MINVALUE')::bigint NULLS FIRST;

CREATE TABLE accounts (id bigint PRIMARY KEY, name text);
INSERT INTO accounts SELECT id, 'account ' || id FROM generate_series(1, 3000) id;
CREATE TABLE orders (account bigint NOT NULL, n int, total int, PRIMARY KEY (account, n));
INSERT INTO orders SELECT id, n, 2 FROM accounts, generate_series(1, 2) n;
SELECT repart_manage('accounts');
SELECT repart_split(shard, '1000', '2000') AS id FROM repart.shards WHERE relation = 'accounts'::regclass \gset
SELECT repart_wait(:id);

-- What cannot be.
SELECT repart_manage('orders', 'account', colocate_with => 'orders');
CREATE TABLE strangers (id bigint PRIMARY KEY);
SELECT repart_manage('orders', 'account', colocate_with => 'strangers');
SELECT repart_manage('orders', 'n', colocate_with => 'accounts');
SELECT repart_manage('orders', 'account', colocate_with => 'nothing');
CREATE TABLE tags (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE tags1 PARTITION OF tags FOR VALUES FROM (MINVALUE) TO (1000);
CREATE TABLE tags2 PARTITION OF tags FOR VALUES FROM (1500) TO (MAXVALUE);
SELECT repart_manage('tags', colocate_with => 'accounts');
SELECT count(*) AS managed FROM repart.sharded_tables WHERE relation IN ('tags'::regclass, 'orders'::regclass);

-- A table in use is given the boundaries of the group.
SELECT repart_manage('orders', 'account', colocate_with => 'accounts');
SELECT repart_wait(max(id)) FROM repart.migrations;
TABLE shards;
ALTER TABLE orders ADD CONSTRAINT of_account FOREIGN KEY (account) REFERENCES accounts;

-- One that has them is only registered, and an empty one gets them too.
DROP TABLE tags;
CREATE TABLE tags (id bigint, tag text, PRIMARY KEY (id, tag)) PARTITION BY RANGE (id);
CREATE TABLE tags1 PARTITION OF tags FOR VALUES FROM (MINVALUE) TO (1000);
CREATE TABLE tags2 PARTITION OF tags FOR VALUES FROM (1000) TO (2000);
CREATE TABLE tags3 PARTITION OF tags FOR VALUES FROM (2000) TO (MAXVALUE);
SELECT repart_manage('tags', colocate_with => 'orders');
CREATE TABLE lines (account bigint, n int, line int, before int, PRIMARY KEY (account, n, line),
    CONSTRAINT of_order FOREIGN KEY (account, n) REFERENCES orders);
SELECT repart_manage('lines', 'account', colocate_with => 'tags');
SELECT repart_wait(max(id)) FROM repart.migrations;
INSERT INTO lines SELECT account, n, line, nullif(line - 1, 0) FROM orders, generate_series(1, 2) line;
-- A table may reference itself; and two may reference each other.
ALTER TABLE lines ADD CONSTRAINT of_line FOREIGN KEY (account, n, before) REFERENCES lines;
ALTER TABLE accounts ADD COLUMN favourite int;
UPDATE accounts SET favourite = 1;
ALTER TABLE accounts ADD CONSTRAINT of_favourite FOREIGN KEY (id, favourite) REFERENCES orders DEFERRABLE;
SELECT relation, colocation_group = (SELECT colocation_group FROM repart.sharded_tables WHERE relation = 'accounts'::regclass)
           AS with_accounts
  FROM repart.sharded_tables WHERE relation::text IN ('accounts', 'orders', 'lines', 'tags') ORDER BY relation::text;

-- All four are split by one call.
SELECT repart_split(shard, '1500') AS id FROM repart.shards
 WHERE relation = 'lines'::regclass AND key_from = '1000' \gset
SELECT repart_wait(:id);
SELECT relation, kind, state, error, leader = :id AS led FROM repart.migrations WHERE id >= :id ORDER BY relation;
SELECT relation, array_agg(key_from ORDER BY nullif(key_from, 'MINVALUE')::bigint NULLS FIRST) AS key_from, min(colocation_group) = max(colocation_group) AS one_group
  FROM shards GROUP BY relation ORDER BY relation::text;
SELECT (SELECT count(*) FROM accounts) AS accounts, (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM lines) AS lines;

-- The foreign keys are what they were: one for the table, one for each shard on either side, all valid.
SELECT conrelid::regclass AS table, conname, count(k.oid) AS of_shards, bool_and(k.convalidated) AS valid
  FROM (SELECT * FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 AND connamespace = 'colocation'::regnamespace) c
  LEFT JOIN LATERAL (SELECT oid, convalidated FROM pg_constraint k WHERE k.conparentid = c.oid) k ON true
 GROUP BY conrelid, conname ORDER BY 1, 2;
INSERT INTO orders VALUES (3001, 1, 1);
INSERT INTO lines VALUES (1500, 3, 1);
INSERT INTO lines VALUES (1500, 2, 3, 7);
DELETE FROM lines WHERE account = 1500 AND line = 1;
DELETE FROM orders WHERE account = 1600;
UPDATE accounts SET favourite = 9 WHERE id = 1700;

-- A join on the shard key joins shard with shard.
SET enable_partitionwise_join = on;
SET enable_mergejoin = off;
SET enable_nestloop = off;
CREATE FUNCTION plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || query;
END $$;
SELECT regexp_replace(line, '_\d+_(\d+)', '_\1', 'g') AS plan
  FROM plan_of('SELECT FROM orders JOIN lines USING (account, n)') line WHERE line ~ 'Append|Join' OR line ~ 'Scan';
RESET enable_partitionwise_join;
RESET enable_mergejoin;
RESET enable_nestloop;

-- The other kinds.
SELECT array_agg(shard ORDER BY nullif(key_from, 'MINVALUE')::bigint NULLS FIRST) AS shards FROM shards WHERE relation = 'tags'::regclass \gset
SELECT repart_shift((:'shards'::regclass[])[1], (:'shards'::regclass[])[2], '500') AS id \gset
SELECT repart_wait(:id);
SELECT repart_merge(VARIADIC array_agg(shard)) AS id FROM repart.shards
 WHERE relation = 'accounts'::regclass AND key_from <> 'MINVALUE' \gset
SELECT repart_wait(:id);
SELECT relation, key_from, key_to FROM shards;

-- Somebody changes the shards of one table by hand.
SELECT shard AS detached FROM repart.shards WHERE relation = 'tags'::regclass AND key_from = 'MINVALUE' \gset
ALTER TABLE tags DETACH PARTITION :detached;
CREATE TABLE tags_low PARTITION OF tags FOR VALUES FROM (MINVALUE) TO (250);
CREATE TABLE tags_mid PARTITION OF tags FOR VALUES FROM (250) TO (500);
SELECT repart_split('tags_mid', '300');
SELECT repart_split(shard, '300') FROM repart.shards WHERE relation = 'orders'::regclass AND key_from = 'MINVALUE';
SELECT repart_manage('tags', colocate_with => 'orders');
SELECT repart_wait(max(id)) FROM repart.migrations;
SELECT key_from, key_to FROM shards WHERE relation = 'tags'::regclass;

-- Other groups, and leaving one.
CREATE TABLE ring (id bigint PRIMARY KEY);
CREATE TABLE notes (id bigint PRIMARY KEY);
SELECT repart_manage('ring');
SELECT repart_manage('notes', colocate_with => 'ring');
SELECT repart_manage('notes', colocate_with => 'ring');
SELECT repart_manage('notes', colocate_with => 'orders');
SELECT repart_manage('notes');
SELECT colocation_group IS NOT NULL AS grouped FROM repart.sharded_tables WHERE relation = 'ring'::regclass;
SELECT repart_unmanage('notes');
SELECT colocation_group IS NOT NULL AS grouped FROM repart.sharded_tables WHERE relation = 'ring'::regclass;
SELECT repart_manage('notes', colocate_with => 'orders');
SELECT repart_wait(max(id)) FROM repart.migrations;
SELECT relation, key_from, key_to FROM shards WHERE relation = 'notes'::regclass;

-- The owner of one of the tables is not the owner of all.
CREATE ROLE regress_colocation;
GRANT USAGE, CREATE ON SCHEMA colocation TO regress_colocation;
GRANT EXECUTE ON FUNCTION repart_split(regclass, text[]), repart_manage(regclass, name, regclass, boolean),
    repart_cancel(bigint) TO regress_colocation;
ALTER TABLE notes OWNER TO regress_colocation;
SELECT format('ALTER TABLE %s OWNER TO regress_colocation', shard) FROM repart.shards WHERE relation = 'notes'::regclass \gexec
SELECT shard AS note FROM repart.shards WHERE relation = 'notes'::regclass AND key_from = 'MINVALUE' \gset
SET ROLE regress_colocation;
SELECT repart_split(:'note', '100');
CREATE TABLE mine (id bigint PRIMARY KEY);
SELECT repart_manage('mine', colocate_with => 'notes');
RESET ROLE;

-- A dropped table takes its part of the group with it.
DROP TABLE notes, mine, lines;
SELECT repart_split(shard, '100') AS id FROM repart.shards
 WHERE relation = 'orders'::regclass AND key_from = 'MINVALUE' \gset
SELECT repart_wait(:id);
SELECT relation, key_from, key_to FROM shards WHERE relation <> 'ring'::regclass;

SET client_min_messages = warning;
DROP SCHEMA colocation CASCADE;
DROP OWNED BY regress_colocation;
DROP ROLE regress_colocation;
