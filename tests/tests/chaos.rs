//! One migration after another under load, each interrupted by a crash at an arbitrary moment. Where the tests
//! in `crash.rs` stop a mover at known points, this one meets the moments between them.
//!
//! REPART_CHAOS_ROUNDS sets how many; a long run is worth more than the default.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::thread::sleep;
use std::time::Duration;

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::repart::Session;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 40_000;

fn rounds() -> u64 {
    std::env::var("REPART_CHAOS_ROUNDS").map_or(8, |rounds| rounds.parse().unwrap())
}

/// Splits, shifts and merges in turn; what is there decides with which shards and bounds.
fn next_call(session: &mut Session, round: u64) -> String {
    let shards = session.shards("orders");
    let lower = &shards[0].name;
    match round % 3 {
        0 => format!("repart_split('{lower}', '{}')", 5_000 + 100 * round),
        1 => format!(
            "repart_shift('{lower}', '{}', '{}')",
            shards[1].name,
            9_000 + 100 * round
        ),
        _ => format!("repart_merge('{lower}', '{}')", shards[1].name),
    }
}

#[test]
fn crashes_at_any_moment_lose_nothing() {
    let cluster = Cluster::with_repart(&["repart.batch_duration = '10ms'"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[20_000], KEYS);
    let options = Options::new("orders", KEYS).with_crashes();
    let workload = Workload::start(&cluster, "postgres", options);
    let mut ended = Vec::new();
    for round in 0..rounds() {
        let call = next_call(&mut session, round);
        let id = session.queue(&call);
        // Moments spread over the whole of a migration, which takes some hundred milliseconds.
        sleep(Duration::from_millis(round * 97 % 700));
        match session.workers("mover").first() {
            Some(_) if round % 4 == 3 => cluster.restart(Shutdown::Immediate),
            Some(&mover) => cluster.kill9(mover),
            None => {}
        }
        session.reopen();
        let migration = session.wait_ended(id);
        ended.push(format!("{call}: {}", migration.state));
        assert_nothing_left(&mut session);
        assert_sound(&mut session, "orders");
        workload.proceed(100);
    }
    println!("{ended:#?}");
    workload.stop().assert_clean();
}
