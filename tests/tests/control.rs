//! Cancelling, in every state that the table of transitions has, and when it is too late for it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::thread::sleep;
use std::time::{Duration, Instant};

use postgres::error::SqlState;

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::control::{assert_as_before, refusal, states_before_the_switch};
use repart_tests::repart::Session;
use repart_tests::wait::LONG;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

#[test]
fn a_migration_can_be_cancelled_in_every_state_before_its_switch() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    for state in states_before_the_switch() {
        let table = format!("t_{state}");
        session.create_sharded_table(&table, &[3_000], KEYS);
        let workload = Workload::start(&cluster, "postgres", Options::new(&table, KEYS));
        session.hold_at(state.as_str());
        let id = session.queue(&format!("repart_split('{table}1', '1000')"));
        session.wait_held(state.as_str());
        workload.proceed(100);
        session.run(&format!("SELECT repart_cancel({id})"));
        session.release();
        assert_eq!(session.wait(id), "cancelled", "{state}");
        workload.proceed(100);
        workload.stop().assert_clean();
        assert_as_before(&mut session, &table);
    }
}

/// Cancels a split in the middle of a statement that would take minutes: one that calls a function for each of some
/// hundred rows. `user` is what makes the split at `key` call it, and `midst` is true while it does.
fn cancel_amid(key: i64, user: &str, midst: &str) {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.run(&format!(
        "CREATE FUNCTION slow(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
         {user};
         CREATE OR REPLACE FUNCTION slow(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_catalog.pg_sleep(0.5); RETURN $1; END'",
    ));
    let id = session.queue(&format!("repart_split('orders1', '{key}')"));
    session.wait_until(midst, LONG);
    let asked = Instant::now();
    session.run(&format!("SELECT repart_cancel({id})"));
    assert_eq!(session.wait(id), "cancelled");
    assert!(
        asked.elapsed() < Duration::from_secs(15),
        "{:?}",
        asked.elapsed()
    );
    session.run("DROP FUNCTION slow CASCADE");
    assert_as_before(&mut session, "orders");
}

#[test]
fn a_cancel_interrupts_the_build_of_an_index() {
    cancel_amid(
        1_000,
        "CREATE INDEX ON orders (slow(id))",
        "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index)",
    );
}

#[test]
fn a_cancel_interrupts_a_batch_of_the_copy() {
    // A narrow range: it is copied through the index, by a statement that checks constraints.
    cancel_amid(
        500,
        "ALTER TABLE orders ADD CHECK (slow(id) = id)",
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'repart mover' AND wait_event = 'PgSleep')
            AND (SELECT state = 'copying' FROM repart.migrations)",
    );
}

#[test]
fn a_migration_that_waits_for_locks_can_be_cancelled_although_the_locks_stay() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    let workload = Workload::start(&cluster, "postgres", Options::new("orders", KEYS));
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("cutting_over");
    let mut reader = cluster.connect("postgres");
    reader
        .batch_execute("BEGIN; SELECT count(*) FROM orders")
        .unwrap();
    session.release();
    session.wait_until(
        "SELECT coalesce(reason LIKE 'waits for process%', false) FROM repart.migrations",
        LONG,
    );
    session.run(&format!("SELECT repart_cancel({id})"));
    assert_eq!(session.wait(id), "cancelled");
    // What must wait for the reader captures nothing any more.
    let left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'repart'::regnamespace AND relname ~ '^log_\\d+$'";
    assert_eq!(session.number(left), 1);
    let logged = format!("SELECT count(*) FROM repart.log_{id}");
    let before = session.number(&logged);
    workload.proceed(500);
    assert_eq!(session.number(&logged), before);
    reader.batch_execute("COMMIT").unwrap();
    workload.stop().assert_clean();
    assert_as_before(&mut session, "orders");
}

#[test]
fn a_cancel_that_comes_too_late_says_so_and_the_migration_is_done() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.hold_at("switched");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("switched");
    let late = std::thread::scope(|scope| {
        let mut other = Session::open(&cluster, "postgres");
        let cancel =
            scope.spawn(move || refusal(&mut other, &format!("SELECT repart_cancel({id})")));
        session.wait_until(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%repart_cancel%'
                AND pid <> pg_backend_pid())",
            LONG,
        );
        session.release();
        cancel.join().unwrap()
    });
    assert_eq!(late.0, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(late.1.contains("cannot be cancelled"), "{late:?}");
    assert!(late.2.contains(&format!("repart_revert({id})")), "{late:?}");
    session.wait_done(id);
    assert_eq!(session.bounds("orders"), [1_000, 3_000]);

    session.hold_at("cleaning");
    let id = session.queue("repart_split('orders2', '4000')");
    session.wait_held("cleaning");
    for function in ["repart_cancel", "repart_pause", "repart_resume"] {
        let (code, message, hint) = refusal(&mut session, &format!("SELECT {function}({id})"));
        assert_eq!(code, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
        assert!(message.contains("is cleaning"), "{message}");
        assert!(hint.contains(&format!("repart_revert({id})")), "{hint}");
    }
    // Cleaning goes on whatever is paused.
    session.run("SELECT repart_pause()");
    session.release();
    session.wait_done(id);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

#[test]
fn a_cancel_that_races_with_the_switch_is_either_refused_or_obeyed() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    let workload = Workload::start(&cluster, "postgres", Options::new("orders", KEYS));
    let mut ends = Vec::new();
    let mut bounds = vec![3_000];
    for round in 0..12 {
        let at = 3_100 + 100 * round;
        let shard = session.shards("orders").last().unwrap().name.clone();
        session.hold_at("cutting_over");
        let id = session.queue(&format!("repart_split('{shard}', '{at}')"));
        session.wait_held("cutting_over");
        session.release();
        sleep(Duration::from_millis(4 * u64::try_from(round).unwrap()));
        let obeyed = session
            .client()
            .execute("SELECT repart_cancel($1)", &[&id])
            .is_ok();
        let end = session.wait(id);
        assert_eq!(end, if obeyed { "cancelled" } else { "done" });
        if !obeyed {
            bounds.push(at);
        }
        ends.push(end);
        assert_eq!(session.bounds("orders"), bounds);
    }
    println!("ends of the races: {ends:?}");
    workload.stop().assert_clean();
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}
