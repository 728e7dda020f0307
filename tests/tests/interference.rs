//! What users may do to a table while it is being migrated: hold transactions open, truncate it, change its
//! definition, drop it. The migration waits, follows or gives up; it never gets in their way.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_core::state::State;
use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

/// A session with the table orders, cut at 3000.
fn table(cluster: &Cluster) -> Session<'_> {
    let mut session = Session::open(cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session
}

#[test]
fn clients_do_not_queue_behind_a_cutover_that_waits_for_a_long_transaction() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    let workload = Workload::start(&cluster, "postgres", Options::new("orders", KEYS));
    session.hold_at("catching_up");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("catching_up");
    let mut idle = cluster.connect("postgres");
    idle.batch_execute("BEGIN; SELECT count(*) FROM orders")
        .unwrap();
    session.release();
    session.wait_until(
        "SELECT state = 'cutting_over' AND reason LIKE '%waits for%' FROM repart.migrations",
        LONG,
    );
    // Many times as many operations as fit into the time that one of them may queue.
    workload.proceed(3_000);
    assert_eq!(session.migration(id).state, "cutting_over");
    idle.batch_execute("COMMIT").unwrap();
    session.wait_done(id);
    workload.stop().assert_clean();
    assert_eq!(session.bounds("orders"), [1_000, 3_000]);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// Change capture cannot see what was written before it began: the migration must wait for the writer.
#[test]
fn a_row_written_before_the_migration_and_committed_during_it_is_not_lost() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    let mut writer = cluster.connect("postgres");
    writer
        .batch_execute("BEGIN; INSERT INTO orders VALUES (0, 'early', 1)")
        .unwrap();
    let mut two_phase = cluster.connect("postgres");
    two_phase
        .batch_execute(
            "BEGIN; UPDATE orders SET payload = 'early' WHERE id = 1; PREPARE TRANSACTION 'early'",
        )
        .unwrap();
    let id = session.queue("repart_split('orders1', '1000')");
    let state: String = session.query("SELECT repart_wait($1, '1 s')", &[&id])[0].get(0);
    assert!(!["done", "failed"].contains(&state.as_str()), "{state}");
    writer.batch_execute("COMMIT").unwrap();
    let state: String = session.query("SELECT repart_wait($1, '1 s')", &[&id])[0].get(0);
    assert!(!["done", "failed"].contains(&state.as_str()), "{state}");
    two_phase.batch_execute("COMMIT PREPARED 'early'").unwrap();
    session.wait_done(id);
    let early = session.number("SELECT count(*) FROM orders WHERE payload = 'early'");
    assert_eq!(early, 2);
    assert_nothing_left(&mut session);
}

/// Truncates the table while a mover is held at a point.
fn truncate_at(point: &str) {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    session.hold_at(point);
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held(point);
    session.run("TRUNCATE orders; INSERT INTO orders VALUES (500, 'afterwards', 1), (1500, 'afterwards', 2)");
    session.release();
    let migration = session.wait_ended(id);
    assert_eq!(
        session.number("SELECT count(*) FROM orders"),
        2,
        "{migration:?}"
    );
    assert_eq!(
        session.number("SELECT count(*) FROM orders WHERE payload = 'afterwards'"),
        2
    );
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

#[test]
fn rows_truncated_while_copying_do_not_come_back() {
    truncate_at("copying");
}

#[test]
fn rows_truncated_while_catching_up_do_not_come_back() {
    truncate_at("catching_up");
}

#[test]
fn rows_truncated_before_the_cutover_do_not_come_back() {
    truncate_at("cutting_over");
}

/// Changes the definition of the table while a mover is held at a point.
fn alter_at(point: &str) {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    session.hold_at(point);
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held(point);
    session.run(
        "SET lock_timeout = '10s'; ALTER TABLE orders ADD COLUMN extra text DEFAULT 'set';
         CREATE INDEX orders_extra ON orders (extra)",
    );
    session.release();
    let migration = session.wait_ended(id);
    let rows = session.number("SELECT count(*) FROM orders");
    assert_eq!(
        session.number("SELECT count(*) FROM orders WHERE extra = 'set'"),
        rows,
        "{migration:?}"
    );
    session.run("INSERT INTO orders VALUES (0, 'afterwards', 0, 'as well')");
    let without_index = session.number(
        "SELECT count(*) FROM pg_inherits i WHERE i.inhparent = 'orders'::regclass AND NOT EXISTS (
             SELECT FROM pg_index x JOIN pg_inherits xi ON xi.inhrelid = x.indexrelid
             WHERE x.indrelid = i.inhrelid AND xi.inhparent = 'orders_extra'::regclass AND x.indisvalid)",
    );
    assert_eq!(
        without_index, 0,
        "shards without the new index; {migration:?}"
    );
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

#[test]
fn a_column_and_an_index_added_while_copying_are_in_every_shard() {
    alter_at("copying");
}

#[test]
fn a_column_and_an_index_added_before_the_cutover_are_in_every_shard() {
    alter_at("cutting_over");
}

#[test]
fn dropping_the_table_ends_its_migration_and_nothing_else() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    session.create_sharded_table("others", &[3_000], KEYS);
    let observer = session.wait_worker("observer");
    session.hold_at("copying");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("copying");
    session.run("SET lock_timeout = '10s'; DROP TABLE orders");
    session.release();
    let migration = session.wait_ended(id);
    assert_ne!(migration.state, "done", "{migration:?}");
    assert_nothing_left(&mut session);
    let other = session.queue("repart_split('others1', '1000')");
    session.wait_done(other);
    assert_eq!(session.wait_worker("observer"), observer);
    assert_nothing_left(&mut session);
}

/// States in which a mover can be held before the switch.
fn states() -> Vec<State> {
    State::all()
        .filter(|state| state.is_before_switch() && !state.is_final())
        .collect()
}

/// A database with a table whose migration is held in a state.
fn held<'a>(cluster: &'a Cluster, database: &str, state: State) -> Session<'a> {
    let mut session = Session::open(cluster, "postgres");
    session.run(&format!("CREATE DATABASE {database}"));
    session.hold_at(state.as_str());
    let mut session = Session::open(cluster, database);
    session.run("CREATE EXTENSION repart");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.queue("repart_split('orders1', '1000')");
    session.wait_until("SELECT reason LIKE 'held at%' FROM repart.migrations", LONG);
    session
}

#[test]
fn dropping_the_extension_in_any_state_leaves_plain_tables() {
    // An observer stays in each of the databases.
    let cluster = Cluster::with_repart(&["max_worker_processes = 24"]);
    for state in states() {
        let mut session = held(&cluster, &format!("dropped_{state}"), state);
        let rows = session.number("SELECT count(*) FROM orders");
        session.run("SET lock_timeout = '5s'");
        session.run("DROP EXTENSION repart CASCADE");
        session.run("UPDATE orders SET counter = 1 WHERE id = 1; DELETE FROM orders WHERE id = 2");
        session.release();
        wait_until("the mover to end", LONG, || {
            session.workers("mover").is_empty()
        });
        assert_eq!(session.number("SELECT count(*) FROM orders"), rows - 1);
        for left in [
            "SELECT nspname::text FROM pg_namespace WHERE nspname = 'repart'",
            "SELECT tgname::text FROM pg_trigger WHERE tgname LIKE 'repart%'",
            "SELECT conname::text FROM pg_constraint WHERE conname LIKE 'repart%'",
        ] {
            assert_eq!(session.texts(left), Vec::<String>::new(), "{state}");
        }
        // And again, from nothing.
        session.run("CREATE EXTENSION repart; SELECT repart_manage('orders')");
        let id = session.queue("repart_split('orders1', '1000')");
        session.wait_done(id);
        assert_nothing_left(&mut session);
    }
}

#[test]
fn dropping_the_database_by_force_in_any_state_ends_its_mover() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    for state in states() {
        let database = format!("dropped_{state}");
        drop(held(&cluster, &database, state));
        session.run(&format!("DROP DATABASE {database} WITH (FORCE)"));
        session.wait_until(
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'repart mover'",
            LONG,
        );
    }
    session.release();
    session.create_sharded_table("orders", &[3_000], KEYS);
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_done(id);
    assert_nothing_left(&mut session);
}

/// The boundaries of a migration are literals of the key's type, whose words may be exchanged.
#[test]
fn renaming_a_value_of_an_enum_key_in_any_state_loses_nothing() {
    let cluster = Cluster::with_repart(&[]);
    for state in states() {
        let mut session = Session::open(&cluster, "postgres");
        session.hold_at(state.as_str());
        session.run(
            "CREATE TYPE size AS ENUM ('small', 'middle', 'large', 'huge');
             CREATE TABLE orders (size size, id int, PRIMARY KEY (size, id)) PARTITION BY RANGE (size);
             CREATE TABLE orders1 PARTITION OF orders FOR VALUES FROM (MINVALUE) TO ('huge');
             CREATE TABLE orders2 PARTITION OF orders FOR VALUES FROM ('huge') TO (MAXVALUE);
             INSERT INTO orders SELECT s, n FROM unnest(enum_range(NULL::size)) s, generate_series(1, 100) n;
             SELECT repart_manage('orders')",
        );
        let id = session.queue("repart_split('orders1', 'middle')");
        let held = format!("SELECT reason LIKE 'held at%' FROM repart.migrations WHERE id = {id}");
        session.wait_until(&held, LONG);
        session.run("SET lock_timeout = '5s'");
        session.run("ALTER TYPE size RENAME VALUE 'middle' TO 'medium'");
        session.run("ALTER TYPE size ADD VALUE 'medium large' AFTER 'medium'");
        session
            .run("INSERT INTO orders VALUES ('medium large', 1); DELETE FROM orders WHERE id = 50");
        session.release();
        let migration = session.wait_ended(id);
        println!("{state}: {migration:?}");
        assert_eq!(session.number("SELECT count(*) FROM orders"), 4 * 99 + 1);
        assert_eq!(
            session.number("SELECT count(*) FROM orders WHERE size = 'medium'"),
            99
        );
        assert_nothing_left(&mut session);
        session.run("DROP TABLE orders; DROP TYPE size");
    }
}

/// The trigger of change capture and the guard must not be in the way of a plain dump.
#[test]
fn a_table_can_be_read_as_a_whole_by_a_long_transaction_during_a_migration() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = table(&cluster);
    let rows = session.number("SELECT count(*) FROM orders");
    let mut dump = cluster.connect("postgres");
    dump.batch_execute(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE orders, orders1, orders2 IN ACCESS SHARE MODE",
    )
    .unwrap();
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_until("SELECT state = 'cutting_over' FROM repart.migrations", LONG);
    let read: i64 = dump
        .query_one("SELECT count(*) FROM orders", &[])
        .unwrap()
        .get(0);
    assert_eq!(read, rows);
    dump.batch_execute("COMMIT").unwrap();
    session.wait_done(id);
    assert_nothing_left(&mut session);
}
