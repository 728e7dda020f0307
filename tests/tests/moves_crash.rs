//! Moves between servers when one of them is killed at every point of their life, under load: afterwards
//! each row is in one place, nothing is in doubt, and nothing is left on any server.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::aftermath::{assert_nothing_left, assert_nothing_left_on, assert_sound};
use repart_tests::cluster::Shutdown;
use repart_tests::fleet::Fleet;
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};

const KEYS: i64 = 6_000;

const SETTINGS: [&str; 3] = [
    "repart.sample_interval = 300ms",
    "repart.node_timeout = 2s",
    // Many batches of a small table.
    "repart.batch_duration = 10ms",
];

/// Where a mover is stopped: before the first commit of each state that does something elsewhere, and after it.
const POINTS: [&str; 8] = [
    "created",
    "captured",
    "copied",
    "indexed",
    "applied",
    "verifying",
    "switched",
    "cleaned",
];

/// From here to a node, to another one, and back.
const TOUR: [&str; 3] = ["north", "south", "local"];

fn place(session: &mut Session) -> String {
    session.texts("SELECT node FROM repart.shards WHERE shard = 'orders2'::regclass")[0].clone()
}

/// Everybody is where he should be, and nothing else is anywhere.
fn check(fleet: &Fleet, session: &mut Session, node: &str) {
    assert_eq!(place(session), node);
    let on = |name| i64::from(name == node);
    fleet.wait_settled(session, (on("north"), on("south")));
}

/// Goes round for each of these points; `strike` is what happens while the mover is held there.
fn tour(points: &[&str], strike: impl Fn(&Fleet, &mut Session)) {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('south')");
    session.create_movable_table("orders", &[2_000], KEYS);
    let workload = fleet.load("orders", KEYS);
    for point in points {
        for node in TOUR {
            println!("{point}, to {node}");
            session.hold_at(point);
            let id = session.queue(&format!("repart_move('orders2', node => '{node}')"));
            session.wait_held(point);
            strike(&fleet, &mut session);
            session.release();
            let migration = session.wait_ended(id);
            assert_eq!(migration.state, "done", "{point}, to {node}: {migration:?}");
            check(&fleet, &mut session, node);
            workload.proceed(20);
        }
    }
    workload.stop().assert_clean();
    assert_sound(&mut session, "orders");
}

fn kill_coordinator(fleet: &Fleet, session: &mut Session) {
    fleet.coordinator.kill_postmaster_and_start();
    session.reopen();
}

fn kill_nodes(fleet: &Fleet, _session: &mut Session) {
    fleet.north.kill_postmaster_and_start();
    fleet.south.kill_postmaster_and_start();
}

fn kill_mover(fleet: &Fleet, session: &mut Session) {
    let mover = session.wait_worker("mover");
    fleet.coordinator.try_kill9(mover);
    session.reopen();
}

#[test]
fn a_killed_coordinator_costs_no_row() {
    tour(&POINTS, kill_coordinator);
}

#[test]
fn killed_nodes_cost_no_row() {
    let points = ["created", "copied", "indexed", "applied", "switched"];
    tour(&points, kill_nodes);
}

#[test]
fn a_killed_mover_costs_no_row() {
    tour(&["captured", "copied", "applied", "switched"], kill_mover);
}

/// As a tour, with a split and a merge on a node.
#[test]
fn a_killed_server_costs_no_row_of_a_shard_that_is_reshaped_on_its_node() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('south')");
    session.create_movable_table("orders", &[2_000], KEYS);
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    let workload = fleet.load("orders", KEYS);
    for (round, point) in ["captured", "copied", "applied", "switched"]
        .iter()
        .enumerate()
    {
        for split in [true, false] {
            let shards = session.shards("orders");
            let call = if split {
                format!("repart_split('{}', '4000')", shards[1].name)
            } else {
                format!("repart_merge('{}', '{}')", shards[1].name, shards[2].name)
            };
            println!("{point}: {call}");
            session.hold_at(point);
            let id = session.queue(&call);
            session.wait_held(point);
            if split == (round % 2 == 0) {
                kill_nodes(&fleet, &mut session);
            } else {
                kill_coordinator(&fleet, &mut session);
            }
            session.release();
            let migration = session.wait_ended(id);
            assert_eq!(migration.state, "done", "{call}: {migration:?}");
            fleet.wait_settled(&mut session, if split { (2, 0) } else { (1, 0) });
            workload.proceed(20);
        }
    }
    workload.stop().assert_clean();
    assert_sound(&mut session, "orders");
}

#[test]
fn a_cancelled_move_leaves_nothing_on_any_server() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('south')");
    session.create_movable_table("orders", &[2_000], KEYS);
    let workload = fleet.load("orders", KEYS);
    for node in TOUR {
        for point in [
            "preparing",
            "copying",
            "catching_up",
            "verifying",
            "cutting_over",
        ] {
            let before = place(&mut session);
            session.hold_at(point);
            let id = session.queue(&format!("repart_move('orders2', node => '{node}')"));
            session.wait_held(point);
            session.run(&format!("SELECT repart_cancel({id})"));
            session.release();
            let migration = session.wait_ended(id);
            assert_eq!(
                migration.state, "cancelled",
                "{point}, to {node}: {migration:?}"
            );
            check(&fleet, &mut session, &before);
        }
        let id = session.queue(&format!("repart_move('orders2', node => '{node}')"));
        session.wait_done(id);
    }
    workload.stop().assert_clean();
    assert_sound(&mut session, "orders");
}

/// What a standby that is promoted has not received cannot be seen from the other end: the move begins anew.
#[test]
fn a_move_ends_when_a_standby_takes_the_place_of_its_node() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    let standby = fleet.north.standby(&[]);
    session.run("SELECT repart_add_node('north')");
    session.create_movable_table("orders", &[2_000], KEYS);
    session.hold_at("verifying");
    let id = session.queue("repart_move('orders2', node => 'north')");
    let mover = session.wait_held("verifying");
    standby.promote();
    let way = standby.server_options("postgres");
    let way = way
        .replace("host ", "SET host ")
        .replace("port ", "SET port ")
        .replace("dbname ", "SET dbname ");
    session.run(&format!("ALTER SERVER north OPTIONS ({way})"));
    fleet.coordinator.try_kill9(mover);
    session.reopen();
    session.release();
    let migration = session.wait_ended(id);
    assert_eq!(migration.state, "failed", "{migration:?}");
    assert!(
        migration
            .error
            .as_deref()
            .unwrap_or_default()
            .contains("a standby has taken the place"),
        "{migration:?}"
    );
    wait_until("nothing to be left to be dropped", LONG, || {
        session.number("SELECT count(*) FROM repart.node_objects") == 0
    });
    assert_nothing_left_on(&standby, 0);
    assert_nothing_left(&mut session);
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    assert_sound(&mut session, "orders");
}

/// What holds the rows of others' transactions there is not ours to wait out in the middle of a switch, nor a reason to
/// give up.
#[test]
fn a_move_waits_for_a_node_that_has_no_room_for_a_prepared_transaction() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north')");
    session.create_movable_table("orders", &[2_000], KEYS);
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    let mut north = Session::open(&fleet.north, "postgres");
    north.run("ALTER SYSTEM SET max_prepared_transactions = 1");
    fleet.north.restart(Shutdown::Fast);
    north.reopen();
    north.run("BEGIN; CREATE TABLE theirs (); PREPARE TRANSACTION 'theirs'");
    let workload = fleet.load("orders", KEYS);
    let id = session.queue("repart_move('orders2', node => 'local')");
    let waits = format!(
        "SELECT coalesce(reason LIKE '%node \"north\"%max_prepared_transactions%', false)
           FROM repart.migrations WHERE id = {id}"
    );
    session.wait_until(&waits, LONG);
    workload.proceed(50);
    north.run("ROLLBACK PREPARED 'theirs'");
    session.wait_done(id);
    check(&fleet, &mut session, "local");
    workload.stop().assert_clean();
    assert_sound(&mut session, "orders");
}
