//! Taking migrations back, with and without the old shards being kept for it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::time::Duration;

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::repart::Session;
use repart_tests::wait::LONG;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

fn names(session: &mut Session, table: &str) -> Vec<String> {
    session
        .shards(table)
        .into_iter()
        .map(|shard| shard.name)
        .collect()
}

/// A table of three shards cut at 2000 and 4000, and clients on it.
fn scene(cluster: &Cluster) -> (Session<'_>, Workload) {
    let mut session = Session::open(cluster, "postgres");
    session.create_sharded_table("orders", &[2_000, 4_000], KEYS);
    let workload = Workload::start(cluster, "postgres", Options::new("orders", KEYS));
    (session, workload)
}

/// Reverts a migration and waits for it; returns the number of the reverse.
fn revert(session: &mut Session, id: i64) -> i64 {
    let reverse = session.queue(&format!("repart_revert({id})"));
    session.wait_done(reverse);
    assert_eq!(
        session.query(
            "SELECT reverts FROM repart.migrations WHERE id = $1",
            &[&reverse]
        )[0]
        .get::<_, Option<i64>>(0),
        Some(id)
    );
    reverse
}

fn rows_copied(session: &mut Session, id: i64) -> i64 {
    session.number(&format!(
        "SELECT rows_done FROM repart.migrations WHERE id = {id}"
    ))
}

/// Lets the time for which old shards are kept pass.
fn expire(session: &mut Session) {
    session
        .run("UPDATE repart.journal SET retained_until = now() WHERE retained_until IS NOT NULL");
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
        assert_eq!(rows_copied(&mut session, back) > 0, copies, "{call}");
        workload.proceed(100);
        let again = revert(&mut session, back);
        assert_eq!(session.bounds("orders"), bounds, "{call}");
        assert_eq!(names(&mut session, "orders"), made);
        assert_eq!(rows_copied(&mut session, again) > 0, copies, "{call}");
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

/// The log is applied now and then, so that it stays short however much is written, truncated or changed in key.
#[test]
fn kept_shards_follow_whatever_is_written() {
    let cluster =
        Cluster::with_repart(&["repart.retain_source = '1h'", "repart.max_backlog = 5000"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_done(id);
    let number = session.number(
        "SELECT (retained ->> 'number')::bigint FROM repart.journal WHERE retained IS NOT NULL",
    );
    let applied = format!("SELECT count(*) = 0 FROM repart.log_{number}");
    for _ in 0..4 {
        session.run("UPDATE orders SET counter = counter + 1 WHERE id < 3000");
        session.wait_until(&applied, LONG);
    }
    session.run("TRUNCATE orders");
    session.run("INSERT INTO orders SELECT g, 'new', g FROM generate_series(0, 2999) g");
    session.run("UPDATE orders SET id = -id - 1 WHERE id < 500; DELETE FROM orders WHERE id BETWEEN 900 AND 1100");
    session.run("CREATE TABLE before AS SELECT * FROM orders");
    let back = session.queue(&format!("repart_revert({id})"));
    session.wait_done(back);
    assert_eq!(rows_copied(&mut session, back), 0);
    let difference = "SELECT count(*) FROM ((TABLE before EXCEPT ALL TABLE orders) UNION ALL (TABLE orders EXCEPT ALL TABLE before)) x";
    assert_eq!(session.number(difference), 0);
    session.run("DROP TABLE before");
    assert_eq!(session.shards("orders")[0].name, "orders1");
    expire(&mut session);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// Splits orders2 with the old shard kept, lets something happen, and proves that nothing is kept then and that
/// the table works.
fn gives_up_when(settings: &[&str], happens: impl FnOnce(&mut Session), because: &str) {
    let cluster = Cluster::with_repart(&[&["repart.retain_source = '1h'"], settings].concat());
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[2_000, 4_000], KEYS);
    let id = session.queue("repart_split('orders2', '3000')");
    session.wait_done(id);
    let kept = "SELECT count(*) FROM repart.migrations WHERE retained_until > now()";
    assert_eq!(session.number(kept), 1);
    happens(&mut session);
    session.wait_until(
        &format!("SELECT count(*) = 1 FROM repart.events WHERE migration = {id} AND message LIKE '%not kept any longer%{because}%'"),
        LONG,
    );
    session.set("repart.retain_source", "0");
    assert_nothing_left(&mut session);
    assert_eq!(
        session.number("SELECT count(*) FROM repart.migrations WHERE retained_until IS NOT NULL"),
        0
    );
}

#[test]
fn old_shards_go_when_their_time_is_over() {
    gives_up_when(&["repart.retain_source = '2s'"], |_| {}, "the time");
}

#[test]
fn old_shards_go_when_a_later_migration_takes_their_replacement() {
    gives_up_when(
        &[],
        |session| {
            session.set("repart.retain_source", "0");
            let shards = names(session, "orders");
            let merge = session.queue(&format!("repart_merge('{}', '{}')", shards[0], shards[1]));
            session.wait_done(merge);
            assert_eq!(session.bounds("orders"), [3_000, 4_000]);
        },
        "changes their replacement",
    );
}

#[test]
fn old_shards_go_when_the_definition_changes() {
    gives_up_when(
        &[],
        |session| {
            session.run(
                "ALTER TABLE orders ADD COLUMN more int DEFAULT 1; UPDATE orders SET more = 2",
            );
            assert_eq!(
                session.number("SELECT count(*) FROM orders WHERE more = 2"),
                4_000
            );
        },
        "definition",
    );
}

#[test]
fn old_shards_go_when_their_log_passes_the_limit() {
    gives_up_when(
        &["repart.max_backlog = 1000"],
        |session| session.run("UPDATE orders SET counter = 1"),
        "max_backlog",
    );
}

#[test]
fn old_shards_go_with_their_table() {
    gives_up_when(
        &[],
        |session| session.run("DROP TABLE orders"),
        "was dropped",
    );
}

#[test]
fn old_shards_go_when_the_table_is_not_managed_any_more() {
    gives_up_when(
        &[],
        |session| session.run("SELECT repart_unmanage('orders')"),
        "the time",
    );
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

/// Crashes at every point from the switch on leave the old shards kept and useful, or nothing.
#[test]
fn kept_shards_survive_a_crash_at_any_point() {
    let cluster = Cluster::with_repart(&["repart.retain_source = '1h'"]);
    for (round, point) in [
        "switched",
        "cleaning",
        "",
        "preparing",
        "catching_up",
        "cutting_over",
    ]
    .into_iter()
    .enumerate()
    {
        let mut session = Session::open(&cluster, "postgres");
        let table = format!("o{round}_");
        session.create_sharded_table(&table, &[3_000], KEYS);
        let options = Options::new(&table, KEYS).with_crashes();
        let workload = Workload::start(&cluster, "postgres", options);
        let early = ["switched", "cleaning"].contains(&point);
        if early {
            session.hold_at(point);
        }
        let id = session.queue(&format!("repart_split('{table}1', '1000')"));
        if !early {
            session.wait_done(id);
            session.hold_at(point);
            if !point.is_empty() {
                session.queue(&format!("repart_revert({id})"));
            }
        }
        if !point.is_empty() {
            session.wait_held(point);
        }
        cluster.restart(Shutdown::Immediate);
        session.reopen();
        session.release();
        if early || point.is_empty() {
            session.wait_done(id);
            workload.proceed(200);
            session.queue(&format!("repart_revert({id})"));
        }
        let back = session.number("SELECT max(id) FROM repart.migrations");
        session.wait_done(back);
        assert_eq!(rows_copied(&mut session, back), 0, "{point}");
        assert_eq!(session.bounds(&table), [3_000], "{point}");
        assert_eq!(session.shards(&table)[0].name, format!("{table}1"));
        workload.stop().assert_clean();
        expire(&mut session);
        assert_nothing_left(&mut session);
        assert_sound(&mut session, &table);
    }
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
