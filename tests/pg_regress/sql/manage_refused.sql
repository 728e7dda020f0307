-- What repart_manage refuses: each with its SQLSTATE and a hint, and nothing is changed.
CREATE SCHEMA refused;
SET search_path = refused, public;

-- Arguments.
SELECT repart_manage(NULL);
\echo :SQLSTATE
SELECT repart_manage('missing');
\echo :SQLSTATE
SELECT repart_manage(4294967295::oid::regclass) IS NULL;
\echo :SQLSTATE
CREATE TABLE plain (id int PRIMARY KEY, other int NOT NULL, maybe int, doc json NOT NULL, at point NOT NULL,
                    twice int GENERATED ALWAYS AS (id * 2) STORED NOT NULL);
INSERT INTO plain VALUES (1, 1, 1, '{}', '(0,0)');
SELECT repart_manage('plain', leaf_keys => NULL);
\echo :SQLSTATE
SELECT repart_manage('plain', colocate_with => 'plain');
\echo :SQLSTATE
SELECT repart_manage('plain', 'nowhere');
\echo :SQLSTATE
SELECT repart_manage('plain', 'ctid');
\echo :SQLSTATE
SELECT repart_manage('plain', 'maybe');
\echo :SQLSTATE
SELECT repart_manage('plain', 'doc');
\echo :SQLSTATE
SELECT repart_manage('plain', 'at');
\echo :SQLSTATE
SELECT repart_manage('plain', 'twice');
\echo :SQLSTATE
SELECT repart_manage('plain', 'other');
\echo :SQLSTATE
CREATE TABLE keyless (id int NOT NULL, "odd Column" text);
SELECT repart_manage('keyless');
\echo :SQLSTATE
SELECT repart_manage('keyless', 'odd Column');
\echo :SQLSTATE

-- Relations that are not tables, or not the caller's.
CREATE VIEW a_view AS SELECT id FROM plain;
CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS id;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (id int);
CREATE FOREIGN DATA WRAPPER regress_repart_fdw;
CREATE SERVER regress_repart_server FOREIGN DATA WRAPPER regress_repart_fdw;
CREATE FOREIGN TABLE a_foreign_table (id int) SERVER regress_repart_server;
SELECT repart_manage('a_view');
\echo :SQLSTATE
SELECT repart_manage('a_matview');
\echo :SQLSTATE
SELECT repart_manage('a_sequence');
\echo :SQLSTATE
SELECT repart_manage('a_type');
\echo :SQLSTATE
SELECT repart_manage('plain_pkey');
\echo :SQLSTATE
SELECT repart_manage('a_foreign_table');
\echo :SQLSTATE
SELECT repart_manage('pg_class');
\echo :SQLSTATE
SELECT repart_manage('information_schema.sql_features');
\echo :SQLSTATE
SELECT repart_manage('repart.events');
\echo :SQLSTATE
DROP VIEW a_view;

-- Tables that cannot keep rows.
CREATE TEMP TABLE temporary (id int PRIMARY KEY);
SELECT repart_manage('temporary');
\echo :SQLSTATE
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
SELECT repart_manage('unlogged');
\echo :SQLSTATE

-- Other ways to partition.
CREATE TABLE hashed (id int) PARTITION BY HASH (id);
SELECT repart_manage('hashed');
\echo :SQLSTATE
CREATE TABLE listed (id int) PARTITION BY LIST (id);
SELECT repart_manage('listed');
\echo :SQLSTATE
CREATE TABLE two_columns (a int, b int) PARTITION BY RANGE (a, b);
SELECT repart_manage('two_columns');
\echo :SQLSTATE
CREATE TABLE expression (a int) PARTITION BY RANGE ((a + 1));
SELECT repart_manage('expression');
\echo :SQLSTATE
CREATE TABLE ranged (id int, other int) PARTITION BY RANGE (id);
CREATE TABLE ranged_1 PARTITION OF ranged FOR VALUES FROM (0) TO (10);
SELECT repart_manage('ranged', 'other');
\echo :SQLSTATE
SELECT repart_manage('ranged_1');
\echo :SQLSTATE
CREATE TABLE ranged_2 PARTITION OF ranged FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
SELECT repart_manage('ranged');
\echo :SQLSTATE
DROP TABLE ranged_2;
CREATE FOREIGN TABLE ranged_2 PARTITION OF ranged FOR VALUES FROM (10) TO (20) SERVER regress_repart_server;
SELECT repart_manage('ranged');
\echo :SQLSTATE
DROP FOREIGN TABLE ranged_2;
CREATE UNLOGGED TABLE ranged_2 PARTITION OF ranged FOR VALUES FROM (10) TO (20);
SELECT repart_manage('ranged');
\echo :SQLSTATE

-- Features of a plain table that a partitioned one cannot have, or that cannot be carried over.
CREATE TABLE referencing (id int PRIMARY KEY, plain int REFERENCES plain) PARTITION BY RANGE (id);
SELECT repart_manage('plain');
\echo :SQLSTATE
DROP TABLE referencing;
ALTER TABLE plain ADD FOREIGN KEY (other) REFERENCES plain;
SELECT repart_manage('plain');
\echo :SQLSTATE
ALTER TABLE plain DROP CONSTRAINT plain_other_fkey;
CREATE UNIQUE INDEX plain_other ON plain (other);
CREATE UNIQUE INDEX plain_expression ON plain ((id + 1));
SELECT repart_manage('plain');
\echo :SQLSTATE
DROP INDEX plain_other, plain_expression;
ALTER TABLE plain ADD EXCLUDE USING gist (at WITH ~=);
SELECT repart_manage('plain');
\echo :SQLSTATE
ALTER TABLE plain DROP CONSTRAINT plain_at_excl;
ALTER TABLE plain ADD CONSTRAINT invalid CHECK (other > 100) NOT VALID;
SELECT repart_manage('plain');
\echo :SQLSTATE
ALTER TABLE plain DROP CONSTRAINT invalid, ADD CONSTRAINT alone CHECK (other > 0) NO INHERIT;
SELECT repart_manage('plain');
\echo :SQLSTATE
ALTER TABLE plain DROP CONSTRAINT alone;
CREATE TABLE child () INHERITS (plain);
SELECT repart_manage('plain');
\echo :SQLSTATE
SELECT repart_manage('child', 'id');
\echo :SQLSTATE
DROP TABLE child;
CREATE TABLE typed OF a_type (PRIMARY KEY (id));
SELECT repart_manage('typed');
\echo :SQLSTATE
CREATE RULE a_rule AS ON DELETE TO plain DO INSTEAD NOTHING;
SELECT repart_manage('plain');
\echo :SQLSTATE
DROP RULE a_rule ON plain;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE CONSTRAINT TRIGGER constrains AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT repart_manage('plain');
\echo :SQLSTATE
DROP TRIGGER constrains ON plain;
CREATE TRIGGER transition AFTER INSERT ON plain REFERENCING NEW TABLE AS inserted
   FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT repart_manage('plain');
\echo :SQLSTATE
DROP TRIGGER transition ON plain;
SET client_min_messages = error;
CREATE PUBLICATION regress_repart_publication FOR TABLE plain;
RESET client_min_messages;
SELECT repart_manage('plain');
\echo :SQLSTATE
SET client_min_messages = error;
DROP PUBLICATION regress_repart_publication;
CREATE PUBLICATION regress_repart_publication FOR TABLES IN SCHEMA refused;
RESET client_min_messages;
SELECT repart_manage('plain');
\echo :SQLSTATE
DROP PUBLICATION regress_repart_publication;

-- Other objects that would stay bound to the shard.
CREATE MATERIALIZED VIEW summary AS SELECT count(*) FROM plain;
SELECT repart_manage('plain');
\echo :SQLSTATE
DROP MATERIALIZED VIEW summary;
CREATE FUNCTION bound() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM plain; END;
CREATE FUNCTION by_row(plain) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE copies (original plain, originals plain[]);
CREATE TABLE guarded (id int);
CREATE POLICY guard ON guarded USING (id IN (SELECT id FROM plain));
CREATE VIEW ruled AS SELECT 1 AS id;
CREATE RULE redirect AS ON INSERT TO ruled DO INSTEAD UPDATE plain SET maybe = new.id;
CREATE VIEW whole_rows AS SELECT p FROM plain p;
SELECT repart_manage('plain');
\echo :SQLSTATE
DROP VIEW whole_rows, ruled;
DROP TABLE guarded, copies;
DROP FUNCTION bound(), by_row(plain);
CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE TABLE borrows (id int DEFAULT nextval('numbered_id_seq'));
SELECT repart_manage('numbered');
\echo :SQLSTATE

-- Views of somebody else.
CREATE ROLE regress_repart_owner;
CREATE ROLE regress_repart_reader;
GRANT ALL ON SCHEMA refused TO regress_repart_owner, regress_repart_reader;
GRANT EXECUTE ON FUNCTION repart_manage(regclass, name, regclass, boolean) TO regress_repart_owner;
SET ROLE regress_repart_owner;
CREATE TABLE shared (id int PRIMARY KEY);
GRANT SELECT ON shared TO regress_repart_reader;
SET ROLE regress_repart_reader;
CREATE VIEW foreign_view AS SELECT id FROM shared;
SET ROLE regress_repart_owner;
SELECT repart_manage('shared');
\echo :SQLSTATE
RESET ROLE;

-- Above READ COMMITTED the checks could miss what was committed meanwhile.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT repart_manage('plain');
\echo :SQLSTATE
ROLLBACK;

-- PostgreSQL's own refusals come through.
ALTER TABLE plain ADD CONSTRAINT whole_row CHECK (plain.* IS NOT NULL);
SELECT repart_manage('plain');
\echo :SQLSTATE
ALTER TABLE plain DROP CONSTRAINT whole_row;

-- Nothing was changed.
SELECT count(*) FROM repart.sharded_tables t JOIN pg_class c ON c.oid = t.relation
 WHERE c.relnamespace = 'refused'::regnamespace;
SELECT relname, relkind FROM pg_class WHERE relnamespace = 'refused'::regnamespace AND relname LIKE 'plain%' ORDER BY 1;
\d plain

SET client_min_messages = warning;
REVOKE EXECUTE ON FUNCTION repart_manage(regclass, name, regclass, boolean) FROM regress_repart_owner;
DROP SCHEMA refused CASCADE;
DROP FOREIGN DATA WRAPPER regress_repart_fdw CASCADE;
DROP ROLE regress_repart_owner, regress_repart_reader;
