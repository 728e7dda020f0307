//! A split that keeps one half where it is, while its rows are updated.

use std::time::Duration;

use repart_tests::cluster::Cluster;

use crate::figure::{Figure, Findings, Series, Target, Unit};
use crate::load::Mix;
use crate::options::Options;
use crate::scene::{Cutover, Scene, start_server};

use super::watched::{self, Seen, errors, first_error, series, throughput};
use super::{megabytes, thousands};

/// Longer than any run that ends: Citus has not ended at all.
const LIMIT: Duration = Duration::from_secs(180);

struct Run {
    seen: Seen,
    done: bool,
    kept: bool,
    leaving: f64,
    cutover: Cutover,
}

/// Half of the rows leave.
pub fn run(options: &Options) -> Findings {
    let cluster = start_server(options, &["repart.max_pause = 60s"]);
    let runs: Vec<Run> = (0..options.runs)
        .map(|_| split(&cluster, options))
        .collect();
    let of = |value: fn(&Run) -> f64| runs.iter().map(value).collect::<Series>();
    let flag = |value: fn(&Run) -> bool| {
        let values = runs.iter().map(|run| f64::from(u8::from(value(run))));
        values.collect::<Series>()
    };
    let figures = [
        Figure::new(
            "WAL, per byte that leaves",
            Unit::Times,
            of(|run| run.seen.wal / run.leaving),
        )
        .target(Target::AtMost(1.5)),
        Figure::new("runs that did not end", Unit::Count, flag(|run| !run.done))
            .target(Target::AtMost(0.0)),
        Figure::new("shards kept in place", Unit::Count, flag(|run| run.kept)),
        Figure::new(
            "rows deleted in the cutover",
            Unit::PerSecond,
            of(|run| run.cutover.delete_rate),
        ),
    ];
    let leaving = runs.first().map_or(0.0, |run| run.leaving);
    let seen: Vec<Seen> = runs.into_iter().map(|run| run.seen).collect();
    let mut all = figures.to_vec();
    all.extend([
        Figure::new("duration", Unit::Seconds, series(&seen, |run| run.seconds)),
        throughput("split", &seen, None),
        Figure::new(
            "longest statement",
            Unit::Milliseconds,
            series(&seen, |run| run.longest),
        ),
        errors("split", &seen),
    ]);
    let mut notes = vec![
        "WAL: beyond what as many updates wrote before the migration; it has that of change capture too."
            .to_owned(),
        "repart.max_pause = 60s here, so that half of the rows may be deleted inside the cutover; a small part needs no such thing."
            .to_owned(),
    ];
    notes.extend(first_error("split", &seen));
    Findings {
        name: "in_place",
        about: format!(
            "half of a shard of {} rows leaves ({}), while 4 clients update all of them",
            thousands(options.rows),
            megabytes(leaving)
        ),
        figures: all,
        notes,
    }
}

fn split(cluster: &Cluster, options: &Options) -> Run {
    let mut scene = Scene::set(cluster, options.rows);
    let leaving = scene.bytes("accounts_1") / 2.0;
    let oid = scene
        .session
        .number("SELECT 'accounts_1'::regclass::oid::bigint");
    let call = format!("repart_split('accounts_1', '{}')", options.rows / 2);
    let mut done = false;
    let mix = Mix::updates(options.rows);
    let seen = watched::watch(cluster, &mut scene, options, mix, |scene| {
        done = scene.try_to_migrate(&call, LIMIT).state == "done";
    });
    scene.assert_complete();
    let kept = format!("SELECT count(*) FROM pg_class WHERE oid = {oid} AND relispartition");
    Run {
        seen,
        done,
        kept: done && scene.session.number(&kept) == 1,
        leaving,
        cutover: scene.last_cutover(),
    }
}
