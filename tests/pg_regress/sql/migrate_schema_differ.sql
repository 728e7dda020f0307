-- Shards that become one must be alike: a difference is refused with its name; nothing is queued.
CREATE SCHEMA migrate_schema_differ;
SET search_path = migrate_schema_differ, public;
SET client_min_messages = warning;
CREATE ROLE migrate_differ_reader;
CREATE TABLE other (id int PRIMARY KEY);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE t (k int, v text, n int, PRIMARY KEY (k)) PARTITION BY RANGE (k);
CREATE TABLE a PARTITION OF t FOR VALUES FROM (0) TO (100);
CREATE TABLE b PARTITION OF t FOR VALUES FROM (100) TO (200);
SELECT repart_manage('t');
SELECT count(*) AS migrations_before FROM repart.migrations \gset
-- Each of these is done to one of the two shards, tried, and undone.
CREATE PROCEDURE differ(change text) LANGUAGE plpgsql AS $$
DECLARE
    what text;
    advice text;
    code text;
BEGIN
    BEGIN
        EXECUTE change;
        PERFORM repart_merge('a', 'b');
        RAISE WARNING 'not refused: %', change;
        RAISE EXCEPTION 'undo' USING ERRCODE = 'ZZZZZ';
    EXCEPTION
        WHEN SQLSTATE 'ZZZZZ' THEN NULL;
        WHEN feature_not_supported THEN
            GET STACKED DIAGNOSTICS what = MESSAGE_TEXT, advice = PG_EXCEPTION_HINT, code = RETURNED_SQLSTATE;
            RAISE WARNING '%', what;
    END;
END $$;
CALL differ($$ALTER TABLE a ALTER v SET DEFAULT 'x'$$);
CALL differ($$ALTER TABLE a ALTER v SET DEFAULT 'x'; ALTER TABLE b ALTER v SET DEFAULT 'y'$$);
CALL differ($$ALTER TABLE b ALTER n SET NOT NULL$$);
CALL differ($$ALTER TABLE a ADD CONSTRAINT small CHECK (n < 10)$$);
CALL differ($$ALTER TABLE a ADD CONSTRAINT small CHECK (n < 10); ALTER TABLE b ADD CONSTRAINT small CHECK (n < 11)$$);
CALL differ($$ALTER TABLE a ADD CONSTRAINT small CHECK (n < 10); ALTER TABLE b ADD CONSTRAINT small CHECK (n < 10) NOT VALID$$);
CALL differ($$ALTER TABLE b ADD CONSTRAINT away FOREIGN KEY (n) REFERENCES other$$);
CALL differ($$CREATE INDEX a_own ON a (n)$$);
CALL differ($$CREATE UNIQUE INDEX a_own ON a (n); CREATE INDEX b_own ON b (n)$$);
CALL differ($$CREATE TRIGGER own AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION note()$$);
CALL differ($$CREATE TRIGGER own AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION note();
              CREATE TRIGGER own AFTER DELETE ON b FOR EACH ROW EXECUTE FUNCTION note()$$);
CALL differ($$CREATE TRIGGER every AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE b DISABLE TRIGGER every$$);
CALL differ($$CREATE RULE r AS ON DELETE TO a DO INSTEAD NOTHING$$);
CALL differ($$CREATE POLICY p ON a USING (n > 1)$$);
CALL differ($$ALTER TABLE b ENABLE ROW LEVEL SECURITY$$);
CALL differ($$GRANT SELECT ON a TO migrate_differ_reader$$);
CALL differ($$GRANT SELECT (v) ON b TO migrate_differ_reader$$);
CALL differ($$ALTER TABLE a REPLICA IDENTITY FULL$$);
CALL differ($$CREATE STATISTICS a_s ON v, n FROM a$$);
CALL differ($$ALTER TABLE b OWNER TO migrate_differ_reader$$);
-- With the whole message once, for its hint.
CREATE TRIGGER own AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION note();
SELECT repart_shift('a', 'b', '50');
\echo :SQLSTATE
DROP TRIGGER own ON b;
SELECT count(*) - :migrations_before AS queued FROM repart.migrations;

-- No difference: the same under other names, and what the first shard decides.
CREATE INDEX a_v ON a (v); CREATE INDEX on_b ON b (v);
ALTER TABLE a ADD CONSTRAINT a_small CHECK (n < 10);
ALTER TABLE b ADD CONSTRAINT b_small CHECK (n < 10);
CREATE STATISTICS a_s ON v, n FROM a; CREATE STATISTICS b_s ON v, n FROM b;
CREATE POLICY p ON a USING (EXISTS (SELECT FROM other o WHERE o.id = a.n));
CREATE POLICY p ON b USING (EXISTS (SELECT FROM other o WHERE o.id = b.n));
ALTER TABLE a SET (fillfactor = 70); ALTER TABLE b SET (fillfactor = 90);
ALTER TABLE a ALTER v SET STATISTICS 50, ALTER v SET STORAGE EXTERNAL;
COMMENT ON TABLE a IS 'the first'; COMMENT ON TABLE b IS 'the second';
INSERT INTO t SELECT g, 'v', 1 FROM generate_series(0, 199) g;
SELECT repart_merge('a', 'b') AS merge \gset
SELECT repart_wait(:merge, '60 s');
SELECT reloptions, obj_description(c.oid) AS comment FROM pg_class c JOIN repart.shards s ON s.shard = c.oid
 WHERE s.relation = 't'::regclass;
SELECT attstattarget, attstorage FROM pg_attribute a JOIN repart.shards s ON s.shard = a.attrelid
 WHERE s.relation = 't'::regclass AND attname = 'v';
SELECT count(*) FROM t;
SELECT repart_unmanage('t');
DROP SCHEMA migrate_schema_differ CASCADE;
DROP ROLE migrate_differ_reader;
