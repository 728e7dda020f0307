//! Pausing, resuming and cancelling, in every state that the table of transitions has.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::thread::sleep;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use repart_core::state::State;

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

/// The states in which a migration can still end with the old shards, in the order of its life.
fn states_before_the_switch() -> Vec<State> {
    let states: Vec<State> = State::all()
        .filter(|state| state.is_before_switch() && !state.is_final())
        .collect();
    assert!(states.len() >= 6, "{states:?}");
    states
}

/// The SQLSTATE, message and hint with which a statement fails.
fn refusal(session: &mut Session, sql: &str) -> (SqlState, String, String) {
    let error = session.client().batch_execute(sql).unwrap_err();
    let error = error.as_db_error().unwrap();
    (
        error.code().clone(),
        error.message().to_owned(),
        error.hint().unwrap_or_default().to_owned(),
    )
}

/// Checks that the table is as it was created.
fn assert_as_before(session: &mut Session, table: &str) {
    assert_eq!(session.bounds(table), [3_000]);
    let names: Vec<String> = session
        .shards(table)
        .into_iter()
        .map(|shard| shard.name)
        .collect();
    assert_eq!(names, [format!("{table}1"), format!("{table}2")]);
    assert_nothing_left(session);
    assert_sound(session, table);
}

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

#[test]
fn a_migration_can_be_cancelled_in_every_state_while_it_is_paused() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    for state in states_before_the_switch() {
        let table = format!("t_{state}");
        session.create_sharded_table(&table, &[3_000], KEYS);
        let workload = Workload::start(&cluster, "postgres", Options::new(&table, KEYS));
        session.hold_at(state.as_str());
        let id = session.queue(&format!("repart_split('{table}1', '1000')"));
        session.wait_held(state.as_str());
        session.run(&format!("SELECT repart_pause({id})"));
        session.release();
        workload.proceed(100);
        session.run(&format!("SELECT repart_cancel({id})"));
        assert_eq!(session.wait(id), "cancelled", "{state}");
        workload.stop().assert_clean();
        assert_as_before(&mut session, &table);
    }
}

#[test]
fn a_cancel_interrupts_the_build_of_an_index() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.run(
        "CREATE FUNCTION slow(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
         CREATE INDEX ON orders (slow(id));
         CREATE OR REPLACE FUNCTION slow(bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_catalog.pg_sleep(0.05); RETURN $1; END'",
    );
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_until(
        "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index)",
        LONG,
    );
    let asked = Instant::now();
    session.run(&format!("SELECT repart_cancel({id})"));
    assert_eq!(session.wait(id), "cancelled");
    // Left alone the build would take 50 ms for each of 2000 rows.
    assert!(
        asked.elapsed() < Duration::from_secs(15),
        "{:?}",
        asked.elapsed()
    );
    session.run("DROP FUNCTION slow CASCADE");
    assert_as_before(&mut session, "orders");
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

/// What the mover of a paused migration must not have between two looks: a transaction, and so a snapshot or lock.
const RESTING: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE backend_type = 'repart mover'
        AND xact_start IS NULL AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'relation'))";

#[test]
fn a_migration_can_be_paused_in_every_state_and_goes_on_when_resumed() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    for state in states_before_the_switch() {
        let table = format!("t_{state}");
        session.create_sharded_table(&table, &[3_000], KEYS);
        let workload = Workload::start(&cluster, "postgres", Options::new(&table, KEYS));
        session.hold_at(state.as_str());
        let id = session.queue(&format!("repart_split('{table}1', '1000')"));
        session.wait_held(state.as_str());
        session.run(&format!("SELECT repart_pause({id})"));
        session.release();
        // A step that had begun may end, and be the last of its state; no other one follows.
        let mut stays = session.migration(id).state;
        wait_until("the migration to rest", LONG, || {
            sleep(Duration::from_secs(1));
            let now = session.migration(id).state;
            std::mem::replace(&mut stays, now.clone()) == now
        });
        session.wait_until(RESTING, LONG);
        workload.proceed(300);
        let migration = session.migration(id);
        assert_eq!(migration.state, stays, "{migration:?}");
        assert_eq!(migration.reason.as_deref(), Some("paused by postgres"));
        assert_ne!(migration.state, "done");
        session.run(&format!("SELECT repart_resume({id})"));
        session.wait_done(id);
        workload.stop().assert_clean();
        assert_eq!(session.bounds(&table), [1_000, 3_000], "{state}");
        assert_nothing_left(&mut session);
        assert_sound(&mut session, &table);
    }
}

#[test]
fn a_pause_of_all_survives_a_restart_and_holds_up_what_is_queued_later() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.hold_at("copying");
    let begun = session.queue("repart_split('orders1', '1000')");
    session.wait_held("copying");
    session.run("SELECT repart_pause()");
    session.release();
    let queued = session.queue("repart_split('orders2', '4000')");
    cluster.restart(Shutdown::Fast);
    session.reopen();
    session.wait_worker("mover");
    sleep(Duration::from_secs(3));
    let (first, second) = (session.migration(begun), session.migration(queued));
    assert_eq!(
        (first.state.as_str(), second.state.as_str()),
        ("copying", "queued")
    );
    for migration in [&first, &second] {
        assert_eq!(migration.reason.as_deref(), Some("paused by postgres"));
    }
    let (_, message, hint) = refusal(&mut session, &format!("SELECT repart_resume({begun})"));
    assert!(message.contains("paused by postgres"), "{message}");
    assert!(hint.contains("repart_resume()"), "{hint}");
    session.run("SELECT repart_resume()");
    session.wait_done(begun);
    session.wait_done(queued);
    assert_eq!(session.bounds("orders"), [1_000, 3_000, 4_000]);
    assert_nothing_left(&mut session);
}

#[test]
fn a_paused_migration_does_not_keep_others_from_starting() {
    let cluster = Cluster::with_repart(&["repart.max_movers = 1"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.hold_at("copying");
    let paused = session.queue("repart_split('orders1', '1000')");
    session.wait_held("copying");
    session.run(&format!("SELECT repart_pause({paused})"));
    session.release();
    let other = session.queue("repart_split('orders2', '4000')");
    session.wait_done(other);
    assert_eq!(session.migration(paused).state, "copying");
    session.run("SELECT repart_resume()");
    session.wait_done(paused);
    assert_nothing_left(&mut session);
}

#[test]
fn the_log_of_a_paused_migration_stays_short_once_everything_is_copied() {
    let cluster = Cluster::with_repart(&["repart.max_backlog = 5000"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("cutting_over");
    session.run(&format!("SELECT repart_pause({id})"));
    session.release();
    // Far more changes than may wait, in pieces that may.
    for _ in 0..8 {
        session.run("UPDATE orders SET counter = counter + 1 WHERE id < 3000");
        session.wait_until(&format!("SELECT count(*) = 0 FROM repart.log_{id}"), LONG);
    }
    session.run(&format!("SELECT repart_resume({id})"));
    session.wait_done(id);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

#[test]
fn a_migration_paused_while_copying_ends_when_its_log_passes_the_limit() {
    let cluster = Cluster::with_repart(&["repart.max_backlog = 1000"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.hold_at("copying");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("copying");
    session.run(&format!("SELECT repart_pause({id})"));
    session.release();
    session.run("UPDATE orders SET counter = 1 WHERE id < 3000");
    let migration = session.wait_ended(id);
    assert_eq!(migration.state, "failed");
    assert!(
        migration.error.unwrap().contains("repart.max_backlog"),
        "the reason must be named"
    );
    assert_as_before(&mut session, "orders");
}
