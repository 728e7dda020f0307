//! Routing copies: clients that connect to another server, which has the same table, see every switch at the moment at
//! which those of the coordinator see it, whoever dies; and nothing is lost, doubled or left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::aftermath::{assert_nothing_left, assert_nothing_left_on, assert_sound};
use repart_tests::cluster::Shutdown;
use repart_tests::fleet::{Fleet, complaint};
use repart_tests::proxy::Proxy;
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

const SETTINGS: [&str; 2] = ["repart.sample_interval = 300ms", "repart.node_timeout = 2s"];

/// Prepares `north` for routing copies: it leads to the coordinator by `hq`, and to the other node by `south`.
fn lead_back(fleet: &Fleet) {
    fleet
        .north
        .connect("postgres")
        .batch_execute(&format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER hq FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({});
             CREATE SERVER south FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({});
             CREATE USER MAPPING FOR PUBLIC SERVER hq OPTIONS (user 'postgres');
             CREATE USER MAPPING FOR PUBLIC SERVER south OPTIONS (user 'postgres')",
            fleet.coordinator.server_options("postgres"),
            fleet.south.server_options("postgres")
        ))
        .unwrap();
}

/// A table of two shards cut at 2000, of which `north` has a routing copy.
fn start() -> Fleet {
    let fleet = Fleet::start(&SETTINGS);
    lead_back(&fleet);
    let mut session = fleet.session();
    session.run(
        "SELECT repart_add_node('north', coordinator => 'hq'); SELECT repart_add_node('south')",
    );
    session.create_sharded_table("orders", &[2_000], KEYS);
    session.run("SELECT repart_manage('orders', leaf_keys => true)");
    assert_eq!(
        session.number("SELECT repart_add_routing_copy('orders', 'north')::bigint"),
        2
    );
    wait_settled(&mut session);
    assert_same(&fleet, &mut session);
    fleet
}

fn wait_settled(session: &mut Session) {
    session.wait_until("SELECT NOT EXISTS (SELECT FROM repart.in_doubt)", LONG);
    session.wait_until("SELECT NOT EXISTS (SELECT FROM repart.node_objects)", LONG);
}

fn load(fleet: &Fleet, crashes: bool) -> Workload {
    let options = Options {
        crashes,
        ..Options::new("orders", KEYS).with_nodes()
    };
    let workload = Workload::spread(&[&fleet.coordinator, &fleet.north], "postgres", options);
    workload.proceed(50);
    workload
}

/// Bound and place of each partition, as `north` sees it: `$local` is what a table of this server is to it.
fn map(session: &mut Session, local: &str) -> Vec<String> {
    map_of(session, "orders", local)
}

fn map_of(session: &mut Session, table: &str, local: &str) -> Vec<String> {
    session.texts(&format!(
        "SELECT concat_ws(' ', pg_get_expr(c.relpartbound, c.oid),
                    CASE WHEN f.ftrelid IS NULL THEN '{local}' WHEN v.srvname = 'north' THEN 'own' ELSE v.srvname END,
                    coalesce((SELECT string_agg(option_value, '.' ORDER BY option_name) FROM pg_options_to_table(f.ftoptions)
                               WHERE option_name IN ('schema_name', 'table_name')), n.nspname || '.' || c.relname))
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid LEFT JOIN pg_foreign_server v ON v.oid = f.ftserver
          WHERE i.inhparent = '{table}'::regclass ORDER BY 1"
    ))
}

/// Both servers lead to the same shards, and find the same rows in them.
fn assert_same(fleet: &Fleet, session: &mut Session) {
    let mut north = Session::open(&fleet.north, "postgres");
    assert_eq!(map(&mut north, "own"), map(session, "hq"));
    let rows = "SELECT count(*), sum(hashtext(o::text)) FROM orders o";
    let of = |session: &mut Session| {
        let row = &session.query(rows, &[])[0];
        (row.get::<_, i64>(0), row.get::<_, Option<i64>>(1))
    };
    assert_eq!(of(&mut north), of(session));
}

/// Nothing is in doubt or left on any server; so many shards are on the two nodes.
fn assert_settled(fleet: &Fleet, session: &mut Session, (north, south): (i64, i64)) {
    wait_settled(session);
    assert_nothing_left(session);
    assert_nothing_left_on(&fleet.north, north);
    assert_nothing_left_on(&fleet.south, south);
}

/// The shards in the order of their keys, as `{1}`, `{2}` … in the call.
fn with_names(session: &mut Session, call: &str) -> String {
    let shards = session.shards("orders");
    shards
        .iter()
        .enumerate()
        .fold(call.to_owned(), |call, (n, shard)| {
            call.replace(&format!("{{{}}}", n + 1), &shard.name)
        })
}

fn do_all(fleet: &Fleet, session: &mut Session, workload: &Workload, calls: &[(&str, (i64, i64))]) {
    for (call, shards) in calls {
        let call = with_names(session, call);
        println!("{call}");
        let id = session.queue(&call);
        session.wait_done(id);
        workload.proceed(60);
        let maps = (
            map(session, "hq"),
            map(&mut Session::open(&fleet.north, "postgres"), "own"),
        );
        assert_eq!(maps.0, maps.1, "{call}");
        assert_settled(fleet, session, *shards);
    }
}

#[test]
fn a_routing_copy_switches_with_the_table_under_load_through_both() {
    let fleet = start();
    let mut session = fleet.session();
    let workload = load(&fleet, false);
    do_all(
        &fleet,
        &mut session,
        &workload,
        &[
            ("repart_split('{2}', '3500', '5000')", (0, 0)),
            // A few rows leave a shard that is kept in place.
            ("repart_shift('{2}', '{3}', '3480')", (0, 0)),
            ("repart_move('{2}', node => 'south')", (0, 1)),
            ("repart_split('{2}', '2700')", (0, 2)),
            ("repart_merge('{2}', '{3}')", (0, 1)),
            ("repart_move('{2}', node => 'local')", (0, 0)),
            ("repart_merge('{3}', '{4}')", (0, 0)),
        ],
    );
    workload.stop().assert_clean();
    assert_same(&fleet, &mut session);
    assert_sound(&mut session, "orders");
}

/// What comes to the copy's own node becomes a partition of it, and what leaves it ceases to be one.
#[test]
fn shards_come_to_the_node_of_a_routing_copy_and_leave_it() {
    let fleet = start();
    let mut session = fleet.session();
    let workload = load(&fleet, false);
    do_all(
        &fleet,
        &mut session,
        &workload,
        &[
            ("repart_move('{2}', node => 'north')", (1, 0)),
            ("repart_split('{2}', '4000')", (2, 0)),
            ("repart_shift('{2}', '{3}', '3000')", (2, 0)),
            ("repart_move('{3}', node => 'south')", (1, 1)),
            ("repart_move('{3}', node => 'north')", (2, 0)),
            ("repart_merge('{2}', '{3}')", (1, 0)),
            ("repart_move('{2}', node => 'local')", (0, 0)),
        ],
    );
    workload.stop().assert_clean();
    assert_same(&fleet, &mut session);
    assert_sound(&mut session, "orders");
}

/// The copies of colocated tables switch together, in one transaction on each node.
#[test]
fn routing_copies_of_a_colocation_group_switch_together() {
    let fleet = start();
    let mut session = fleet.session();
    session.create_sharded_table("lines", &[2_000], KEYS);
    session.run(
        "SELECT repart_manage('lines', colocate_with => 'orders', leaf_keys => true);
         SELECT repart_add_routing_copy('lines', 'north')",
    );
    wait_settled(&mut session);
    let rows = |session: &mut Session| {
        session.number("SELECT count(*) FROM orders JOIN lines USING (id) WHERE orders.payload = lines.payload")
    };
    let before = rows(&mut session);
    for (call, shards) in [
        ("repart_split('{2}', '4000')", (0, 0)),
        ("repart_move('{2}', node => 'south')", (0, 2)),
        ("repart_move('{2}', node => 'north')", (2, 0)),
        ("repart_split('{2}', '3000')", (4, 0)),
        ("repart_merge('{2}', '{3}')", (2, 0)),
        ("repart_move('{2}', node => 'local')", (0, 0)),
    ] {
        let call = with_names(&mut session, call);
        let id = session.queue(&call);
        session.wait_done(id);
        assert_settled(&fleet, &mut session, shards);
        let mut north = Session::open(&fleet.north, "postgres");
        for table in ["orders", "lines"] {
            let maps = (
                map_of(&mut session, table, "hq"),
                map_of(&mut north, table, "own"),
            );
            assert_eq!(maps.0, maps.1, "{table} after {call}");
        }
        assert_eq!(
            (rows(&mut session), rows(&mut north)),
            (before, before),
            "{call}"
        );
    }
}

/// Whoever is killed, and whenever, both servers come to the same map: the old one before the decision, the new one after.
#[test]
fn whoever_is_killed_the_copy_ends_as_was_decided() {
    let fleet = start();
    let mut session = fleet.session();
    let workload = load(&fleet, true);
    // As many as are not a multiple of the strikes: each strike meets each of them.
    let moves = ["south", "north", "local", "north"];
    let mut place = moves.iter().cycle();
    for point in ["verifying", "routed", "switched", "decided"] {
        for strike in ["coordinator", "copy", "mover"] {
            let node = place.next().unwrap();
            println!("{strike} killed at {point}, to {node}");
            let call = with_names(
                &mut session,
                &format!("repart_move('{{2}}', node => '{node}')"),
            );
            session.hold_at(point);
            let id = session.queue(&call);
            let mover = session.wait_held(point);
            match strike {
                "coordinator" => fleet.coordinator.kill_postmaster_and_start(),
                "copy" => fleet.north.kill_postmaster_and_start(),
                _ => fleet.coordinator.kill9(mover),
            }
            session.reopen();
            session.release();
            assert_eq!(
                session.wait_ended(id).state,
                "done",
                "{:?}",
                session.migration(id)
            );
            workload.proceed(40);
            let on = |name: &str| i64::from(name == *node);
            assert_settled(&fleet, &mut session, (on("north"), on("south")));
            let maps = (
                map(&mut session, "hq"),
                map(&mut Session::open(&fleet.north, "postgres"), "own"),
            );
            assert_eq!(maps.0, maps.1, "{strike} killed at {point}");
        }
    }
    workload.stop().assert_clean();
    assert_same(&fleet, &mut session);
    assert_sound(&mut session, "orders");
}

fn count_of_copy(fleet: &Fleet) -> i64 {
    Session::open(&fleet.north, "postgres").number("SELECT count(*) FROM orders")
}

/// A copy that hangs, or is away, keeps the switch from being made; nobody waits for it but those who are told to.
#[test]
fn a_copy_that_hangs_or_is_away_is_waited_for_and_never_left_behind() {
    let fleet = Fleet::start(&SETTINGS);
    lead_back(&fleet);
    let proxy = Proxy::to(fleet.north.port());
    let mut session = fleet.session();
    fleet.create_server(
        "west",
        &format!(
            "host '127.0.0.1', port '{}', dbname 'postgres'",
            proxy.port()
        ),
    );
    session.run("SELECT repart_add_node('west', coordinator => 'hq')");
    session.create_sharded_table("orders", &[2_000], KEYS);
    session.run("SELECT repart_add_routing_copy('orders', 'west')");
    wait_settled(&mut session);
    let rows = session.number("SELECT count(*) FROM orders");

    // Cut off before anything is asked of it: the migration waits, says for whom, and gives up in the end.
    session.set("repart.cutover_timeout", "'3s'");
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders2', '4000')");
    session.wait_held("cutting_over");
    proxy.cut();
    session.release();
    let failed = session.wait_ended(id);
    let error = failed.error.unwrap_or_default();
    assert!(
        failed.state == "failed" && error.contains("node \"west\""),
        "{error}"
    );
    assert_eq!(count_of_copy(&fleet), rows);
    proxy.mend();
    assert_eq!(
        map(&mut session, "hq"),
        map(&mut Session::open(&fleet.north, "postgres"), "own")
    );
    session.run("ALTER SYSTEM RESET repart.cutover_timeout; ");
    session.run("SELECT pg_reload_conf()");

    // Cut off while the table there is locked: its server ends our session, and its clients go on.
    session.hold_at("routed");
    let id = session.queue("repart_split('orders2', '4000')");
    session.wait_held("routed");
    proxy.cut();
    assert_eq!(count_of_copy(&fleet), rows);
    session.release();
    session.wait_until(
        &format!("SELECT reason LIKE '%node \"west\"%' FROM repart.migrations WHERE id = {id}"),
        LONG,
    );
    assert_eq!(
        (
            session.number("SELECT count(*) FROM orders"),
            count_of_copy(&fleet)
        ),
        (rows, rows)
    );
    proxy.mend();
    session.wait_done(id);
    wait_settled(&mut session);
    assert_eq!(
        map(&mut session, "hq"),
        map(&mut Session::open(&fleet.north, "postgres"), "own")
    );

    // Cut off when it is prepared: what is decided arrives when the way is mended.
    session.hold_at("switched");
    let call = with_names(&mut session, "repart_merge('{2}', '{3}')");
    let id = session.queue(&call);
    session.wait_held("switched");
    proxy.cut();
    session.release();
    session.wait_until(
        "SELECT count(*) = 1 FROM repart.in_doubt WHERE node = 'west' AND decision = 'commit'",
        LONG,
    );
    assert_eq!(session.number("SELECT count(*) FROM orders"), rows);
    assert_eq!(session.number("SELECT count(*) FROM repart.shards"), 2);
    // Nobody can use the old map any more, so that the migration ends.
    session.wait_done(id);
    let refused = complaint(
        &mut session,
        "SELECT repart_drop_routing_copy('orders', 'west')",
    );
    assert!(
        refused.starts_with("55006 node \"west\" has still to carry out"),
        "{refused}"
    );
    proxy.mend();
    wait_settled(&mut session);
    assert_eq!(
        map(&mut session, "hq"),
        map(&mut Session::open(&fleet.north, "postgres"), "own")
    );
    assert_eq!(count_of_copy(&fleet), rows);

    // Away for long, prepared; and the coordinator crashes meanwhile.
    session.hold_at("switched");
    let call = with_names(&mut session, "repart_split('{2}', '3000')");
    let id = session.queue(&call);
    session.wait_held("switched");
    fleet.north.stop(Shutdown::Immediate);
    session.release();
    session.wait_until("SELECT count(*) = 3 FROM repart.shards", LONG);
    fleet.coordinator.kill_postmaster_and_start();
    session.reopen();
    session.run("UPDATE orders SET counter = 7 WHERE id = 4001");
    // Another migration does not switch before the copy has followed this one.
    session.set("repart.cutover_timeout", "'1s'");
    let refused = complaint(
        &mut session,
        "SELECT repart_drop_routing_copy('orders', 'west')",
    );
    assert!(
        refused.starts_with("55006 node \"west\" has still to carry out"),
        "{refused}"
    );
    let next = session.queue("repart_split('orders1', '1000')");
    let waited = session.wait_ended(next);
    let error = waited.error.unwrap_or_default();
    assert!(
        waited.state == "failed" && error.contains("has still to carry out"),
        "{error}"
    );
    fleet.north.start_again();
    assert_eq!(session.wait_ended(id).state, "done");
    wait_settled(&mut session);
    assert_same(&fleet, &mut session);
    assert_nothing_left(&mut session);
    assert_nothing_left_on(&fleet.north, 0);
}

/// What a user may get wrong has a message with the object's name and what helps.
#[test]
fn what_cannot_be_a_routing_copy_is_refused_with_its_name() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    let mut north = Session::open(&fleet.north, "postgres");
    session.run("SELECT repart_add_node('south')");
    session.create_sharded_table("orders", &[2_000], KEYS);
    let refuse = |session: &mut Session, call: &str, expected: &str| {
        let refused = complaint(session, &format!("SELECT {call}"));
        assert!(refused.starts_with(expected), "{call}: {refused}");
        assert!(
            refused
                .split(" | ")
                .nth(2)
                .is_some_and(|hint| !hint.is_empty()),
            "{refused}"
        );
    };
    refuse(
        &mut session,
        "repart_add_node('north', coordinator => 'hq')",
        "55000 node \"north\" has no server \"hq\" of postgres_fdw, by which to reach this database",
    );
    refuse(
        &mut session,
        "repart_add_node('south', coordinator => 'hq')",
        "55000 repart is not installed on node \"south\"",
    );
    lead_back(&fleet);
    refuse(
        &mut session,
        "repart_add_node('north', coordinator => 'south')",
        "22023 server \"south\" on node \"north\" does not lead to this database",
    );
    session.run("SELECT repart_add_node('north')");
    refuse(
        &mut session,
        "repart_add_routing_copy('orders', 'north')",
        "55000 it is not known by which foreign server node \"north\" leads back here",
    );
    session.run("SELECT repart_add_node('north', coordinator => 'hq')");
    let add = "repart_add_routing_copy('orders', 'north')";
    for (make, expected) in [
        (
            "CREATE TABLE orders (id bigint, payload text, counter int) PARTITION BY RANGE (id)",
            "0A000 table \"orders\" and its routing copy on node \"north\" have different columns",
        ),
        (
            "CREATE TABLE orders (id bigint, payload text, counter bigint) PARTITION BY RANGE (counter)",
            "0A000 table \"orders\" and its routing copy on node \"north\" have different partition key",
        ),
        (
            "CREATE TABLE orders (id bigint PRIMARY KEY, payload text, counter bigint) PARTITION BY RANGE (id)",
            "0A000 the routing copy of table \"orders\" on node \"north\" has unique indexes",
        ),
        (
            "CREATE TABLE orders (id bigint, payload text, counter bigint) PARTITION BY RANGE (id);
             CREATE TABLE own PARTITION OF orders DEFAULT",
            "0A000 partition \"own\" on node \"north\" is a table of that node",
        ),
    ] {
        north.run(make);
        refuse(&mut session, add, expected);
        north.run("DROP TABLE orders");
    }
    refuse(
        &mut session,
        "repart_add_routing_copy('orders', 'nowhere')",
        "42704 node \"nowhere\" does not exist",
    );
    refuse(
        &mut session,
        "repart_drop_routing_copy('orders', 'north')",
        "42704 table public.orders has no routing copy",
    );
    // A savepoint that is undone leaves nothing.
    session.run(&format!("BEGIN; SELECT {add}; ROLLBACK"));
    wait_until("what was prepared to be rolled back", LONG, || {
        north.number("SELECT count(*) FROM pg_prepared_xacts") == 0
    });
    assert_eq!(
        north.number("SELECT count(*) FROM pg_class WHERE relname = 'orders'"),
        0
    );
    session.run(&format!("SELECT {add}"));
    wait_settled(&mut session);
    refuse(
        &mut session,
        "repart_unmanage('orders')",
        "55006 table \"orders\" has a routing copy on node \"north\"",
    );
    refuse(
        &mut session,
        "repart_remove_node('north')",
        "55006 node \"north\" has a routing copy of table \"public.orders\"",
    );
    refuse(
        &mut session,
        "repart_add_node('north', coordinator => 'south')",
        "55006 node \"north\" has a routing copy of table \"public.orders\", which leads back here by server \"hq\"",
    );
    // It keeps its way back when it is added again, and a copy that somebody changed is brought up to date.
    session.run("SELECT repart_add_node('north', weight => 2)");
    north.run("DROP FOREIGN TABLE orders2");
    refuse(
        &mut session,
        "repart_split('orders2', '4000')",
        "55000 table \"orders\" and its routing copy on node \"north\" have different partitions",
    );
    session.run(&format!("SELECT {add}"));
    wait_settled(&mut session);
    assert_same(&fleet, &mut session);
    // The copy must know a node before a shard goes there.
    north.run("DROP SERVER south CASCADE");
    session.run("SELECT repart_manage('orders', leaf_keys => true)");
    refuse(
        &mut session,
        "repart_move('orders2', node => 'south')",
        "55000 node \"north\" has no server \"south\" of postgres_fdw, by which to reach node \"south\"",
    );
    // Writers of the copy could not wait while a shard without a key is copied.
    session.run(
        "CREATE TABLE keyless (id bigint NOT NULL) PARTITION BY RANGE (id);
         CREATE TABLE keyless1 PARTITION OF keyless FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         SELECT repart_manage('keyless'); SELECT repart_add_routing_copy('keyless', 'north'); SET repart.allow_blocking = on",
    );
    wait_settled(&mut session);
    refuse(
        &mut session,
        "repart_split('keyless1', '5')",
        "0A000 table \"keyless\" has a routing copy on node \"north\"",
    );
    session.run("SELECT repart_drop_routing_copy('keyless', 'north'); SELECT repart_drop_routing_copy('orders', 'north')");
    wait_settled(&mut session);
    assert_eq!(
        north.number("SELECT count(*) FROM pg_class WHERE relname ~ '^(orders|keyless)'"),
        0
    );
    session.run("SELECT repart_remove_node('north')");
    assert_eq!(
        session.number("SELECT count(*) FROM repart.routing_copies"),
        0
    );
}

/// The remote snapshot of a transaction on the copy may be older than a shard's rows, there as here.
#[test]
fn an_old_snapshot_on_the_copy_gets_an_error_and_not_an_empty_shard() {
    let fleet = start();
    let mut session = fleet.session();
    session.create_sharded_table("others", &[], 1_000);
    session.run("SELECT repart_manage('others', leaf_keys => true); SELECT repart_add_routing_copy('others', 'north')");
    let id = session.queue("repart_move('others1', node => 'south')");
    session.wait_done(id);
    wait_settled(&mut session);
    let rows = session.number("SELECT count(*) FROM orders");
    let mut readers: Vec<Session> = [
        "BEGIN; SELECT count(*) FROM others",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM others",
    ]
    .iter()
    .map(|begin| {
        let mut reader = Session::open(&fleet.north, "postgres");
        reader.run(begin);
        reader
    })
    .collect();
    let id = session.queue("repart_move('orders2', node => 'south')");
    session.wait_done(id);
    wait_settled(&mut session);
    for reader in &mut readers {
        let refused = complaint(reader, "SELECT count(*) FROM orders");
        assert!(refused.starts_with("40001"), "{refused}");
        reader.run("ROLLBACK");
        assert_eq!(reader.number("SELECT count(*) FROM orders"), rows);
    }
    // To the copy's own node, too.
    readers[0].run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM others");
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    wait_settled(&mut session);
    let refused = complaint(&mut readers[0], "SELECT count(*) FROM orders");
    assert!(refused.starts_with("40001"), "{refused}");
    readers[0].run("ROLLBACK");
    assert_same(&fleet, &mut session);
}
