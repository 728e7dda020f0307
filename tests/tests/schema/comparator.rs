//! The comparison itself: it must notice every loss, or the other tests prove nothing.

use repart_tests::describe;
use repart_tests::repart::Session;

use crate::shared_cluster;

/// What the shard has; one table with everything.
const TABLE: &str = "
    CREATE SCHEMA comparator; SET search_path = comparator, public; CREATE ROLE comparator;
    CREATE TABLE customer (id int PRIMARY KEY);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TABLE tbl (k int, v text DEFAULT 'x', n int NOT NULL, w text, PRIMARY KEY (k)) PARTITION BY RANGE (k);
    CREATE TRIGGER cloned BEFORE INSERT ON tbl FOR EACH ROW EXECUTE FUNCTION note();
    CREATE TABLE leaf PARTITION OF tbl FOR VALUES FROM (0) TO (10);
    ALTER TABLE leaf ADD CONSTRAINT c CHECK (n > 0), ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES customer,
        ADD CONSTRAINT late CHECK (n < 9) NOT VALID,
        ALTER w SET STORAGE EXTERNAL, ALTER w SET COMPRESSION pglz, ALTER w SET STATISTICS 50, ALTER w SET (n_distinct = 3);
    CREATE INDEX i ON leaf (lower(v)) WITH (fillfactor = 70); ALTER INDEX i ALTER COLUMN 1 SET STATISTICS 20;
    CREATE UNIQUE INDEX u ON leaf (n); ALTER TABLE leaf REPLICA IDENTITY USING INDEX u; ALTER TABLE leaf CLUSTER ON i;
    CREATE STATISTICS s ON n, v FROM leaf; ALTER STATISTICS s SET STATISTICS 30;
    CREATE TRIGGER own AFTER INSERT ON leaf FOR EACH ROW EXECUTE FUNCTION note();
    CREATE RULE r AS ON DELETE TO leaf DO INSTEAD NOTHING;
    ALTER TABLE leaf ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY p ON leaf USING (n > 1);
    ALTER TABLE leaf SET (fillfactor = 60, toast.autovacuum_enabled = off);
    GRANT SELECT ON leaf TO comparator WITH GRANT OPTION; GRANT UPDATE (v) ON leaf TO comparator;
    COMMENT ON TABLE leaf IS 'c'; COMMENT ON COLUMN leaf.v IS 'c'; COMMENT ON CONSTRAINT c ON leaf IS 'c';
    COMMENT ON INDEX i IS 'c'; COMMENT ON TRIGGER own ON leaf IS 'c'; COMMENT ON TRIGGER cloned ON leaf IS 'c';
    COMMENT ON RULE r ON leaf IS 'c'; COMMENT ON POLICY p ON leaf IS 'c'; COMMENT ON STATISTICS s IS 'c'";

/// Each loses or changes one thing.
const LOSSES: &[&str] = &[
    "ALTER TABLE leaf ALTER v DROP DEFAULT",
    "ALTER TABLE leaf ALTER v SET DEFAULT 'y'",
    "ALTER TABLE leaf ALTER v SET NOT NULL",
    "ALTER TABLE leaf DROP CONSTRAINT c",
    "ALTER TABLE leaf RENAME CONSTRAINT c TO d",
    "ALTER TABLE leaf DROP CONSTRAINT f",
    "ALTER TABLE leaf DROP CONSTRAINT late",
    "ALTER TABLE leaf VALIDATE CONSTRAINT late",
    "ALTER TABLE leaf ALTER w SET STORAGE EXTENDED",
    "ALTER TABLE leaf ALTER w SET COMPRESSION default",
    "ALTER TABLE leaf ALTER w SET STATISTICS -1",
    "ALTER TABLE leaf ALTER w RESET (n_distinct)",
    "DROP INDEX i",
    "ALTER INDEX i RESET (fillfactor)",
    "ALTER INDEX i ALTER COLUMN 1 SET STATISTICS -1",
    "ALTER INDEX i SET TABLESPACE indexes",
    "ALTER TABLE leaf SET TABLESPACE indexes",
    "ALTER TABLE leaf REPLICA IDENTITY DEFAULT",
    "ALTER TABLE leaf SET WITHOUT CLUSTER",
    "DROP STATISTICS s",
    "ALTER STATISTICS s SET STATISTICS -1",
    "ALTER STATISTICS s OWNER TO comparator",
    "DROP TRIGGER own ON leaf",
    "ALTER TABLE leaf DISABLE TRIGGER own",
    "ALTER TABLE leaf DISABLE TRIGGER cloned",
    "ALTER TABLE leaf DISABLE TRIGGER ALL",
    "DROP RULE r ON leaf",
    "ALTER TABLE leaf DISABLE RULE r",
    "ALTER TABLE leaf DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE leaf NO FORCE ROW LEVEL SECURITY",
    "DROP POLICY p ON leaf",
    "ALTER POLICY p ON leaf USING (n > 2)",
    "ALTER POLICY p ON leaf TO comparator",
    "ALTER TABLE leaf RESET (fillfactor)",
    "ALTER TABLE leaf RESET (toast.autovacuum_enabled)",
    "REVOKE GRANT OPTION FOR SELECT ON leaf FROM comparator",
    "REVOKE SELECT ON leaf FROM comparator",
    "REVOKE UPDATE (v) ON leaf FROM comparator",
    "ALTER TABLE leaf OWNER TO comparator",
    "COMMENT ON TABLE leaf IS NULL",
    "COMMENT ON COLUMN leaf.v IS NULL",
    "COMMENT ON CONSTRAINT c ON leaf IS NULL",
    "COMMENT ON INDEX i IS NULL",
    "COMMENT ON TRIGGER own ON leaf IS NULL",
    "COMMENT ON TRIGGER cloned ON leaf IS NULL",
    "COMMENT ON RULE r ON leaf IS NULL",
    "COMMENT ON POLICY p ON leaf IS NULL",
    "COMMENT ON STATISTICS s IS NULL",
    "ALTER TABLE tbl DETACH PARTITION leaf",
];

#[test]
fn the_comparison_notices_every_loss() {
    let cluster = shared_cluster();
    let mut session = Session::open(&cluster, "postgres");
    session.run(TABLE);
    let before = describe::shard(&mut session, "leaf", true);
    for loss in LOSSES {
        session.run(&format!("BEGIN; {loss}"));
        let after = describe::shard(&mut session, "leaf", true);
        assert_ne!(before, after, "not noticed: {loss}");
        session.run("ROLLBACK");
    }
    describe::assert_same(
        "nothing lost",
        &before,
        &describe::shard(&mut session, "leaf", true),
    );
}

/// So that an index in another tablespace is no loss after a move, but everything else is.
#[test]
fn a_name_of_its_own_is_no_difference() {
    let cluster = shared_cluster();
    let mut session = Session::open(&cluster, "postgres");
    session.run(
        "CREATE SCHEMA renamed; SET search_path = renamed, public;
         CREATE TABLE tbl (k int PRIMARY KEY, v text) PARTITION BY RANGE (k);
         CREATE TABLE one PARTITION OF tbl FOR VALUES FROM (0) TO (10);
         CREATE TABLE two PARTITION OF tbl FOR VALUES FROM (10) TO (20);
         CREATE INDEX on_one ON one (v); CREATE INDEX ON two (v)",
    );
    let (one, two) = (
        describe::shard(&mut session, "one", true),
        describe::shard(&mut session, "two", true),
    );
    describe::assert_same("two shards", &one, &two);
    assert!(one.len() > 4, "{one:?}");
}
