//! Taking migrations back.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::time::Duration;

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::control::{expire, names, revert, rows_copied};
use repart_tests::repart::Session;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

/// A table of three shards cut at 2000 and 4000, and clients on it.
fn scene(cluster: &Cluster) -> (Session<'_>, Workload) {
    let mut session = Session::open(cluster, "postgres");
    session.create_sharded_table("orders", &[2_000, 4_000], KEYS);
    let workload = Workload::start(cluster, "postgres", Options::new("orders", KEYS));
    (session, workload)
}

/// What to migrate, and the shards that it makes of orders1, orders2, orders3.
const KINDS: [(&str, &[i64]); 3] = [
    (
        "repart_split('orders2', '2500', '3000')",
        &[2_000, 2_500, 3_000, 4_000],
    ),
    ("repart_merge('orders1', 'orders2')", &[4_000]),
    (
        "repart_shift('orders1', 'orders2', '1500')",
        &[1_500, 4_000],
    ),
];

/// Every kind of migration there and back, and there and back again, under load.
fn there_and_back(settings: &[&str], copies: bool) {
    let cluster = Cluster::with_repart(settings);
    let (mut session, workload) = scene(&cluster);
    for (call, bounds) in KINDS {
        let id = session.queue(call);
        session.wait_done(id);
        assert_eq!(session.bounds("orders"), bounds);
        let made = names(&mut session, "orders");
        workload.proceed(200);
        let back = revert(&mut session, id);
        assert_eq!(session.bounds("orders"), [2_000, 4_000], "{call}");
        assert_eq!(
            names(&mut session, "orders"),
            ["orders1", "orders2", "orders3"]
        );
        assert_copies(&mut session, back, copies, call);
        workload.proceed(100);
        let again = revert(&mut session, back);
        assert_eq!(session.bounds("orders"), bounds, "{call}");
        assert_eq!(names(&mut session, "orders"), made);
        assert_copies(&mut session, again, copies, call);
        revert(&mut session, again);
        assert_eq!(
            names(&mut session, "orders"),
            ["orders1", "orders2", "orders3"]
        );
    }
    workload.stop().assert_clean();
    expire(&mut session);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

fn assert_copies(session: &mut Session, id: i64, copies: bool, call: &str) {
    let rows = rows_copied(session, id);
    let events = session.texts("SELECT message FROM repart.events ORDER BY id");
    assert_eq!(rows > 0, copies, "{call}: {rows} rows: {events:#?}");
}

#[test]
fn every_migration_can_be_taken_back_and_that_too() {
    there_and_back(&[], true);
}

#[test]
fn with_the_old_shards_kept_nothing_is_copied_to_take_a_migration_back() {
    there_and_back(&["repart.retain_source = '1h'"], false);
}

#[test]
fn a_move_is_taken_back_to_where_the_shard_was() {
    for settings in [&[][..], &["repart.retain_source = '1h'"]] {
        let cluster = Cluster::with_repart(settings);
        cluster.create_tablespace("elsewhere");
        let (mut session, workload) = scene(&cluster);
        let id = session.queue("repart_move('orders2', tablespace => 'elsewhere')");
        session.wait_done(id);
        assert_eq!(
            session.shards("orders")[1].tablespace.as_deref(),
            Some("elsewhere")
        );
        let back = revert(&mut session, id);
        assert_eq!(
            session.shards("orders")[1].tablespace.as_deref(),
            Some("pg_default")
        );
        assert_eq!(
            names(&mut session, "orders"),
            ["orders1", "orders2", "orders3"]
        );
        revert(&mut session, back);
        assert_eq!(
            session.shards("orders")[1].tablespace.as_deref(),
            Some("elsewhere")
        );
        let in_catalog = session.number(
            "SELECT count(*) FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace
              WHERE s.spcname = 'elsewhere' AND c.relkind IN ('r', 'i') AND c.relname LIKE 'orders2%'",
        );
        assert_eq!(in_catalog, 2);
        workload.stop().assert_clean();
        expire(&mut session);
        assert_nothing_left(&mut session);
        assert_sound(&mut session, "orders");
    }
}

#[test]
fn a_revert_after_a_change_of_the_definition_copies() {
    let cluster = Cluster::with_repart(&["repart.retain_source = '1h'"]);
    let (mut session, workload) = scene(&cluster);
    let id = session.queue("repart_split('orders2', '3000')");
    session.wait_done(id);
    // Queued before the observer notices the change.
    session.run(&format!(
        "BEGIN; ALTER TABLE orders ADD COLUMN more int DEFAULT 1; SELECT repart_revert({id}); COMMIT"
    ));
    let back = session.number("SELECT max(id) FROM repart.migrations");
    session.wait_done(back);
    assert!(rows_copied(&mut session, back) > 0);
    assert_eq!(
        names(&mut session, "orders"),
        ["orders1", "orders2", "orders3"]
    );
    workload.stop().assert_clean();
    expire(&mut session);
    assert_nothing_left(&mut session);
}

#[test]
fn a_cancelled_revert_leaves_the_new_shards_and_nothing_else() {
    let cluster = Cluster::with_repart(&["repart.retain_source = '1h'"]);
    let (mut session, workload) = scene(&cluster);
    let id = session.queue("repart_split('orders2', '3000')");
    session.wait_done(id);
    session.hold_at("catching_up");
    let back = session.queue(&format!("repart_revert({id})"));
    session.wait_held("catching_up");
    session.run(&format!("SELECT repart_cancel({back})"));
    session.release();
    assert_eq!(session.wait(back), "cancelled");
    assert_eq!(session.bounds("orders"), [2_000, 3_000, 4_000]);
    assert_nothing_left(&mut session);
    // Now the ordinary way.
    session.set("repart.retain_source", "0");
    let copied = revert(&mut session, id);
    assert!(rows_copied(&mut session, copied) > 0);
    assert_eq!(session.bounds("orders"), [2_000, 4_000]);
    workload.stop().assert_clean();
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// A row that the new shards have given up must not be held by a reference from an old one.
#[test]
fn foreign_keys_do_not_bind_old_shards_and_come_back_with_them() {
    let cluster = Cluster::with_repart(&["repart.retain_source = '1h'"]);
    let mut session = Session::open(&cluster, "postgres");
    session.run(
        "CREATE TABLE customers (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE customers1 PARTITION OF customers FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         INSERT INTO customers SELECT generate_series(0, 99);
         CREATE TABLE o (id bigint PRIMARY KEY, customer bigint REFERENCES customers) PARTITION BY RANGE (id);
         CREATE TABLE o1 PARTITION OF o FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         INSERT INTO o SELECT g, g % 100 FROM generate_series(0, 999) g;
         SELECT repart_manage('o')",
    );
    let id = session.queue("repart_split('o1', '500')");
    session.wait_done(id);
    session.run("DELETE FROM o WHERE customer = 7; DELETE FROM customers WHERE id = 7");
    let back = revert(&mut session, id);
    assert_eq!(rows_copied(&mut session, back), 0);
    assert_eq!(session.number("SELECT count(*) FROM o"), 990);
    let dangling = session
        .client()
        .batch_execute("INSERT INTO o VALUES (2000, 7)")
        .unwrap_err();
    assert_eq!(
        dangling.code(),
        Some(&postgres::error::SqlState::FOREIGN_KEY_VIOLATION)
    );
    assert_eq!(
        session.number("SELECT count(*) FROM pg_constraint WHERE conrelid = 'o1'::regclass AND contype = 'f' AND convalidated"),
        1
    );
    expire(&mut session);
    session.wait_until(
        "SELECT count(*) = 0 FROM repart.migrations WHERE retained_until IS NOT NULL",
        Duration::from_secs(30),
    );
    assert_nothing_left(&mut session);
}
