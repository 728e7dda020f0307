//! Tables without a key: writers wait while everything is copied and switched in one transaction.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use repart_tests::aftermath::assert_nothing_left;
use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::repart::Session;
use repart_tests::wait::LONG;

/// A table of 6000 rows, every one of them twice, cut at 1500.
fn table(cluster: &Cluster) -> Session<'_> {
    let mut session = Session::open(cluster, "postgres");
    session.run(
        "CREATE TABLE orders (id bigint, payload text) PARTITION BY RANGE (id);
         CREATE TABLE orders1 PARTITION OF orders FOR VALUES FROM (MINVALUE) TO (1500);
         CREATE TABLE orders2 PARTITION OF orders FOR VALUES FROM (1500) TO (MAXVALUE);
         INSERT INTO orders SELECT g % 3000, 'twice' FROM generate_series(0, 5999) g;
         SELECT repart_manage('orders');
         SET repart.allow_blocking = on",
    );
    session
}

/// How many rows each key has, as one text.
fn counts(session: &mut Session) -> String {
    session.texts(
        "SELECT string_agg(id || ':' || n, ' ' ORDER BY id) FROM (SELECT id, count(*) AS n FROM orders GROUP BY id) x",
    )[0]
    .clone()
}

fn write_in_background(cluster: &Cluster, sql: &'static str) -> JoinHandle<()> {
    let config = cluster.config("postgres");
    spawn(move || {
        let mut client = config.connect(postgres::NoTls).unwrap();
        client
            .batch_execute("SET application_name = 'writer'")
            .unwrap();
        client.batch_execute(sql).unwrap();
    })
}

fn wait_for_blocked_writer(session: &mut Session) {
    session.wait_until(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'writer' AND wait_event_type = 'Lock')",
        LONG,
    );
}

#[test]
fn readers_go_on_and_writers_wait_and_lose_nothing() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    session.hold_at("blocking");
    let id = session.queue("repart_split('orders1', '700')");
    session.wait_held("blocking");
    let reason = session.migration(id).reason.unwrap_or_default();
    assert!(
        reason.contains("writers to table \"orders\" wait"),
        "{reason}"
    );
    let writers: Vec<_> = [
        "INSERT INTO orders SELECT 10, 'meanwhile' FROM generate_series(1, 5)",
        "DELETE FROM orders WHERE id = 20",
        "UPDATE orders SET id = 1400 WHERE id = 30",
    ]
    .into_iter()
    .map(|sql| write_in_background(&cluster, sql))
    .collect();
    wait_for_blocked_writer(&mut session);
    session.run("SET statement_timeout = '10s'");
    assert_eq!(session.number("SELECT count(*) FROM orders"), 6_000);
    assert_eq!(
        session.number("SELECT count(*) FROM orders WHERE id = 10"),
        2
    );
    session.run("RESET statement_timeout");
    assert!(writers.iter().all(|writer| !writer.is_finished()));
    session.release();
    session.wait_done(id);
    for writer in writers {
        writer.join().unwrap();
    }
    assert_eq!(session.bounds("orders"), [700, 1_500]);
    assert_eq!(session.number("SELECT count(*) FROM orders"), 6_003);
    assert_eq!(
        session.number("SELECT count(*) FROM orders WHERE id = 10"),
        7
    );
    assert_eq!(
        session.number("SELECT count(*) FROM orders WHERE id = 1400"),
        4
    );
    assert_nothing_left(&mut session);
}

/// Neither can go on without the other: the migration gives way, and comes back.
#[test]
fn gives_way_to_a_transaction_that_has_read_and_wants_to_write() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    session.hold_at("blocking");
    let id = session.queue("repart_split('orders1', '700')");
    session.wait_held("blocking");
    let writer = write_in_background(
        &cluster,
        "BEGIN; SELECT count(*) FROM orders; INSERT INTO orders VALUES (5, 'after reading'); COMMIT",
    );
    wait_for_blocked_writer(&mut session);
    session.release();
    session.wait_done(id);
    writer.join().unwrap();
    assert_eq!(
        session.number("SELECT count(*) FROM orders WHERE id = 5"),
        3
    );
    assert_eq!(session.number("SELECT count(*) FROM orders"), 6_001);
    assert_nothing_left(&mut session);
}

/// There is always one that has read and wants to write: only a copy that all of them wait for gets through.
#[test]
fn gets_through_transactions_that_read_and_then_write_all_the_time() {
    let cluster = Cluster::with_repart(&["repart.max_pause = '10s'"]);
    let mut session = table(&cluster);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..6)
        .map(|_| read_and_write_until(&cluster, &stop))
        .collect();
    let id = session.queue("repart_split('orders1', '700')");
    session.wait_done(id);
    stop.store(true, Ordering::Relaxed);
    let written: i64 = writers
        .into_iter()
        .map(|writer| writer.join().unwrap())
        .sum();
    assert!(written > 0);
    assert_eq!(session.bounds("orders"), [700, 1_500]);
    assert_eq!(
        session.number("SELECT count(*) FROM orders"),
        6_000 + written
    );
    assert_nothing_left(&mut session);
}

/// Returns how many rows were written. None of the transactions fails.
fn read_and_write_until(cluster: &Cluster, stop: &Arc<AtomicBool>) -> JoinHandle<i64> {
    let (config, stop) = (cluster.config("postgres"), Arc::clone(stop));
    spawn(move || {
        let mut client = config.connect(postgres::NoTls).unwrap();
        let mut written = 0;
        while !stop.load(Ordering::Relaxed) {
            client
                .batch_execute(
                    "BEGIN; SELECT count(*) FROM orders WHERE id < 100; SELECT pg_sleep(0.02);
                     INSERT INTO orders VALUES (5, 'after reading'); COMMIT",
                )
                .unwrap();
            written += 1;
        }
        written
    })
}

#[test]
fn waits_for_a_transaction_that_is_open_and_holds_nobody_up() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    let mut open = cluster.connect("postgres");
    open.batch_execute("BEGIN; INSERT INTO orders VALUES (7, 'open')")
        .unwrap();
    let id = session.queue("repart_split('orders1', '700')");
    session.wait_until(
        "SELECT state = 'cutting_over' AND reason LIKE '%waits for%' FROM repart.migrations",
        LONG,
    );
    session.run("SET statement_timeout = '5s'; INSERT INTO orders VALUES (8, 'not held up'); RESET statement_timeout");
    open.batch_execute("COMMIT").unwrap();
    session.wait_done(id);
    assert_eq!(session.number("SELECT count(*) FROM orders"), 6_002);
    assert_nothing_left(&mut session);
}

#[test]
fn can_be_cancelled_while_writers_wait() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    let before = counts(&mut session);
    session.hold_at("blocking");
    let id = session.queue("repart_split('orders1', '700')");
    session.wait_held("blocking");
    session.query("SELECT repart_cancel($1)", &[&id]);
    session.release();
    assert_eq!(session.wait(id), "cancelled");
    assert_eq!(counts(&mut session), before);
    assert_eq!(session.bounds("orders"), [1_500]);
    assert_nothing_left(&mut session);
}

/// Kills the mover, or the whole server, at a point: all of it is rolled back, and made again.
fn crash_at(point: &str, whole_server: bool) {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    let before = counts(&mut session);
    session.hold_at(point);
    let id = session.queue("repart_split('orders1', '700')");
    let mover = session.wait_held(point);
    std::thread::sleep(Duration::from_millis(100));
    if whole_server {
        cluster.restart(Shutdown::Immediate);
    } else {
        cluster.kill9(mover);
    }
    session.reopen();
    // At the switch the next mover is held again at once, and then nobody can read.
    if point != "switched" {
        assert_eq!(counts(&mut session), before);
    }
    session.release();
    let migration = session.wait_ended(id);
    assert_eq!(migration.state, "done", "{migration:?}");
    assert_eq!(counts(&mut session), before);
    assert_eq!(session.bounds("orders"), [700, 1_500]);
    assert_nothing_left(&mut session);
}

#[test]
fn recovers_from_a_mover_killed_while_writers_wait() {
    crash_at("blocking", false);
}

#[test]
fn recovers_from_a_mover_killed_just_before_the_commit() {
    crash_at("switched", false);
}

#[test]
fn recovers_from_a_crash_of_the_server_just_before_the_commit() {
    crash_at("switched", true);
}

#[test]
fn recovers_from_a_mover_killed_while_cleaning() {
    crash_at("cleaning", false);
}
