//! How fast a shard goes to another server and back, beside COPY piped by hand, and what clients notice of it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use repart_tests::cluster::Cluster;

use crate::figure::{Figure, Findings, Series, Target, Unit};
use crate::load::Mix;
use crate::options::Options;
use crate::scene::{Scene, start_node, start_server};

use super::thousands;
use super::watched::{self, Seen, errors, first_error, longest, throughput};

/// As for migrations on one server: DESIGN.md, section 12.
const LONGEST: Duration = Duration::from_millis(50);

/// Rows per second of one run.
struct Run {
    copied: f64,
    copied_back: f64,
    moved: f64,
    piped: f64,
    piped_and_indexed: f64,
}

/// There and back with nobody else at work, the same rows by hand, and once more under load.
pub fn run(options: &Options) -> Findings {
    let cluster = start_server(options, &[]);
    let node = start_node(options);
    join(&cluster, &node);
    let mut runs = Vec::new();
    let (mut to, mut back) = (Vec::new(), Vec::new());
    for number in 0..options.runs {
        let mut scene = set(&cluster, options);
        // Each side is first every other time.
        let first = (number % 2 == 1).then(|| there_and_back(&mut scene));
        let by_hand = pipe_by_hand(&cluster, &node);
        let (copied, moved, copied_back) = first.unwrap_or_else(|| there_and_back(&mut scene));
        let rows = options.rows as f64;
        runs.push(Run {
            copied,
            copied_back,
            moved,
            piped: rows / by_hand.0,
            piped_and_indexed: rows / (by_hand.0 + by_hand.1),
        });
        let mix = Mix::half_and_half(options.rows);
        scene.settle();
        for (call, seen) in [(TO_NODE, &mut to), (TO_LOCAL, &mut back)] {
            seen.push(watched::watch(
                &cluster,
                &mut scene,
                options,
                mix,
                |scene| {
                    scene.migrate(call);
                },
            ));
        }
        scene.assert_complete();
    }
    findings(options, &runs, to, back)
}

const TO_NODE: &str = "repart_move('accounts_1', node => 'north')";
const TO_LOCAL: &str = "repart_move('accounts_1', node => 'local')";

fn join(cluster: &Cluster, node: &Cluster) {
    let mut session = node.connect("postgres");
    session.batch_execute("CREATE EXTENSION repart").unwrap();
    let mut session = cluster.connect("postgres");
    session
        .batch_execute(&format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER north FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({});
             CREATE USER MAPPING FOR PUBLIC SERVER north OPTIONS (user 'postgres')",
            node.server_options("postgres")
        ))
        .unwrap();
    session
        .batch_execute("SELECT repart_add_node('north')")
        .unwrap();
}

fn set<'a>(cluster: &'a Cluster, options: &Options) -> Scene<'a> {
    let mut scene = Scene::set(cluster, options.rows);
    scene
        .session
        .run("SELECT repart_manage('accounts', leaf_keys => true)");
    scene
}

/// Rows per second: copied to the node, moved there with everything that belongs to it, copied back.
fn there_and_back(scene: &mut Scene) -> (f64, f64, f64) {
    let rows = scene.rows() as f64;
    let there = scene.migrate(TO_NODE);
    let copied = copy_rate(scene, there.id);
    let back = scene.migrate(TO_LOCAL);
    (
        copied,
        rows / there.duration().as_secs_f64(),
        copy_rate(scene, back.id),
    )
}

/// Rows per second of the batches of a copy.
fn copy_rate(scene: &mut Scene, migration: i64) -> f64 {
    let sql = "SELECT rows_done / copy_seconds FROM repart.journal WHERE id = $1";
    scene.session.query(sql, &[&migration])[0].get(0)
}

/// Seconds of `COPY TO | COPY FROM` between two processes of psql, and of the key afterwards.
fn pipe_by_hand(cluster: &Cluster, node: &Cluster) -> (f64, f64) {
    let mut there = node.connect("postgres");
    there
        .batch_execute(
            "DROP TABLE IF EXISTS by_hand;
             CREATE TABLE by_hand (aid bigint NOT NULL, bid int, abalance int, filler char(100))",
        )
        .unwrap();
    let begun = Instant::now();
    let mut sender = cluster.client_program("psql", "postgres");
    sender.args([
        "-qX",
        "-c",
        "COPY (SELECT * FROM accounts) TO STDOUT (FORMAT binary)",
    ]);
    let mut sender = sender.stdout(Stdio::piped()).spawn().unwrap();
    let mut receiver = node.client_program("psql", "postgres");
    receiver.args(["-qX", "-c", "COPY by_hand FROM STDIN (FORMAT binary)"]);
    let output = sender.stdout.take().expect("a pipe");
    let status = receiver.stdin(output).status().unwrap();
    assert!(status.success() && sender.wait().unwrap().success());
    let copied = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    there
        .batch_execute("ALTER TABLE by_hand ADD PRIMARY KEY (aid)")
        .unwrap();
    let indexed = begun.elapsed().as_secs_f64();
    there.batch_execute("DROP TABLE by_hand").unwrap();
    (copied, indexed)
}

fn findings(options: &Options, runs: &[Run], to: Vec<Seen>, back: Vec<Seen>) -> Findings {
    let series = |value: &dyn Fn(&Run) -> f64| runs.iter().map(value).collect::<Series>();
    let mut figures = vec![
        Figure::new(
            "rows copied to a node",
            Unit::PerSecond,
            series(&|run| run.copied),
        )
        .beside("COPY TO | COPY FROM", series(&|run| run.piped))
        .target(Target::RatioAtLeast(0.8)),
        Figure::new(
            "rows copied from a node",
            Unit::PerSecond,
            series(&|run| run.copied_back),
        )
        .beside("COPY TO | COPY FROM", series(&|run| run.piped))
        .target(Target::RatioAtLeast(0.8)),
        Figure::new(
            "the whole move to a node",
            Unit::PerSecond,
            series(&|run| run.moved),
        )
        .beside(
            "COPY TO | COPY FROM, ADD PRIMARY KEY",
            series(&|run| run.piped_and_indexed),
        ),
        longest("move to a node", &to, LONGEST),
        longest("move from a node", &back, LONGEST),
        throughput("move to a node", &to, None),
        throughput("move from a node", &back, None),
    ];
    let mut notes: Vec<String> = [("move to a node", &to), ("move from a node", &back)]
        .into_iter()
        .flat_map(|(what, runs)| watched::by_state_in(what, runs))
        .collect();
    let mut all: Vec<Seen> = to.into_iter().chain(back).collect();
    // postgres_fdw works at REPEATABLE READ on the node: two clients who change one row at the same time are told so.
    for seen in &mut all {
        seen.errors
            .retain(|error| !error.contains("40001 could not serialize access due to concurrent"));
    }
    figures.push(errors("moves", &all));
    notes.extend(first_error("moves", &all));
    Findings {
        name: "cross_node",
        about: format!(
            "a shard of {} rows goes to another server on the same machine, and back",
            thousands(options.rows)
        ),
        figures,
        notes,
    }
}
