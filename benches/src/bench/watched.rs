//! What clients saw before and during something.

use std::thread::sleep;
use std::time::{Duration, Instant};

use repart_tests::cluster::Cluster;

use crate::figure::{Figure, Series, Target, Unit};
use crate::load::{Load, Mix, Recorded};
use crate::migration::Watched;
use crate::options::Options;
use crate::scene::Scene;

/// Of one run.
pub struct Seen {
    /// Statements per second before, and again after.
    pub rate_around: f64,
    /// Statements per second meanwhile.
    pub rate: f64,
    /// Statements per second while rows were copied.
    pub rate_copying: f64,
    /// The longest statement before, ms.
    pub longest_before: f64,
    /// The longest meanwhile, and right after, ms.
    pub longest: f64,
    /// The state of the migration when that one ended.
    pub longest_in: String,
    /// Per state of the migration the longest statement, and statements per second where it took some time, for the
    /// reader.
    pub by_state: String,
    /// Seconds that it took.
    pub seconds: f64,
    /// Bytes of WAL meanwhile, beyond what the same number of statements wrote before.
    pub wal: f64,
    /// What the server refused.
    pub errors: Vec<String>,
}

/// Lets clients work, and after a while does something.
pub fn watch(
    cluster: &Cluster,
    scene: &mut Scene,
    options: &Options,
    mix: Mix,
    action: impl FnOnce(&mut Scene),
) -> Seen {
    let load = Load::start(cluster, mix);
    // Sessions begin with empty caches.
    sleep(options.seconds / 5);
    let wal_at_first = scene.wal();
    let from = Instant::now();
    sleep(options.seconds);
    let wal_before = scene.wal() - wal_at_first;
    let begun = Instant::now();
    action(scene);
    let ended = Instant::now();
    let wal = scene.wal() - wal_at_first - wal_before;
    // A client that was kept waiting at the end says so only later.
    sleep(options.seconds / 5);
    let after = Instant::now();
    sleep(options.seconds);
    let until = Instant::now();
    let recorded = load.stop();
    let (rate_before, rate) = (recorded.rate(from, begun), recorded.rate(begun, ended));
    // The machine is now faster, now slower, for longer than one of these lasts.
    let rate_around = f64::midpoint(rate_before, recorded.rate(after, until));
    let bytes_before = wal_before / (rate_before * (begun - from).as_secs_f64());
    let seconds = (ended - begun).as_secs_f64();
    let state = |end| {
        let migration = scene.last.as_ref()?;
        Some(migration.state_at(end).to_owned())
    };
    let longest_in = recorded.end_of_longest(begun, after).and_then(state);
    Seen {
        by_state: by_state(scene, &recorded),
        rate_around,
        rate,
        rate_copying: rate_in(scene, &recorded, "copying"),
        longest_before: recorded.longest(from, begun),
        longest: recorded.longest(begun, after),
        longest_in: longest_in.unwrap_or_default(),
        seconds,
        wal: wal - bytes_before * rate * seconds,
        errors: recorded.errors,
    }
}

/// Statements per second while the migration was in a state.
fn rate_in(scene: &Scene, recorded: &Recorded, state: &str) -> f64 {
    let spans = scene.last.as_ref().map(Watched::spans).unwrap_or_default();
    let span = spans.iter().find(|(name, ..)| *name == state);
    span.map_or(f64::NAN, |(_, from, to)| recorded.rate(*from, *to))
}

fn by_state(scene: &Scene, recorded: &Recorded) -> String {
    let spans = scene.last.as_ref().map(Watched::spans).unwrap_or_default();
    let of_state = |&(state, from, to): &(&str, Instant, Instant)| {
        let seconds = (to - from).as_secs_f64();
        let longest = format!("{state} at most {:.0} ms", recorded.longest(from, to));
        if seconds < 0.5 {
            return longest;
        }
        let rate = recorded.rate(from, to);
        format!("{longest}, {rate:.0}/s for {seconds:.1} s")
    };
    let of_states: Vec<String> = spans.iter().map(of_state).collect();
    of_states.join("; ")
}

/// A value of each run.
pub fn series(runs: &[Seen], value: fn(&Seen) -> f64) -> Series {
    runs.iter().map(value).collect()
}

/// The longest statement, beside the same clients without the migration.
pub fn longest(what: &str, runs: &[Seen], limit: Duration) -> Figure {
    Figure::new(
        format!("{what}: longest statement"),
        Unit::Milliseconds,
        series(runs, |run| run.longest),
    )
    .beside("before", series(runs, |run| run.longest_before))
    .target(Target::AtMost(limit.as_secs_f64() * 1000.0))
}

/// Throughput of the whole migration, beside that of the same clients before and after it.
pub fn throughput(what: &str, runs: &[Seen], least: Option<f64>) -> Figure {
    let figure = Figure::new(
        format!("{what}: statements"),
        Unit::PerSecond,
        series(runs, |run| run.rate),
    )
    .beside("around", series(runs, |run| run.rate_around));
    match least {
        Some(least) => figure.target(Target::RatioAtLeast(least)),
        None => figure,
    }
}

/// As [`throughput`], while rows are copied.
pub fn throughput_copying(what: &str, runs: &[Seen], least: f64) -> Figure {
    Figure::new(
        format!("{what}: statements while copying"),
        Unit::PerSecond,
        series(runs, |run| run.rate_copying),
    )
    .beside("around", series(runs, |run| run.rate_around))
    .target(Target::RatioAtLeast(least))
}

/// Whether clients were refused anything.
pub fn errors(what: &str, runs: &[Seen]) -> Figure {
    let refused = series(runs, |run| run.errors.len() as f64);
    Figure::new(format!("{what}: errors of clients"), Unit::Count, refused)
        .target(Target::AtMost(0.0))
}

/// What clients saw in the states of each run, for the reader.
pub fn by_state_in(what: &str, runs: &[Seen]) -> Vec<String> {
    let line = |(n, run): (usize, &Seen)| format!("{what}, run {}: {}", n + 1, run.by_state);
    runs.iter().enumerate().map(line).collect()
}

/// Where the longest statements of the runs were, for the reader.
pub fn longest_in(what: &str, runs: &[Seen]) -> String {
    let states: Vec<&str> = runs.iter().map(|run| run.longest_in.as_str()).collect();
    format!(
        "{what}: the longest statement of each run ended in state {}",
        states.join(", ")
    )
}

/// The first of them, for the reader.
pub fn first_error(what: &str, runs: &[Seen]) -> Option<String> {
    let all: Vec<&String> = runs.iter().flat_map(|run| &run.errors).collect();
    let first = all.first()?;
    Some(format!(
        "{what}: clients got {} errors, the first: {first}",
        all.len()
    ))
}
