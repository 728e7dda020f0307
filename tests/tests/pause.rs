//! Pausing and resuming, in every state that the table of transitions has.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::thread::sleep;
use std::time::Duration;

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::control::{assert_as_before, refusal, states_before_the_switch};
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

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
fn plans_are_queued_while_all_is_paused_and_carried_out_later() {
    let cluster = Cluster::with_repart(&[
        "repart.mode = 'off'",
        "repart.sample_interval = '1h'",
        "repart.forecast_interval = '200ms'",
        "repart.horizon = '30min'",
        "repart.shard_capacity = 1000",
        "repart.min_shard_size = 0",
    ]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    // Load of an hour, far above what a shard may serve.
    session.run(
        "SELECT repart_import_samples('orders1', jsonb_agg(jsonb_build_object(
                'at', now() - n * interval '1 minute', 'reads', 5000, 'writes', 1, 'bytes', 8192)))
           FROM generate_series(0, 60) n",
    );
    session.run("SELECT repart_pause()");
    session.set("repart.mode", "'auto'");
    session.wait_until("SELECT EXISTS (SELECT FROM repart.migrations)", LONG);
    session.set("repart.mode", "'off'");
    // Whatever time the plan chose is now.
    session.run("UPDATE repart.journal SET start_at = now() - interval '1 minute'");
    sleep(Duration::from_secs(3));
    let states = session.texts("SELECT DISTINCT state FROM repart.migrations");
    assert_eq!(states, ["queued"]);
    session.run("SELECT repart_resume()");
    session.wait_until(
        "SELECT bool_and(state = 'done') FROM repart.migrations",
        LONG,
    );
    assert!(session.bounds("orders").len() > 1);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
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

/// Nothing is captured there, so that a mover that rests has nothing to apply.
#[test]
fn a_migration_of_a_table_without_a_key_can_be_paused() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.run(
        "CREATE TABLE events (id bigint NOT NULL, payload text) PARTITION BY RANGE (id);
         CREATE TABLE events1 PARTITION OF events FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         INSERT INTO events SELECT g, 'event' FROM generate_series(1, 1000) g;
         SELECT repart_manage('events');
         SET repart.allow_blocking = on",
    );
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('events1', '500')");
    session.wait_held("cutting_over");
    session.run(&format!("SELECT repart_pause({id})"));
    session.release();
    sleep(Duration::from_secs(2));
    let migration = session.migration(id);
    assert_eq!(migration.state, "cutting_over", "{migration:?}");
    assert_eq!(migration.reason.as_deref(), Some("paused by postgres"));
    session.run("INSERT INTO events SELECT g, 'while it is paused' FROM generate_series(1, 100) g");
    session.run(&format!("SELECT repart_resume({id})"));
    session.wait_done(id);
    assert_eq!(session.number("SELECT count(*) FROM events"), 1_100);
    assert_eq!(session.bounds("events"), [500]);
    assert_nothing_left(&mut session);
}
