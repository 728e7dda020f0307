//! Targets that keep a source's table: only the rows that leave it or arrive in it are moved, and nothing else
//! about it changes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 60_000;
const BOUNDS: [i64; 2] = [20_000, 40_000];

/// What must be as before of a table that is kept, apart from its bound.
const DEFINITION: &str = "
SELECT pg_catalog.concat_ws('|', 'table', c.oid, relfilenode, relname, relowner, relacl::text, reloptions::text, relreplident,
           relchecks, relispartition) AS line
  FROM pg_class c WHERE oid = $1::text::regclass
UNION ALL
SELECT concat_ws('|', 'index', indexrelid, indexrelid::regclass, pg_get_indexdef(indexrelid), indisvalid,
           (SELECT inhparent::regclass FROM pg_inherits WHERE inhrelid = indexrelid), i.relispartition)
  FROM pg_index JOIN pg_class i ON i.oid = indexrelid WHERE indrelid = $1::text::regclass
UNION ALL
SELECT concat_ws('|', 'constraint', conname, pg_get_constraintdef(k.oid), convalidated, conislocal, coninhcount,
           (SELECT conname FROM pg_constraint p WHERE p.oid = k.conparentid))
  FROM pg_constraint k WHERE conrelid = $1::text::regclass
UNION ALL
SELECT concat_ws('|', 'trigger', CASE WHEN tgisinternal THEN tgfoid::regproc::text ELSE tgname END, tgenabled, tgtype, tgparentid <> 0)
  FROM pg_trigger WHERE tgrelid = $1::text::regclass
UNION ALL
SELECT concat_ws('|', 'column', attnum, attname, atttypid, attnotnull, attislocal, attinhcount)
  FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0
ORDER BY 1";

/// A table of three shards with a foreign key, a trigger and an index of its own on a shard. Its rows are few but
/// their pages many, so that sparing their copy is worth it.
fn create_orders(session: &mut Session, bounds: &[i64]) {
    session.create_sharded_table("orders", bounds, KEYS);
    session.run(
        "CREATE SCHEMA other;
         CREATE TABLE other.customers (id bigint PRIMARY KEY);
         INSERT INTO other.customers VALUES (1);
         CREATE TABLE other.fired (op text);
         ALTER TABLE orders ADD COLUMN customer bigint NOT NULL DEFAULT 1 REFERENCES other.customers;
         CREATE INDEX orders_counter ON orders (counter);
         CREATE INDEX own_index ON orders2 (payload);
         CREATE FUNCTION other.note() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN INSERT INTO other.fired VALUES (TG_OP); RETURN NULL; END';
         CREATE TRIGGER noted AFTER INSERT OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION other.note()",
    );
    for shard in 1..=bounds.len() + 1 {
        session.run(&format!("ALTER TABLE orders{shard} SET (fillfactor = 10)"));
        session.run(&format!("VACUUM (FULL, ANALYZE) orders{shard}"));
    }
}

fn definition(session: &mut Session, shard: &str) -> Vec<String> {
    let rows = session.query(DEFINITION, &[&shard]);
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(lines.len() > 8, "{lines:?}");
    lines
}

fn names(session: &mut Session) -> Vec<String> {
    let shards = session.shards("orders");
    shards.into_iter().map(|shard| shard.name).collect()
}

fn targets(session: &mut Session, id: i64) -> Vec<String> {
    session.query(
        "SELECT targets FROM repart.migrations WHERE id = $1",
        &[&id],
    )[0]
    .get(0)
}

/// Bytes that a migration wrote, and pages of the shards that it replaced.
fn bytes_done(session: &mut Session, id: i64) -> i64 {
    session.query(
        "SELECT bytes_done FROM repart.migrations WHERE id = $1",
        &[&id],
    )[0]
    .get(0)
}

/// Migrates under load, with the given shards kept as they are, and checks everything but the new bounds.
/// Returns the bytes written.
fn migrate_keeping(session: &mut Session, call: &str, kept: &[&str]) -> i64 {
    let before: Vec<_> = kept
        .iter()
        .map(|shard| definition(session, shard))
        .collect();
    let workload = Workload::start(session.cluster(), "postgres", Options::new("orders", KEYS));
    let id = session.queue(call);
    session.wait_done(id);
    workload.proceed(200);
    workload.stop().assert_clean();
    let targets = targets(session, id);
    let in_place = targets
        .iter()
        .filter(|target| target.ends_with(" (in place)"))
        .count();
    assert_eq!(in_place, kept.len(), "{targets:?}");
    let log = session.cluster().log();
    for (shard, before) in kept.iter().zip(before) {
        assert_eq!(definition(session, shard), before);
        let proven = format!(
            "partition constraint for table \"{shard}\" is implied by existing constraints"
        );
        assert!(log.contains(&proven), "ATTACH scanned {shard}");
    }
    let told = session.number(&format!(
        "SELECT count(*) FROM repart.events WHERE migration = {id} AND message LIKE 'migration % keeps \"{}%\" in place: %'",
        kept[0]
    ));
    assert!(told >= 1 || kept.len() > 1, "no event says what is kept");
    assert_nothing_left(session);
    assert_sound(session, "orders");
    bytes_done(session, id)
}

fn cluster() -> Cluster {
    Cluster::with_repart(&["log_min_messages = debug1"])
}

#[test]
fn carving_one_percent_out_of_a_shard_under_load_copies_one_percent() {
    let cluster = cluster();
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &BOUNDS);
    let size = session.number("SELECT pg_relation_size('orders2')");
    let bytes = migrate_keeping(
        &mut session,
        "repart_split('orders2', '39800')",
        &["orders2"],
    );
    assert_eq!(session.bounds("orders"), [20_000, 39_800, 40_000]);
    assert!(bytes > 0 && bytes * 50 < size, "{bytes} of {size} bytes");
    let (deleted, seconds): (i64, f64) = {
        let row = &session.query(
            "SELECT rows_deleted, delete_seconds FROM repart.outcome_log",
            &[],
        )[0];
        (row.get(0), row.get(1))
    };
    assert!(
        deleted > 50 && seconds > 0.0,
        "{deleted} rows in {seconds} s"
    );
}

#[test]
fn a_split_under_load_keeps_its_largest_part() {
    let cluster = cluster();
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &BOUNDS);
    let size = session.number("SELECT pg_relation_size('orders2')");
    let bytes = migrate_keeping(
        &mut session,
        "repart_split('orders2', '25000', '25200')",
        &["orders2"],
    );
    assert_eq!(session.bounds("orders"), [20_000, 25_000, 25_200, 40_000]);
    assert_eq!(session.shards("orders")[3].name, "orders2");
    assert!(bytes * 2 < size * 3, "{bytes} of {size} bytes");
}

#[test]
fn a_small_shift_under_load_keeps_both_shards_and_copies_nothing() {
    let cluster = cluster();
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &BOUNDS);
    // Shards that exchange rows must be alike.
    session.run("DROP INDEX own_index");
    let size = session.number("SELECT pg_relation_size('orders2')");
    let bytes = migrate_keeping(
        &mut session,
        "repart_shift('orders1', 'orders2', '19800')",
        &["orders1", "orders2"],
    );
    assert_eq!(session.bounds("orders"), [19_800, 40_000]);
    assert_eq!(names(&mut session), ["orders1", "orders2", "orders3"]);
    assert!(bytes > 0 && bytes * 50 < size, "{bytes} of {size} bytes");
}

#[test]
fn a_merge_under_load_keeps_the_large_shard_and_takes_the_tiny_one_in() {
    let cluster = cluster();
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &[20_000, 20_300, 40_000]);
    session.run("DROP INDEX own_index");
    let bytes = migrate_keeping(
        &mut session,
        "repart_merge('orders2', 'orders3')",
        &["orders3"],
    );
    assert_eq!(session.bounds("orders"), [20_000, 40_000]);
    assert_eq!(names(&mut session), ["orders1", "orders3", "orders4"]);
    assert!(bytes > 0 && bytes < 1_000_000, "{bytes} bytes");
}

/// Rows are added at the upper end all the time, and the new boundary is just above.
#[test]
fn the_last_shard_is_kept_while_rows_are_appended_to_it() {
    let cluster = cluster();
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &BOUNDS);
    let before = session.number("SELECT count(*) FROM orders");
    let stop = Arc::new(AtomicBool::new(false));
    let appender = {
        let (stop, mut client) = (Arc::clone(&stop), cluster.connect("postgres"));
        std::thread::spawn(move || {
            let mut next = KEYS;
            while !stop.load(Ordering::Relaxed) {
                let sql = "INSERT INTO orders (id, payload, counter) VALUES ($1, 'appended', 0)";
                client.execute(sql, &[&next]).unwrap();
                next += 1;
            }
            next - KEYS
        })
    };
    let old = session.number("SELECT 'orders3'::regclass::oid::bigint");
    let id = session.queue("repart_split('orders3', '60300')");
    session.wait_done(id);
    session.wait_until(
        "SELECT max(id) > 60400 FROM orders",
        repart_tests::wait::LONG,
    );
    stop.store(true, Ordering::Relaxed);
    let appended = appender.join().unwrap();
    assert_eq!(
        session.number("SELECT count(*) FROM orders"),
        before + appended
    );
    assert_eq!(
        session.number("SELECT 'orders3'::regclass::oid::bigint"),
        old
    );
    assert_eq!(session.bounds("orders"), [20_000, 40_000, 60_300]);
    session.run("DROP TRIGGER noted ON orders");
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// The pause is a promise: what has grown until the cutover is rebuilt.
#[test]
fn a_range_that_grew_too_large_for_the_pause_is_rebuilt_after_all() {
    let cluster = cluster();
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &BOUNDS);
    let old = session.number("SELECT 'orders3'::regclass::oid::bigint");
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders3', '90000')");
    session.wait_held("cutting_over");
    assert_eq!(
        targets(&mut session, id),
        ["40000 .. 90000 (in place)", "90000 .. MAXVALUE"]
    );
    // So many on both sides that neither can leave in time.
    session.run("INSERT INTO orders SELECT n, 'grown', 0 FROM generate_series(60000, 139999) n");
    let rows = session.number("SELECT count(*) FROM orders");
    session.release();
    session.wait_done(id);
    assert_eq!(
        targets(&mut session, id),
        ["40000 .. 90000", "90000 .. MAXVALUE"]
    );
    let told = session.texts(&format!(
        "SELECT message FROM repart.events WHERE migration = {id} AND severity = 'warning'"
    ));
    assert!(
        told.len() == 1 && told[0].contains("longer than repart.max_pause = 50 ms"),
        "{told:?}"
    );
    assert_eq!(session.bounds("orders"), [20_000, 40_000, 90_000]);
    assert_eq!(session.number("SELECT count(*) FROM orders"), rows);
    assert_eq!(
        session.number(&format!("SELECT count(*) FROM pg_class WHERE oid = {old}")),
        0
    );
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// The crash comes when the migration has gone back to its beginning, with the first attempt's tables, triggers and
/// log still there.
#[test]
fn recovers_from_a_mover_killed_after_a_range_outgrew_the_pause() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &BOUNDS);
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders3', '70000')");
    session.wait_held("cutting_over");
    session.run("INSERT INTO orders SELECT n, 'grown', 0 FROM generate_series(60000, 119999) n");
    let rows = session.number("SELECT count(*) FROM orders");
    session.hold_at("preparing");
    let mover = session.wait_held("preparing");
    cluster.kill9(mover);
    session.reopen();
    session.release();
    let migration = session.wait_ended(id);
    assert_eq!(migration.state, "done", "{migration:?}");
    assert_eq!(session.bounds("orders"), [20_000, 40_000, 70_000]);
    assert_eq!(session.number("SELECT count(*) FROM orders"), rows);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// Everything is done but the commit: rows deleted, inserted, bounds changed.
#[test]
fn recovers_from_a_mover_killed_just_before_a_cutover_in_place_commits() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &BOUNDS);
    // Shards that exchange rows must be alike.
    session.run("DROP INDEX own_index");
    let before = [
        definition(&mut session, "orders1"),
        definition(&mut session, "orders2"),
    ];
    let options = Options::new("orders", KEYS).with_crashes();
    let workload = Workload::start(&cluster, "postgres", options);
    session.hold_at("switched");
    let id = session.queue("repart_shift('orders1', 'orders2', '19800')");
    let mover = session.wait_held("switched");
    cluster.kill9(mover);
    session.reopen();
    session.release();
    let migration = session.wait_ended(id);
    workload.proceed(200);
    let report = workload.stop();
    assert!(report.disconnects > 0, "the clients did not notice a crash");
    report.assert_clean();
    assert_eq!(migration.state, "done", "{migration:?}");
    assert_eq!(session.bounds("orders"), [19_800, 40_000]);
    assert_eq!(definition(&mut session, "orders1"), before[0]);
    assert_eq!(definition(&mut session, "orders2"), before[1]);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// What is moved is no change: neither a user's trigger nor a foreign key sees it, so that even rows whose
/// reference is broken can be moved, as they can be copied.
#[test]
fn no_trigger_fires_for_rows_that_are_moved() {
    let cluster = cluster();
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &BOUNDS);
    // Shards that exchange rows must be alike.
    session.run("DROP INDEX own_index");
    session.run("SET session_replication_role = replica; DELETE FROM other.customers; RESET session_replication_role");
    let id = session.queue("repart_shift('orders1', 'orders2', '19800')");
    session.wait_done(id);
    assert_eq!(targets(&mut session, id)[0], "MINVALUE .. 19800 (in place)");
    assert_eq!(session.number("SELECT count(*) FROM other.fired"), 0);
    session.run("DELETE FROM orders WHERE id = 19900 OR id = 1");
    assert_eq!(session.number("SELECT count(*) FROM other.fired"), 2);
}

#[test]
fn a_shard_whose_rows_cannot_be_moved_unnoticed_is_rebuilt() {
    for obstacle in [
        "ALTER TABLE orders1 ENABLE ALWAYS TRIGGER noted",
        "ALTER TABLE orders1 FORCE ROW LEVEL SECURITY",
        "ALTER TABLE orders1 ADD UNIQUE (id, counter) DEFERRABLE",
        "CREATE UNIQUE INDEX ON orders1 (payload)",
        "ALTER SYSTEM SET repart.max_pause = 10; SELECT pg_reload_conf()",
    ] {
        let cluster = cluster();
        let mut session = Session::open(&cluster, "postgres");
        create_orders(&mut session, &BOUNDS);
        for statement in obstacle.split("; ") {
            session.run(statement);
        }
        let rows = session.number("SELECT count(*) FROM orders");
        let id = session.queue("repart_split('orders1', '19800')");
        session.wait_done(id);
        assert_eq!(
            targets(&mut session, id),
            ["MINVALUE .. 19800", "19800 .. 20000"],
            "{obstacle}"
        );
        assert_eq!(
            session.number("SELECT count(*) FROM orders"),
            rows,
            "{obstacle}"
        );
    }
}

/// Narrow ranges are read in key order: rows whose key moves on between two batches must not be doubled.
#[test]
fn a_narrow_range_is_read_through_the_index_and_nothing_is_doubled() {
    // The smallest batches there are, and a pause that no table can be kept in.
    let cluster = Cluster::with_repart(&["repart.max_pause = 10", "repart.batch_duration = 10"]);
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &BOUNDS);
    let workload = Workload::start(&cluster, "postgres", Options::new("orders", KEYS));
    // The clients change keys all over the table; these move up within the narrow range.
    session.hold_at("copying");
    let id = session.queue("repart_split('orders2', '37000')");
    session.wait_held("copying");
    workload.proceed(300);
    session.release();
    session.wait_done(id);
    let plan = session.texts(&format!(
        "SELECT jsonb_path_query_array(position, '$.parts[*].by_index')::text FROM repart.journal WHERE id = {id}"
    ));
    assert_eq!(plan, ["[true, false]"]);
    workload.proceed(200);
    workload.stop().assert_clean();
    assert_eq!(session.bounds("orders"), [20_000, 37_000, 40_000]);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

/// A merge of two shards has rows of both in one table: a TRUNCATE of one must not cost the other's.
#[test]
fn truncating_one_source_of_a_merge_before_its_cutover_keeps_the_rows_of_the_other() {
    for point in ["copying", "catching_up", "cutting_over"] {
        let cluster = Cluster::with_repart(&[]);
        let mut session = Session::open(&cluster, "postgres");
        session.create_sharded_table("orders", &BOUNDS, KEYS);
        let rows = session.number("SELECT count(*) FROM orders WHERE id >= 20000");
        session.hold_at(point);
        let id = session.queue("repart_merge('orders1', 'orders2')");
        session.wait_held(point);
        session.run("TRUNCATE orders1; INSERT INTO orders VALUES (7, 'new', 0)");
        session.release();
        session.wait_done(id);
        assert_eq!(
            session.number("SELECT count(*) FROM orders"),
            rows + 1,
            "{point}"
        );
        assert_nothing_left(&mut session);
    }
}

/// The log of changes has the collations of the keys; with others, PostgreSQL would not know how to compare.
#[test]
fn text_keys_of_any_collation_are_captured_and_kept() {
    let cluster = cluster();
    let mut session = Session::open(&cluster, "postgres");
    let mut collations = vec!["\"C\"", "\"default\""];
    let icu = session.number("SELECT count(*) FROM pg_collation WHERE collprovider = 'i'");
    if icu > 0 {
        session.run("CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)");
        collations.push("blind");
    } else {
        println!("no ICU: nondeterministic collations are not tested");
    }
    for (n, collation) in collations.iter().enumerate() {
        let table = format!("notes_{n}_");
        session.run(&format!(
            "CREATE TABLE {table} (k text COLLATE {collation} PRIMARY KEY, v text) PARTITION BY RANGE (k);
             CREATE TABLE {table}1 PARTITION OF {table} FOR VALUES FROM (MINVALUE) TO ('m');
             CREATE TABLE {table}2 PARTITION OF {table} FOR VALUES FROM ('m') TO (MAXVALUE);
             ALTER TABLE {table}1 SET (fillfactor = 10);
             INSERT INTO {table} SELECT 'k@' || lpad(n::text, 8, '0'), 'first' FROM generate_series(1, 10000) n;
             SELECT repart_manage('{table}')"
        ));
        session.run(&format!("ANALYZE {table}1"));
        for (call, in_place) in [
            (format!("repart_split('{table}1', 'k@00009900')"), true),
            (format!("repart_split('{table}2', 'p@')"), false),
        ] {
            session.hold_at("copying");
            let id = session.queue(&call);
            session.wait_held("copying");
            session.run(&format!(
                "UPDATE {table} SET v = 'second' WHERE k > 'k@00009000';
                 UPDATE {table} SET k = 'K@00009950' WHERE k = 'k@00009950';
                 DELETE FROM {table} WHERE k > 'k@00009990';
                 INSERT INTO {table} SELECT 'q@' || n, 'second' FROM generate_series(1, 10) n ON CONFLICT DO NOTHING"
            ));
            let checksum = format!(
                "SELECT md5(string_agg(r::text, ' ' ORDER BY r::text COLLATE \"C\")) FROM {table} r"
            );
            let expected = session.texts(&checksum);
            session.release();
            session.wait_done(id);
            assert_eq!(session.texts(&checksum), expected, "{collation}: {call}");
            let kept = targets(&mut session, id)
                .iter()
                .any(|target| target.contains("(in place)"));
            assert_eq!(kept, in_place, "{collation}: {call}");
        }
    }
    assert_nothing_left(&mut session);
}

/// Keys of rows are not in the order of the shard key here, so that a row which moves up is copied twice with
/// one key: PostgreSQL would refuse the unique index, were such rows not taken out before.
#[test]
fn a_row_that_moves_up_while_its_range_is_read_in_key_order_is_there_once() {
    let cluster = Cluster::with_repart(&["repart.max_copy_rate = 50"]);
    let mut session = Session::open(&cluster, "postgres");
    session.run(
        "CREATE TABLE events (id bigint NOT NULL, at bigint NOT NULL, note text) PARTITION BY RANGE (at);
         CREATE TABLE events1 PARTITION OF events FOR VALUES FROM (MINVALUE) TO (50000);
         CREATE TABLE events2 PARTITION OF events FOR VALUES FROM (50000) TO (MAXVALUE);
         ALTER TABLE events1 ADD PRIMARY KEY (id);
         ALTER TABLE events2 ADD PRIMARY KEY (id);
         CREATE INDEX ON events (at);
         INSERT INTO events SELECT 100000 - n, n, 'event ' || n FROM generate_series(1, 40000) n;
         ANALYZE events;
         SELECT repart_manage('events', 'at')",
    );
    let id = session.queue("repart_split('events1', '35000')");
    let copying = format!(
        "SELECT position ->> 'key' IS NOT NULL AND position ->> 'part' = '0' FROM repart.journal WHERE id = {id}"
    );
    session.wait_until(&copying, repart_tests::wait::LONG);
    // From keys that were copied to keys that were not yet.
    session.run("UPDATE events SET at = at + 14000 WHERE at BETWEEN 35000 AND 35200");
    let still = session.query(&copying, &[])[0].get::<_, bool>(0);
    assert!(still, "the copy was too fast for this test");
    session.set("repart.max_copy_rate", "0");
    session.wait_done(id);
    let count = "SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || sum(at) FROM events";
    assert_eq!(
        session.texts(count),
        [format!(
            "40000 40000 {}",
            40_000 * 40_001 / 2 + 201 * 14_000
        )]
    );
    let healed = format!(
        "SELECT count(*) FROM repart.events WHERE migration = {id} AND severity = 'warning'"
    );
    assert_eq!(session.number(&healed), 0);
    assert_nothing_left(&mut session);
}

/// The last look before the switch: as many rows must leave the kept table as the new one has.
#[test]
fn a_cutover_that_would_lose_a_row_is_rolled_back() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    create_orders(&mut session, &BOUNDS);
    let rows = session.number("SELECT count(*) FROM orders");
    let before = definition(&mut session, "orders2");
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders2', '39800')");
    session.wait_held("cutting_over");
    session.run(&format!("DELETE FROM repart.t_{id}_2 WHERE id = 39901"));
    session.release();
    assert_eq!(session.wait(id), "failed");
    let error = session.migration(id).error.unwrap();
    assert!(
        error.contains("133 rows of table \"orders\" left their shard, but 132 are in the new one"),
        "{error}"
    );
    assert_eq!(session.bounds("orders"), BOUNDS);
    assert_eq!(session.number("SELECT count(*) FROM orders"), rows);
    assert_eq!(definition(&mut session, "orders2"), before);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}
