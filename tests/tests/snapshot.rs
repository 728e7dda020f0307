//! A snapshot that predates a cutover would see the moved shards as empty. It gets an error, never a wrong
//! answer; nobody else gets one.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::io::Write;
use std::process::Stdio;

use postgres::Client;
use postgres::error::SqlState;
use postgres::types::ToSql;

use repart_tests::cluster::Cluster;
use repart_tests::repart::{Session, is_loaded};
use repart_tests::snapshot::{assert_refused, begin, count, with_snapshot};
use repart_tests::wait::{LONG, wait_until};

const KEYS: i64 = 6_000;

fn rows() -> i64 {
    (0..KEYS).filter(|&key| is_loaded(key)).count() as i64
}

fn cluster_with_tables() -> Cluster {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.create_sharded_table("u", &[3_000], KEYS);
    cluster
}

fn split(cluster: &Cluster) {
    let mut session = Session::open(cluster, "postgres");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_done(id);
}

/// What reads a table, kind by kind: what the session does beforehand, and the statement. `SHARD` stands for a
/// shard that the cutover made.
const KINDS: [(&str, &str); 32] = [
    ("", "SELECT count(*) FROM orders"),
    ("", "SELECT count(*) FROM orders WHERE id = 500"),
    ("", "SELECT count(*) FROM u JOIN orders USING (id)"),
    (
        "",
        "SELECT count(*) FROM u WHERE EXISTS (SELECT FROM orders o WHERE o.id = u.id)",
    ),
    ("", "SELECT id FROM orders WHERE id = 500 FOR UPDATE"),
    ("", "SELECT id FROM orders WHERE id = 500 FOR KEY SHARE"),
    ("", "SELECT count(*) FROM SHARD"),
    ("", "TABLE ONLY SHARD"),
    ("", "SELECT count(*) FROM SHARD TABLESAMPLE SYSTEM (100)"),
    (
        "",
        "WITH changed AS (UPDATE orders SET counter = counter + 1 WHERE id = 500 RETURNING 1) SELECT count(*) FROM changed",
    ),
    (
        "",
        "WITH gone AS (DELETE FROM orders WHERE id = 500 RETURNING 1) SELECT count(*) FROM gone",
    ),
    (
        "",
        "WITH o AS MATERIALIZED (SELECT * FROM orders) SELECT count(*) FROM o",
    ),
    (
        "",
        "INSERT INTO orders VALUES (500, 'upsert', 1) ON CONFLICT (id) DO UPDATE SET payload = 'upsert'",
    ),
    (
        "",
        "INSERT INTO u SELECT -id, payload, counter FROM orders WHERE id > 0",
    ),
    (
        "",
        "MERGE INTO orders o USING u ON o.id = u.id WHEN MATCHED THEN UPDATE SET counter = 1",
    ),
    (
        "",
        "MERGE INTO u USING orders o ON o.id = u.id WHEN MATCHED THEN UPDATE SET counter = 1",
    ),
    ("", "SELECT count(*) FROM seen"),
    ("", "SELECT count(*) FROM seen_behind_a_barrier"),
    ("", "INSERT INTO ruled VALUES (1)"),
    ("", "SELECT by_sql()"),
    (
        "SELECT by_plpgsql() FROM generate_series(1, 9)",
        "SELECT by_plpgsql()",
    ),
    ("", "DO 'BEGIN PERFORM FROM orders; END'"),
    (
        "PREPARE p AS SELECT count(*) FROM orders; SET plan_cache_mode = force_generic_plan; EXECUTE p; EXECUTE p",
        "EXECUTE p",
    ),
    ("", "DECLARE c CURSOR FOR SELECT * FROM orders"),
    (
        "",
        "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT * FROM orders",
    ),
    ("", "EXPLAIN (ANALYZE, TIMING OFF) SELECT * FROM orders"),
    ("", "CREATE TABLE copied AS SELECT * FROM orders"),
    ("", "REFRESH MATERIALIZED VIEW counted"),
    ("", "COPY (SELECT * FROM orders) TO '/dev/null'"),
    ("", "COPY SHARD TO '/dev/null'"),
    ("", "COPY SHARD (id) TO '/dev/null' (FORMAT binary)"),
    (
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET debug_parallel_query = on",
        "SELECT count(*) FROM orders WHERE counter = 0",
    ),
];

/// What some of [`KINDS`] use.
const HELPERS: &str = "
    CREATE VIEW seen AS SELECT * FROM orders WHERE id < 2000;
    CREATE VIEW seen_behind_a_barrier WITH (security_barrier) AS SELECT * FROM orders WHERE id < 2000;
    CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM orders;
    CREATE TABLE ruled (n int);
    CREATE RULE ruled AS ON INSERT TO ruled DO INSTEAD SELECT count(*) FROM orders;
    CREATE FUNCTION by_sql() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM orders';
    CREATE FUNCTION by_plpgsql() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM orders); END'";

/// The name of the setting changed with PostgreSQL 16.
fn before(client: &mut Client, sql: &str) {
    let version: i32 = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .unwrap()
        .get(0);
    let sql = match version {
        ..160_000 => sql.replace("debug_parallel_query", "force_parallel_mode"),
        _ => sql.to_owned(),
    };
    client.batch_execute(&sql).unwrap();
}

#[test]
fn every_kind_of_statement_on_an_older_snapshot_gets_40001() {
    let cluster = cluster_with_tables();
    let mut session = Session::open(&cluster, "postgres");
    session.run(HELPERS);
    let mut readers: Vec<Client> = KINDS
        .iter()
        .map(|(setup, _)| {
            let mut client = cluster.connect("postgres");
            before(&mut client, setup);
            begin(&mut client, "REPEATABLE READ");
            client
        })
        .collect();
    let mut serializable = with_snapshot(&cluster, "SERIALIZABLE");
    let mut elsewhere = with_snapshot(&cluster, "REPEATABLE READ");
    split(&cluster);
    let shard = session.shards("orders")[0].name.clone();
    for (reader, (_, statement)) in readers.iter_mut().zip(KINDS) {
        let statement = statement.replace("SHARD", &shard);
        println!("{statement}");
        assert_refused(reader.batch_execute(&statement));
        // As an application does: again from the start.
        reader.batch_execute("ROLLBACK").unwrap();
        begin(reader, "REPEATABLE READ");
        reader.batch_execute(&statement).unwrap();
        reader.batch_execute("ROLLBACK").unwrap();
    }
    assert_refused(count(&mut serializable, "SELECT count(*) FROM orders"));
    for unaffected in [
        "SELECT count(*) FROM u",
        "SELECT count(*) FROM (TABLE u1 UNION ALL TABLE u2) AS x",
    ] {
        assert_eq!(count(&mut elsewhere, unaffected).unwrap(), rows());
    }
    for unaffected in [
        "COPY u1 TO '/dev/null'",
        "COPY orders2 TO '/dev/null'",
        "SELECT FROM orders2",
        "EXPLAIN SELECT FROM orders",
    ] {
        elsewhere.batch_execute(unaffected).unwrap();
    }
}

/// PostgreSQL's SERIALIZABLE keeps no track of what was read in shards that are gone.
#[test]
fn writes_of_a_transaction_older_than_the_cutover_get_40001_too() {
    let cluster = cluster_with_tables();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let mut session = Session::open(&cluster, "postgres");
        session.run("DROP TABLE orders");
        session.create_sharded_table("orders", &[3_000], KEYS);
        let mut by_insert = with_snapshot(&cluster, level);
        let mut by_copy = with_snapshot(&cluster, level);
        split(&cluster);
        assert_refused(by_insert.batch_execute("INSERT INTO orders VALUES (0, '', 0)"));
        assert_refused(by_copy.batch_execute("COPY orders FROM PROGRAM 'printf \"0\\t\\t0\\n\"'"));
        assert_eq!(session.number("SELECT count(*) FROM orders"), rows());
    }
}

/// Each statement begins, and takes its locks and whatever snapshot it takes first, while a cutover holds its
/// locks. Under READ COMMITTED none may notice.
#[test]
fn statements_that_wait_for_a_cutover_get_no_error_under_read_committed() {
    let cluster = cluster_with_tables();
    let mut session = Session::open(&cluster, "postgres");
    session.run(HELPERS);
    session.run("CREATE TABLE counts (kind int, rows bigint)");
    let waiting = [
        "INSERT INTO counts SELECT 0, count(*) FROM orders",
        "DO 'BEGIN INSERT INTO counts SELECT 1, count(*) FROM orders; END'",
        "INSERT INTO counts SELECT 2, by_sql()",
        "INSERT INTO counts SELECT 3, by_plpgsql()",
        "CREATE TABLE made AS EXECUTE p; INSERT INTO counts SELECT 4, count FROM made",
        "COPY (SELECT count(*) FROM orders) TO 'FILE'; CREATE TEMP TABLE c (n bigint);
         COPY c FROM 'FILE'; INSERT INTO counts SELECT 5, n FROM c",
        "REFRESH MATERIALIZED VIEW counted; INSERT INTO counts SELECT 6, count FROM counted",
        "BEGIN; DECLARE c CURSOR FOR SELECT count(*) FROM orders; CREATE TEMP TABLE c (n bigint);
         DO 'DECLARE n bigint; c refcursor := ''c''; BEGIN FETCH c INTO n; INSERT INTO counts VALUES (7, n); END'; COMMIT",
        "EXECUTE i",
        "EXPLAIN (ANALYZE, TIMING OFF) INSERT INTO counts SELECT 9, count(*) FROM orders",
        "COPY orders1 TO '/dev/null'",
        "EXECUTE p",
        "EXPLAIN ANALYZE EXECUTE p",
        "COPY orders FROM PROGRAM 'printf \"\"'",
        "SELECT FROM orders WHERE id = 500 FOR UPDATE",
    ];
    let file = cluster.scratch("copied").display().to_string();
    let mut clients: Vec<Client> = waiting
        .iter()
        .map(|_| {
            let mut client = cluster.connect("postgres");
            client
                .batch_execute(
                    "PREPARE p AS SELECT count(*) FROM orders;
                     PREPARE i AS INSERT INTO counts SELECT 8, count(*) FROM orders;
                     SET plan_cache_mode = force_generic_plan; EXECUTE p; EXECUTE p",
                )
                .unwrap();
            client
        })
        .collect();
    session.hold_at("switched");
    // The shard keeps its name, so that one can ask for it meanwhile.
    cluster.create_tablespace("elsewhere");
    let id = session.queue("repart_move('orders1', tablespace => 'elsewhere')");
    session.wait_held("switched");
    let threads: Vec<_> = clients
        .drain(..)
        .zip(waiting)
        .map(|(mut client, statement)| {
            let statement = statement.replace("FILE", &file);
            std::thread::spawn(move || (statement.clone(), client.batch_execute(&statement)))
        })
        .collect();
    let expected = waiting.len() as i64;
    wait_until("everybody to wait", LONG, || {
        session.number("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted") == expected
    });
    session.release();
    let failed: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .filter(|(_, result)| result.is_err())
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    session.wait_done(id);
    let wrong = session.texts(&format!(
        "SELECT kind || ': ' || rows FROM counts WHERE rows <> {} ORDER BY 1",
        rows()
    ));
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(
        session.number("SELECT count(DISTINCT kind) FROM counts"),
        10
    );
}

#[test]
fn a_new_shard_named_directly_is_refused_too() {
    let cluster = cluster_with_tables();
    let mut reader = with_snapshot(&cluster, "REPEATABLE READ");
    split(&cluster);
    let shard = Session::open(&cluster, "postgres").shards("orders")[0]
        .name
        .clone();
    assert_refused(count(&mut reader, &format!("SELECT count(*) FROM {shard}")));
}

#[test]
fn a_prepared_statement_on_an_older_snapshot_gets_40001() {
    let cluster = cluster_with_tables();
    let mut reader = cluster.connect("postgres");
    let statement = reader
        .prepare("SELECT count(*) FROM orders WHERE id < $1")
        .unwrap();
    let all: [&(dyn ToSql + Sync); 1] = [&KEYS];
    for _ in 0..7 {
        // Often enough for a generic plan.
        assert_eq!(
            reader.query_one(&statement, &all).unwrap().get::<_, i64>(0),
            rows()
        );
    }
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .unwrap();
    split(&cluster);
    assert_refused(reader.query_one(&statement, &all));
    reader.batch_execute("ROLLBACK").unwrap();
    assert_eq!(
        reader.query_one(&statement, &all).unwrap().get::<_, i64>(0),
        rows()
    );
}

/// A STABLE function runs on the snapshot of the statement that called it, also under READ COMMITTED.
#[test]
fn a_stable_function_called_before_the_cutover_gets_40001() {
    let cluster = cluster_with_tables();
    let mut gate = cluster.connect("postgres");
    gate.batch_execute(
        "CREATE FUNCTION count_later() RETURNS bigint STABLE LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM pg_advisory_lock_shared(1);
             RETURN (SELECT count(*) FROM orders);
         END $$;
         SELECT pg_advisory_lock(1)",
    )
    .unwrap();
    let mut caller = cluster.connect("postgres");
    let waiting = std::thread::spawn(move || count(&mut caller, "SELECT count_later()"));
    wait_until("the function to wait", LONG, || {
        count(
            &mut gate,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
        )
        .unwrap()
            == 1
    });
    split(&cluster);
    gate.batch_execute("SELECT pg_advisory_unlock(1)").unwrap();
    assert_refused(waiting.join().unwrap());
}

/// An exported snapshot is as old as the transaction that exported it.
#[test]
fn an_imported_snapshot_older_than_the_cutover_gets_40001() {
    let cluster = cluster_with_tables();
    let mut exporter = with_snapshot(&cluster, "REPEATABLE READ");
    let name: String = exporter
        .query_one("SELECT pg_export_snapshot()", &[])
        .unwrap()
        .get(0);
    split(&cluster);
    let mut importer = cluster.connect("postgres");
    importer
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{name}'"
        ))
        .unwrap();
    assert_refused(count(&mut importer, "SELECT count(*) FROM orders"));
}

/// What a foreign key does on deletes sees the newest rows; PostgreSQL itself compares them with the snapshot.
#[test]
fn a_foreign_key_checked_by_an_older_transaction_misses_no_row_in_the_new_shards() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.run(
        "CREATE TABLE customers (id int PRIMARY KEY); INSERT INTO customers VALUES (1), (2);
         CREATE TABLE orders (id bigint PRIMARY KEY, payload text NOT NULL DEFAULT '', counter bigint NOT NULL DEFAULT 0,
                cascading int REFERENCES customers ON DELETE CASCADE, strict int REFERENCES customers)
             PARTITION BY RANGE (id);
         CREATE TABLE orders1 PARTITION OF orders DEFAULT; ALTER TABLE orders DETACH PARTITION orders1;
         ALTER TABLE orders ATTACH PARTITION orders1 FOR VALUES FROM (MINVALUE) TO (3000);
         CREATE TABLE orders2 PARTITION OF orders FOR VALUES FROM (3000) TO (MAXVALUE);
         INSERT INTO orders SELECT n, '', 0, 1, 2 FROM generate_series(0, 99) n;
         SELECT repart_manage('orders')",
    );
    let mut cascading = with_snapshot(&cluster, "REPEATABLE READ");
    let mut strict = with_snapshot(&cluster, "REPEATABLE READ");
    let id = session.queue("repart_split('orders1', '50')");
    session.wait_done(id);
    assert_refused(cascading.batch_execute("DELETE FROM customers WHERE id = 1"));
    let error = strict
        .batch_execute("DELETE FROM customers WHERE id = 2")
        .unwrap_err();
    assert!(
        [
            &SqlState::FOREIGN_KEY_VIOLATION,
            &SqlState::T_R_SERIALIZATION_FAILURE
        ]
        .contains(&error.code().unwrap()),
        "{error:?}"
    );
    cascading.batch_execute("ROLLBACK").unwrap();
    strict.batch_execute("ROLLBACK").unwrap();
    assert_eq!(session.number("SELECT count(*) FROM orders"), 100);
    session.run("UPDATE orders SET strict = NULL; DELETE FROM customers");
    assert_eq!(session.number("SELECT count(*) FROM orders"), 0);
}

/// The initial copy of a subscription reads on the snapshot with which its slot begins.
#[test]
fn a_copy_on_the_snapshot_of_a_replication_slot_older_than_the_cutover_gets_40001() {
    let cluster = Cluster::with_repart(&["wal_level = logical"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    let mut program = cluster.client_program("psql", "dbname=postgres replication=database");
    program.args(["-X", "-q", "-v", "VERBOSITY=verbose"]);
    program
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut psql = program.spawn().unwrap();
    let mut input = psql.stdin.take().unwrap();
    let slot = "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ;
        CREATE_REPLICATION_SLOT initial TEMPORARY LOGICAL pgoutput (SNAPSHOT 'use');\n";
    input.write_all(slot.as_bytes()).unwrap();
    session.wait_until(
        "SELECT count(*) = 1 FROM pg_replication_slots s JOIN pg_stat_activity a ON a.pid = s.active_pid
          WHERE a.state = 'idle in transaction'",
        LONG,
    );
    split(&cluster);
    let shard = session.shards("orders")[0].name.clone();
    input
        .write_all(format!("SELECT 1;\nCOPY {shard} TO STDOUT;\n").as_bytes())
        .unwrap();
    drop(input);
    let output = psql.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(messages.contains("ERROR:  40001"), "{messages}");
}
