//! The crash matrix, one test per row (see `repart_tests::matrix`), and every forced end: without a human, the
//! journal leads to exactly the old or the new shards, with all rows once and nothing left behind.
//!
//! The servers run with fsync off: what is tested is what survives the death of processes, for which what they
//! wrote to the operating system is enough. What survives a power cut is PostgreSQL's own promise, and repart
//! adds no file and no format of its own to it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_core::state::State;

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::matrix::observed::{self, edges_of_table};
use repart_tests::matrix::scenario::is_forced_end;
use repart_tests::matrix::{Failure, run_row};
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};
use repart_tests::workload::{Options, Workload};

macro_rules! rows {
    ($($name:ident: $failure:ident),* $(,)?) => {
        const ROWS: &[Failure] = &[$(Failure::$failure),*];

        $(#[test]
        fn $name() {
            run_row(Failure::$failure);
        })*
    };
}

rows! {
    recovers_from_killed_movers_in_every_state: MoverKilled,
    recovers_from_a_killed_observer_in_every_state: ObserverKilled,
    recovers_from_a_killed_launcher_in_every_state: LauncherKilled,
    recovers_from_a_killed_client_in_every_state: ClientKilled,
    recovers_from_a_killed_postmaster_in_every_state: PostmasterKilled,
    recovers_from_an_immediate_shutdown_in_every_state: ImmediateShutdown,
    recovers_from_a_fast_shutdown_in_every_state: FastShutdown,
    goes_on_after_workers_were_terminated_in_every_state: WorkersTerminated,
    goes_on_after_a_client_was_terminated_in_every_state: ClientTerminated,
    ends_cleanly_when_the_disk_is_full_in_every_state: FullDisk,
}

#[test]
fn the_matrix_has_a_row_for_every_failure() {
    for failure in Failure::ALL {
        assert!(ROWS.contains(&failure), "no row for {failure:?}");
    }
}

const KEYS: i64 = 3_000;
const OLD: [i64; 1] = [2_000];
const NEW: [i64; 2] = [1_000, 2_000];

/// Makes each transition to `end` from where the table of transitions says that it exists, under load, and
/// checks that the old shards are as if nothing had been.
fn force_every_end(end: State, force: impl Fn(&mut Session, i64, i32)) {
    let cluster = Cluster::with_repart(&["max_worker_processes = 80", "repart.max_movers = 64"]);
    let mut session = Session::open(&cluster, "postgres");
    observed::watch(&mut session);
    let edges = edges_of_table();
    let ends = edges
        .into_iter()
        .filter(|edge| is_forced_end(edge) && edge.1 == end);
    for edge in ends {
        let from = edge.0.as_str();
        let table = format!("t_{from}_");
        session.create_sharded_table(&table, &OLD, KEYS);
        let workload = Workload::start(&cluster, "postgres", Options::new(&table, KEYS));
        let shards = session.shards(&table);
        session.hold_at(from);
        let id = session.queue(&format!("repart_split('{table}1', '1000')"));
        let mover = session.wait_held(from);
        workload.proceed(50);
        force(&mut session, id, mover);
        session.release();
        let migration = session.wait_ended(id);
        assert_eq!(migration.state, end.as_str(), "{migration:?}");
        assert!(
            observed::edges(&mut session, id).contains(&edge),
            "{from} → {end}"
        );
        assert_nothing_left(&mut session);
        assert_eq!(session.shards(&table), shards);
        workload.proceed(50);
        workload.stop().assert_clean();
        assert_sound(&mut session, &table);
        let again = session.queue(&format!("repart_split('{table}1', '1000')"));
        session.wait_done(again);
    }
}

#[test]
fn a_cancelled_migration_leaves_nothing_in_any_state() {
    force_every_end(State::Cancelled, |session, id, _| {
        session.query("SELECT repart_cancel($1)", &[&id]);
    });
}

/// What makes no progress is given up: here as if ten movers had died in the same state.
#[test]
fn a_migration_that_is_given_up_leaves_nothing_in_any_state() {
    force_every_end(State::Failed, |session, id, mover| {
        session.query(
            "UPDATE repart.journal SET attempts = 10 WHERE id = $1",
            &[&id],
        );
        session.query("SELECT pg_terminate_backend($1)", &[&mover]);
        wait_until(
            "another mover",
            LONG,
            || matches!(session.workers("mover")[..], [another] if another != mover),
        );
    });
}

/// Nothing but the end of the mover itself tells the observer that another one is needed: it must not wait for
/// its next sample.
#[test]
fn another_mover_takes_over_at_once_from_one_that_ended() {
    let cluster = Cluster::with_repart(&["repart.sample_interval = '1h'"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &OLD, KEYS);
    session.hold_at("copying");
    let id = session.queue("repart_split('orders1', '1000')");
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

/// A mover that copies batch after batch waits for nothing, and so would not notice that the postmaster is gone;
/// until it ends, no other can start.
#[test]
fn a_busy_mover_does_not_outlive_its_postmaster() {
    // Too short a pause for any row to be kept in place.
    let settings = [
        "repart.batch_duration = '10ms'",
        "repart.max_pause = '10ms'",
    ];
    let cluster = Cluster::with_repart(&settings);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[390_000], 400_000);
    session.hold_at("copying#2");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("copying");
    let copied = "SELECT rows_done FROM repart.journal";
    let before = session.number(copied);
    session.release();
    wait_until("another batch", LONG, || session.number(copied) > before);
    // For the next server only: this one is not told.
    session.run("ALTER SYSTEM SET repart.hold_at = 'copying, catching_up'");
    cluster.kill_postmaster_and_start();
    session.reopen();
    let state = session.migration(id).state;
    let left = session.number("SELECT bytes_total - bytes_done FROM repart.journal");
    assert!(
        state == "copying" && left > 0,
        "the mover went on without postmaster: {state}, {left} bytes left"
    );
    session.release();
    session.wait_done(id);
    assert_nothing_left(&mut session);
}
