//! A table with shards on a node: what is observed of them, on the node and on its replica, and what is left alone.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::fleet::{Fleet, complaint};
use repart_tests::wait::{LONG, wait_until};

const OFTEN: [&str; 2] = ["repart.sample_interval = 300ms", "repart.node_timeout = 5s"];

/// Rows of each shard.
const ROWS: i64 = 3_000;

#[test]
fn shards_on_a_node_are_observed_there_and_on_its_replica() {
    let fleet = Fleet::start(&OFTEN);
    let mut session = fleet.session();
    let mut north = fleet.north.connect("postgres");
    north
        .batch_execute(&format!(
            "CREATE SCHEMA \"Far away\";
             CREATE TABLE \"Far away\".part (id bigint PRIMARY KEY, note text);
             INSERT INTO \"Far away\".part SELECT n, repeat('x', 2500) FROM generate_series({ROWS}, 2 * {ROWS} - 1) n;
             ANALYZE \"Far away\".part"
        ))
        .unwrap();
    let replica = fleet.north.standby(&[]);
    fleet.create_server("replica", &replica.server_options("postgres"));
    session.run(&format!(
        "CREATE TABLE orders (id bigint, note text) PARTITION BY RANGE (id);
         CREATE TABLE orders1 PARTITION OF orders FOR VALUES FROM (MINVALUE) TO ({ROWS});
         ALTER TABLE orders1 ADD PRIMARY KEY (id);
         CREATE FOREIGN TABLE orders2 PARTITION OF orders FOR VALUES FROM ({ROWS}) TO (MAXVALUE)
             SERVER north OPTIONS (schema_name 'Far away', table_name 'part');
         INSERT INTO orders SELECT n, 'here' FROM generate_series(0, {ROWS} - 1) n; ANALYZE orders1"
    ));
    let refused = complaint(&mut session, "SELECT repart_manage('orders')");
    assert!(
        refused.starts_with(
            "0A000 table \"orders\" has foreign tables as partitions on servers that are no nodes"
        ),
        "{refused}"
    );
    assert!(
        refused.contains("orders2 on server north") && refused.contains("repart_add_node('north')"),
        "{refused}"
    );
    session.run(
        "SELECT repart_add_node('north'); SELECT repart_add_node('replica', replica_of => 'north')",
    );
    session.run("SELECT repart_manage('orders')");
    assert_eq!(
        session.texts(
            "SELECT concat_ws(' ', shard, node, tablespace) FROM repart.shards ORDER BY shard::text"
        ),
        ["orders1 local pg_default", "orders2 north"]
    );
    assert_eq!(
        session.texts("SELECT concat_ws(' ', node, shards) FROM repart.nodes ORDER BY node"),
        ["local 1", "north 1", "replica 0"]
    );

    // Read and written through the coordinator.
    let highest = |metric: &str| {
        format!(
            "SELECT coalesce(max({metric}), 0)::int8 FROM repart.samples WHERE shard = 'orders2'::regclass"
        )
    };
    wait_until("the load of the node to be sampled", LONG, || {
        session.run("SELECT count(note) FROM orders; UPDATE orders SET note = note WHERE id BETWEEN 3000 AND 3100");
        session.number(&highest("reads")) > ROWS && session.number(&highest("writes")) > 50
    });
    assert!(session.number(&highest("bytes")) > 8_192);
    let size: i64 = north
        .query_one("SELECT pg_total_relation_size('\"Far away\".part')", &[])
        .unwrap()
        .get(0);
    assert!(size > 0);
    wait_until("the size to be known", LONG, || {
        session.number("SELECT coalesce(bytes, 0) FROM repart.shards WHERE node = 'north'") == size
    });

    // Read on the replica only: it counts for the shard too. A read of all rows is far more than what sampling costs.
    session.wait_until(
        "SELECT count(*) > 0 FROM repart.node_samples WHERE node = 'replica'",
        LONG,
    );
    session.wait_until(
        "SELECT reads + writes = 0 FROM repart.load WHERE shard = 'orders2'::regclass",
        LONG,
    );
    let since = session.texts("SELECT clock_timestamp()::text")[0].clone();
    let mut reader = replica.connect("postgres");
    let later = format!("{} AND at > '{since}'", highest("reads"));
    wait_until("what the replica reads to be sampled", LONG, || {
        reader
            .batch_execute("SELECT count(note) FROM \"Far away\".part")
            .unwrap();
        session.number(&later) > ROWS
    });
    let written = session.number(&format!("{} AND at > '{since}'", highest("writes")));
    assert_eq!(written, 0, "nobody wrote");

    // A lock there, which the size would wait for, is no reason to lose the node.
    let mut locking = fleet.north.connect("postgres");
    locking
        .batch_execute("BEGIN; LOCK TABLE \"Far away\".part")
        .unwrap();
    let before =
        session.number("SELECT count(*) FROM repart.samples WHERE shard = 'orders2'::regclass");
    wait_until("samples without a size", LONG, || {
        session.number("SELECT count(*) FROM repart.samples WHERE shard = 'orders2'::regclass") > before + 3
            && session.number("SELECT count(*) FROM repart.samples WHERE shard = 'orders2'::regclass AND size IS NULL") > 1
    });
    locking.batch_execute("ROLLBACK").unwrap();
    assert_eq!(
        session.number("SELECT count(*) FROM repart.nodes WHERE error IS NOT NULL"),
        0
    );

    // It is forecast and planned with, and left where it is.
    assert!(
        session.number(
            "SELECT count(*) FROM repart_forecast('orders') WHERE shard = 'orders2'::regclass"
        ) > 0
    );
    session.run("SET repart.shard_capacity = 1; SET repart.min_shard_size = 0");
    let steps = session.texts("SELECT concat_ws(' ', action, shard) FROM repart_plan('orders')");
    assert!(
        steps
            .iter()
            .all(|step| !step.contains("orders2") || step.starts_with("none")),
        "{steps:?}"
    );
    for (call, expected) in [
        (
            "repart_merge('orders1', 'orders2')",
            "0A000 shards of table \"orders\" are on different servers",
        ),
        (
            "repart_shift('orders1', 'orders2', '1000')",
            "0A000 shards of table \"orders\" are on different servers",
        ),
        (
            "repart_remove_node('north')",
            "55006 node \"north\" holds 1 shards",
        ),
        (
            "repart_move('orders2', node => 'north')",
            "22023 shard \"orders2\" is on node \"north\"",
        ),
    ] {
        let refused = complaint(&mut session, &format!("SELECT {call}"));
        if call.starts_with("repart_remove") {
            // Its replica is in the way as well.
            assert!(
                refused.starts_with("55006 node \"north\""),
                "{call}: {refused}"
            );
        } else {
            assert!(refused.starts_with(expected), "{call}: {refused}");
        }
    }
    assert_eq!(session.number("SELECT repart_drain_node('north')"), 1);

    // Its neighbour is split, and nothing is lost.
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_done(id);
    assert_eq!(session.number("SELECT count(*) FROM orders"), 2 * ROWS);
    assert_eq!(
        session.number("SELECT count(*) FROM repart.shards WHERE node = 'local'"),
        2
    );

    // Keys on the table itself are what would keep shards here.
    session.run(
        "CREATE TABLE keyed (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
                 CREATE TABLE keyed1 PARTITION OF keyed FOR VALUES FROM (MINVALUE) TO (MAXVALUE)",
    );
    session.run("SELECT repart_manage('keyed')");
    let refused = complaint(
        &mut session,
        "SELECT repart_move('keyed1', node => 'north')",
    );
    assert!(
        refused.starts_with("55000 table \"keyed\" has unique indexes (keyed_pkey)"),
        "{refused}"
    );
    assert!(
        refused.contains("SELECT repart_manage('public.keyed', leaf_keys => true)"),
        "{refused}"
    );
    session.run("SELECT repart_manage('public.keyed', leaf_keys => true)");
    session.run("ALTER TABLE keyed DETACH PARTITION keyed1; DELETE FROM keyed1;
                 ALTER TABLE keyed ATTACH PARTITION keyed1 FOR VALUES FROM (MINVALUE) TO (0);
                 CREATE FOREIGN TABLE keyed2 PARTITION OF keyed FOR VALUES FROM (0) TO (MAXVALUE) SERVER north");
    assert_eq!(
        session.number("SELECT count(*) FROM repart.shards WHERE node = 'north'"),
        2
    );
}
