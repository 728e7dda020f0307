//! One row of the matrix: one failure, in every state.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Instant;

use repart_core::state::State;

use super::cell::{Cell, Moment};
use super::failure::{self, Failure};
use super::observed::{self, Edge};
use super::scenario::{self, MOVE_TO_SMALL, SCENARIOS, Scenario};
use crate::aftermath::{assert_nothing_left, assert_sound};
use crate::cluster::Cluster;
use crate::disk::SmallDisk;
use crate::repart::Session;
use crate::wait::{LONG, wait_for};

/// Movers for all cells at once, and batches of a few blocks, so that a copy has several.
const SETTINGS: &[&str] = &[
    "max_worker_processes = 80",
    "repart.max_movers = 64",
    "repart.allow_blocking = on",
    "repart.batch_duration = '10ms'",
    "repart.max_copy_rate = '4MB'",
];

/// The cells of a row.
static PLAN: OnceLock<Vec<(Scenario, Moment)>> = OnceLock::new();

/// Runs one row.
///
/// # Panics
/// Panics when a cell was not run, or what came of it is not right.
pub fn run_row(failure: Failure) {
    let started = Instant::now();
    let cluster = Cluster::with_repart(SETTINGS);
    let mut session = Session::open(&cluster, "postgres");
    observed::watch(&mut session);
    let mut disk = None;
    if failure == Failure::FullDisk {
        let directory = cluster.create_tablespace("small");
        let Some(mounted) = SmallDisk::mount(&directory, 48) else {
            return;
        };
        disk = Some(mounted);
    }
    // The scenarios go the same ways in every row of this process.
    let plan = match failure {
        Failure::FullDisk => cells_to_run(&mut session, &[MOVE_TO_SMALL], false),
        _ => PLAN
            .get_or_init(|| cells_to_run(&mut session, SCENARIOS, true))
            .clone(),
    };
    let mut cells: Vec<Cell> = plan
        .into_iter()
        .map(|(scenario, moment)| Cell::prepare(&mut session, scenario, moment))
        .collect();
    session.set("repart.max_movers", "0");
    for cell in &mut cells {
        cell.start(&mut session, |options| {
            if failure.ends_sessions() {
                options.with_crashes()
            } else {
                options
            }
        });
    }

    let movers = hold_all(&mut session, &cells);
    let begun = Instant::now();
    let open = cells.iter().filter(|cell| cell.moment.lets_clients_work());
    let open: Vec<&str> = open.map(|cell| cell.table.as_str()).collect();
    failure.inflict(&mut session, &open, &movers);
    if let Some(disk) = &mut disk {
        failure::fill_disk(&mut session, &mut cells, disk);
    }
    session.release();
    for cell in cells.iter_mut().filter(|cell| cell.ended.is_none()) {
        cell.wait_ended(&mut session);
    }

    print_row(failure, &cells, begun);
    assert_workers(&mut session);
    for cell in &mut cells {
        assert_expected(failure, cell);
        cell.proceed(20);
        cell.assert_right(&mut session);
        assert_sound(&mut session, &cell.table);
    }
    assert_nothing_left(&mut session);
    migrate_again(&mut session, &cells);
    let took = started.elapsed().as_secs_f64();
    println!("{failure:?}: {} cells in {took:.1} s", cells.len());
}

/// Lets each scenario run undisturbed; its moments are those of the states that it went through, for all but
/// the first only where it goes another way.
fn cells_to_run(
    session: &mut Session,
    scenarios: &[Scenario],
    all_edges: bool,
) -> Vec<(Scenario, Moment)> {
    let mut reached: Vec<Edge> = Vec::new();
    let mut cells = Vec::new();
    for &scenario in scenarios {
        let table = format!("{}_undisturbed_", scenario.name);
        (scenario.prepare)(session, &table);
        let id = session.queue(&(scenario.call)(&table));
        session.wait_done(id);
        let mut new = observed::edges(session, id);
        new.retain(|edge| !reached.contains(edge));
        let states: Vec<State> = new.iter().flat_map(|&(from, to)| [from, to]).collect();
        let moments = Moment::all_of(scenario.moments, &states);
        cells.extend(moments.into_iter().map(|moment| (scenario, moment)));
        reached.extend(new);
        session.run(&format!("DROP TABLE {table}"));
    }
    if all_edges {
        scenario::require_all_reached(&reached);
    }
    require_all_states(&cells);
    cells
}

/// A state without a cell is a hole in the matrix.
fn require_all_states(cells: &[(Scenario, Moment)]) {
    for state in State::all().filter(|state| !state.is_final()) {
        assert!(
            cells.iter().any(|(_, moment)| moment.state == state),
            "no migration is held in state {state}: add to SCENARIOS in tests/src/matrix/scenario.rs one that goes \
             through it"
        );
    }
}

/// Lets all migrations run to their moments, with clients at work; returns the movers.
fn hold_all(session: &mut Session, cells: &[Cell]) -> Vec<i32> {
    let held: Vec<String> = cells.iter().map(Cell::hold).collect();
    session.hold_at(&held.join(","));
    session.set("repart.max_movers", "64");
    let mut movers = Vec::new();
    for cell in cells {
        movers.push(wait_held(session, cell));
    }
    for cell in cells {
        if cell.moment.lets_clients_work() {
            cell.proceed(20);
        }
        cell.assert_held(session);
    }
    movers
}

fn wait_held(session: &mut Session, cell: &Cell) -> i32 {
    let what = format!("{} to be held at {}", cell.table, cell.moment.point);
    let name = format!("repart mover {}", cell.migration);
    let query = format!("held at {}", cell.moment.name());
    wait_for(&what, LONG, || {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND query = $2";
        let rows = session.query(sql, &[&name, &query]);
        let pid = rows.first().map(|row| row.get(0));
        if pid.is_none() {
            let migration = session.migration(cell.migration);
            let over = ["done", "failed"].contains(&migration.state.as_str());
            assert!(!over, "{what}, but {migration:?}");
        }
        pid
    })
}

/// A crash is no reason to give up. A full disk is, unless nothing has to be written there any more.
fn assert_expected(failure: Failure, cell: &Cell) {
    let migration = cell.outcome();
    let fails = failure == Failure::FullDisk && !cell.moment.is_switched();
    let expected = if fails { "failed" } else { "done" };
    assert_eq!(
        migration.state, expected,
        "{failure:?} at {}: {migration:?}",
        cell.table
    );
    if fails {
        let error = migration.error.clone().unwrap_or_default();
        assert!(error.contains("SQLSTATE: 53100"), "{}: {error}", cell.table);
    }
}

/// Launcher and observer are there again.
fn assert_workers(session: &mut Session) {
    session.wait_worker("launcher");
    session.wait_worker("observer");
}

/// What recovered must work: the shards can be migrated again.
fn migrate_again(session: &mut Session, cells: &[Cell]) {
    let merges: Vec<i64> = cells
        .iter()
        .map(|cell| {
            session.queue(&format!(
                "repart_merge(VARIADIC (SELECT array_agg(shard) FROM repart.shards
                               WHERE relation = '{}'::regclass))",
                cell.table
            ))
        })
        .collect();
    for (merge, cell) in merges.into_iter().zip(cells) {
        session.wait_done(merge);
        assert!(session.bounds(&cell.table).is_empty(), "{}", cell.table);
        assert_sound(session, &cell.table);
    }
    assert_nothing_left(session);
}

fn print_row(failure: Failure, cells: &[Cell], begun: Instant) {
    let mut states: BTreeMap<&str, u32> = BTreeMap::new();
    for cell in cells {
        let (migration, at) = cell.ended.as_ref().expect("the migration has ended");
        *states.entry(cell.moment.state.as_str()).or_default() += 1;
        println!(
            "{failure:?} at {} of {} ({}): {} after {:.2} s",
            cell.moment.point,
            cell.scenario.name,
            cell.moment.state,
            migration.state,
            (*at - begun).as_secs_f64()
        );
    }
    println!("{failure:?}: cells by state {states:?}");
}
