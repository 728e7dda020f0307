//! Nodes that are away, crash, or come back as something else: nobody else waits for them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::time::{Duration, Instant};

use repart_tests::cluster::Shutdown;
use repart_tests::fleet::{Fleet, complaint, is_reachable, samples, wait_for_new_samples};
use repart_tests::proxy::Proxy;
use repart_tests::repart::Session;
use repart_tests::run_dir::run;
use repart_tests::wait::{LONG, wait_until};

/// Samples are taken often, so that a test sees several.
const OFTEN: [&str; 2] = ["repart.sample_interval = 200ms", "repart.node_timeout = 2s"];

#[test]
fn a_node_that_is_away_keeps_nobody_waiting() {
    let fleet = Fleet::start(&OFTEN);
    let mut session = fleet.session();
    let proxy = Proxy::to(fleet.south.port());
    let way = format!(
        "host '127.0.0.1', port '{}', dbname 'postgres'",
        proxy.port()
    );
    fleet.create_server("far", &way);
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('far')");
    for node in ["north", "far", "local"] {
        wait_for_new_samples(&mut session, node);
    }

    // Connections hang.
    proxy.cut();
    wait_until("the node to be unreachable", LONG, || {
        !is_reachable(&mut session, "far")
    });
    assert!(is_reachable(&mut session, "north"));
    let begun = Instant::now();
    let before = samples(&mut session, "local");
    session.create_sharded_table("orders", &[], 3_000);
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_done(id);
    for node in ["north", "local"] {
        wait_for_new_samples(&mut session, node);
    }
    // The observer goes on at its own pace: it would lose two seconds of every few if it waited with the watcher.
    wait_until("a second and a half", LONG, || {
        begun.elapsed() > Duration::from_millis(1_500)
    });
    let taken = samples(&mut session, "local") - before;
    let expected = begun.elapsed().as_millis() as i64 / 200;
    assert!(
        taken * 3 > expected,
        "{taken} samples instead of {expected}"
    );

    // Who asks for it is told in time, and can be interrupted.
    let begun = Instant::now();
    let refused = complaint(
        &mut session,
        "SET repart.node_timeout = '500ms'; SELECT repart_add_node('far')",
    );
    assert!(
        refused.contains("08001 could not connect to node \"far\""),
        "{refused}"
    );
    assert!(
        refused.contains("no answer within repart.node_timeout"),
        "{refused}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    let refused = complaint(
        &mut session,
        "SET repart.node_timeout = '10min'; SET statement_timeout = '300ms'; SELECT repart_add_node('far')",
    );
    assert!(refused.starts_with("57014"), "{refused}");
    session.run("RESET statement_timeout; RESET repart.node_timeout");

    proxy.mend();
    wait_until("the node to answer again", LONG, || {
        is_reachable(&mut session, "far")
    });
    wait_for_new_samples(&mut session, "far");
    let events =
        session.texts("SELECT message FROM repart.events WHERE message LIKE '%far%' ORDER BY id");
    assert!(
        events
            .last()
            .unwrap()
            .contains("node \"far\" answers again"),
        "{events:?}"
    );

    // A crash, which refuses connections, and a restart of either side.
    fleet.north.stop(Shutdown::Immediate);
    wait_until("the node to be unreachable", LONG, || {
        !is_reachable(&mut session, "north")
    });
    wait_for_new_samples(&mut session, "far");
    fleet.north.start_again();
    wait_until("the node to answer again", LONG, || {
        is_reachable(&mut session, "north")
    });
    let watcher = session.wait_worker("watcher");
    fleet.coordinator.kill9(watcher);
    session.reopen();
    for node in ["north", "far", "local"] {
        wait_for_new_samples(&mut session, node);
    }
}

#[test]
fn nodes_survive_crashes_and_a_dump_and_are_what_they_were_added_as() {
    let fleet = Fleet::start(&OFTEN);
    let mut session = fleet.session();
    let replica = fleet.north.standby(&[]);
    fleet.create_server("replica", &replica.server_options("postgres"));
    session.run("SELECT repart_add_node('north', 2); SELECT repart_add_node('replica', replica_of => 'north')");
    session.run("SELECT repart_drain_node('north')");
    session.run("SELECT repart_add_node('local', 3); SELECT repart_drain_node('local')");
    for node in ["north", "replica"] {
        wait_for_new_samples(&mut session, node);
    }

    // Each dies with SIGKILL, and comes back.
    fleet.north.kill_postmaster_and_start();
    replica.kill_postmaster_and_start();
    fleet.coordinator.kill_postmaster_and_start();
    session.reopen();
    for node in ["north", "replica", "local"] {
        wait_for_new_samples(&mut session, node);
        assert!(is_reachable(&mut session, node), "{node}");
    }

    // A dump has the nodes, replicas before their primaries or after them, and not who this coordinator is.
    let file = fleet.coordinator.scratch("dump.sql");
    let mut dump = fleet.coordinator.client_program("pg_dump", "postgres");
    run({
        dump.arg("-f").arg(&file);
        dump
    });
    session.run("CREATE DATABASE restored");
    let mut restore = fleet.coordinator.client_program("psql", "restored");
    run({
        restore
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(&file);
        restore
    });
    let mut restored = Session::open(&fleet.coordinator, "restored");
    let listed = "SELECT concat_ws(' ', node, replica_of, weight, draining, connects_as) FROM repart.node_list ORDER BY node";
    let nodes = session.texts(listed);
    assert_eq!(nodes, ["north 2 t postgres", "replica north 1 f postgres"]);
    assert_eq!(restored.texts(listed), nodes);
    let own = "SELECT concat_ws(' ', weight, draining) FROM repart.nodes WHERE node = 'local'";
    assert_eq!(session.texts(own), ["3 t"]);
    assert_eq!(restored.texts(own), ["3 t"]);
    let id = "SELECT id::text FROM repart.coordinator";
    assert_ne!(restored.texts(id), session.texts(id));
    for node in ["north", "replica"] {
        wait_for_new_samples(&mut restored, node);
    }
    drop(restored);
    session.run("DROP DATABASE restored WITH (FORCE)");

    // A replica that was promoted is another server than the one that was added.
    replica.promote();
    wait_until("the promotion to be noticed", LONG, || {
        !is_reachable(&mut session, "replica")
    });
    let error = session.texts("SELECT error FROM repart.nodes WHERE node = 'replica'");
    assert_eq!(error, ["node \"replica\" is no replica any more"]);
    assert!(is_reachable(&mut session, "north"));
    session.run("SELECT repart_remove_node('replica'); SELECT repart_add_node('replica')");
    wait_for_new_samples(&mut session, "replica");
    // Nor is a server that is gone.
    session.run("DROP SERVER replica CASCADE");
    wait_until("the lost server to be noticed", LONG, || {
        !is_reachable(&mut session, "replica")
    });
    session.run("SELECT repart_remove_node('replica'); SELECT repart_remove_node('north')");
}
