//! Cursors and statements that are open when a cutover wants to happen.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use postgres::Client;

use repart_tests::cluster::Cluster;
use repart_tests::repart::{Session, is_loaded};
use repart_tests::snapshot::{count, with_snapshot};
use repart_tests::wait::LONG;

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

/// Starts a split that must wait for an open transaction, and says when it does.
fn split_that_waits(session: &mut Session) -> i64 {
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_until(
        "SELECT state = 'cutting_over' AND reason LIKE 'waits for process%' FROM repart.migrations
          ORDER BY id DESC LIMIT 1",
        LONG,
    );
    id
}

#[test]
fn the_cutover_waits_for_an_open_cursor_which_reads_every_row() {
    let cluster = cluster_with_tables();
    let mut session = Session::open(&cluster, "postgres");
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        for declaration in ["CURSOR", "SCROLL CURSOR", "BINARY INSENSITIVE CURSOR"] {
            session.run("DROP TABLE orders");
            session.create_sharded_table("orders", &[3_000], KEYS);
            let mut reader = with_snapshot(&cluster, level);
            reader
                .batch_execute(&format!(
                    "DECLARE c {declaration} FOR SELECT id FROM orders; FETCH 10 FROM c"
                ))
                .unwrap();
            let id = split_that_waits(&mut session);
            let rest = reader
                .simple_query("FETCH ALL FROM c")
                .unwrap()
                .iter()
                .filter(|message| matches!(message, postgres::SimpleQueryMessage::Row(_)))
                .count() as i64;
            assert_eq!(10 + rest, rows(), "{level}, {declaration}");
            reader.batch_execute("COMMIT").unwrap();
            session.wait_done(id);
        }
    }
}

#[test]
fn a_held_cursor_keeps_the_rows_of_its_snapshot_across_a_cutover() {
    let cluster = cluster_with_tables();
    let mut reader = with_snapshot(&cluster, "REPEATABLE READ");
    reader
        .batch_execute(
            "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT id FROM orders ORDER BY id; COMMIT",
        )
        .unwrap();
    split(&cluster);
    let mut session = Session::open(&cluster, "postgres");
    session.run("UPDATE orders SET id = -id - 1");
    let read = |client: &mut Client, fetch: &str| -> Vec<i64> {
        client
            .simple_query(fetch)
            .unwrap()
            .iter()
            .filter_map(|message| match message {
                postgres::SimpleQueryMessage::Row(row) => Some(row.get(0)?.parse().unwrap()),
                _ => None,
            })
            .collect()
    };
    let expected: Vec<i64> = (0..KEYS).filter(|&key| is_loaded(key)).collect();
    assert_eq!(read(&mut reader, "FETCH ALL FROM c"), expected);
    let backwards: Vec<i64> = expected.into_iter().rev().collect();
    assert_eq!(read(&mut reader, "FETCH BACKWARD ALL FROM c"), backwards);
}

/// One statement under READ COMMITTED that has begun to read and goes on later.
#[test]
fn the_cutover_waits_for_a_statement_that_is_running() {
    let cluster = cluster_with_tables();
    let mut session = Session::open(&cluster, "postgres");
    session.run("SELECT pg_advisory_lock(1)");
    let mut reader = cluster.connect("postgres");
    let running = std::thread::spawn(move || {
        count(
            &mut reader,
            "SELECT count(*) FROM (SELECT CASE WHEN id = 1 THEN pg_advisory_lock_shared(1) END FROM orders OFFSET 0) x",
        )
    });
    session.wait_until(
        "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
        LONG,
    );
    let id = split_that_waits(&mut session);
    session.run("SELECT pg_advisory_unlock(1)");
    assert_eq!(running.join().unwrap().unwrap(), rows());
    session.wait_done(id);
}
