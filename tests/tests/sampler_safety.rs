//! The access sampler where it has no room, on standbys, in several databases, and when sessions end badly.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::thread::JoinHandle;
use std::time::Duration;

use postgres::Client;
use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::repart::Session;
use repart_tests::upgrade::offer_next_version;
use repart_tests::wait::{LONG, wait_until};

const KEYS: i64 = 3_000;

const SETTINGS: &[&str] = &[
    "autovacuum = off",
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "repart.sample_rate = 1",
    "repart.mode = 'off'",
];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    SETTINGS.iter().chain(more).copied().collect()
}

/// Statements that read the shard, and rows read.
fn reads(client: &mut Client, shard: &str) -> (i64, i64) {
    let sql = "SELECT statements_read, rows_read FROM repart_access() WHERE shard = to_regclass($1::text)";
    client
        .query(sql, &[&shard])
        .unwrap()
        .first()
        .map_or((0, 0), |row| (row.get(0), row.get(1)))
}

fn read_keys(client: &mut Client, table: &str, keys: std::ops::Range<i64>) {
    let read = client
        .prepare(&format!("SELECT payload FROM {table} WHERE id = $1"))
        .unwrap();
    for key in keys {
        client.query(&read, &[&(key * 3 + 1)]).unwrap();
    }
}

#[test]
fn a_hot_standby_counts_what_is_read_there() {
    let primary = Cluster::with_repart(SETTINGS);
    let mut session = Session::open(&primary, "postgres");
    session.create_sharded_table("orders", &[1_500], KEYS);
    let standby = primary.standby(SETTINGS);
    let mut client = standby.connect("postgres");
    read_keys(&mut client, "orders", 0..300);
    let mut watcher = standby.connect("postgres");
    assert_eq!(reads(&mut watcher, "orders1"), (300, 300));
    assert_eq!(reads(&mut watcher, "orders2"), (0, 0));
    assert_eq!(
        reads(session.client(), "orders2"),
        (0, 0),
        "the primary counts its own"
    );
    let row = watcher
        .query_one(
            "SELECT sum(reads), max(samples) FROM repart.heat WHERE shard = 'orders1'::regclass",
            &[],
        )
        .unwrap();
    assert!(
        row.get::<_, f64>(0) > 0.0 && row.get::<_, i32>(1) > 100,
        "{row:?}"
    );
    let below: f64 = watcher
        .query_one(
            "SELECT sum(reads) FILTER (WHERE key_from = 'MINVALUE' OR key_from::int < 450) / sum(reads)
               FROM repart.heat WHERE shard = 'orders1'::regclass",
            &[],
        )
        .unwrap()
        .get(0);
    assert!(
        (below - 0.5).abs() < 0.12,
        "half of the keys read there are below 450: {below}"
    );

    // A table that is managed later is known within some seconds, though nobody tells the standby.
    client.batch_execute("SELECT 1").unwrap();
    session.create_sharded_table("others", &[1_500], KEYS);
    let end = session.texts("SELECT pg_current_wal_insert_lsn()::text")[0].clone();
    wait_until("the standby to replay", LONG, || {
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        watcher.query_one(&sql, &[]).unwrap().get(0)
    });
    read_keys(&mut client, "others", 0..10);
    assert_eq!(reads(&mut watcher, "others1"), (10, 10));
}

#[test]
fn where_there_is_no_room_shards_are_left_out_and_that_is_counted() {
    let cluster = Cluster::with_repart(&with(&["repart.max_shards = 2"]));
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_000, 2_000], KEYS);
    let mut client = cluster.connect("postgres");
    read_keys(&mut client, "orders", 0..900);
    let mut watcher = cluster.connect("postgres");
    let shards: Vec<(i64, i64)> = ["orders1", "orders2", "orders3"]
        .iter()
        .map(|shard| reads(&mut watcher, shard))
        .collect();
    assert_eq!(
        shards[..2],
        [(333, 333), (334, 334)],
        "the first two have room"
    );
    assert_eq!(shards[2], (0, 0));
    let row = watcher
        .query_one(
            "SELECT shards, max_shards, overflow, memory FROM repart_sampler()",
            &[],
        )
        .unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (2, 2));
    assert!(row.get::<_, i64>(2) >= 233, "{row:?}");
    assert!(row.get::<_, i64>(3) < 1_000_000, "{row:?}");

    // Room that becomes free is used, once nobody has used the old shard for a while.
    session.run("DROP TABLE orders1");
    wait_until("the third shard to get the room of the first", LONG, || {
        read_keys(&mut client, "orders", 700..710);
        reads(&mut watcher, "orders3").0 > 0
    });
}

#[test]
fn databases_do_not_see_each_other() {
    let cluster = Cluster::with_repart(SETTINGS);
    let mut first = Session::open(&cluster, "postgres");
    first.run("CREATE DATABASE other");
    first.create_sharded_table("orders", &[1_500], KEYS);
    let mut second = Session::open(&cluster, "other");
    second.run("CREATE EXTENSION repart");
    second.create_sharded_table("orders", &[1_500], KEYS);
    let (before, after) = (
        reads(first.client(), "orders1"),
        reads(second.client(), "orders1"),
    );
    read_keys(&mut cluster.connect("postgres"), "orders", 0..20);
    read_keys(&mut cluster.connect("other"), "orders", 0..30);
    assert_eq!(reads(first.client(), "orders1").0, before.0 + 20);
    assert_eq!(reads(second.client(), "orders1").0, after.0 + 30);
    assert_eq!(
        second.number("SELECT count(*) FROM repart_access() WHERE shard::text LIKE 'orders%'"),
        1
    );
}

/// A session in the middle of a statement that reads `orders`: its process, and what the statement comes to.
fn start_victim(
    cluster: &Cluster,
    session: &mut Session,
) -> (i32, JoinHandle<Result<(), postgres::Error>>) {
    let mut victim = cluster.connect("postgres");
    let pid: i32 = victim
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let running = std::thread::spawn(move || {
        victim
            .query(
                "SELECT payload, pg_sleep(10) FROM orders WHERE id < 30",
                &[],
            )
            .map(|_| ())
    });
    session.wait_until(
        &format!("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {pid}"),
        LONG,
    );
    (pid, running)
}

#[test]
fn a_session_that_is_killed_within_a_statement_leaves_the_sampler_working() {
    let cluster = Cluster::with_repart(SETTINGS);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_500], KEYS);
    // Ended by the server: nothing is lost.
    let (pid, running) = start_victim(&cluster, &mut session);
    let before = reads(session.client(), "orders1");
    session.run(&format!("SELECT pg_terminate_backend({pid})"));
    assert!(running.join().unwrap().is_err());
    session.wait_until(
        &format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {pid}"),
        LONG,
    );
    let after = reads(session.client(), "orders1");
    assert!(
        after.1 > before.1,
        "what it had read counts: {before:?}, {after:?}"
    );
    read_keys(session.client(), "orders", 0..10);
    assert_eq!(reads(session.client(), "orders1").0, after.0 + 10);

    // Killed: PostgreSQL restarts all processes with new memory.
    let (pid, running) = start_victim(&cluster, &mut session);
    cluster.kill9(pid);
    assert!(running.join().unwrap().is_err());
    session.reopen();
    read_keys(session.client(), "orders", 0..10);
    assert_eq!(reads(session.client(), "orders1"), (10, 10));
}

/// Sessions are killed while they do nothing but go through the hooks, many times.
#[test]
fn sessions_ended_at_any_moment_leave_numbers_that_make_sense() {
    let cluster = Cluster::with_repart(SETTINGS);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_500], KEYS);
    for round in 0..20u64 {
        let mut victim = cluster.connect("postgres");
        let pid: i32 = victim
            .query_one("SELECT pg_backend_pid()", &[])
            .unwrap()
            .get(0);
        let running = std::thread::spawn(move || {
            let read = victim
                .prepare("SELECT payload FROM orders WHERE id = $1")
                .unwrap();
            let mut key = 0;
            while victim.query(&read, &[&(key % 900 * 3 + 1)]).is_ok() {
                key += 1;
            }
        });
        std::thread::sleep(Duration::from_millis(20 + round * 3));
        session.run(&format!("SELECT pg_terminate_backend({pid})"));
        running.join().unwrap();
    }
    let before = reads(session.client(), "orders1");
    read_keys(session.client(), "orders", 0..100);
    let after = reads(session.client(), "orders1");
    assert_eq!((after.0 - before.0, after.1 - before.1), (100, 100));
    let sum: i64 = session.number(
        "SELECT sum(n)::bigint FROM repart_access(), unnest(latency) n WHERE shard = 'orders1'::regclass",
    );
    let statements = session.number(
        "SELECT statements_read + statements_written FROM repart_access() WHERE shard = 'orders1'::regclass",
    );
    assert_eq!(sum, statements, "each statement is in the histogram");
}

#[test]
fn errors_in_statements_and_subtransactions_do_not_disturb_what_follows() {
    let cluster = Cluster::with_repart(SETTINGS);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_500], KEYS);
    let client = session.client();
    client
        .batch_execute(
            "CREATE FUNCTION failing(key bigint) RETURNS int LANGUAGE plpgsql AS $$
             BEGIN PERFORM 1 / (counter - counter) FROM orders WHERE id = key; RETURN 0;
             EXCEPTION WHEN division_by_zero THEN RETURN 1; END $$",
        )
        .unwrap();
    let before = reads(client, "orders1");
    // More failures in one transaction than there is room for open statements.
    client
        .batch_execute("SELECT sum(failing(1)) FROM generate_series(1, 200)")
        .unwrap();
    for _ in 0..100 {
        client
            .batch_execute("SELECT 1 / (counter - counter) FROM orders WHERE id = 1")
            .unwrap_err();
    }
    let between = reads(client, "orders1");
    assert_eq!(
        between.1 - before.1,
        300,
        "what failed statements read counts too"
    );
    read_keys(client, "orders", 0..10);
    let after = reads(client, "orders1");
    assert_eq!((after.0 - between.0, after.1 - between.1), (10, 10));
    let untracked = session.number("SELECT untracked FROM repart_sampler()");
    assert_eq!(untracked, 0);
}

#[test]
fn the_extension_can_be_dropped_and_created_again_while_sessions_run() {
    let cluster = Cluster::with_repart(SETTINGS);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_500], KEYS);
    let mut client = cluster.connect("postgres");
    read_keys(&mut client, "orders", 0..10);
    // DROP EXTENSION that is not committed yet holds nobody up.
    let mut other = cluster.connect("postgres");
    other.batch_execute("BEGIN; DROP EXTENSION repart").unwrap();
    let mut fresh = cluster.connect("postgres");
    fresh.batch_execute("SET statement_timeout = '5s'").unwrap();
    read_keys(&mut fresh, "orders", 0..10);
    other.batch_execute("COMMIT").unwrap();
    read_keys(&mut client, "orders", 0..10);
    session.run("CREATE EXTENSION repart; SELECT repart_manage('orders')");
    let before = reads(session.client(), "orders1");
    read_keys(&mut client, "orders", 0..10);
    read_keys(&mut fresh, "orders", 0..10);
    let after = reads(session.client(), "orders1");
    assert_eq!(after.0 - before.0, 20);
}

#[test]
fn the_extension_can_be_upgraded_while_sessions_run() {
    let cluster = Cluster::with_repart(SETTINGS);
    offer_next_version(&cluster);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_500], KEYS);
    let mut client = cluster.connect("postgres");
    read_keys(&mut client, "orders", 0..10);
    session.hold_at("copying");
    let id = session.queue("repart_split('orders2', '3000')");
    session.wait_held("copying");
    // An upgrade that is not committed yet holds nobody up.
    let mut other = cluster.connect("postgres");
    other
        .batch_execute("BEGIN; ALTER EXTENSION repart UPDATE TO 'next'")
        .unwrap();
    let mut fresh = cluster.connect("postgres");
    fresh.batch_execute("SET statement_timeout = '5s'").unwrap();
    read_keys(&mut fresh, "orders", 0..10);
    other.batch_execute("COMMIT").unwrap();
    read_keys(&mut client, "orders", 0..10);
    read_keys(&mut fresh, "orders", 0..10);
    assert_eq!(reads(session.client(), "orders1"), (40, 40));
    session.run("SELECT repart_sample()");
    session.release();
    session.wait_done(id);
    let version =
        "SELECT count(*) FROM pg_extension WHERE extname = 'repart' AND extversion = 'next'";
    assert_eq!(session.number(version), 1);
}

#[test]
fn without_the_sampler_there_is_none_and_its_functions_say_so() {
    let cluster = Cluster::with_repart(&with(&["repart.sampler = off"]));
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_500], KEYS);
    read_keys(session.client(), "orders", 0..10);
    assert_eq!(session.number("SELECT count(*) FROM repart_sampler()"), 0);
    let memory = "SELECT count(*) FROM pg_shmem_allocations WHERE name = 'repart sampler'";
    assert_eq!(session.number(memory), 0);
    let error = session
        .client()
        .batch_execute("SELECT * FROM repart_access()")
        .unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "55000");
    assert!(
        error.hint().unwrap().contains("repart.sampler = on"),
        "{error:?}"
    );
    session.run("SELECT repart_sample(); SELECT repart_sample()");

    session.run("ALTER SYSTEM SET repart.sampler = on");
    cluster.restart(Shutdown::Fast);
    session.reopen();
    assert_eq!(session.number(memory), 1);
    read_keys(session.client(), "orders", 0..10);
    assert_eq!(reads(session.client(), "orders1").0, 10);
}

#[test]
fn shards_used_in_one_transaction_are_pairs() {
    let cluster = Cluster::with_repart(SETTINGS);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_500], KEYS);
    session.create_sharded_table("lines", &[1_500], KEYS);
    let mut client = cluster.connect("postgres");
    for number in 0..30 {
        let other = if number % 3 == 0 {
            "orders WHERE id = 1600"
        } else {
            "lines WHERE id = 1"
        };
        client
            .batch_execute(&format!(
                "BEGIN; SELECT payload FROM orders WHERE id = 1; SELECT payload FROM {other};
                 SELECT payload FROM {other}; COMMIT"
            ))
            .unwrap();
    }
    client
        .batch_execute("BEGIN; SELECT payload FROM lines WHERE id = 1600; SELECT payload FROM orders WHERE id = 1; ROLLBACK")
        .unwrap();
    read_keys(&mut client, "orders", 0..10);
    let rows = session.query(
        "SELECT least(shard::text, other::text), greatest(shard::text, other::text), transactions, rate > 0
           FROM repart_co_access() WHERE 'orders1'::regclass IN (shard, other) ORDER BY 3 DESC",
        &[],
    );
    let pairs: Vec<(String, String, i64, bool)> = rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect();
    assert_eq!(
        pairs,
        [
            ("lines1".to_owned(), "orders1".to_owned(), 20, true),
            ("orders1".to_owned(), "orders2".to_owned(), 10, true),
        ],
        "what is rolled back does not count; nor does loading, before the tables were managed"
    );
}

#[test]
fn the_load_has_statements_and_their_times() {
    let cluster = Cluster::with_repart(SETTINGS);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_500], KEYS);
    session.run("SELECT repart_sample()");
    read_keys(session.client(), "orders", 0..400);
    session.run("SELECT payload, pg_sleep(0.3) FROM orders WHERE id = 1; SELECT repart_sample()");
    read_keys(session.client(), "orders", 0..400);
    session.run("SELECT payload, pg_sleep(0.3) FROM orders WHERE id = 1; SELECT repart_sample()");
    let row = &session.query(
        "SELECT seconds, statements_read * seconds, reads * seconds, busy_ms * seconds, p50_ms, p99_ms,
                bytes > 0, statements_written FROM repart.load WHERE shard = 'orders1'::regclass",
        &[],
    )[0];
    let value = |column: usize| row.get::<_, f64>(column);
    assert!((value(1) - 401.0).abs() < 0.01, "{row:?}");
    assert!((value(2) - 401.0).abs() < 0.01, "{row:?}");
    assert!((300.0..2_000.0).contains(&value(3)), "{row:?}");
    assert!(
        value(4) < 10.0 && value(5) < 250.0,
        "one in 401 was slow: {row:?}"
    );
    assert!(row.get::<_, bool>(6) && value(7) == 0.0, "{row:?}");
    let busy: f64 = session.query(
        "SELECT busy_ms FROM repart_access() WHERE shard = 'orders1'::regclass",
        &[],
    )[0]
    .get(0);
    assert!(busy >= 600.0, "{busy}");
}
