//! A snapshot that predates a cutover would see the moved shards as empty. It gets an error, never a wrong
//! answer; nobody else gets one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, Error};

use repart_tests::cluster::Cluster;
use repart_tests::repart::{Session, is_loaded};
use repart_tests::wait::{LONG, wait_until};

const KEYS: i64 = 6_000;

fn rows() -> i64 {
    (0..KEYS).filter(|&key| is_loaded(key)).count() as i64
}

fn cluster_with_tables() -> Cluster {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.create_sharded_table("u", &[3_000], KEYS);
    cluster
}

fn split(cluster: &Cluster) {
    let mut session = Session::open(cluster, "postgres");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_done(id);
}

/// A session whose transaction took its snapshot, and read nothing yet.
fn with_snapshot(cluster: &Cluster, level: &str) -> Client {
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1"))
        .unwrap();
    client
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("a snapshot older than the cutover got an answer");
    assert_eq!(
        error.code(),
        Some(&SqlState::T_R_SERIALIZATION_FAILURE),
        "{error:?}"
    );
}

fn count(client: &mut Client, sql: &str) -> Result<i64, Error> {
    client.query_one(sql, &[]).map(|row| row.get(0))
}

#[test]
fn a_transaction_with_an_older_snapshot_gets_40001() {
    let cluster = cluster_with_tables();
    let statements = [
        "SELECT count(*) FROM orders",
        "SELECT count(*) FROM orders WHERE id = 500",
        "SELECT count(*) FROM u JOIN orders USING (id)",
        "WITH changed AS (UPDATE orders SET counter = counter + 1 WHERE id = 500 RETURNING 1) SELECT count(*) FROM changed",
        "WITH gone AS (DELETE FROM orders WHERE id = 500 RETURNING 1) SELECT count(*) FROM gone",
    ];
    let mut readers: Vec<Client> = statements
        .iter()
        .map(|_| with_snapshot(&cluster, "REPEATABLE READ"))
        .collect();
    let mut serializable = with_snapshot(&cluster, "SERIALIZABLE");
    let mut by_cursor = with_snapshot(&cluster, "REPEATABLE READ");
    let mut read_committed = with_snapshot(&cluster, "READ COMMITTED");
    let mut elsewhere = with_snapshot(&cluster, "REPEATABLE READ");

    split(&cluster);

    for (reader, statement) in readers.iter_mut().zip(statements) {
        assert_refused(count(reader, statement));
        // As an application does: again from the start.
        reader
            .batch_execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ")
            .unwrap();
        count(reader, statement).unwrap();
        reader.batch_execute("ROLLBACK").unwrap();
    }
    assert_refused(count(&mut serializable, "SELECT count(*) FROM orders"));
    assert_refused(
        by_cursor.batch_execute("DECLARE c CURSOR FOR SELECT * FROM orders; FETCH ALL FROM c"),
    );
    assert_eq!(
        count(&mut read_committed, "SELECT count(*) FROM orders").unwrap(),
        rows()
    );
    assert_eq!(
        count(&mut elsewhere, "SELECT count(*) FROM u").unwrap(),
        rows()
    );
}

#[test]
fn a_new_shard_named_directly_is_refused_too() {
    let cluster = cluster_with_tables();
    let mut reader = with_snapshot(&cluster, "REPEATABLE READ");
    split(&cluster);
    let shard = Session::open(&cluster, "postgres").shards("orders")[0]
        .name
        .clone();
    assert_refused(count(&mut reader, &format!("SELECT count(*) FROM {shard}")));
}

#[test]
fn a_prepared_statement_on_an_older_snapshot_gets_40001() {
    let cluster = cluster_with_tables();
    let mut reader = cluster.connect("postgres");
    let statement = reader
        .prepare("SELECT count(*) FROM orders WHERE id < $1")
        .unwrap();
    let all: [&(dyn ToSql + Sync); 1] = [&KEYS];
    for _ in 0..7 {
        // Often enough for a generic plan.
        assert_eq!(
            reader.query_one(&statement, &all).unwrap().get::<_, i64>(0),
            rows()
        );
    }
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .unwrap();
    split(&cluster);
    assert_refused(reader.query_one(&statement, &all));
    reader.batch_execute("ROLLBACK").unwrap();
    assert_eq!(
        reader.query_one(&statement, &all).unwrap().get::<_, i64>(0),
        rows()
    );
}

/// A STABLE function runs on the snapshot of the statement that called it, also under READ COMMITTED.
#[test]
fn a_stable_function_called_before_the_cutover_gets_40001() {
    let cluster = cluster_with_tables();
    let mut gate = cluster.connect("postgres");
    gate.batch_execute(
        "CREATE FUNCTION count_later() RETURNS bigint STABLE LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM pg_advisory_lock_shared(1);
             RETURN (SELECT count(*) FROM orders);
         END $$;
         SELECT pg_advisory_lock(1)",
    )
    .unwrap();
    let mut caller = cluster.connect("postgres");
    let waiting = std::thread::spawn(move || count(&mut caller, "SELECT count_later()"));
    wait_until("the function to wait", LONG, || {
        count(
            &mut gate,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
        )
        .unwrap()
            == 1
    });
    split(&cluster);
    gate.batch_execute("SELECT pg_advisory_unlock(1)").unwrap();
    assert_refused(waiting.join().unwrap());
}

/// An exported snapshot is as old as the transaction that exported it.
#[test]
fn an_imported_snapshot_older_than_the_cutover_gets_40001() {
    let cluster = cluster_with_tables();
    let mut exporter = with_snapshot(&cluster, "REPEATABLE READ");
    let name: String = exporter
        .query_one("SELECT pg_export_snapshot()", &[])
        .unwrap()
        .get(0);
    split(&cluster);
    let mut importer = cluster.connect("postgres");
    importer
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{name}'"
        ))
        .unwrap();
    assert_refused(count(&mut importer, "SELECT count(*) FROM orders"));
}
