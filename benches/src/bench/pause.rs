//! For how long the switch of a small migration holds its locks, by what has to be switched. No clients: what they
//! add is waiting for each other. But where the table has a routing copy on another server, one client of the copy says for
//! how long it waits: the locks there are held from before the switch here until the copy is told of it.

use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::routing::lead_back;
use repart_tests::wait::LONG;

use crate::figure::{Figure, Findings, Series, Target, Unit};
use crate::load::Mix;
use crate::options::Options;
use crate::scene::{Scene, start_server};

use super::watched::{self, Seen, errors, first_error, longest};

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

/// Milliseconds.
const LONGEST: f64 = 50.0;

/// Each case in each run.
pub fn run(options: &Options) -> Findings {
    let settings = ["max_locks_per_transaction = 1024"];
    let cluster = start_server(options, &settings);
    let west = start_server(options, &settings);
    join(&cluster, &west);
    let mut pauses = vec![Series::default(); CASES.len()];
    let mut with_copy = WithCopy::default();
    for _ in 0..options.runs {
        for ((_, tables, shards, retain), series) in CASES.iter().zip(&mut pauses) {
            series.0.push(split(&cluster, *tables, *shards, retain));
        }
        with_copy.measure(&cluster, &west, options);
    }
    let mut figures: Vec<Figure> = CASES
        .iter()
        .zip(pauses)
        .map(|((name, ..), series)| pause(name, series))
        .collect();
    let seen = [&with_copy.split, &with_copy.moved];
    let notes = seen.map(|seen| first_error("a client of the copy", seen));
    figures.extend(with_copy.figures());
    Findings {
        name: "pause",
        about: format!("the switch of a split of a shard of {ROWS} rows: time under its locks"),
        figures,
        notes: notes.into_iter().flatten().collect(),
    }
}

fn pause(name: &str, series: Series) -> Figure {
    Figure::new(name, Unit::Milliseconds, series).target(Target::AtMost(LONGEST))
}

/// What a table with a routing copy on another server came to, and what a client of the copy saw.
#[derive(Default)]
struct WithCopy {
    pauses: Series,
    split: Vec<Seen>,
    moved: Vec<Seen>,
}

impl WithCopy {
    /// A split here, and a move to the server of the copy, while a client reads and updates through the copy.
    fn measure(&mut self, cluster: &Cluster, west: &Cluster, options: &Options) {
        let mut scene = Scene::set(cluster, ROWS);
        scene.session.run(
            "SELECT repart_manage('accounts', leaf_keys => true);
             SELECT repart_add_routing_copy('accounts', 'west')",
        );
        settle(&mut scene.session);
        let options = Options {
            seconds: options.seconds / 5,
            ..options.clone()
        };
        let mix = Mix {
            clients: 1,
            ..Mix::half_and_half(ROWS)
        };
        let watch = |scene: &mut Scene, call: &str| {
            watched::watch(west, scene, &options, mix, |scene| {
                scene.migrate(call);
            })
        };
        self.split.push(watch(
            &mut scene,
            &format!("repart_split('accounts_1', '{}')", ROWS / 2),
        ));
        self.pauses.0.push(scene.last_cutover().pause);
        let shard = scene.shard(0);
        self.moved.push(watch(
            &mut scene,
            &format!("repart_move('{shard}', node => 'west')"),
        ));
        scene.migrate(&format!("repart_move('{shard}', node => 'local')"));
        scene.assert_complete();
        settle(&mut scene.session);
        scene
            .session
            .run("SELECT repart_drop_routing_copy('accounts', 'west')");
        settle(&mut scene.session);
    }

    fn figures(self) -> Vec<Figure> {
        let limit = std::time::Duration::from_secs_f64(LONGEST / 1000.0);
        let all: Vec<Seen> = self.split.into_iter().chain(self.moved).collect();
        let (split, moved) = all.split_at(all.len() / 2);
        vec![
            pause("a table with a routing copy on another server", self.pauses),
            longest("a client of the copy, a split here", split, limit),
            longest("a client of the copy, a move to its server", moved, limit),
            errors("a client of the copy", &all),
        ]
    }
}

/// Makes `west` a node, which leads back.
fn join(cluster: &Cluster, west: &Cluster) {
    lead_back(west, cluster, &[]);
    Session::open(cluster, "postgres").run(&format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER west FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({});
         CREATE USER MAPPING FOR PUBLIC SERVER west OPTIONS (user 'postgres');
         SELECT repart_add_node('west', coordinator => 'hq')",
        west.server_options("postgres")
    ));
}

/// Until the other server has carried out what was decided.
fn settle(session: &mut Session) {
    let settled = "SELECT NOT EXISTS (SELECT FROM repart.in_doubt)";
    session.wait_until(settled, LONG);
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
