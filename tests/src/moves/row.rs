//! The rows of the matrix: one failure after the other, each in every cell.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::cell::Cell;
use super::kind::{Family, Place};
use super::plan;
use super::strike::Strike;
use crate::aftermath::{assert_nothing_left, assert_nothing_left_on, assert_sound};
use crate::cluster::Cluster;
use crate::fleet::Fleet;
use crate::matrix::cell::Moment;
use crate::matrix::observed;
use crate::repart::Session;
use crate::wait::{LONG, wait_until};

/// Movers for all cells at once, and small batches of small tables.
const SETTINGS: &[&str] = &[
    "max_worker_processes = 80",
    "max_connections = 250",
    "repart.max_movers = 64",
    "repart.batch_duration = '10ms'",
    "repart.max_copy_rate = '4MB'",
    "repart.sample_interval = '3s'",
    "repart.node_timeout = '3s'",
];

/// Connections of all clients and movers.
const SETTINGS_OF_NODES: &[&str] = &["max_connections = 400"];

/// For how long a server is away after migrations were let go, at least: longer than `repart.node_timeout`.
const AWAY: Duration = Duration::from_secs(5);

/// Runs these rows of a family.
///
/// # Panics
/// Panics when a cell was not run, or what came of it is not right.
pub fn run(family: Family, strikes: &[Strike]) {
    let started = Instant::now();
    let fleet = Fleet::apart(SETTINGS, SETTINGS_OF_NODES);
    let replica = fleet
        .north
        .standby(&["wal_retrieve_retry_interval = '200ms'"]);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('south')");
    let mut cells = prepare(&fleet, &mut session, family);
    let took = started.elapsed().as_secs_f64();
    println!("{family:?}: {} cells prepared in {took:.1} s", cells.len());
    for strike in strikes {
        run_row(*strike, &fleet, &replica, &mut session, &mut cells);
    }
    for cell in &mut cells {
        cell.stop_client();
    }
    let took = started.elapsed().as_secs_f64();
    println!("{family:?}: {took:.1} s in all");
}

/// Lets each kind run undisturbed, and makes a table for each moment that it went through.
fn prepare(fleet: &Fleet, session: &mut Session, family: Family) -> Vec<Cell> {
    observed::watch(session);
    let mut cell = Cell::prepare(fleet, session, family, Moment::none(), 0);
    let mut reached = Vec::new();
    let kinds = family.kinds();
    for _ in kinds {
        cell.queue(session);
        cell.wait_done(session);
        let edges = observed::edges(session, cell.number());
        reached.extend(edges);
        cell.assert_right(session);
        cell.step();
    }
    drop_table(fleet, session, &cell);
    let moments = plan::moments(family, &reached);
    let steps = 0..kinds.len();
    let mut cells: Vec<Cell> = steps
        .flat_map(|step| moments.iter().map(move |moment| (step, moment.clone())))
        .map(|(step, moment)| Cell::prepare(fleet, session, family, moment, step))
        .collect();
    for cell in &mut cells {
        cell.start_client(session);
    }
    cells
}

/// The table with what it stands for on a node.
fn drop_table(fleet: &Fleet, session: &mut Session, cell: &Cell) {
    session.run(&format!("DROP TABLE {}", cell.table));
    for node in [&fleet.north, &fleet.south] {
        let mut node = Session::open(node, "postgres");
        for table in node.texts(
            "SELECT format('repart_shards.%I', relname) FROM pg_class
              WHERE relnamespace = to_regnamespace('repart_shards') AND relkind = 'r'",
        ) {
            node.run(&format!("DROP TABLE {table}"));
        }
    }
}

fn run_row(
    strike: Strike,
    fleet: &Fleet,
    replica: &Cluster,
    session: &mut Session,
    cells: &mut [Cell],
) {
    let started = Instant::now();
    session.set("repart.max_movers", "0");
    for cell in cells.iter_mut() {
        cell.queue(session);
    }
    let movers = hold_all(session, cells);
    let held = started.elapsed();
    strike.inflict(fleet, replica, session, &movers);
    session.release();
    let struck = Instant::now();
    let others = recover(strike, fleet, replica, session, cells);
    let all = struck.elapsed();
    strike.forget(fleet);
    for cell in cells.iter_mut() {
        cell.assert_right(session);
        assert_sound(session, &cell.table);
        cell.step();
    }
    settle(fleet, session, cells);
    proceed(cells.iter());
    for cell in cells.iter() {
        cell.assert_no_trouble();
    }
    println!(
        "{strike:?}: {} cells, held after {:.1} s, done {:.1} s after it (those that need nobody who is away {:.1} s), \
         {:.1} s in all",
        cells.len(),
        held.as_secs_f64(),
        all.as_secs_f64(),
        others.as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
}

/// Waits until all migrations are done; those that have nothing to do with a server that is away do not wait for it.
/// Returns how long these took.
fn recover(
    strike: Strike,
    fleet: &Fleet,
    replica: &Cluster,
    session: &mut Session,
    cells: &[Cell],
) -> Duration {
    let begun = Instant::now();
    let (held_up, free): (Vec<_>, Vec<_>) =
        cells.iter().partition(|cell| strike.holds_up(cell.kind()));
    for cell in free {
        cell.wait_done(session);
        cell.assert_no_trouble();
    }
    let others = begun.elapsed();
    if strike.place().is_some() {
        sleep(AWAY.saturating_sub(others));
    }
    strike.mend(fleet, replica);
    for cell in held_up {
        cell.wait_done(session);
    }
    others
}

/// Lets all migrations run to their moments, with clients at work; returns the movers.
fn hold_all(session: &mut Session, cells: &[Cell]) -> Vec<i32> {
    let held = || cells.iter().filter(|cell| cell.is_held());
    let list: Vec<String> = held().map(Cell::hold).collect();
    session.hold_at(&list.join(","));
    session.set("repart.max_movers", "64");
    let movers: Vec<i32> = held().map(|cell| cell.wait_held(session)).collect();
    let working = held().filter(|cell| cell.moment.lets_clients_work());
    proceed(working);
    for cell in held() {
        cell.assert_held(session);
    }
    movers
}

/// Lets the clients of all these tables do something more.
fn proceed<'a>(cells: impl Iterator<Item = &'a Cell>) {
    let goals: Vec<(&Cell, u64)> = cells.map(|cell| (cell, cell.operations_after(1))).collect();
    for (cell, goal) in goals {
        cell.reach(goal);
    }
}

/// Nothing is in doubt, and nothing is left anywhere but the shards.
fn settle(fleet: &Fleet, session: &mut Session, cells: &[Cell]) {
    wait_until("nothing to be in doubt", 2 * LONG, || {
        session.number("SELECT count(*) FROM repart.in_doubt") == 0
    });
    wait_until("nothing to be left to be dropped", 2 * LONG, || {
        session.number("SELECT count(*) FROM repart.node_objects") == 0
    });
    for (node, place) in [(&fleet.north, Place::North), (&fleet.south, Place::South)] {
        let shards: usize = cells.iter().map(|cell| cell.shards_on(place)).sum();
        assert_nothing_left_on(node, i64::try_from(shards).unwrap());
    }
    assert_nothing_left(session);
}
