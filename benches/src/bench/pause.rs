//! For how long the switch of a small migration holds its locks, by what has to be switched. No clients: what they
//! add is waiting for each other.

use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

use crate::figure::{Figure, Findings, Series, Target, Unit};
use crate::options::Options;
use crate::scene::start_server;

/// A case: its name, the tables of the group, each of which references the one before, the shards of each, and how
/// long old shards are kept.
const CASES: [(&str, usize, i64, &str); 5] = [
    ("a table of 2 shards", 1, 2, "0"),
    ("a table of 200 shards", 1, 200, "0"),
    ("the old shard is kept for a revert", 1, 2, "'1min'"),
    (
        "a group of 2 tables with a foreign key, of 10 shards",
        2,
        10,
        "0",
    ),
    (
        "a group of 4 tables with 3 foreign keys, of 10 shards",
        4,
        10,
        "0",
    ),
];

/// Rows of one shard.
const ROWS: i64 = 1_000;

/// Each case in each run.
pub fn run(options: &Options) -> Findings {
    let cluster = start_server(options, &["max_locks_per_transaction = 1024"]);
    let mut pauses = vec![Series::default(); CASES.len()];
    for _ in 0..options.runs {
        for ((_, tables, shards, retain), series) in CASES.iter().zip(&mut pauses) {
            series.0.push(split(&cluster, *tables, *shards, retain));
        }
    }
    let figures = CASES.iter().zip(pauses).map(|((name, ..), series)| {
        Figure::new(*name, Unit::Milliseconds, series).target(Target::AtMost(50.0))
    });
    Findings {
        name: "pause",
        about: format!("the switch of a split of a shard of {ROWS} rows: time under its locks"),
        figures: figures.collect(),
        notes: Vec::new(),
    }
}

/// Splits a shard of a group that is made for it; returns the milliseconds of the switch.
fn split(cluster: &Cluster, tables: usize, shards: i64, retain: &str) -> f64 {
    let mut session = Session::open(cluster, "postgres");
    session.set("repart.retain_source", retain);
    for number in 0..tables {
        create(&mut session, number, shards);
    }
    let id = session.queue(&format!("repart_split('t0_0', '{}')", ROWS / 2));
    session.wait_done(id);
    let pause: f64 = session.query(
        "SELECT pause_ms FROM repart.migrations WHERE id = $1",
        &[&id],
    )[0]
    .get(0);
    session.set("repart.retain_source", "0");
    for number in (0..tables).rev() {
        session.run(&format!("SELECT repart_unmanage('t{number}')"));
    }
    let names: Vec<String> = (0..tables).map(|number| format!("t{number}")).collect();
    session.run(&format!("DROP TABLE {} CASCADE", names.join(", ")));
    pause
}

fn create(session: &mut Session, number: usize, shards: i64) {
    session.run(&format!(
        "CREATE TABLE t{number} (id bigint PRIMARY KEY, filler text) PARTITION BY RANGE (id)"
    ));
    for shard in 0..shards {
        session.run(&format!(
            "CREATE TABLE t{number}_{shard} PARTITION OF t{number} FOR VALUES FROM ({}) TO ({})",
            shard * ROWS,
            (shard + 1) * ROWS
        ));
    }
    session.run(&format!(
        "INSERT INTO t{number} SELECT id, 'x' FROM generate_series(0, {} - 1) AS id; ANALYZE t{number}",
        shards * ROWS
    ));
    if let Some(before) = number.checked_sub(1) {
        session.run(&format!(
            "ALTER TABLE t{number} ADD FOREIGN KEY (id) REFERENCES t{before}"
        ));
        session.run(&format!(
            "SELECT repart_manage('t{number}', colocate_with => 't{before}')"
        ));
    } else {
        session.run(&format!("SELECT repart_manage('t{number}')"));
    }
}
