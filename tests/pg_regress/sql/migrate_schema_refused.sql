-- What belongs to a shard and cannot be carried over: refused with its name and a hint; nothing is queued.
CREATE SCHEMA migrate_schema_refused;
SET search_path = migrate_schema_refused, public;
SET client_min_messages = warning;
CREATE TABLE t (k int, v text, n int, PRIMARY KEY (k)) PARTITION BY RANGE (k);
CREATE TABLE a PARTITION OF t FOR VALUES FROM (0) TO (100);
SELECT repart_manage('t');
SELECT count(*) AS migrations_before FROM repart.migrations \gset

-- Objects that would stay behind.
CREATE VIEW on_shard AS SELECT * FROM a;
CREATE MATERIALIZED VIEW stored_on_shard AS SELECT * FROM a;
SELECT repart_split('a', '50');
\echo :SQLSTATE
DROP VIEW on_shard;
DROP MATERIALIZED VIEW stored_on_shard;
CREATE FUNCTION of_its_row_type(a) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT repart_split('a', '50');
\echo :SQLSTATE
DROP FUNCTION of_its_row_type(a);
CREATE FUNCTION all_of_it() RETURNS SETOF a LANGUAGE sql AS 'SELECT * FROM a';
SELECT repart_split('a', '50');
\echo :SQLSTATE
DROP FUNCTION all_of_it();
CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM a; END;
SELECT repart_split('a', '50');
\echo :SQLSTATE
DROP FUNCTION counted();
CREATE TABLE of_its_type (x a);
SELECT repart_split('a', '50');
\echo :SQLSTATE
DROP TABLE of_its_type;
CREATE TABLE elsewhere (n int);
CREATE RULE r AS ON INSERT TO elsewhere DO ALSO INSERT INTO a VALUES (NEW.n);
CREATE POLICY p ON elsewhere USING (EXISTS (SELECT FROM a WHERE k = elsewhere.n));
SELECT repart_split('a', '50');
\echo :SQLSTATE
DROP TABLE elsewhere;

-- What a replacement could not have.
ALTER TABLE a ADD CONSTRAINT whole CHECK (a IS NOT NULL);
SELECT repart_split('a', '50');
\echo :SQLSTATE
ALTER TABLE a DROP CONSTRAINT whole;
ALTER TABLE a ADD CONSTRAINT itself FOREIGN KEY (n) REFERENCES a (k);
SELECT repart_split('a', '50');
\echo :SQLSTATE
ALTER TABLE a DROP CONSTRAINT itself;
CREATE SEQUENCE s OWNED BY a.n;
SELECT repart_split('a', '50');
\echo :SQLSTATE
DROP SEQUENCE s;
CREATE TABLE other (id int PRIMARY KEY);
ALTER TABLE t ADD CONSTRAINT away FOREIGN KEY (n) REFERENCES other;
ALTER TABLE a DISABLE TRIGGER ALL;
SELECT repart_split('a', '50');
\echo :SQLSTATE
ALTER TABLE a ENABLE TRIGGER ALL;
ALTER TABLE t DROP CONSTRAINT away;
-- As a provider of labels would write it.
INSERT INTO pg_seclabel VALUES ('a'::regclass, 'pg_class'::regclass, 2, 'provider', 'secret');
SELECT repart_split('a', '50');
\echo :SQLSTATE
DELETE FROM pg_seclabel WHERE objoid = 'a'::regclass;
ALTER INDEX a_pkey DEPENDS ON EXTENSION plpgsql;
SELECT repart_split('a', '50');
\echo :SQLSTATE
ALTER INDEX a_pkey NO DEPENDS ON EXTENSION plpgsql;
-- Owners: the new shard is attached in the name of one of them.
CREATE ROLE migrate_schema_one;
CREATE ROLE migrate_schema_two;
ALTER TABLE t OWNER TO migrate_schema_one;
ALTER TABLE a OWNER TO migrate_schema_two;
SELECT repart_split('a', '50');
\echo :SQLSTATE
ALTER TABLE a OWNER TO migrate_schema_one;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
REVOKE EXECUTE ON FUNCTION note() FROM PUBLIC;
CREATE TRIGGER every AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
SELECT repart_split('a', '50');
\echo :SQLSTATE
SELECT count(*) - :migrations_before AS queued FROM repart.migrations;

-- A key whose bound PostgreSQL could not prove.
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN my_mood AS mood;
CREATE TABLE by_mood (k my_mood PRIMARY KEY) PARTITION BY RANGE (k);
SELECT repart_manage('by_mood');
\echo :SQLSTATE
CREATE DOMAIN numbers AS int[];
CREATE TABLE by_numbers (k numbers PRIMARY KEY);
SELECT repart_manage('by_numbers');
\echo :SQLSTATE
-- A boundary that the column could not hold.
CREATE TABLE by_word (k varchar(3) PRIMARY KEY);
SELECT repart_manage('by_word');
SELECT repart_split(shard, 'abcd') FROM repart.shards WHERE relation = 'by_word'::regclass;
\echo :SQLSTATE
SELECT repart_unmanage('t'), repart_unmanage('by_word');
DROP SCHEMA migrate_schema_refused CASCADE;
DROP ROLE migrate_schema_one, migrate_schema_two;
