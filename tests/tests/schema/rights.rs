//! Whose code runs as whom: whatever a table's owner has put into its definition runs as that owner, never as the
//! superuser that the workers are.

use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

#[test]
fn no_function_of_the_owner_runs_as_superuser() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    // The constant argument makes PostgreSQL evaluate it whenever it simplifies an expression.
    session.run(
        "CREATE ROLE mallory; GRANT ALL ON SCHEMA public TO mallory; SET ROLE mallory;
         CREATE FUNCTION spy(what text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN RAISE LOG 'spy in % ran as %', what, current_user; RETURN 1; END $$;
         CREATE TABLE tbl (k int, v text, n int DEFAULT spy('default'),
                           g int GENERATED ALWAYS AS (n + spy('generated')) STORED, PRIMARY KEY (k),
                           CONSTRAINT parent_check CHECK (n >= spy('check')))
             PARTITION BY RANGE (k);
         CREATE TABLE low PARTITION OF tbl FOR VALUES FROM (MINVALUE) TO (1000);
         CREATE TABLE high PARTITION OF tbl FOR VALUES FROM (1000) TO (MAXVALUE);
         CREATE INDEX ON tbl ((n + spy('index'))) WHERE n > spy('predicate');",
    );
    for leaf in ["low", "high"] {
        session.run(&format!(
            "ALTER TABLE {leaf} ADD CONSTRAINT own_check CHECK (n < 1000 + spy('own check')), ALTER v SET NOT NULL;
             ALTER TABLE {leaf} ADD CONSTRAINT late CHECK (n < 1000 + spy('late check')) NOT VALID;
             ALTER TABLE {leaf} ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON {leaf} USING (n > spy('policy'));
             CREATE STATISTICS {leaf}_s ON (n + spy('statistics')), v FROM {leaf};
             CREATE FUNCTION note_{leaf}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER own AFTER UPDATE ON {leaf} FOR EACH ROW WHEN (NEW.n > spy('trigger')) EXECUTE FUNCTION note_{leaf}();
             DROP TRIGGER own ON {leaf};
             CREATE RULE r AS ON DELETE TO {leaf} WHERE OLD.n = spy('rule') + 5000 DO INSTEAD NOTHING"
        ));
    }
    session.run("INSERT INTO tbl (k, v) SELECT g, 'v' FROM generate_series(0, 1999) g; RESET ROLE");
    session.run("SELECT repart_manage('tbl')");
    for call in [
        "repart_split('low', '500')",
        "repart_merge(VARIADIC (SELECT array_agg(shard) FROM repart.shards))",
    ] {
        let id = session.queue(call);
        session.wait_done(id);
    }
    let log = cluster.log();
    let spied: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("repart") && line.contains("spy in"))
        .collect();
    assert!(
        spied.iter().any(|line| line.contains("ran as mallory")),
        "the spy never ran in a worker, so that this proves nothing"
    );
    let mut caught: Vec<&str> = spied
        .iter()
        .filter(|line| !line.contains("ran as mallory"))
        .filter_map(|line| line.split("LOG:").nth(1))
        .collect();
    caught.sort_unstable();
    caught.dedup();
    assert!(caught.is_empty(), "{caught:#?}");
}
