//! Plans that move shards between nodes, with real servers. Load and forecasts are imported, and nothing is measured
//! (`repart.mode = off`): each node then counts as one processor.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::cluster::Shutdown;
use repart_tests::fleet::Fleet;
use repart_tests::repart::Session;
use repart_tests::wait::LONG;

const QUIET: [&str; 4] = [
    "repart.mode = off",
    "repart.node_timeout = 1s",
    "repart.shard_capacity = 1000",
    "repart.min_shard_size = 0",
];

/// A row takes a thousandth of a processor: 480 rows/s are 48 % of a node.
fn import(session: &mut Session, shard: &str, rows: i64) {
    session.run(&format!(
        "SELECT repart_import_samples('{shard}', jsonb_agg(jsonb_build_object(
                'at', now() - n * interval '1 minute', 'reads', {rows}, 'writes', 0, 'bytes', 8192)))
           FROM generate_series(0, 300) n"
    ));
}

/// Two shards here and one on `north`, each without keys.
fn orders(fleet: &Fleet, session: &mut Session) {
    fleet
        .north
        .connect("postgres")
        .batch_execute("CREATE TABLE part (id bigint, note text)")
        .unwrap();
    session.run(
        "CREATE TABLE orders (id bigint, note text) PARTITION BY RANGE (id);
         CREATE TABLE orders1 PARTITION OF orders FOR VALUES FROM (MINVALUE) TO (1000);
         CREATE TABLE orders2 PARTITION OF orders FOR VALUES FROM (1000) TO (2000);
         CREATE FOREIGN TABLE orders3 PARTITION OF orders FOR VALUES FROM (2000) TO (MAXVALUE)
             SERVER north OPTIONS (table_name 'part');
         SELECT repart_add_node('north'); SELECT repart_add_node('south'); SELECT repart_manage('orders')",
    );
    for (shard, rows) in [("orders1", 480), ("orders2", 480), ("orders3", 100)] {
        import(session, shard, rows);
    }
    for node in ["north", "south"] {
        session.wait_until(
            &format!("SELECT reachable FROM repart.nodes WHERE node = '{node}'"),
            LONG,
        );
    }
}

/// The steps of a new plan: action, reason, shard, from and to.
fn plan(session: &mut Session) -> Vec<String> {
    session.texts(
        "SELECT concat_ws(' ', action, reason, shard, source, target) FROM repart_plan('orders')",
    )
}

fn why(session: &mut Session) -> String {
    session.texts("SELECT why FROM repart.plans ORDER BY plan_id DESC, step LIMIT 1")[0].clone()
}

/// What the watcher would note of a node.
fn measured(session: &mut Session, node: &str, columns: &str, values: &str) {
    session.run(&format!(
        "DELETE FROM repart.node_samples WHERE node = '{node}';
         INSERT INTO repart.node_samples (node, at, seconds, {columns}) VALUES ('{node}', now(), 1, {values})"
    ));
}

#[test]
fn a_plan_moves_shards_to_nodes_that_can_take_them() {
    let fleet = Fleet::start(&QUIET);
    let mut session = fleet.session();
    orders(&fleet, &mut session);

    // The coolest takes it.
    assert_eq!(plan(&mut session), ["move HOT_NOW orders1 local south"]);
    let sentence = why(&mut session);
    for part in [
        "node local uses 96 % of its capacity now (limit 70 %)",
        "moving orders1 to node south (how much its disk has left is not known) leaves node local at most 48 % and node south at most 48 %",
        "it copies the shard",
    ] {
        assert!(sentence.contains(part), "{sentence}");
    }

    // Short of disk, of memory, or used by something else: then north.
    for (columns, values) in [
        ("disk_total, disk_free", "1000000000, 5000000"),
        ("memory_total, memory_available", "1000, 20"),
        ("cpus, cpu", "1, 0.6"),
    ] {
        measured(&mut session, "south", columns, values);
        assert_eq!(
            plan(&mut session),
            ["move HOT_NOW orders1 local north"],
            "{columns}"
        );
    }
    session.run("DELETE FROM repart.node_samples");

    // Nor does one that is to be emptied, or does not answer.
    session.run("SELECT repart_drain_node('south')");
    assert_eq!(plan(&mut session), ["move HOT_NOW orders1 local north"]);
    session.run("SELECT repart_add_node('south')");
    fleet.south.stop(Shutdown::Fast);
    session.wait_until(
        "SELECT NOT reachable FROM repart.nodes WHERE node = 'south'",
        LONG,
    );
    assert_eq!(plan(&mut session), ["move HOT_NOW orders1 local north"]);

    // A node that is to be emptied is, by everything that it holds, as far as others can take it.
    import(&mut session, "orders2", 100);
    assert_eq!(plan(&mut session).len(), 1);
    session.run("SELECT repart_drain_node('north')");
    assert_eq!(plan(&mut session), ["move DRAIN orders3 north local"]);
    let sentence = why(&mut session);
    assert!(
        sentence.contains("node north is to be emptied and holds 1 shard, orders3 among them"),
        "{sentence}"
    );
    import(&mut session, "orders1", 850);
    let steps = plan(&mut session);
    assert!(
        !steps.iter().any(|step| step.starts_with("move")),
        "{steps:?}"
    );
    let sentence = why(&mut session);
    let alternatives = session
        .texts("SELECT alternatives::text FROM repart.plans ORDER BY plan_id DESC, step LIMIT 1");
    assert!(
        format!("{sentence} {alternatives:?}").contains("south (it does not answer)"),
        "{sentence} {alternatives:?}"
    );
}

#[test]
fn shards_on_two_nodes_that_the_same_transactions_use_are_gathered() {
    let fleet = Fleet::start(&QUIET);
    let mut session = fleet.session();
    orders(&fleet, &mut session);
    for shard in ["orders1", "orders2", "orders3"] {
        import(&mut session, shard, 10);
    }
    assert!(plan(&mut session)[0].starts_with("none NO_ACTION"));
    for number in 0..150 {
        session.run(&format!(
            "BEGIN; INSERT INTO orders VALUES ({number}, 'here'); INSERT INTO orders VALUES (2000 + {number}, 'there'); COMMIT"
        ));
    }
    let steps = plan(&mut session);
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert!(
        steps[0] == "move GATHER orders1 local north"
            || steps[0] == "move GATHER orders3 north local",
        "{steps:?}"
    );
    let sentence = why(&mut session);
    assert!(
        sentence.contains("transactions per second use both orders")
            && sentence.contains("transactions per second less use two nodes"),
        "{sentence}"
    );
}

#[test]
fn a_table_whose_shards_cannot_leave_says_so() {
    let fleet = Fleet::start(&QUIET);
    let mut session = fleet.session();
    session.run(
        "CREATE TABLE orders (id bigint PRIMARY KEY, note text) PARTITION BY RANGE (id);
         CREATE TABLE orders1 PARTITION OF orders FOR VALUES FROM (MINVALUE) TO (1000);
         CREATE TABLE orders2 PARTITION OF orders FOR VALUES FROM (1000) TO (MAXVALUE);
         SELECT repart_add_node('north'); SELECT repart_manage('orders')",
    );
    for shard in ["orders1", "orders2"] {
        import(&mut session, shard, 480);
    }
    session.wait_until(
        "SELECT reachable FROM repart.nodes WHERE node = 'north'",
        LONG,
    );
    assert_eq!(plan(&mut session), ["none NO_CAPACITY orders1 local local"]);
    let sentence = why(&mut session);
    assert!(
        sentence.contains("node local is forecast to use 96 %")
            && sentence.contains("has unique indexes (orders_pkey)")
            && sentence.contains("repart_manage(..., leaf_keys => true)"),
        "{sentence}"
    );
    session.run("SELECT repart_manage('orders', leaf_keys => true)");
    assert_eq!(plan(&mut session), ["move HOT_NOW orders1 local north"]);
}

#[test]
fn a_migration_of_a_plan_waits_for_a_node_that_is_away() {
    let fleet = Fleet::start(&QUIET);
    let mut session = fleet.session();
    session.create_movable_table("orders", &[1_000], 2_000);
    session.run("SELECT repart_add_node('south')");
    for shard in ["orders1", "orders2"] {
        import(&mut session, shard, 480);
    }
    session.wait_until(
        "SELECT reachable FROM repart.nodes WHERE node = 'south'",
        LONG,
    );
    assert_eq!(plan(&mut session), ["move HOT_NOW orders1 local south"]);
    // It does not begin before the node is away.
    session.set("repart.max_movers", "0");
    let id = session.number("SELECT repart_apply()");
    fleet.south.stop(Shutdown::Fast);
    session.wait_until(
        "SELECT NOT reachable FROM repart.nodes WHERE node = 'south'",
        LONG,
    );
    session.set("repart.max_movers", "1");
    session.wait_until(
        &format!(
            "SELECT state = 'queued' AND waits_for = 'south' AND waiting_since <= clock_timestamp() AND retry_at IS NULL
                    AND reason = 'waits for node \"south\", which does not answer'
               FROM repart.migrations WHERE id = {id}"
        ),
        LONG,
    );
    // Others go on meanwhile, and it waits since when it began to.
    let waiting = format!("SELECT waiting_since::text FROM repart.migrations WHERE id = {id}");
    let since = session.texts(&waiting);
    let other = session.queue("repart_split('orders2', '1500')");
    session.wait_done(other);
    assert_eq!(session.texts(&waiting), since);
    fleet.south.start_again();
    session.wait_done(id);
    let waits = "SELECT count(*) FROM repart.migrations WHERE waits_for IS NOT NULL OR waiting_since IS NOT NULL";
    assert_eq!(session.number(waits), 0);
}

#[test]
fn a_migration_of_a_plan_waits_for_headroom_and_says_what_for() {
    let fleet = Fleet::start(&[
        "repart.mode = off",
        "repart.headroom = 0.8",
        "repart.emergency = off",
        "repart.shard_capacity = 1000",
        "repart.min_shard_size = 0",
        "repart.dwell = 0",
        "repart.max_pause = 1ms",
    ]);
    let mut session = fleet.session();
    session.create_sharded_table("orders", &[10_000], 20_000);
    // A plan, applied, for a shard that is above its limit; the number of the migration.
    let planned = |session: &mut Session| {
        let hot = session
            .texts("SELECT shard::text FROM repart.shards ORDER BY shard::text LIMIT 1")[0]
            .clone();
        import(session, &hot, 900);
        let steps = plan(session);
        assert!(
            steps[0].starts_with(&format!("split HOT_NOW {hot}")),
            "{steps:?}"
        );
        session.number("SELECT repart_apply()")
    };
    let wait_for_reason = |session: &mut Session, id: i64, reason: &str| {
        session.wait_until(
            &format!("SELECT state = 'queued' AND coalesce(reason, '') LIKE '{reason}' FROM repart.migrations WHERE id = {id}"),
            LONG,
        );
    };

    // The processors are busy now; what was asked for by hand starts all the same.
    measured(&mut session, "local", "cpu", "0.95");
    let id = planned(&mut session);
    wait_for_reason(
        &mut session,
        id,
        "waits for headroom: the processors of node \"local\" are used to 95 \\% (repart.headroom 80 \\%)",
    );
    let by_hand = session.queue("repart_split('orders2', '15000')");
    session.wait_done(by_hand);
    assert_eq!(session.migration(id).state, "queued");
    // Somebody waits for a disk; memory is short.
    measured(&mut session, "local", "cpu, io_stall", "0.1, 0.9");
    wait_for_reason(
        &mut session,
        id,
        "waits for headroom: the I/O of node %90 \\%%",
    );
    measured(
        &mut session,
        "local",
        "memory_total, memory_available",
        "1000, 100",
    );
    wait_for_reason(
        &mut session,
        id,
        "waits for headroom: the memory of node %90 \\%%",
    );
    // All is well now, and will not be for as long as it takes.
    measured(&mut session, "local", "cpu", "0.1");
    session.run(
        "INSERT INTO repart.node_curves (node, metric, first_at, step, q90)
         VALUES ('local', 'cpu', now() - interval '1 min', '1 min', '{0.2, 0.2, 0.9}')
         ON CONFLICT (node, metric) DO UPDATE SET first_at = excluded.first_at, step = excluded.step, q90 = excluded.q90;
         UPDATE repart.journal SET predicted = predicted || '{\"duration\": 300}' WHERE state = 'queued'",
    );
    measured(&mut session, "local", "cpu", "0.1");
    wait_for_reason(
        &mut session,
        id,
        "waits for headroom: the processors of node \"local\" will be used to 90 \\% before it could end, in 300 s%",
    );
    session.run("UPDATE repart.journal SET predicted = predicted || '{\"duration\": 20}' WHERE state = 'queued'");
    session.wait_done(id);

    // Only in the window.
    session.run("DELETE FROM repart.node_curves");
    let hours = session.texts(
        "SELECT to_char(now() + interval '2 h', 'HH24:00') || '-' || to_char(now() + interval '3 h', 'HH24:00')",
    )[0]
    .clone();
    session.set("repart.maintenance_window", &format!("'{hours}'"));
    let id = planned(&mut session);
    wait_for_reason(
        &mut session,
        id,
        &format!("waits for repart.maintenance_window ({hours})"),
    );
    session.set("repart.maintenance_window", "'at night'");
    wait_for_reason(
        &mut session,
        id,
        "invalid value for parameter \"repart.maintenance_window\": \"at night\"%",
    );
    session.run("ALTER SYSTEM RESET repart.maintenance_window");
    session.run("SELECT pg_reload_conf()");
    session.wait_done(id);

    // In an emergency, if that is admitted: its limit is passed already.
    measured(&mut session, "local", "cpu", "0.95");
    let id = planned(&mut session);
    wait_for_reason(&mut session, id, "waits for headroom%");
    session.set("repart.emergency", "on");
    session.wait_done(id);
}
