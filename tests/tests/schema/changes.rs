//! A concurrent change of anything that is carried over ends the migration cleanly; it is never silently lost.

use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

/// Each is done while a migration of the shard `leaf` runs.
const CHANGES: &[&str] = &[
    "ALTER TABLE leaf ALTER v SET DEFAULT 'later'",
    "ALTER TABLE leaf ALTER n SET NOT NULL",
    "ALTER TABLE leaf ADD CONSTRAINT c CHECK (n < 100)",
    "ALTER TABLE leaf ADD CONSTRAINT late CHECK (n < 100) NOT VALID",
    "ALTER TABLE leaf VALIDATE CONSTRAINT late",
    "ALTER TABLE leaf ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES customer",
    "ALTER TABLE leaf ALTER v SET STORAGE EXTERNAL",
    "ALTER TABLE leaf ALTER v SET COMPRESSION pglz",
    "ALTER TABLE leaf ALTER v SET STATISTICS 77",
    "ALTER TABLE leaf ALTER v SET (n_distinct = 5)",
    "ALTER TABLE leaf SET (fillfactor = 70)",
    "ALTER TABLE leaf SET (toast.autovacuum_enabled = off)",
    "CREATE INDEX i ON leaf ((n + 1))",
    "ALTER INDEX i SET (fillfactor = 80)",
    "ALTER INDEX i ALTER COLUMN 1 SET STATISTICS 5",
    "ALTER TABLE leaf CLUSTER ON i",
    "COMMENT ON INDEX i IS 'later'",
    "CREATE STATISTICS s ON v, n FROM leaf",
    "ALTER STATISTICS s SET STATISTICS 9",
    "COMMENT ON STATISTICS s IS 'later'",
    "ALTER STATISTICS s RENAME TO s2",
    "CREATE TRIGGER own AFTER UPDATE ON leaf FOR EACH ROW EXECUTE FUNCTION note()",
    "ALTER TABLE leaf DISABLE TRIGGER own",
    "COMMENT ON TRIGGER own ON leaf IS 'later'",
    "CREATE TRIGGER every AFTER UPDATE ON tbl FOR EACH ROW EXECUTE FUNCTION note()",
    "ALTER TABLE leaf DISABLE TRIGGER every",
    "CREATE RULE r AS ON DELETE TO leaf WHERE OLD.n = 10000 DO INSTEAD NOTHING",
    "ALTER TABLE leaf DISABLE RULE r",
    "ALTER TABLE leaf ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY p ON leaf USING (n > 1)",
    "ALTER POLICY p ON leaf USING (n > 2)",
    "COMMENT ON POLICY p ON leaf IS 'later'",
    "GRANT SELECT ON leaf TO reader",
    "GRANT UPDATE (v) ON leaf TO reader",
    "ALTER TABLE leaf REPLICA IDENTITY FULL",
    "COMMENT ON TABLE leaf IS 'later'",
    "COMMENT ON COLUMN leaf.v IS 'later'",
    "COMMENT ON CONSTRAINT c ON leaf IS 'later'",
    "ALTER TABLE tbl ADD COLUMN x int",
    "CREATE INDEX ON tbl (v)",
    "ALTER TABLE leaf OWNER TO reader",
];

#[test]
fn a_change_of_anything_that_is_carried_ends_the_migration() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.run(
        "CREATE ROLE reader; CREATE TABLE customer (id int PRIMARY KEY); INSERT INTO customer SELECT generate_series(0, 6);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TABLE tbl (k bigint PRIMARY KEY, v text, n int) PARTITION BY RANGE (k);
         CREATE TABLE leaf PARTITION OF tbl FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         INSERT INTO tbl SELECT g, 'v' || g, g % 7 FROM generate_series(0, 999) g; SELECT repart_manage('tbl')",
    );
    for change in CHANGES {
        session.hold_at("catching_up");
        let id = session.queue("repart_split('leaf', '500')");
        session.wait_held("catching_up");
        session.run(change);
        session.release();
        let ended = session.wait_ended(id);
        assert_eq!(ended.state, "failed", "{change}: {ended:?}");
        let error = ended.error.unwrap();
        assert!(
            error.contains("definition of table \"tbl\" changed"),
            "{change}: {error}"
        );
        assert_eq!(session.number("SELECT count(*) FROM tbl"), 1000);
    }
    // Without a change it goes through, with all of them together on the shard.
    let id = session.queue("repart_split('leaf', '500')");
    session.wait_done(id);
}
