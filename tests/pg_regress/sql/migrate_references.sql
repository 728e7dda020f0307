-- Foreign keys of other tables that reference a sharded table: they survive a migration as they were, and hold
-- for every new shard.
CREATE SCHEMA migrate_references;
SET search_path = migrate_references, public;
SET client_min_messages = warning;
SELECT setval(pg_get_serial_sequence('repart.journal', 'id'), 8000);
CREATE TABLE orders (id bigint, region int NOT NULL DEFAULT 1, parent bigint, PRIMARY KEY (id), UNIQUE (id, region))
    PARTITION BY RANGE (id);
CREATE TABLE orders_low PARTITION OF orders FOR VALUES FROM (MINVALUE) TO (500);
CREATE TABLE orders_high PARTITION OF orders FOR VALUES FROM (500) TO (MAXVALUE);
INSERT INTO orders SELECT g FROM generate_series(0, 999) g;
CREATE ROLE references_owner;
GRANT USAGE, CREATE ON SCHEMA migrate_references TO references_owner;
GRANT REFERENCES ON orders TO references_owner;
ALTER TABLE orders OWNER TO references_owner;
ALTER TABLE orders_low OWNER TO references_owner;
ALTER TABLE orders_high OWNER TO references_owner;
-- Several keys of several tables and owners, with every action, match and deferrability.
CREATE TABLE item (order_id bigint, region int, other bigint,
    CONSTRAINT "Item's order" FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE
        DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT both_columns FOREIGN KEY (other, region) REFERENCES orders (id, region) MATCH FULL ON DELETE RESTRICT);
COMMENT ON CONSTRAINT "Item's order" ON item IS 'what''s ordered';
CREATE TABLE note (order_id bigint, keep int, CONSTRAINT set_null FOREIGN KEY (order_id, keep) REFERENCES orders (id, region)
    ON DELETE SET NULL (order_id));
CREATE TABLE invoice (order_id bigint NOT NULL DEFAULT 999);
ALTER TABLE invoice OWNER TO references_owner;
SET ROLE references_owner;
ALTER TABLE invoice ADD CONSTRAINT to_default FOREIGN KEY (order_id) REFERENCES orders ON DELETE SET DEFAULT DEFERRABLE;
RESET ROLE;
-- One that never was valid, with a row that violates it.
CREATE TABLE legacy (order_id bigint);
INSERT INTO legacy VALUES (100000);
ALTER TABLE legacy ADD CONSTRAINT not_valid FOREIGN KEY (order_id) REFERENCES orders NOT VALID;
INSERT INTO item VALUES (100, 1, 700), (200, NULL, NULL), (600, 1, 300);
INSERT INTO note VALUES (120, 1), (620, 1);
INSERT INTO invoice VALUES (130), (630);
INSERT INTO legacy VALUES (140);
CREATE VIEW foreign_keys AS
    SELECT conrelid::regclass AS "table", conname, pg_get_constraintdef(oid) AS definition, convalidated AS valid,
           obj_description(oid, 'pg_constraint') AS comment
      FROM pg_constraint WHERE confrelid = 'orders'::regclass AND contype = 'f' AND conparentid = 0;
-- Each shard has two triggers of each key.
CREATE VIEW unenforced AS
    SELECT s.inhrelid::regclass AS shard, k.conname FROM pg_inherits s, pg_constraint k
     WHERE s.inhparent = 'orders'::regclass AND k.confrelid = 'orders'::regclass AND k.contype = 'f' AND k.conparentid = 0
       AND 2 <> (SELECT count(*) FROM pg_constraint c JOIN pg_trigger t ON t.tgconstraint = c.oid
                  WHERE c.conparentid = k.oid AND c.confrelid = s.inhrelid AND t.tgrelid = s.inhrelid AND t.tgenabled = 'O');
-- Of other partitioned tables, and of the table itself.
CREATE TABLE partitioned (k bigint CONSTRAINT of_partitioned REFERENCES orders) PARTITION BY RANGE (k);
CREATE TABLE partitioned1 PARTITION OF partitioned FOR VALUES FROM (0) TO (500);
CREATE TABLE partitioned2 PARTITION OF partitioned DEFAULT;
INSERT INTO partitioned VALUES (150), (650);
ALTER TABLE orders ADD CONSTRAINT own FOREIGN KEY (parent) REFERENCES orders ON DELETE SET NULL;
UPDATE orders SET parent = 999 - id WHERE id % 100 = 60;
-- A table that is partitioned already is managed as it is; a migration makes no constraint anew but for new shards.
CREATE TABLE before AS SELECT oid, confrelid FROM pg_constraint WHERE confrelid = 'orders'::regclass
    OR conparentid IN (SELECT oid FROM pg_constraint WHERE confrelid = 'orders'::regclass) AND confrelid = 'orders_high'::regclass;
CREATE VIEW changed AS SELECT oid FROM before b WHERE NOT EXISTS (
    SELECT FROM pg_constraint c WHERE c.oid = b.oid AND c.confrelid = b.confrelid);
SELECT repart_manage('orders');
SELECT count(*) FROM before;
TABLE changed;
TABLE foreign_keys ORDER BY 1, 2;
SELECT repart_split('orders_low', '110', '125') AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT error, reason FROM repart.migrations WHERE id = :id;
TABLE foreign_keys ORDER BY 1, 2;
TABLE unenforced;
SELECT count(*) FROM changed WHERE oid NOT IN (SELECT oid FROM before WHERE confrelid = 'orders'::regclass);
-- They hold, in new shards and in one that stayed.
INSERT INTO invoice VALUES (5000);
INSERT INTO item VALUES (NULL, 1, 5000);
DELETE FROM orders WHERE id = 300;
DELETE FROM orders WHERE id = 140;
DELETE FROM orders WHERE id = 150;
DELETE FROM orders WHERE id = 650;
INSERT INTO partitioned VALUES (-1);
INSERT INTO orders VALUES (-2, 1, -3);
INSERT INTO orders VALUES (-2, 1, 39), (-3, 1, -2);
DELETE FROM orders WHERE id = -2;
SELECT id, parent FROM orders WHERE id < 0;
DELETE FROM orders WHERE id < 0;
BEGIN;
DELETE FROM orders WHERE id IN (100, 120, 130, 600, 620, 630);
SELECT * FROM item ORDER BY order_id;
SELECT * FROM note ORDER BY order_id;
SELECT * FROM invoice ORDER BY order_id;
ROLLBACK;
-- Every other kind of migration.
SELECT array_agg(shard ORDER BY key_to::numeric) AS shards FROM repart.shards
 WHERE relation = 'orders'::regclass AND key_to <> 'MAXVALUE' \gset
SELECT repart_merge(VARIADIC :'shards'::regclass[]) AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT shard AS lower FROM repart.shards WHERE relation = 'orders'::regclass AND key_from = 'MINVALUE' \gset
SELECT repart_shift(:'lower', 'orders_high', '650') AS id \gset
SELECT repart_wait(:id, '60 s');
SELECT error FROM repart.migrations WHERE id = :id;
TABLE foreign_keys ORDER BY 1, 2;
TABLE unenforced;
DELETE FROM orders WHERE id = 300;
SELECT count(*) FROM orders;
-- What is known of rows stays as it was, also where somebody wrote with triggers disabled.
ALTER TABLE invoice DISABLE TRIGGER ALL;
INSERT INTO invoice VALUES (7777);
SELECT shard AS lower FROM repart.shards WHERE relation = 'orders'::regclass AND key_from = 'MINVALUE' \gset
SELECT repart_split(:'lower', '200') AS id \gset
SELECT repart_wait(:id, '60 s');
INSERT INTO invoice VALUES (7778);
ALTER TABLE invoice ENABLE TRIGGER ALL;
INSERT INTO invoice VALUES (7779);
DELETE FROM invoice WHERE order_id > 7000;

-- What is refused, with the reason.
SELECT shard AS lower FROM repart.shards WHERE relation = 'orders'::regclass AND key_from = 'MINVALUE' \gset
ALTER TABLE :lower DISABLE TRIGGER ALL;
SELECT repart_split(:'lower', '100');
\echo :SQLSTATE
ALTER TABLE :lower ENABLE TRIGGER ALL;
-- A key that points at one shard.
CREATE TABLE leaf_only (k bigint);
DO $$ BEGIN EXECUTE format('ALTER TABLE leaf_only ADD CONSTRAINT to_leaf FOREIGN KEY (k) REFERENCES %s (id)',
    (SELECT shard FROM repart.shards WHERE relation = 'migrate_references.orders'::regclass AND key_from = 'MINVALUE')); END $$;
SELECT repart_split(:'lower', '100');
\echo :SQLSTATE
DROP TABLE leaf_only;

-- A plain table: what references it references the sharded table, without a look at its rows.
CREATE TABLE plain (id bigint PRIMARY KEY);
INSERT INTO plain SELECT g FROM generate_series(0, 99) g;
CREATE TABLE follower (id bigint, CONSTRAINT follows FOREIGN KEY (id) REFERENCES plain ON DELETE CASCADE);
COMMENT ON CONSTRAINT follows ON follower IS 'follows';
CREATE TABLE old_follower (id bigint);
INSERT INTO follower VALUES (5), (6);
INSERT INTO old_follower VALUES (-5);
ALTER TABLE old_follower ADD CONSTRAINT follows FOREIGN KEY (id) REFERENCES plain NOT VALID;
SELECT repart_manage('plain');
SELECT conrelid::regclass, confrelid::regclass, conname, pg_get_constraintdef(oid), convalidated, conparentid <> 0 AS child,
       obj_description(oid, 'pg_constraint')
  FROM pg_constraint WHERE conrelid IN ('follower'::regclass, 'old_follower'::regclass) ORDER BY 1, 2::text COLLATE "C";
INSERT INTO follower VALUES (-1);
DELETE FROM plain WHERE id = 5;
TABLE follower;
SELECT shard AS only FROM repart.shards WHERE relation = 'plain'::regclass \gset
SELECT repart_split(:'only', '50') AS id \gset
SELECT repart_wait(:id, '60 s');
DELETE FROM plain WHERE id = 6;
TABLE follower;
CREATE TABLE tree (id bigint PRIMARY KEY, up bigint REFERENCES tree);
SELECT repart_manage('tree');
\echo :SQLSTATE
CREATE TABLE trunk (id bigint PRIMARY KEY);
CREATE TABLE branch (id bigint REFERENCES trunk) PARTITION BY LIST (id);
SELECT repart_manage('trunk');
\echo :SQLSTATE
DROP TABLE branch;
CREATE TABLE twig (id bigint REFERENCES trunk);
ALTER TABLE trunk OWNER TO references_owner;
GRANT EXECUTE ON FUNCTION repart_manage TO references_owner;
SET ROLE references_owner;
SELECT repart_manage('trunk');
\echo :SQLSTATE
RESET ROLE;
REVOKE EXECUTE ON FUNCTION repart_manage FROM references_owner;
-- What a table references: rows of old shards must not keep it from being deleted.
CREATE TABLE customer (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE customer1 PARTITION OF customer DEFAULT;
INSERT INTO customer VALUES (1), (2);
CREATE TABLE basket (id int PRIMARY KEY, customer int CONSTRAINT of_customer REFERENCES customer) PARTITION BY RANGE (id);
CREATE TABLE basket1 PARTITION OF basket FOR VALUES FROM (0) TO (100);
INSERT INTO basket VALUES (1, 1), (2, 2);
SELECT repart_manage('basket');
ALTER SYSTEM SET repart.hold_at = 'cleaning';
SELECT pg_reload_conf();
SELECT repart_split('basket1', '50') AS id \gset
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
CALL wait_for(format('SELECT reason = ''held at cleaning'' FROM repart.migrations WHERE id = %s', :id));
DELETE FROM basket WHERE id = 1;
DELETE FROM customer WHERE id = 1;
DELETE FROM customer WHERE id = 2;
ALTER SYSTEM RESET repart.hold_at;
SELECT pg_reload_conf();
SELECT repart_wait(:id, '60 s');
SELECT conrelid::regclass, confrelid::regclass, conname, convalidated, conparentid <> 0 AS child FROM pg_constraint
 WHERE contype = 'f' AND conrelid IN (SELECT relid FROM pg_partition_tree('basket')) ORDER BY conrelid::regclass::text COLLATE "C", confrelid;
SELECT repart_unmanage('orders'), repart_unmanage('plain'), repart_unmanage('basket');
