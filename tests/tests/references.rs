//! Foreign keys that reference a sharded table, while clients write to both sides: no row is ever orphaned, at no
//! crash, and in the end the constraints are there, valid, and enforced on every shard.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};
use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_for, wait_until};

const KEYS: i64 = 4_000;

/// Orders, cut at 2000; items that reference them, and invoices that follow them.
fn tables(cluster: &Cluster) -> Session<'_> {
    let mut session = Session::open(cluster, "postgres");
    session.create_sharded_table("orders", &[2_000], KEYS);
    session.run(
        "CREATE SCHEMA shop;
         CREATE TABLE shop.item (order_id bigint NOT NULL CONSTRAINT of_order REFERENCES orders, n bigint);
         CREATE INDEX ON shop.item (order_id);
         CREATE TABLE shop.invoice (order_id bigint CONSTRAINT for_order REFERENCES orders ON DELETE CASCADE
             DEFERRABLE INITIALLY DEFERRED);
         CREATE INDEX ON shop.invoice (order_id);
         CREATE TABLE shop.parcel (order_id bigint CONSTRAINT of_parcel REFERENCES orders) PARTITION BY RANGE (order_id);
         CREATE TABLE shop.parcel1 PARTITION OF shop.parcel FOR VALUES FROM (MINVALUE) TO (1000);
         CREATE TABLE shop.parcel2 PARTITION OF shop.parcel DEFAULT;
         CREATE INDEX ON shop.parcel (order_id);
         ALTER TABLE orders ADD COLUMN up bigint CONSTRAINT own REFERENCES orders ON DELETE SET NULL;
         INSERT INTO shop.item SELECT id, 0 FROM orders WHERE id % 5 = 0",
    );
    session
}

/// Clients that do whatever may orphan a row where a constraint is not enforced for a moment.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let threads = (0..4)
            .map(|client| {
                let config = cluster.config("postgres");
                let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
                std::thread::spawn(move || work(&config, client, &stop, &done))
            })
            .collect();
        let load = Self {
            stop,
            done,
            threads,
        };
        load.proceed(50);
        load
    }

    fn proceed(&self, operations: u64) {
        let goal = self.done.load(Ordering::Relaxed) + operations;
        wait_until("clients to go on", LONG, || {
            self.done.load(Ordering::Relaxed) >= goal
        });
    }

    /// Errors that are neither violations nor a lost connection.
    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    }
}

/// One client: the even ones insert what references a key, the odd ones delete and insert that key.
fn work(config: &Config, client: u64, stop: &AtomicBool, done: &AtomicU64) -> Vec<String> {
    let mut errors = Vec::new();
    let mut session: Option<Client> = None;
    let mut random = client.wrapping_mul(7919) + 17;
    while !stop.load(Ordering::Relaxed) {
        let Some(client_now) = session.as_mut() else {
            session = config.connect(NoTls).ok();
            continue;
        };
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // Few keys, so that both sides meet.
        let key = i64::try_from((random >> 33) % 40).unwrap() * 100;
        let sql = match (client % 2, (random >> 50) % 4) {
            (0, 0) => format!("DELETE FROM shop.item WHERE order_id = {key}"),
            (0, 1) if (random >> 40).is_multiple_of(2) => {
                format!("INSERT INTO shop.invoice VALUES ({key})")
            }
            (0, 1) => format!("INSERT INTO shop.parcel VALUES ({key})"),
            (0, 2) if (random >> 40).is_multiple_of(2) => {
                format!("DELETE FROM shop.parcel WHERE order_id = {key}")
            }
            (0, _) => format!("INSERT INTO shop.item VALUES ({key}, 1)"),
            (_, 0) => {
                format!("INSERT INTO orders VALUES ({key}, 'again', 0) ON CONFLICT DO NOTHING")
            }
            (_, 1) => format!("UPDATE orders SET up = {} WHERE id = {key}", 3_900 - key),
            _ => format!("DELETE FROM orders WHERE id = {key}"),
        };
        match client_now.batch_execute(&sql) {
            Ok(()) => {}
            Err(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => {}
            Err(error) if is_deadlock_of_rows(&error) => {}
            Err(error) if client_now.is_closed() || is_shutdown(&error) => session = None,
            Err(error) => errors.push(format!("{sql}: {error:?}")),
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    errors
}

/// Two clients that delete rows which reference each other deadlock without repart too: each waits for the other's
/// transaction. One in which repart has a part is about the lock of a relation.
fn is_deadlock_of_rows(error: &postgres::Error) -> bool {
    let detail = error.as_db_error().and_then(|error| error.detail());
    error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED)
        && detail.is_some_and(|detail| !detail.contains("relation"))
}

fn is_shutdown(error: &postgres::Error) -> bool {
    [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
    ]
    .iter()
    .any(|state| error.code() == Some(state))
}

/// No orphan, both constraints valid, and two enabled triggers of each on every shard.
fn assert_enforced(session: &mut Session) {
    for table in ["item", "invoice", "parcel"] {
        let orphans = session.number(&format!(
            "SELECT count(*) FROM shop.{table} x WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = x.order_id)"
        ));
        assert_eq!(orphans, 0, "orphans in {table}");
    }
    let orphans = session.number(
        "SELECT count(*) FROM orders x WHERE up IS NOT NULL AND NOT EXISTS (SELECT FROM orders o WHERE o.id = x.up)",
    );
    assert_eq!(orphans, 0, "orphans in orders");
    let definitions = session.texts(
        "SELECT conname || ': ' || pg_get_constraintdef(oid) FROM pg_constraint
          WHERE confrelid = 'orders'::regclass AND contype = 'f' AND conparentid = 0 AND convalidated ORDER BY 1",
    );
    assert_eq!(
        definitions,
        [
            "for_order: FOREIGN KEY (order_id) REFERENCES orders(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
            "of_order: FOREIGN KEY (order_id) REFERENCES orders(id)",
            "of_parcel: FOREIGN KEY (order_id) REFERENCES orders(id)",
            "own: FOREIGN KEY (up) REFERENCES orders(id) ON DELETE SET NULL"
        ]
    );
    let bare = session.texts(
        "SELECT s.inhrelid::regclass || ' ' || k.conname FROM pg_inherits s, pg_constraint k
          WHERE s.inhparent = 'orders'::regclass AND k.confrelid = 'orders'::regclass AND k.contype = 'f' AND k.conparentid = 0
            AND 2 <> (SELECT count(*) FROM pg_constraint c JOIN pg_trigger t ON t.tgconstraint = c.oid
                       WHERE c.conparentid = k.oid AND c.confrelid = s.inhrelid AND t.tgrelid = s.inhrelid AND t.tgenabled = 'O')",
    );
    assert!(bare.is_empty(), "shards without triggers: {bare:?}");
    for shard in session.shards("orders") {
        let key: i64 = session.number(&format!("SELECT min(id) FROM {}", shard.name));
        session.run(&format!("INSERT INTO shop.item VALUES ({key}, 2)"));
        let deleted = session
            .client()
            .batch_execute(&format!("DELETE FROM orders WHERE id = {key}"));
        let error = deleted.expect_err("a referenced row was deleted");
        assert_eq!(error.code(), Some(&SqlState::FOREIGN_KEY_VIOLATION));
    }
}

#[test]
fn references_hold_through_migrations_under_load() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = tables(&cluster);
    let load = Load::start(&cluster);
    for call in [
        "repart_split('orders1', '500', '1000')",
        "repart_merge(VARIADIC (SELECT array_agg(shard) FROM repart.shards
                                 WHERE relation = 'orders'::regclass AND key_to <> 'MAXVALUE'))",
        "repart_shift((SELECT shard FROM repart.shards WHERE relation = 'orders'::regclass AND key_from = 'MINVALUE'),
                      'orders2', '3000')",
    ] {
        let id = session.queue(call);
        session.wait_done(id);
        load.proceed(100);
    }
    assert_eq!(load.stop(), Vec::<String>::new());
    assert_eq!(session.bounds("orders"), [3_000]);
    assert_enforced(&mut session);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// Kills the mover at a point, under load.
fn crash_at(point: &str) {
    let cluster = Cluster::with_repart(&[]);
    let mut session = tables(&cluster);
    let load = Load::start(&cluster);
    session.hold_at(point);
    let id = session.queue("repart_split('orders1', '1000')");
    let mover = session.wait_held(point);
    if point == "cleaning" {
        load.proceed(200);
    }
    cluster.kill9(mover);
    session.reopen();
    session.release();
    let migration = session.wait_ended(id);
    assert_eq!(migration.state, "done", "{migration:?}");
    load.proceed(100);
    assert_eq!(load.stop(), Vec::<String>::new());
    assert_eq!(session.bounds("orders"), [1_000, 2_000]);
    assert_enforced(&mut session);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

#[test]
fn references_survive_a_mover_killed_just_before_the_cutover_commits() {
    crash_at("switched");
}

#[test]
fn references_survive_a_mover_killed_after_the_cutover() {
    crash_at("cleaning");
}

/// Triggers of a deferred constraint that wait for the end of a transaction are of the constraint as it was.
#[test]
fn the_switch_waits_for_a_transaction_with_deferred_checks() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = tables(&cluster);
    session.hold_at("verifying");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("verifying");
    let mut deferred = cluster.connect("postgres");
    deferred
        .batch_execute("BEGIN; INSERT INTO shop.invoice VALUES (1500000)")
        .unwrap();
    session.release();
    session.wait_until(
        "SELECT state = 'cutting_over' AND reason LIKE '%waits for process%' FROM repart.migrations",
        LONG,
    );
    // Nobody queues behind the switch meanwhile.
    session.run("SET lock_timeout = '2s'; INSERT INTO shop.item SELECT 1, 1 FROM generate_series(1, 10); RESET lock_timeout");
    deferred
        .batch_execute("INSERT INTO orders VALUES (1500000, 'in time', 0); COMMIT")
        .unwrap();
    session.wait_done(id);
    assert_enforced(&mut session);
    assert_nothing_left(&mut session);
}

/// A foreign key that somebody adds while rows are copied is found by the switch.
#[test]
fn a_reference_added_during_a_migration_is_kept() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = tables(&cluster);
    session.run("ALTER TABLE shop.item DROP CONSTRAINT of_order");
    session.hold_at("verifying");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("verifying");
    session.run(
        "ALTER TABLE shop.item ADD CONSTRAINT of_order FOREIGN KEY (order_id) REFERENCES orders",
    );
    session.release();
    session.wait_done(id);
    assert_enforced(&mut session);
    assert_nothing_left(&mut session);
}

/// Without the proof, ATTACH would read the whole DEFAULT partition while everybody waits.
#[test]
fn a_default_partition_with_rows_is_not_scanned_by_the_switch() {
    let cluster = Cluster::with_repart(&["log_min_messages = debug1"]);
    let mut session = Session::open(&cluster, "postgres");
    session.run(
        "CREATE TABLE orders (id bigint PRIMARY KEY, payload text, counter bigint) PARTITION BY RANGE (id);
         CREATE TABLE orders1 PARTITION OF orders FOR VALUES FROM (0) TO (2000);
         CREATE TABLE others PARTITION OF orders DEFAULT;
         INSERT INTO orders SELECT g, 'loaded', 0 FROM generate_series(0, 2999) g;
         SELECT repart_manage('orders')",
    );
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders1', '500', '1000')");
    session.wait_held("cutting_over");
    // Rows of the DEFAULT partition come and go all the time.
    session.run(
        "INSERT INTO orders SELECT g, 'meanwhile', 0 FROM generate_series(3000, 3999) g;
         DELETE FROM orders WHERE id BETWEEN 2000 AND 2099",
    );
    session.release();
    session.wait_done(id);
    let log = cluster.log();
    let spared = log
        .matches("updated partition constraint for default partition \"others\" is implied by existing constraints")
        .count();
    assert_eq!(
        spared, 3,
        "attached shards for which the DEFAULT partition was not scanned"
    );
    assert_eq!(session.number("SELECT count(*) FROM orders"), 3_900);
    assert_eq!(session.number("SELECT count(*) FROM ONLY others"), 1_900);
    let proofs =
        wait_for("the proof to be dropped", LONG, || {
            Some(session.texts(
                "SELECT conname::text FROM pg_constraint WHERE conname LIKE 'repart_default%'",
            ))
        });
    assert!(proofs.is_empty(), "{proofs:?}");
}

/// A VACUUM of a large table takes hours: the switch must not wait for it, nor anybody for the switch.
#[test]
fn an_autovacuum_gives_way_to_the_switch() {
    let cluster = Cluster::with_repart(&["autovacuum_naptime = 1s"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[2_000], KEYS);
    // So slow that it would not end before the test does.
    session.run(
        "ALTER TABLE orders1 SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
                                  autovacuum_vacuum_threshold = 10, autovacuum_vacuum_scale_factor = 0)",
    );
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("cutting_over");
    session.run("UPDATE orders SET counter = counter + 1 WHERE id < 2000");
    session.wait_until(
        "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid = 'orders1'::regclass)",
        LONG,
    );
    session.release();
    session.wait_done(id);
    assert!(cluster.log().contains("canceling autovacuum task"));
    assert_nothing_left(&mut session);
}
