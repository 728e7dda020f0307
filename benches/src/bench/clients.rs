//! What clients notice of a split and a merge, at full speed and with a limited rate, beside pg_partman.

use std::time::Duration;

use repart_tests::cluster::Cluster;

use crate::figure::{Figure, Findings, Series, Target, Unit};
use crate::load::Mix;
use crate::options::Options;
use crate::scene::{Scene, start_server};

use super::partman;
use super::thousands;
use super::watched::{
    self, Seen, errors, first_error, longest, longest_in, series, throughput, throughput_copying,
};

/// DESIGN.md, section 12; throughput is that while rows are copied, here also of the whole migration at full speed.
const LONGEST: Duration = Duration::from_millis(50);
const FULL_SPEED: f64 = 0.75;
const LIMITED: f64 = 0.95;

#[derive(Default)]
struct Runs {
    split: Vec<Seen>,
    merge: Vec<Seen>,
    limited: Vec<Seen>,
    partman: Vec<Seen>,
    partman_failures: Vec<String>,
    /// Milliseconds for which the switches of the splits, the merges and the limited splits held their locks.
    pauses: [Series; 3],
}

/// Four clients, half reads and half updates, in a closed loop.
pub fn run(options: &Options) -> Findings {
    let cluster = start_server(options, &[]);
    let with_partman = partman::is_available(&cluster);
    let mut runs = Runs::default();
    for _ in 0..options.runs {
        split_and_merge(&cluster, options, &mut runs);
        split_slowly(&cluster, options, &mut runs);
        if with_partman {
            let (seen, failure) = partman::split(&cluster, options);
            runs.partman.push(seen);
            runs.partman_failures.extend(failure);
        }
    }
    findings(options, with_partman, &runs)
}

fn split_and_merge(cluster: &Cluster, options: &Options, runs: &mut Runs) {
    let mix = Mix::half_and_half(options.rows);
    let mut scene = Scene::set(cluster, options.rows);
    let split = format!("repart_split('accounts_1', '{}')", options.rows / 2);
    runs.split
        .push(watched::watch(cluster, &mut scene, options, mix, |scene| {
            scene.migrate(&split);
        }));
    runs.pauses[0].0.push(scene.last_cutover().pause);
    let merge = format!("repart_merge('{}', '{}')", scene.shard(0), scene.shard(1));
    runs.merge
        .push(watched::watch(cluster, &mut scene, options, mix, |scene| {
            scene.migrate(&merge);
        }));
    runs.pauses[1].0.push(scene.last_cutover().pause);
    scene.assert_complete();
}

fn split_slowly(cluster: &Cluster, options: &Options, runs: &mut Runs) {
    let mut scene = Scene::set(cluster, options.rows);
    scene
        .session
        .set("repart.max_copy_rate", &options.rate.to_string());
    let mix = Mix::half_and_half(options.rows);
    let split = format!("repart_split('accounts_1', '{}')", options.rows / 2);
    runs.limited
        .push(watched::watch(cluster, &mut scene, options, mix, |scene| {
            scene.migrate(&split);
        }));
    runs.pauses[2].0.push(scene.last_cutover().pause);
    scene.session.set("repart.max_copy_rate", "DEFAULT");
    scene.assert_complete();
}

fn findings(options: &Options, with_partman: bool, runs: &Runs) -> Findings {
    let mut figures = vec![
        longest("split", &runs.split, LONGEST),
        longest("merge", &runs.merge, LONGEST),
        longest("split, limited", &runs.limited, LONGEST),
        throughput("split", &runs.split, Some(FULL_SPEED)),
        throughput("merge", &runs.merge, Some(FULL_SPEED)),
        throughput("split, limited", &runs.limited, None),
        throughput_copying("split", &runs.split, FULL_SPEED),
        throughput_copying("merge", &runs.merge, FULL_SPEED),
        throughput_copying("split, limited", &runs.limited, LIMITED),
        duration("split", &runs.split),
        duration("merge", &runs.merge),
        duration("split, limited", &runs.limited),
        pause("split", &runs.pauses[0]),
        pause("merge", &runs.pauses[1]),
        pause("split, limited", &runs.pauses[2]),
        errors("split", &runs.split),
        errors("merge", &runs.merge),
        errors("split, limited", &runs.limited),
    ];
    let sides = [
        ("split", &runs.split),
        ("merge", &runs.merge),
        ("split, limited", &runs.limited),
        ("pg_partman", &runs.partman),
    ];
    let mut notes: Vec<String> = sides
        .iter()
        .filter_map(|(what, runs)| first_error(what, runs))
        .collect();
    notes.extend(
        sides
            .iter()
            .take(3)
            .map(|(what, runs)| longest_in(what, runs)),
    );
    notes.extend(
        sides
            .iter()
            .take(3)
            .flat_map(|(what, runs)| watched::by_state_in(what, runs)),
    );
    notes.push(format!(
        "limited: repart.max_copy_rate = {} kB/s; statements: over the whole migration, from the call to \"done\"",
        options.rate
    ));
    if with_partman {
        figures.extend(beside_partman(runs));
        let failures = &runs.partman_failures;
        notes.push(match failures.first() {
            None => "pg_partman ended well in every run.".to_owned(),
            Some(first) => format!(
                "pg_partman failed in {} of {} runs: {first}",
                failures.len(),
                runs.partman.len()
            ),
        });
    } else {
        notes.push(format!("Beside pg_partman: skipped, {}.", partman::WHY_NOT));
    }
    Findings {
        name: "clients",
        about: format!(
            "4 clients, half reads and half updates, in a closed loop, while a shard of {} rows is split and merged",
            thousands(options.rows)
        ),
        figures,
        notes,
    }
}

fn duration(what: &str, runs: &[Seen]) -> Figure {
    Figure::new(
        format!("{what}: duration"),
        Unit::Seconds,
        series(runs, |run| run.seconds),
    )
}

fn pause(what: &str, pauses: &Series) -> Figure {
    let what = format!("{what}: pause of the cutover");
    Figure::new(what, Unit::Milliseconds, pauses.clone())
}

fn beside_partman(runs: &Runs) -> Vec<Figure> {
    let share = |run: &Seen| run.rate / run.rate_around * 100.0;
    vec![
        Figure::new(
            "split: longest statement",
            Unit::Milliseconds,
            series(&runs.split, |run| run.longest),
        )
        .beside("pg_partman", series(&runs.partman, |run| run.longest)),
        Figure::new(
            "split: throughput left",
            Unit::Percent,
            series(&runs.split, share),
        )
        .beside("pg_partman", series(&runs.partman, share))
        .target(Target::RatioAtLeast(1.0)),
    ]
}
