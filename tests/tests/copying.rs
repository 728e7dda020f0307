//! What a copy costs others: several movers at a time, a limited rate, short transactions, and new shards that
//! are as good to read as the old ones from their first second.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::time::Instant;

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::wait::LONG;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 12_000;

/// A table of one shard that is `megabytes` large, in rows of some 1 kB.
fn large_table(session: &mut Session, megabytes: i64) {
    session.run(&format!(
        "CREATE TABLE large (id bigint PRIMARY KEY, filling text) PARTITION BY RANGE (id);
         ALTER TABLE large ALTER filling SET STORAGE PLAIN;
         CREATE TABLE large1 PARTITION OF large FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         INSERT INTO large SELECT n, repeat('x', 980) FROM generate_series(1, {megabytes} * 1024) n;
         SELECT repart_manage('large')"
    ));
}

#[test]
fn movers_at_work_on_different_shards_of_one_table_at_the_same_time_lose_nothing() {
    let cluster = Cluster::with_repart(&["repart.max_movers = 3", "max_worker_processes = 16"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[4_000, 8_000], KEYS);
    let workload = Workload::start(&cluster, "postgres", Options::new("orders", KEYS));
    // All three are held in the middle, so that they certainly run at the same time.
    session.hold_at("catching_up");
    let migrations: Vec<i64> = ["orders1', '2000", "orders2', '6000", "orders3', '10000"]
        .iter()
        .map(|split| session.queue(&format!("repart_split('{split}')")))
        .collect();
    session.wait_until(
        "SELECT count(*) = 3 FROM repart.migrations WHERE reason = 'held at catching_up'",
        LONG,
    );
    assert_eq!(session.workers("mover").len(), 3);
    workload.proceed(200);
    session.release();
    for migration in migrations {
        session.wait_done(migration);
    }
    workload.proceed(200);
    workload.stop().assert_clean();
    assert_eq!(
        session.bounds("orders"),
        [2_000, 4_000, 6_000, 8_000, 10_000]
    );
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

#[test]
fn no_more_movers_run_than_may() {
    let cluster = Cluster::with_repart(&["repart.max_movers = 2", "max_worker_processes = 16"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[4_000, 8_000], KEYS);
    session.hold_at("copying");
    for split in ["orders1', '2000", "orders2', '6000", "orders3', '10000"] {
        session.queue(&format!("repart_split('{split}')"));
    }
    session.wait_until(
        "SELECT count(*) = 2 FROM repart.migrations WHERE reason = 'held at copying'",
        LONG,
    );
    assert_eq!(session.workers("mover").len(), 2);
    let queued = session.number("SELECT count(*) FROM repart.migrations WHERE state = 'queued'");
    assert_eq!(queued, 1);
    session.release();
    session.wait_until(
        "SELECT count(*) = 3 FROM repart.migrations WHERE state = 'done'",
        LONG,
    );
    assert_nothing_left(&mut session);
}

/// VACUUM comes before the switch: an index-only scan of a new shard need not look at a single row.
#[test]
fn index_only_scans_work_at_once_on_new_shards() {
    // Autovacuum must not do what is to be proven.
    let cluster = Cluster::with_repart(&["autovacuum = off"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[4_000], KEYS);
    session.queue("repart_split('orders2', '8000')");
    // Not with repart_wait: its own snapshot would be older than the rows, which VACUUM has to respect.
    session.wait_until("SELECT state = 'done' FROM repart.migrations", LONG);
    let plan = session.texts(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT count(id) FROM orders WHERE id BETWEEN 8000 AND 8100",
    );
    let plan = plan.join("\n");
    assert!(
        plan.contains("Index Only Scan") && plan.contains("Heap Fetches: 0"),
        "{plan}"
    );
    let analysed = session.number(
        "SELECT count(*) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
         WHERE i.inhparent = 'orders'::regclass AND c.relname <> 'orders1'
           AND c.reltuples > 0 AND c.relallvisible = c.relpages
           AND EXISTS (SELECT FROM pg_statistic WHERE starelid = c.oid)",
    );
    assert_eq!(
        analysed, 2,
        "new shards with statistics and all pages visible"
    );
}

/// A lower bound of the time, so that a slow machine cannot make it fail.
#[test]
fn a_copy_keeps_to_its_rate() {
    // Too short a pause for any row to be kept in place.
    let settings = ["repart.max_copy_rate = '8MB'", "repart.max_pause = '10ms'"];
    let cluster = Cluster::with_repart(&settings);
    let mut session = Session::open(&cluster, "postgres");
    large_table(&mut session, 16);
    let begun = Instant::now();
    let id = session.queue("repart_split('large1', '8000')");
    session.wait_done(id);
    let seconds = begun.elapsed().as_secs_f64();
    // The last batch is not waited for.
    assert!(seconds > 1.0, "16 MB at 8 MB/s took only {seconds} s");
    let copied = session.number("SELECT bytes_done FROM repart.migrations");
    assert!(copied >= 16 << 20, "{copied} bytes copied");
    assert_nothing_left(&mut session);
}

/// Batches shrink to `repart.batch_duration`: each commits, so that the number of versions of the journal's row
/// counts them.
#[test]
fn a_copy_goes_in_many_short_transactions() {
    let cluster = Cluster::with_repart(&[
        "repart.batch_duration = '10ms'",
        "repart.max_pause = '10ms'",
        "autovacuum = off",
    ]);
    let mut session = Session::open(&cluster, "postgres");
    large_table(&mut session, 32);
    session.hold_at("catching_up");
    session.queue("repart_split('large1', '16000')");
    session.wait_held("catching_up");
    let updates = session.number(
        "SELECT pg_current_xact_id()::text::int8 - min(xmin::text::int8)
         FROM pg_class WHERE relname ~ '^t_[0-9]+_1$'",
    );
    // 32 MB in batches of at most 2 MB, which take longer than 10 ms together with the index, on any machine.
    assert!(updates >= 8, "{updates} transactions for 32 MB");
    session.release();
    session.wait_until("SELECT state = 'done' FROM repart.migrations", LONG);
}

/// Which share of the looks at a mover that copies, while clients want the processors, finds it resting.
fn resting(headroom: &str) -> f64 {
    let cluster = Cluster::with_repart(&[headroom, "repart.batch_duration = 20ms"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[], KEYS);
    large_table(&mut session, 80);
    let workload = Workload::start(&cluster, "postgres", Options::new("orders", KEYS));
    let id = session.queue("repart_split('large1', '40000')");
    let (mut looks, mut rests) = (0.0, 0.0);
    let look = "SELECT m.state, coalesce(a.wait_event = 'Extension', false)
                  FROM repart.migrations m
                  LEFT JOIN pg_stat_activity a ON a.backend_type LIKE 'repart mover%' WHERE m.id = $1";
    loop {
        let row = &session.query(look, &[&id])[0];
        match row.get::<_, &str>(0) {
            "queued" | "preparing" => {}
            "copying" => {
                looks += 1.0;
                rests += f64::from(u8::from(row.get::<_, bool>(1)));
            }
            _ => break,
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    session.set("repart.headroom", "1");
    session.wait_done(id);
    workload.stop().assert_clean();
    assert!(looks >= 10.0, "{looks} looks at the copy");
    rests / looks
}

#[test]
fn a_copy_gives_way_to_others_who_want_the_processors() {
    let rests = resting("repart.headroom = 0");
    assert!(rests > 0.4, "rested {rests} of the time");
}

#[test]
fn a_copy_that_need_not_give_way_never_rests() {
    let rests = resting("repart.headroom = 1");
    assert!(rests.abs() < 1e-9, "rested {rests} of the time");
}
