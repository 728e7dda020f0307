//! What clients notice while one of them keeps a transaction open: the migration waits for it, they must not.

use std::thread::sleep;
use std::time::{Duration, Instant};

use repart_tests::cluster::Cluster;

use crate::figure::{Figure, Findings, Unit};
use crate::load::Mix;
use crate::options::Options;
use crate::scene::{Scene, start_server};

use super::thousands;
use super::watched::{self, Seen, errors, first_error, longest, series};

/// `repart.lock_timeout`, whose default is 50 ms, and 100 ms.
const LONGEST: Duration = Duration::from_millis(150);

/// When the transaction begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begin {
    BeforeTheMigration,
    DuringTheCopy,
}

/// A transaction that updated a row, open from before the migration or from during the copy.
pub fn run(options: &Options) -> Findings {
    let cluster = start_server(options, &[]);
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for _ in 0..options.runs {
        before.push(split(&cluster, options, Begin::BeforeTheMigration));
        during.push(split(&cluster, options, Begin::DuringTheCopy));
    }
    let duration = |what: &str, runs: &[Seen]| {
        Figure::new(
            format!("{what}: duration of the migration"),
            Unit::Seconds,
            series(runs, |run| run.seconds),
        )
    };
    let names = ["open before the migration", "open since the copy"];
    Findings {
        name: "held",
        about: format!(
            "a transaction that updated a row is held open for {:.1} s, while 4 other clients work and a shard of {} rows is split",
            options.hold.as_secs_f64(),
            thousands(options.rows)
        ),
        figures: vec![
            longest(names[0], &before, LONGEST),
            longest(names[1], &during, LONGEST),
            errors(names[0], &before),
            errors(names[1], &during),
            duration(names[0], &before),
            duration(names[1], &during),
        ],
        notes: names
            .into_iter()
            .zip([&before, &during])
            .filter_map(|(what, runs)| first_error(what, runs))
            .collect(),
    }
}

fn split(cluster: &Cluster, options: &Options, begin: Begin) -> Seen {
    let mut scene = Scene::set(cluster, options.rows);
    // The held row is nobody else's.
    let mix = Mix::half_and_half(options.rows - 1);
    let call = format!("repart_split('accounts_1', '{}')", options.rows / 2);
    let seen = watched::watch(cluster, &mut scene, options, mix, |scene| {
        std::thread::scope(|scope| {
            scope.spawn(|| hold(cluster, options, begin));
            if begin == Begin::BeforeTheMigration {
                scene.session.wait_until(HELD, repart_tests::wait::LONG);
            }
            scene.migrate(&call);
        });
    });
    scene.assert_complete();
    seen
}

const HELD: &str = "SELECT count(*) = 1 FROM pg_stat_activity
    WHERE application_name = 'holder' AND state = 'idle in transaction'";

/// Keeps a row of the shard updated and uncommitted.
fn hold(cluster: &Cluster, options: &Options, begin: Begin) {
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("SET application_name = 'holder'")
        .unwrap();
    if begin == Begin::DuringTheCopy {
        let deadline = Instant::now() + repart_tests::wait::LONG;
        let copying =
            "SELECT count(*) FROM repart.journal WHERE state = 'copying' AND rows_done > 0";
        while client.query_one(copying, &[]).unwrap().get::<_, i64>(0) == 0 {
            assert!(Instant::now() < deadline, "no migration copied anything");
            sleep(Duration::from_millis(1));
        }
    }
    let key = options.rows - 1;
    client
        .batch_execute(&format!(
            "BEGIN; UPDATE accounts SET abalance = abalance + 1 WHERE aid = {key}"
        ))
        .unwrap();
    sleep(options.hold);
    client.batch_execute("COMMIT").unwrap();
}
