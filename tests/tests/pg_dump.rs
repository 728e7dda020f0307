//! pg_dump while shards change: a dump that is right, or an error. Never one with rows missing or doubled.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::path::Path;
use std::process::{Child, Stdio};

use repart_tests::aftermath::assert_nothing_left;
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::run_dir::run;
use repart_tests::wait::{LONG, wait_for};

const KEYS: i64 = 6_000;

/// A table `orders` of two shards, and a table that pg_dump locks before them.
fn cluster() -> Cluster {
    let cluster = Cluster::with_repart(&["max_locks_per_transaction = 256"]);
    let mut session = Session::open(&cluster, "postgres");
    // pg_dump locks tables in the order of their OIDs.
    session.run("CREATE TABLE gate (n int); INSERT INTO gate VALUES (1)");
    session.create_sharded_table("orders", &[3_000], KEYS);
    cluster
}

/// What pg_dump came to.
#[derive(Debug)]
struct Dumped {
    succeeded: bool,
    messages: String,
}

struct Dump(Child);

impl Dump {
    fn start(cluster: &Cluster, file: &Path, options: &[&str]) -> Self {
        let mut program = cluster.client_program("pg_dump", "postgres");
        program.args(options).arg("-f").arg(file);
        program.stdout(Stdio::null()).stderr(Stdio::piped());
        Self(program.spawn().unwrap())
    }

    fn end(self) -> Dumped {
        let output = self.0.wait_with_output().unwrap();
        Dumped {
            succeeded: output.status.success(),
            messages: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Every row, in an order of its own.
const ROWS: &str =
    "SELECT count(*) || ' ' || md5(string_agg(o::text, ',' ORDER BY id, o::text)) FROM orders o";

/// Restores a dump into a new database and compares the table, row by row, with what it was.
fn assert_restores(cluster: &Cluster, file: &Path, plain: bool, expected: &str) {
    let mut session = Session::open(cluster, "postgres");
    session.run("CREATE DATABASE restored");
    let mut program = if plain {
        let mut psql = cluster.client_program("psql", "restored");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]);
        psql
    } else {
        let mut restore = cluster.client_program("pg_restore", "restored");
        restore.args(["-e"]);
        restore
    };
    program.arg(file);
    run(program);
    let found = Session::open(cluster, "restored").texts(ROWS)[0].clone();
    assert_eq!(found, expected);
    session.run("DROP DATABASE restored WITH (FORCE)");
}

/// Waits until so many processes of pg_dump wait for a lock on a relation.
fn wait_for_waiting_dump(session: &mut Session, relation: &str) {
    wait_for("pg_dump to wait for a lock", LONG, || {
        let sql = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                   WHERE NOT l.granted AND l.relation = $1::text::regclass AND a.application_name = 'pg_dump'";
        (session.query(sql, &[&relation])[0].get::<_, i64>(0) > 0).then_some(())
    });
}

/// A cutover falls between pg_dump's snapshot and its locks on the shards.
fn across_a_cutover(options: &[&str], plain: bool) {
    let cluster = cluster();
    let mut session = Session::open(&cluster, "postgres");
    let expected = session.texts(ROWS)[0].clone();
    let mut blocker = cluster.connect("postgres");
    blocker
        .batch_execute("BEGIN; LOCK TABLE gate IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    let file = cluster.scratch("dump");
    let dump = Dump::start(&cluster, &file, options);
    wait_for_waiting_dump(&mut session, "gate");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_done(id);
    blocker.batch_execute("COMMIT").unwrap();
    let dumped = dump.end();
    // Its list of tables is that of its snapshot; the shards of then are gone.
    assert!(!dumped.succeeded, "{dumped:?}");
    assert!(
        dumped.messages.contains("does not exist")
            || dumped.messages.contains("could not serialize"),
        "{dumped:?}"
    );
    assert_eq!(session.texts(ROWS)[0], expected);
    // Again from the start.
    let again = cluster.scratch("again");
    let dumped = Dump::start(&cluster, &again, options).end();
    assert!(dumped.succeeded, "{dumped:?}");
    assert_restores(&cluster, &again, plain, &expected);
    assert_nothing_left_but_gate(&mut session);
}

fn assert_nothing_left_but_gate(session: &mut Session) {
    session.run("DROP TABLE gate");
    assert_nothing_left(session);
}

/// A shard that keeps its name and its place in the list of locks gets another OID: nothing but the guard
/// stands between pg_dump and an empty table.
fn across_a_move(options: &[&str]) {
    let cluster = cluster();
    cluster.create_tablespace("elsewhere");
    let mut session = Session::open(&cluster, "postgres");
    let mut blocker = cluster.connect("postgres");
    blocker
        .batch_execute("BEGIN; LOCK TABLE gate IN ACCESS EXCLUSIVE MODE")
        .unwrap();
    let file = cluster.scratch("dump");
    let dump = Dump::start(&cluster, &file, options);
    wait_for_waiting_dump(&mut session, "gate");
    let id = session.queue("repart_move('orders1', tablespace => 'elsewhere')");
    session.wait_done(id);
    blocker.batch_execute("COMMIT").unwrap();
    let dumped = dump.end();
    assert!(!dumped.succeeded, "{dumped:?}");
    println!("{}", dumped.messages);
    assert_nothing_left_but_gate(&mut session);
}

/// While it dumps, the cutover waits for it.
fn during_the_dump(options: &[&str], plain: bool) {
    let cluster = cluster();
    let mut session = Session::open(&cluster, "postgres");
    let expected = session.texts(ROWS)[0].clone();
    // A sequence is read once all tables are locked.
    session.run("CREATE SEQUENCE gate_sequence OWNED BY gate.n");
    let mut blocker = cluster.connect("postgres");
    blocker
        .batch_execute("BEGIN; DROP SEQUENCE gate_sequence")
        .unwrap();
    let file = cluster.scratch("dump");
    let dump = Dump::start(&cluster, &file, options);
    wait_for_waiting_dump(&mut session, "gate_sequence");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_until(
        "SELECT state = 'cutting_over' AND reason LIKE 'waits for process % (application _pg_dump_,%' FROM repart.migrations",
        LONG,
    );
    // Nobody queues behind the cutover meanwhile.
    session.run(
        "SET lock_timeout = '1s'; UPDATE orders SET payload = payload || ' later' WHERE id = 1",
    );
    session.run("RESET lock_timeout");
    blocker.batch_execute("ROLLBACK").unwrap();
    let dumped = dump.end();
    assert!(dumped.succeeded, "{dumped:?}");
    session.wait_done(id);
    assert_restores(&cluster, &file, plain, &expected);
    assert_nothing_left_but_gate(&mut session);
}

#[test]
fn a_dump_whose_snapshot_is_older_than_the_cutover_fails() {
    across_a_cutover(&[], true);
}

#[test]
fn a_parallel_dump_whose_snapshot_is_older_than_the_cutover_fails() {
    across_a_cutover(&["-Fd", "-j", "2"], false);
}

#[test]
fn a_dump_older_than_a_move_does_not_find_an_empty_shard() {
    across_a_move(&[]);
}

#[test]
fn a_dump_of_inserts_older_than_a_move_does_not_find_an_empty_shard() {
    across_a_move(&["--inserts"]);
}

#[test]
fn a_dump_through_the_root_older_than_a_move_does_not_find_an_empty_shard() {
    across_a_move(&["--load-via-partition-root"]);
}

#[test]
fn a_dump_of_data_older_than_a_move_does_not_find_an_empty_shard() {
    across_a_move(&["--data-only"]);
}

#[test]
fn the_cutover_waits_for_a_dump() {
    during_the_dump(&[], true);
}

#[test]
fn the_cutover_waits_for_a_parallel_dump() {
    during_the_dump(&["-Fd", "-j", "2"], false);
}
