//! What change capture costs writers: the triggers are there for as long as a migration runs.

use std::thread::sleep;
use std::time::{Duration, Instant};

use repart_tests::cluster::Cluster;

use crate::figure::{Figure, Findings, Unit};
use crate::load::{Load, Mix};
use crate::options::Options;
use crate::scene::{Scene, start_server};

use super::thousands;

/// Clients that only update, without and with the triggers of a migration that is held before its copy.
pub fn run(options: &Options) -> Findings {
    let cluster = start_server(options, &[]);
    let mut scene = Scene::set(&cluster, options.rows);
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for number in 0..options.runs {
        // In turn, and each is first every other time.
        if number % 2 == 0 {
            off.push(rate(&cluster, options));
            on.push(captured(&cluster, &mut scene, options));
        } else {
            on.push(captured(&cluster, &mut scene, options));
            off.push(rate(&cluster, options));
        }
    }
    Findings {
        name: "capture",
        about: format!(
            "4 clients update rows of a shard of {}, with and without change capture",
            thousands(options.rows)
        ),
        figures: vec![
            Figure::new(
                "updates, captured",
                Unit::PerSecond,
                on.into_iter().collect(),
            )
            .beside("no migration", off.into_iter().collect()),
        ],
        notes: Vec::new(),
    }
}

fn rate(cluster: &Cluster, options: &Options) -> f64 {
    let load = Load::start(cluster, Mix::updates(options.rows));
    sleep(options.seconds / 5);
    let from = Instant::now();
    sleep(options.seconds);
    let to = Instant::now();
    let recorded = load.stop();
    assert!(recorded.errors.is_empty(), "{:?}", recorded.errors.first());
    recorded.rate(from, to)
}

fn captured(cluster: &Cluster, scene: &mut Scene, options: &Options) -> f64 {
    let session = &mut scene.session;
    session.hold_at("copying");
    let split = format!("repart_split('accounts_1', '{}')", options.rows / 2);
    let id = session.queue(&split);
    session.wait_held("copying");
    let rate = rate(cluster, options);
    session.run(&format!("SELECT repart_cancel({id})"));
    session.release();
    session.wait_ended(id);
    // The log of the migration is dropped with it; nothing of it may slow down what follows.
    sleep(Duration::from_millis(100));
    rate
}
