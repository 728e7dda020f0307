//! A node that is cut off in a network of the test's own: connections hang, nobody is refused. Nobody who does not need
//! the node waits for it, and everything goes on without a human when it is back.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::time::{Duration, Instant};

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::fleet::{Fleet, is_reachable, samples};
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

const SETTINGS: [&str; 3] = [
    "repart.sample_interval = 300ms",
    "repart.node_timeout = 2s",
    // Many batches of a small table.
    "repart.batch_duration = 10ms",
];

/// What no statement of a client may take that has nothing to do with the node that is cut off; much more than it takes
/// on a loaded machine, and less than the node is away.
const LONGEST: Duration = Duration::from_secs(5);

fn load(fleet: &Fleet, table: &str) -> Workload {
    let options = Options {
        pause: Duration::from_millis(5),
        ..Options::new(table, KEYS)
    };
    let options = options.with_nodes().with_crashes();
    Workload::start(&fleet.coordinator, "postgres", options)
}

#[test]
fn a_node_that_is_cut_off_holds_up_no_client() {
    let fleet = Fleet::apart(&SETTINGS, &[]);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('south')");
    session.create_movable_table("orders", &[2_000], KEYS);
    let workload = load(&fleet, "orders");
    for point in [
        "preparing",
        "copying#2",
        "catching_up",
        "verifying",
        "cutting_over",
    ] {
        let state = point.split('#').next().unwrap();
        session.hold_at(point);
        let id = session.queue("repart_move('orders2', node => 'north')");
        session.wait_held(state);
        fleet.cut_off_north();
        session.release();
        // All rows are still here: clients go on, also while the mover tries to cut over.
        let waits = format!(
            "SELECT coalesce(reason LIKE '%node \"north\"%', false) FROM repart.migrations WHERE id = {id}"
        );
        session.wait_until(&waits, LONG);
        workload.proceed(100);
        fleet.mend_way_to_north();
        session.wait_done(id);
        // Back by the same way: it is the source's turn to be there.
        let id = session.queue("repart_move('orders2', node => 'local')");
        session.wait_done(id);
        fleet.wait_settled(&mut session, (0, 0));
    }
    workload.stop().assert_clean();
    assert_sound(&mut session, "orders");

    // One that does not come back: the move can be cancelled, and what it made there goes when it does.
    session.hold_at("copying#2");
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_held("copying");
    fleet.cut_off_north();
    session.run(&format!("SELECT repart_cancel({id})"));
    session.release();
    assert_eq!(session.wait_ended(id).state, "cancelled");
    assert_nothing_left(&mut session);
    assert!(session.number("SELECT count(*) FROM repart.node_objects") > 0);
    fleet.mend_way_to_north();
    fleet.wait_settled(&mut session, (0, 0));
}

#[test]
fn other_nodes_and_their_clients_do_not_wait_for_one_that_is_cut_off() {
    let fleet = Fleet::apart(&SETTINGS, &[]);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('south')");
    for (table, node) in [("there", "north"), ("orders", "south")] {
        session.create_movable_table(table, &[2_000], KEYS);
        let id = session.queue(&format!("repart_move('{table}2', node => '{node}')"));
        session.wait_done(id);
    }
    let there = load(&fleet, "there");
    let workload = load(&fleet, "orders");
    // What is prepared on the node, and is to be committed there, waits for it too.
    session.hold_at("switched");
    let id = session.queue("repart_move('there2', node => 'local')");
    session.wait_held("switched");
    fleet.cut_off_north();
    let cut = Instant::now();
    session.release();
    wait_until("the node to be taken for unreachable", LONG, || {
        !is_reachable(&mut session, "north")
    });
    // Others are observed, and shards go to them and back.
    let seen = samples(&mut session, "south");
    for node in ["local", "south"] {
        let id = session.queue(&format!("repart_move('orders2', node => '{node}')"));
        session.wait_done(id);
    }
    wait_until("new samples of the other node", LONG, || {
        samples(&mut session, "south") >= seen + 3
    });
    wait_until("the node to have been away for long", LONG, || {
        cut.elapsed() > 2 * LONGEST
    });
    workload.proceed(100);
    assert!(is_reachable(&mut session, "south"));
    assert_eq!(session.migration(id).state, "cleaning");
    assert_eq!(
        session.texts("SELECT node::text FROM repart.in_doubt"),
        ["north"]
    );
    there.proceed(20);
    let report = workload.stop();
    report.assert_clean();
    assert!(report.longest < LONGEST, "{report}");

    fleet.mend_way_to_north();
    session.wait_done(id);
    wait_until("the node to answer again", LONG, || {
        is_reachable(&mut session, "north")
    });
    fleet.wait_settled(&mut session, (0, 1));
    there.proceed(20);
    there.stop().assert_clean();
    for table in ["there", "orders"] {
        assert_sound(&mut session, table);
    }
}

/// A machine that is restarted while it is cut off knows nothing of its connections, and says nothing of them; to new ones
/// it answers.
#[test]
fn a_node_that_was_restarted_while_it_was_cut_off_is_not_waited_for_on_its_old_connection() {
    let fleet = Fleet::apart(&SETTINGS, &[]);
    if !fleet.has_network() {
        println!("skipped: without a network of its own, a node does not forget its connections");
        return;
    }
    let mut session = fleet.session();
    session.set("repart.node_timeout", "'4s'");
    session.run("SELECT repart_add_node('north')");
    session.create_movable_table("orders", &[2_000], KEYS);
    session.hold_at("cutting_over");
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_held("cutting_over");
    // Keeps the mover waiting for an answer.
    let mut north = Session::open(&fleet.north, "postgres");
    let target = north.texts(
        "SELECT format('repart_shards.%I', relname) FROM pg_class
          WHERE relnamespace = 'repart_shards'::regnamespace AND relname LIKE 'orders2%' AND relkind = 'r'",
    );
    north.run(&format!("BEGIN; LOCK TABLE {}", target[0]));
    session.run("UPDATE orders SET counter = counter + 1 WHERE id = 5000");
    session.release();
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)";
    north.wait_until(waits, LONG);
    fleet.cut_off_north();
    fleet.north.kill_postmaster_and_start();
    // As long as its kernel takes to give up what the processes left.
    std::thread::sleep(Duration::from_secs(2));
    fleet.mend_way_to_north();
    session.wait_done(id);
    fleet.wait_settled(&mut session, (1, 0));
    assert_sound(&mut session, "orders");
}
