//! What is observed of shards on nodes: on a node with repart as much as of a local one, on one without what PostgreSQL
//! counts.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::fleet::{Fleet, OFTEN};
use repart_tests::proxy::Proxy;
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};

/// Rows of each shard.
const ROWS: i64 = 3_000;

/// A table whose shards are here, on `north` and on `south`, from MINVALUE on.
fn spread(fleet: &Fleet, session: &mut Session, servers: [&str; 2]) {
    for (cluster, from) in [(&fleet.north, ROWS), (&fleet.south, 2 * ROWS)] {
        cluster
            .connect("postgres")
            .batch_execute(&format!(
                "CREATE SCHEMA shop; CREATE TABLE shop.part (number bigint PRIMARY KEY, note text);
                 INSERT INTO shop.part SELECT n, 'x' FROM generate_series({from}, {from} + {ROWS} - 1) n;
                 ANALYZE shop.part"
            ))
            .unwrap();
    }
    let [north, south] = servers;
    // The key has another name over there.
    let options = "OPTIONS (schema_name 'shop', table_name 'part'); ALTER FOREIGN TABLE";
    session.run(&format!(
        "CREATE TABLE orders (id bigint, note text) PARTITION BY RANGE (id);
         CREATE TABLE orders1 PARTITION OF orders FOR VALUES FROM (MINVALUE) TO ({ROWS});
         CREATE FOREIGN TABLE orders2 PARTITION OF orders FOR VALUES FROM ({ROWS}) TO (2 * {ROWS})
             SERVER {north} {options} orders2 ALTER id OPTIONS (column_name 'number');
         CREATE FOREIGN TABLE orders3 PARTITION OF orders FOR VALUES FROM (2 * {ROWS}) TO (MAXVALUE)
             SERVER {south} {options} orders3 ALTER id OPTIONS (column_name 'number');
         ALTER TABLE orders1 ADD PRIMARY KEY (id);
         INSERT INTO orders SELECT n, 'here' FROM generate_series(0, {ROWS} - 1) n; ANALYZE orders1"
    ));
    for server in servers {
        session.run(&format!("SELECT repart_add_node('{server}')"));
    }
    session.run("SELECT repart_manage('orders')");
}

/// Waits until shards of these nodes are counted: whatever is done after that is in a sample.
fn wait_observed(session: &mut Session, shards: &[&str]) {
    for shard in shards {
        session.wait_until(
            &format!("SELECT count(*) > 2 FROM repart.samples WHERE shard = '{shard}'::regclass"),
            LONG,
        );
    }
}

#[test]
fn a_shard_on_a_node_with_repart_is_observed_like_a_local_one() {
    let fleet = Fleet::start(&OFTEN);
    let mut session = fleet.session();
    let replica = fleet.north.standby(&[]);
    fleet.create_server("replica", &replica.server_options("postgres"));
    spread(&fleet, &mut session, ["north", "south"]);
    session.run("SELECT repart_add_node('replica', replica_of => 'north')");
    assert_eq!(
        session.texts(
            "SELECT concat_ws(' ', node, shards_observed_by) FROM repart.nodes ORDER BY node"
        ),
        [
            "local sampler",
            "north sampler",
            "replica sampler",
            "south statistics"
        ]
    );
    wait_observed(&mut session, &["orders1", "orders2", "orders3"]);
    // Of a shard that nobody has used yet nothing is counted.
    session.run(&format!(
        "SELECT note FROM orders WHERE id = 1; SELECT note FROM orders WHERE id = {ROWS} + 1"
    ));
    for shard in ["orders1", "orders2"] {
        session.wait_until(
            &format!("SELECT count(*) > 2 FROM repart.samples WHERE shard = '{shard}'::regclass AND statements_read IS NOT NULL"),
            LONG,
        );
    }

    // A client reads 240 of the lowest keys of each shard, one by one, and writes 60.
    let since = session.now();
    let mut client = fleet.coordinator.connect("postgres");
    for number in 0..240 {
        for shard in 0..3 {
            let key = shard * ROWS + number % 30;
            client
                .execute("SELECT note FROM orders WHERE id = $1", &[&key])
                .unwrap();
            if number % 4 == 0 {
                client
                    .execute("UPDATE orders SET note = 'y' WHERE id = $1", &[&key])
                    .unwrap();
            }
        }
    }
    for shard in ["orders1", "orders2"] {
        let mut seen = (0, 0, 0);
        wait_until(
            &format!("all statements on {shard} to be sampled"),
            LONG,
            || {
                seen = (
                    session.sampled(shard, "statements_read", &since),
                    session.sampled(shard, "statements_written", &since),
                    session.sampled(shard, "writes", &since),
                );
                seen.0 >= 240 && seen.2 >= 60
            },
        );
        assert_eq!(seen, (240, 60, 60), "{shard}");
        assert!(
            session.number(&format!(
                "SELECT count(*) FROM repart.samples WHERE shard = '{shard}'::regclass AND at > '{since}'
                    AND busy_ms > 0 AND p50_ms > 0 AND p99_ms >= p50_ms"
            )) > 0,
            "{shard}"
        );
    }
    // Without repart there: rows, and nothing else.
    wait_until("rows of the other node to be sampled", LONG, || {
        session.sampled("orders3", "writes", &since) >= 60
    });
    assert_eq!(
        session.number("SELECT count(*) FROM repart.samples WHERE shard = 'orders3'::regclass AND busy_ms IS NOT NULL"),
        0
    );

    // Where in the shard the load falls.
    session.wait_until(
        &format!(
            "SELECT coalesce(sum(share) FILTER (WHERE key_from <> 'MINVALUE' AND key_from::bigint < {ROWS} + 40), 0) > 0.9
               FROM repart.heat WHERE shard = 'orders2'::regclass AND key_to <> 'MAXVALUE'"
        ),
        LONG,
    );
    assert_eq!(
        session.number("SELECT count(*) FROM repart.heat WHERE shard = 'orders3'::regclass"),
        0
    );

    // What the replica serves is added.
    let since = session.now();
    let mut reader = replica.connect("postgres");
    for key in 0..100 {
        reader
            .execute(
                "SELECT note FROM shop.part WHERE number = $1",
                &[&(ROWS + key)],
            )
            .unwrap();
    }
    let mut read = 0;
    wait_until("what the replica reads to be sampled", LONG, || {
        read = session.sampled("orders2", "statements_read", &since);
        read >= 100
    });
    assert_eq!(read, 100);

    // Which shards are used together is seen here, whoever has them.
    for _ in 0..20 {
        client
            .batch_execute(&format!(
                "BEGIN; UPDATE orders SET note = 'a' WHERE id = 7; UPDATE orders SET note = 'b' WHERE id = {ROWS} + 7; COMMIT"
            ))
            .unwrap();
    }
    let together = session.texts(
        "SELECT concat_ws(' ', least(shard::text, other::text), greatest(shard::text, other::text), transactions >= 20)
           FROM repart_co_access() ORDER BY 1",
    );
    assert!(
        together.contains(&"orders1 orders2 t".to_owned()),
        "{together:?}"
    );

    // Who is asked no more forgets nothing that somebody still asks for; a crash there begins anew.
    fleet.north.kill_postmaster_and_start();
    let since = session.now();
    wait_until("the node to be sampled again", LONG, || {
        // The session on the coordinator has lost its connection, too.
        let _ = client.execute("SELECT note FROM orders WHERE id = $1", &[&ROWS]);
        session.sampled("orders2", "statements_read", &since) > 0
    });
}

#[test]
fn a_node_that_hangs_keeps_no_sample_of_the_others_waiting() {
    let fleet = Fleet::start(&OFTEN);
    let mut session = fleet.session();
    let proxy = Proxy::to(fleet.south.port());
    let way = format!(
        "host '127.0.0.1', port '{}', dbname 'postgres'",
        proxy.port()
    );
    fleet.create_server("far", &way);
    spread(&fleet, &mut session, ["north", "far"]);
    wait_observed(&mut session, &["orders1", "orders2", "orders3"]);

    proxy.cut();
    session.wait_until(
        "SELECT NOT reachable FROM repart.nodes WHERE node = 'far'",
        LONG,
    );
    let since = session.now();
    session.wait_until(
        &format!("SELECT clock_timestamp() > '{since}'::timestamptz + interval '3 s'"),
        LONG,
    );
    // Ten intervals have gone by; one in three is enough on a busy machine.
    for shard in ["orders1", "orders2"] {
        let taken = session.number(&format!(
            "SELECT count(*) FROM repart.samples WHERE shard = '{shard}'::regclass AND at > '{since}'"
        ));
        assert!(taken >= 3, "{taken} samples of {shard}");
        let longest: f64 = session.query(
            &format!(
                "SELECT max(seconds) FROM repart.samples
                  WHERE shard = '{shard}'::regclass AND at - seconds * interval '1 s' > '{since}'"
            ),
            &[],
        )[0]
        .get(0);
        assert!(longest < 2.0, "{shard}: {longest} s without a sample");
    }
    assert_eq!(
        session.number(&format!(
            "SELECT count(*) FROM repart.samples WHERE shard = 'orders3'::regclass AND at > '{since}'"
        )),
        0
    );
    proxy.mend();
    wait_until("the node to be sampled again", LONG, || {
        session.number(&format!(
            "SELECT count(*) FROM repart.samples WHERE shard = 'orders3'::regclass AND at > '{since}'"
        )) > 0
    });
}

#[test]
fn a_node_with_repart_is_asked_to_write_what_was_copied() {
    let fleet = Fleet::start(&OFTEN);
    let mut session = fleet.session();
    let mut north = fleet.north.connect("postgres");
    north
        .batch_execute("ALTER DATABASE postgres SET track_functions = 'all'")
        .unwrap();
    session.run("SELECT repart_add_node('north')");
    session.create_movable_table("orders", &[1_000], ROWS);
    let rows = session.number("SELECT count(*) FROM orders");
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    let calls = "SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_user_functions WHERE funcname = 'repart_write_back'";
    wait_until("the call to be counted", LONG, || {
        north.query_one(calls, &[]).unwrap().get::<_, i64>(0) > 0
    });
    let id = session.queue("repart_move('orders2', node => 'local')");
    session.wait_done(id);
    assert_eq!(session.number("SELECT count(*) FROM orders"), rows);
}
