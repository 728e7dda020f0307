//! Old shards that are kept after a switch: they follow, survive crashes, and go when they are of no use.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::control::{expire, names, revert, rows_copied};
use repart_tests::repart::Session;
use repart_tests::wait::LONG;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

/// PostgreSQL must take the old bound as proven: a scan under the cutover's lock would take its time.
#[test]
fn a_kept_shard_is_attached_without_a_scan() {
    let cluster =
        Cluster::with_repart(&["repart.retain_source = '1h'", "log_min_messages = debug1"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[2_000, 4_000], KEYS);
    let id = session.queue("repart_split('orders2', '3000')");
    session.wait_done(id);
    revert(&mut session, id);
    // Two shards of the split, and the old one, whatever their names are at that moment.
    let log = cluster.log();
    let count = |what: &str| log.matches(what).count();
    assert_eq!(count("is implied by existing constraints"), 3);
    assert_eq!(count("DEBUG:  verifying table"), 0);
    // What is checked from now on is the bound that the shard has in the table.
    assert_eq!(session.number("SELECT count(*) FROM pg_constraint WHERE conname = 'repart_bound' AND conrelid = 'orders2'::regclass"), 0);
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

#[test]
fn an_old_shard_whose_name_is_taken_comes_back_under_another() {
    let cluster = Cluster::with_repart(&["repart.retain_source = '1h'"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    let id = session.queue("repart_split('orders2', '4000')");
    session.wait_done(id);
    session.run("CREATE VIEW orders2 AS SELECT 1");
    let back = revert(&mut session, id);
    assert_eq!(rows_copied(&mut session, back), 0);
    assert_eq!(session.bounds("orders"), [3_000]);
    assert_ne!(session.shards("orders")[1].name, "orders2");
    expire(&mut session);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// A bulk load that disables triggers disables capture too: what it wrote must not be missing later.
#[test]
fn old_shards_go_when_capture_was_disabled_for_a_moment() {
    gives_up_when(
        &[],
        |session| {
            let shard = names(session, "orders")[1].clone();
            session.run(&format!(
                "ALTER TABLE {shard} DISABLE TRIGGER ALL;
                 UPDATE {shard} SET counter = 7;
                 ALTER TABLE {shard} ENABLE TRIGGER ALL"
            ));
        },
        "disabled",
    );
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

/// What follows the older ones is silenced then, and dropped once nobody uses the shard any more.
#[test]
fn old_shards_are_kept_where_those_before_them_could_not_be_dropped_as_a_whole() {
    let cluster = Cluster::with_repart(&["repart.retain_source = '1h'"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    let first = session.queue("repart_split('orders1', '1000')");
    session.wait_done(first);
    let mut open = cluster.connect("postgres");
    open.batch_execute("BEGIN; SELECT count(*) FROM orders")
        .unwrap();
    session.hold_at("copying");
    let lowest = names(&mut session, "orders")[0].clone();
    let second = session.queue(&format!("repart_split('{lowest}', '500')"));
    session.wait_held("copying");
    let capturing =
        "SELECT count(DISTINCT tgfoid) FROM pg_trigger WHERE tgname LIKE 'repart\\_capture\\_%'";
    assert_eq!(session.number(capturing), 2);
    open.batch_execute("COMMIT").unwrap();
    session.release();
    session.wait_done(second);
    let back = revert(&mut session, second);
    assert_eq!(rows_copied(&mut session, back), 0);
    expire(&mut session);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
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
