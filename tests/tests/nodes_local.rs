//! This server as a node: what its own replicas serve counts, and nothing goes to them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::fleet::{Fleet, OFTEN, complaint, is_reachable, wait_for_new_samples};
use repart_tests::wait::{LONG, wait_until};

const KEYS: i64 = 6_000;

/// Reads a row by each of so many keys that are there, from `first` on.
fn read_keys(cluster: &Cluster, first: i64, number: i64) {
    let mut client = cluster.connect("postgres");
    for n in 0..number {
        let key = first + 3 * (n % 30) + 1;
        let rows = client
            .query("SELECT payload FROM orders WHERE id = $1", &[&key])
            .unwrap();
        assert_eq!(rows.len(), 1, "key {key}");
    }
}

#[test]
fn what_a_replica_of_this_server_serves_counts_for_its_shards() {
    let fleet = Fleet::start(&OFTEN);
    let mut session = fleet.session();
    session.create_movable_table("orders", &[3_000], KEYS);
    let replica = fleet.coordinator.standby(&OFTEN);
    fleet.create_server("replica", &replica.server_options("postgres"));
    for (call, parts) in [
        (
            "repart_add_node('replica')",
            [
                "22023 server \"replica\" is a replica",
                "It is one of this server: run SELECT repart_add_node('replica', replica_of => 'local')",
            ],
        ),
        (
            "repart_add_node('south', replica_of => 'local')",
            ["22023 server \"south\" is not a replica", ""],
        ),
    ] {
        let refused = complaint(&mut session, &format!("SELECT {call}"));
        assert!(
            parts.iter().all(|part| refused.contains(part)),
            "{call}: {refused}"
        );
    }
    session.run("SELECT repart_add_node('replica', replica_of => 'local')");
    wait_for_new_samples(&mut session, "replica");
    assert_eq!(
        session.texts(
            "SELECT concat_ws(' ', node, replica_of, reachable, shards, cpu BETWEEN 0 AND 1, lag IS NOT NULL, shards_observed_by)
               FROM repart.nodes ORDER BY node"
        ),
        ["local t 2 t f sampler", "replica local t 0 t t sampler"]
    );

    // Of a shard that nobody has used yet nothing is counted.
    for cluster in [&fleet.coordinator, &replica] {
        for first in [0, 3_000] {
            read_keys(cluster, first, 1);
        }
    }
    for shard in ["orders1", "orders2"] {
        session.wait_until(
            &format!("SELECT count(*) > 2 FROM repart.samples WHERE shard = '{shard}'::regclass AND statements_read IS NOT NULL"),
            LONG,
        );
    }
    // What was read so far is in a sample.
    for _ in 0..2 {
        wait_for_new_samples(&mut session, "replica");
        wait_for_new_samples(&mut session, "local");
    }
    let since = session.now();
    read_keys(&replica, 0, 240);
    read_keys(&fleet.coordinator, 0, 60);
    read_keys(&replica, 3_000, 120);
    for (shard, expected) in [("orders1", 300), ("orders2", 120)] {
        wait_until("all statements to be sampled", LONG, || {
            session.sampled(shard, "statements_read", &since) >= expected
        });
    }
    // Once, and not again.
    wait_for_new_samples(&mut session, "replica");
    wait_for_new_samples(&mut session, "local");
    for (shard, expected) in [("orders1", 300), ("orders2", 120)] {
        for what in ["statements_read", "reads"] {
            let found = session.sampled(shard, what, &since);
            assert_eq!(found, expected, "{what} of {shard}");
        }
        assert_eq!(session.sampled(shard, "writes", &since), 0, "{shard}");
        assert!(
            session.number(&format!(
                "SELECT count(*) FROM repart.samples WHERE shard = '{shard}'::regclass AND at > '{since}'
                    AND busy_ms > 0 AND p50_ms > 0 AND p99_ms >= p50_ms"
            )) > 0,
            "{shard}"
        );
    }
    // By which keys: of the second shard, all but one read was on the replica.
    session.wait_until(
        "SELECT max(samples) > 10 AND coalesce(sum(share) FILTER (
                    WHERE key_from <> 'MINVALUE' AND key_from::bigint BETWEEN 3000 AND 3091), 0) > 0.9
           FROM repart_heat('orders') WHERE shard = 'orders2'::regclass",
        LONG,
    );

    for (call, parts) in [
        (
            "repart_move('orders1', node => 'replica')",
            [
                "22023 node \"replica\" is a replica",
                "It holds what node \"local\" does",
            ],
        ),
        (
            "repart_drain_node('replica')",
            ["22023 node \"replica\" is a replica", "drain that one"],
        ),
        (
            "repart_run_on_nodes('SELECT 1', '{replica}')",
            [
                "22023 node \"replica\" is a replica",
                "run the command here",
            ],
        ),
    ] {
        let refused = complaint(&mut session, &format!("SELECT {call}"));
        assert!(
            parts.iter().all(|part| refused.contains(part)),
            "{call}: {refused}"
        );
    }

    // One that is away keeps nobody waiting.
    replica.stop(Shutdown::Immediate);
    wait_until("the replica to be unreachable", LONG, || {
        !is_reachable(&mut session, "replica")
    });
    let since = session.now();
    read_keys(&fleet.coordinator, 0, 60);
    wait_until("statements here to be sampled", LONG, || {
        session.sampled("orders1", "statements_read", &since) >= 60
    });
    session.run("SELECT repart_remove_node('replica')");
    assert_eq!(
        session.number("SELECT count(*) FROM repart.node_keys WHERE node = 'replica'"),
        0
    );
}
