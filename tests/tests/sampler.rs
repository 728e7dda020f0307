//! What the access sampler says, beside what a client did: a table of kinds of statements with their exact counts.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::collections::BTreeMap;
use std::io::Write;

use postgres::Client;
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

/// Keys 0 .. 1200, of which each third one is free; the shards end at 400 and 800.
const KEYS: i64 = 1_200;
const BOUNDS: [i64; 2] = [400, 800];

/// What a statement is to do to one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    statements_read: i64,
    statements_written: i64,
    rows_read: i64,
    inserted: i64,
    updated: i64,
    deleted: i64,
}

/// Rows read by a statement that writes nothing.
fn read(rows_read: i64) -> Counts {
    Counts {
        statements_read: 1,
        rows_read,
        ..Counts::default()
    }
}

/// Rows read, inserted, updated and deleted by a statement that writes.
fn write(rows_read: i64, inserted: i64, updated: i64, deleted: i64) -> Counts {
    Counts {
        statements_written: 1,
        rows_read,
        inserted,
        updated,
        deleted,
        ..Counts::default()
    }
}

fn sum(a: Counts, b: Counts) -> Counts {
    Counts {
        statements_read: a.statements_read + b.statements_read,
        statements_written: a.statements_written + b.statements_written,
        rows_read: a.rows_read + b.rows_read,
        inserted: a.inserted + b.inserted,
        updated: a.updated + b.updated,
        deleted: a.deleted + b.deleted,
    }
}

fn times(n: i64, counts: Counts) -> Counts {
    (0..n).fold(Counts::default(), |all, _| sum(all, counts))
}

const NONE: Counts = Counts {
    statements_read: 0,
    statements_written: 0,
    rows_read: 0,
    inserted: 0,
    updated: 0,
    deleted: 0,
};

/// What the sampler has counted, by shard.
fn counted(client: &mut Client) -> BTreeMap<String, Counts> {
    let rows = client
        .query(
            "SELECT shard::text, statements_read, statements_written, rows_read, rows_inserted, rows_updated,
                    rows_deleted FROM repart_access()",
            &[],
        )
        .unwrap();
    rows.iter()
        .map(|row| {
            let counts = Counts {
                statements_read: row.get(1),
                statements_written: row.get(2),
                rows_read: row.get(3),
                inserted: row.get(4),
                updated: row.get(5),
                deleted: row.get(6),
            };
            (row.get(0), counts)
        })
        .collect()
}

fn since(
    before: &BTreeMap<String, Counts>,
    after: &BTreeMap<String, Counts>,
    shard: &str,
) -> Counts {
    let get = |all: &BTreeMap<String, Counts>| all.get(shard).copied().unwrap_or(NONE);
    let (before, after) = (get(before), get(after));
    Counts {
        statements_read: after.statements_read - before.statements_read,
        statements_written: after.statements_written - before.statements_written,
        rows_read: after.rows_read - before.rows_read,
        inserted: after.inserted - before.inserted,
        updated: after.updated - before.updated,
        deleted: after.deleted - before.deleted,
    }
}

/// One kind: its name, what is done, and what it is to have done to `orders1`, `orders2`, `orders3` and `lines1`,
/// `lines2`, `lines3`.
struct Kind {
    name: &'static str,
    run: fn(&mut Client),
    orders: [Counts; 3],
    lines: [Counts; 3],
}

fn kind(name: &'static str, run: fn(&mut Client), orders: [Counts; 3]) -> Kind {
    Kind {
        name,
        run,
        orders,
        lines: [NONE; 3],
    }
}

fn run(client: &mut Client, sql: &str) {
    client
        .batch_execute(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// Runs a statement with settings that leave the planner one way.
fn planned(client: &mut Client, settings: &[&str], sql: &str) {
    let settings: String = settings
        .iter()
        .map(|setting| format!("SET LOCAL {setting}; "))
        .collect();
    run(client, &format!("BEGIN; {settings} {sql}; COMMIT"));
}

const BY_INDEX: &[&str] = &[
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "enable_indexonlyscan = off",
];

fn reading_kinds() -> Vec<Kind> {
    vec![
        kind(
            "simple protocol, index scan",
            |client| planned(client, BY_INDEX, "SELECT payload FROM orders WHERE id = 10"),
            [read(1), NONE, NONE],
        ),
        kind(
            "extended protocol",
            |client| {
                client
                    .query("SELECT payload FROM orders WHERE id = $1", &[&410i64])
                    .unwrap();
            },
            [NONE, read(1), NONE],
        ),
        kind(
            "prepared statement, with generic plans too",
            |client| {
                let statement = client
                    .prepare("SELECT payload FROM orders WHERE id = $1")
                    .unwrap();
                for key in 0..20i64 {
                    client.query(&statement, &[&(key * 3 + 1)]).unwrap();
                }
            },
            [times(20, read(1)), NONE, NONE],
        ),
        kind(
            "PREPARE and EXECUTE",
            |client| {
                run(
                    client,
                    "PREPARE p (bigint) AS SELECT payload FROM orders WHERE id = $1",
                );
                run(
                    client,
                    "SET plan_cache_mode = force_generic_plan; EXECUTE p (10); EXECUTE p (401); EXECUTE p (802)",
                );
                run(client, "DEALLOCATE p; RESET plan_cache_mode");
            },
            [read(1), read(1), read(1)],
        ),
        kind(
            "a key that is not there",
            |client| planned(client, BY_INDEX, "SELECT payload FROM orders WHERE id = 9"),
            [read(0), NONE, NONE],
        ),
        kind(
            "index-only scan",
            |client| {
                planned(
                    client,
                    &["enable_seqscan = off", "enable_bitmapscan = off"],
                    "SELECT count(*) FROM orders WHERE id BETWEEN 0 AND 29",
                );
            },
            [read(20), NONE, NONE],
        ),
        kind(
            "bitmap scan over two shards",
            |client| {
                planned(
                    client,
                    &["enable_bitmapscan = on", "enable_indexscan = off"],
                    "SELECT sum(counter) FROM orders WHERE id BETWEEN 370 AND 429",
                );
            },
            [read(20), read(20), NONE],
        ),
        kind(
            "sequential scan of all",
            |client| {
                planned(
                    client,
                    &[
                        "enable_indexscan = off",
                        "enable_seqscan = on",
                        "enable_indexonlyscan = off",
                    ],
                    "SELECT sum(counter) FROM orders",
                );
            },
            [read(266), read(267), read(267)],
        ),
        kind(
            "sequential scan with a filter that nothing passes",
            |client| {
                planned(
                    client,
                    &["enable_indexscan = off", "enable_seqscan = on"],
                    "SELECT * FROM orders2 WHERE payload = 'no'",
                );
            },
            [NONE, read(267), NONE],
        ),
        kind(
            "CTE, used twice",
            |client| {
                run(
                    client,
                    "SET enable_seqscan = off; SET enable_bitmapscan = off;
                     WITH c AS MATERIALIZED (SELECT * FROM orders WHERE id < 30)
                     SELECT count(*) FROM c a JOIN c b USING (id); RESET ALL",
                );
            },
            [read(20), NONE, NONE],
        ),
        kind(
            "cursor that is read in part",
            |client| {
                run(
                    client,
                    "SET enable_seqscan = off; SET enable_bitmapscan = off; BEGIN;
                     DECLARE c CURSOR FOR SELECT payload FROM orders WHERE id >= 802 ORDER BY id;
                     FETCH 5 FROM c; FETCH 5 FROM c; CLOSE c; COMMIT; RESET ALL",
                );
            },
            [NONE, NONE, read(10)],
        ),
        kind(
            "parallel scan",
            |client| {
                planned(
                    client,
                    &[
                        "max_parallel_workers_per_gather = 2",
                        "parallel_setup_cost = 0",
                        "parallel_tuple_cost = 0",
                        "min_parallel_table_scan_size = 0",
                        "enable_indexscan = off",
                        "enable_seqscan = on",
                        "enable_indexonlyscan = off",
                    ],
                    "SELECT sum(counter) FROM orders",
                );
            },
            [read(266), read(267), read(267)],
        ),
        kind(
            "COPY of a shard to the client",
            |client| {
                let mut reader = client.copy_out("COPY orders1 TO STDOUT").unwrap();
                std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
            },
            [read(266), NONE, NONE],
        ),
        Kind {
            name: "nested loop with inner look-ups",
            run: |client| {
                run(
                    client,
                    "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off;
                     SET enable_bitmapscan = off; SET enable_material = off; SET enable_memoize = off;
                     SET enable_partitionwise_join = off;
                     SELECT sum(o.counter) FROM generate_series(1, 28, 3) AS k JOIN orders o ON o.id = k; RESET ALL",
                );
            },
            orders: [read(10), NONE, NONE],
            lines: [NONE; 3],
        },
        Kind {
            name: "join of two sharded tables, sequential",
            run: |client| {
                run(
                    client,
                    "SET enable_nestloop = off; SET enable_mergejoin = off; SET enable_indexscan = off;
                     SET enable_seqscan = on; SET enable_indexonlyscan = off;
                     SELECT count(*) FROM orders o JOIN lines l USING (id); RESET ALL",
                );
            },
            orders: [read(266), read(267), read(267)],
            lines: [read(266), read(267), read(267)],
        },
        Kind {
            name: "a function that queries a sharded table",
            run: |client| {
                run(
                    client,
                    "SELECT payload_of(10), payload_of(11), payload_of(410)",
                )
            },
            orders: [
                Counts {
                    statements_read: 2,
                    ..read(2)
                },
                read(1),
                NONE,
            ],
            lines: [NONE; 3],
        },
    ]
}

fn writing_kinds() -> Vec<Kind> {
    vec![
        kind(
            "INSERT of one row",
            |client| run(client, "INSERT INTO orders VALUES (0, 'a', 0)"),
            [write(0, 1, 0, 0), NONE, NONE],
        ),
        kind(
            "multi-row INSERT over all shards",
            |client| {
                run(
                    client,
                    "INSERT INTO orders VALUES (3, 'a', 0), (6, 'a', 0), (402, 'a', 0), (801, 'a', 0)",
                )
            },
            [write(0, 2, 0, 0), write(0, 1, 0, 0), write(0, 1, 0, 0)],
        ),
        kind(
            "INSERT ... SELECT from another sharded table",
            |client| {
                run(
                    client,
                    "SET enable_seqscan = off; SET enable_bitmapscan = off;
                     INSERT INTO orders SELECT id - 1, payload, 0 FROM lines WHERE id IN (10, 13, 16); RESET ALL",
                );
            },
            [write(0, 3, 0, 0), NONE, NONE],
        ),
        kind(
            "ON CONFLICT DO UPDATE: one is there, one is not",
            |client| {
                run(
                    client,
                    "INSERT INTO orders VALUES (1, 'x', 0), (18, 'x', 0)
                     ON CONFLICT (id) DO UPDATE SET counter = orders.counter + 1",
                );
            },
            [write(0, 1, 1, 0), NONE, NONE],
        ),
        kind(
            "ON CONFLICT DO NOTHING where it is there",
            |client| {
                run(
                    client,
                    "INSERT INTO orders VALUES (1, 'x', 0) ON CONFLICT DO NOTHING",
                )
            },
            [write(0, 0, 0, 0), NONE, NONE],
        ),
        kind(
            "UPDATE by key",
            |client| {
                planned(
                    client,
                    BY_INDEX,
                    "UPDATE orders SET counter = counter + 1 WHERE id = 10",
                )
            },
            [write(1, 0, 1, 0), NONE, NONE],
        ),
        kind(
            "UPDATE that changes nothing",
            |client| {
                planned(
                    client,
                    BY_INDEX,
                    "UPDATE orders SET counter = 1 WHERE id = 33",
                )
            },
            [read(0), NONE, NONE],
        ),
        kind(
            "UPDATE of a range over two shards",
            |client| {
                planned(
                    client,
                    BY_INDEX,
                    "UPDATE orders SET counter = 1 WHERE id BETWEEN 790 AND 809 AND id % 3 = 1",
                );
            },
            [NONE, write(7, 0, 4, 0), write(8, 0, 3, 0)],
        ),
        kind(
            "UPDATE that moves a row to another shard",
            |client| planned(client, BY_INDEX, "UPDATE orders SET id = 900 WHERE id = 13"),
            [write(1, 0, 0, 1), NONE, write(0, 1, 0, 0)],
        ),
        kind(
            "DELETE",
            |client| planned(client, BY_INDEX, "DELETE FROM orders WHERE id IN (14, 404)"),
            [write(1, 0, 0, 1), write(1, 0, 0, 1), NONE],
        ),
        kind(
            "MERGE: update, delete and insert",
            |client| {
                planned(
                    client,
                    &[
                        "enable_seqscan = off",
                        "enable_bitmapscan = off",
                        "enable_hashjoin = off",
                        "enable_mergejoin = off",
                        "enable_material = off",
                        "enable_memoize = off",
                    ],
                    "MERGE INTO orders o USING (VALUES (20::bigint), (22), (24)) AS v (id) ON o.id = v.id
                         WHEN MATCHED AND v.id = 20 THEN UPDATE SET counter = 5
                         WHEN MATCHED THEN DELETE
                         WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'm', 0)",
                );
            },
            [write(2, 1, 1, 1), NONE, NONE],
        ),
        kind(
            "COPY from the client",
            |client| {
                let mut writer = client.copy_in("COPY orders FROM STDIN").unwrap();
                writer
                    .write_all(b"27\tc\t0\n30\tc\t0\n420\tc\t0\n")
                    .unwrap();
                writer.finish().unwrap();
            },
            [write(0, 2, 0, 0), write(0, 1, 0, 0), NONE],
        ),
        kind(
            "two INSERTs and a COPY in one transaction",
            |client| {
                run(
                    client,
                    "BEGIN; INSERT INTO orders VALUES (36, 'a', 0); INSERT INTO orders VALUES (39, 'a', 0)",
                );
                let mut writer = client.copy_in("COPY orders FROM STDIN").unwrap();
                writer.write_all(b"42\tc\t0\n").unwrap();
                writer.finish().unwrap();
                run(client, "COMMIT");
            },
            [times(3, write(0, 1, 0, 0)), NONE, NONE],
        ),
        kind(
            "a savepoint that is rolled back",
            |client| {
                run(
                    client,
                    "BEGIN; INSERT INTO orders VALUES (45, 'a', 0); SAVEPOINT s; INSERT INTO orders VALUES (48, 'a', 0);
                     ROLLBACK TO s; INSERT INTO orders VALUES (51, 'a', 0); COMMIT",
                );
            },
            [times(3, write(0, 1, 0, 0)), NONE, NONE],
        ),
        kind(
            "writes by a statement of two CTEs",
            |client| {
                run(
                    client,
                    "SET enable_seqscan = off; SET enable_bitmapscan = off;
                     WITH moved AS (DELETE FROM orders WHERE id = 412 RETURNING *)
                     INSERT INTO orders SELECT 54, payload, counter FROM moved; RESET ALL",
                );
            },
            [write(0, 1, 0, 0), write(1, 0, 0, 1), NONE],
        ),
        Kind {
            name: "a trigger that writes to a sharded table",
            run: |client| run(client, "INSERT INTO plain VALUES (60)"),
            orders: [write(0, 1, 0, 0), NONE, NONE],
            lines: [NONE; 3],
        },
    ]
}

fn scene(cluster: &Cluster) -> Session<'_> {
    let mut session = Session::open(cluster, "postgres");
    session.create_sharded_table("orders", &BOUNDS, KEYS);
    session.create_sharded_table("lines", &BOUNDS, KEYS);
    session.run(
        "CREATE FUNCTION payload_of(key bigint) RETURNS text LANGUAGE plpgsql AS $$
         BEGIN RETURN (SELECT payload FROM orders WHERE id = key); END $$;
         CREATE TABLE plain (id bigint);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO orders VALUES (new.id, 'by trigger', 0); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION note()",
    );
    session.run("VACUUM (ANALYZE) orders, lines");
    session
}

fn assert_kinds(client: &mut Client, watcher: &mut Client, kinds: Vec<Kind>) {
    let mut wrong = Vec::new();
    for kind in kinds {
        let before = counted(watcher);
        (kind.run)(client);
        let after = counted(watcher);
        let shards = [
            "orders1", "orders2", "orders3", "lines1", "lines2", "lines3",
        ];
        // What is read of the other table is only asserted where a kind says so.
        let expected = kind.orders.iter().chain(&kind.lines);
        for (shard, expected) in shards.iter().zip(expected) {
            let found = since(&before, &after, shard);
            if found != *expected
                && !(kind.name.contains("another sharded table") && shard.starts_with("lines"))
            {
                wrong.push(format!(
                    "{}: {shard}: {found:?}, not {expected:?}",
                    kind.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_of_statement_is_counted_exactly() {
    let cluster = Cluster::with_repart(&[
        "autovacuum = off",
        // By index, where a kind says nothing else: the tables are small.
        "enable_seqscan = off",
        "enable_bitmapscan = off",
        "repart.sample_rate = 1",
        "jit = off",
        "max_worker_processes = 16",
    ]);
    let mut session = scene(&cluster);
    // As soon as shared memory knows the table, for sessions that are there already, too.
    let mut client = cluster.connect("postgres");
    let mut watcher = cluster.connect("postgres");
    assert_kinds(&mut client, &mut watcher, reading_kinds());
    assert_kinds(&mut client, &mut watcher, writing_kinds());
    let lost = session.query("SELECT overflow, untracked FROM repart_sampler()", &[]);
    assert_eq!((lost[0].get::<_, i64>(0), lost[0].get::<_, i64>(1)), (0, 0));
}
