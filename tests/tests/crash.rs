//! kill -9 of the mover at every point of a migration, and crashes of the whole server: without a human, the
//! journal leads to exactly the old or the new shards, with all rows once and nothing left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 8_000;
const OLD: [i64; 1] = [4_000];
const NEW: [i64; 2] = [2_000, 4_000];

/// What comes over the server while a mover is held.
#[derive(Clone, Copy)]
enum Crash {
    /// SIGKILL of the mover: the postmaster ends all sessions and recovers.
    KilledMover,
    /// `pg_ctl stop -m immediate` and a new start.
    ImmediateShutdown,
}

/// Whether clients can work while a mover is held there; within the cutover they wait for it.
fn clients_work_at(point: &str) -> bool {
    point != "switched"
}

/// Splits a shard under load, lets the crash happen while the mover is held at the point, and checks what
/// comes of it.
fn crash_at(point: &str, crash: Crash) {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &OLD, KEYS);
    let workload = Workload::start(
        &cluster,
        "postgres",
        Options::new("orders", KEYS).with_crashes(),
    );

    session.hold_at(point);
    let id = session.queue("repart_split('orders1', '2000')");
    let mover = session.wait_held(point);
    // Nobody but the mover sees what its cutover is about to commit.
    if point != "switched" {
        let reason = session.migration(id).reason;
        assert_eq!(reason, Some(format!("held at {point}")));
    }
    if clients_work_at(point) {
        workload.proceed(50);
    }
    match crash {
        Crash::KilledMover => cluster.kill9(mover),
        Crash::ImmediateShutdown => cluster.restart(Shutdown::Immediate),
    }
    session.reopen();
    session.release();

    let migration = session.wait_ended(id);
    workload.proceed(200);
    let report = workload.stop();
    assert!(report.disconnects > 0, "the clients did not notice a crash");
    report.assert_clean();
    let bounds = session.bounds("orders");
    if migration.state == "done" {
        assert_eq!(bounds, NEW, "{migration:?}");
    } else {
        assert_eq!(bounds, OLD, "{migration:?}");
        assert_ne!(
            point, "cleaning",
            "a cutover that was committed cannot fail: {migration:?}"
        );
    }
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");

    // What recovered must work.
    let merge = session.queue("repart_merge(VARIADIC (SELECT array_agg(shard) FROM repart.shards WHERE relation = 'orders'::regclass))");
    session.wait_done(merge);
    assert!(session.bounds("orders").is_empty());
    assert_nothing_left(&mut session);
}

#[test]
fn recovers_from_a_mover_killed_while_preparing() {
    crash_at("preparing", Crash::KilledMover);
}

#[test]
fn recovers_from_a_mover_killed_while_copying() {
    crash_at("copying", Crash::KilledMover);
}

#[test]
fn recovers_from_a_mover_killed_while_catching_up() {
    crash_at("catching_up", Crash::KilledMover);
}

#[test]
fn recovers_from_a_mover_killed_while_verifying() {
    crash_at("verifying", Crash::KilledMover);
}

#[test]
fn recovers_from_a_mover_killed_before_the_cutover() {
    crash_at("cutting_over", Crash::KilledMover);
}

#[test]
fn recovers_from_a_mover_killed_just_before_the_cutover_commits() {
    crash_at("switched", Crash::KilledMover);
}

#[test]
fn recovers_from_a_mover_killed_while_cleaning() {
    crash_at("cleaning", Crash::KilledMover);
}

#[test]
fn recovers_from_an_immediate_shutdown_while_copying() {
    crash_at("copying", Crash::ImmediateShutdown);
}

#[test]
fn recovers_from_an_immediate_shutdown_just_before_the_cutover_commits() {
    crash_at("switched", Crash::ImmediateShutdown);
}

/// A mover that is told to end, by an administrator or a shutdown, is no reason to give up either.
#[test]
fn recovers_from_a_mover_terminated_while_copying() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &OLD, KEYS);
    let workload = Workload::start(&cluster, "postgres", Options::new("orders", KEYS));
    session.hold_at("copying");
    let id = session.queue("repart_split('orders1', '2000')");
    let mover = session.wait_held("copying");
    session.query("SELECT pg_terminate_backend($1)", &[&mover]);
    session.release();
    let migration = session.wait_ended(id);
    assert_eq!(migration.state, "done", "{migration:?}");
    workload.stop().assert_clean();
    assert_eq!(session.bounds("orders"), NEW);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// Nothing but the end of the mover itself tells the observer that another one is needed: it must not wait for
/// its next sample.
#[test]
fn another_mover_takes_over_at_once_from_one_that_ended() {
    let cluster = Cluster::with_repart(&["repart.sample_interval = '1h'"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &OLD, KEYS);
    session.hold_at("copying");
    let id = session.queue("repart_split('orders1', '2000')");
    let mover = session.wait_held("copying");
    session.query("SELECT pg_terminate_backend($1)", &[&mover]);
    wait_until(
        "another mover",
        LONG / 2,
        || matches!(session.workers("mover")[..], [another] if another != mover),
    );
    session.release();
    session.wait_done(id);
    assert_eq!(session.bounds("orders"), NEW);
    assert_nothing_left(&mut session);
}

/// A planned restart in the middle of a migration, with clients that connect again.
#[test]
fn goes_on_after_a_fast_restart_while_catching_up() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &OLD, KEYS);
    let workload = Workload::start(
        &cluster,
        "postgres",
        Options::new("orders", KEYS).with_crashes(),
    );
    session.hold_at("catching_up");
    let id = session.queue("repart_split('orders1', '2000')");
    session.wait_held("catching_up");
    cluster.restart(Shutdown::Fast);
    session.reopen();
    session.release();
    let migration = session.wait_ended(id);
    assert_eq!(migration.state, "done", "{migration:?}");
    workload.stop().assert_clean();
    assert_eq!(session.bounds("orders"), NEW);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}
