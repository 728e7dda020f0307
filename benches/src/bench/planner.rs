//! How long a plan of many shards on many nodes takes, and what it comes to. It needs no server: the planner is a pure
//! function.

use std::time::Instant;

use repart_core::plan::{plan, synthetic};

use crate::figure::{Figure, Findings, Series, Target, Unit};
use crate::options::Options;

/// 10,000 shards on 100 nodes, 48 half hours ahead.
pub fn run(options: &Options) -> Findings {
    let begun_with = resident();
    let snapshot = synthetic::fleet(10_000, 100, 48, 0.55);
    let before = synthetic::usage(&snapshot, None);
    let mut seconds = Vec::new();
    let mut after = before;
    for _ in 0..options.runs {
        let begun = Instant::now();
        let made = plan(&snapshot);
        seconds.push(begun.elapsed().as_secs_f64());
        after = synthetic::usage(&snapshot, Some(&made));
    }
    let memory = resident() - begun_with;
    let once = |value: f64| Series(vec![value]);
    Findings {
        name: "planner",
        about: "a plan of 10,000 shards on 100 nodes, 48 half hours ahead, one core".to_owned(),
        figures: vec![
            Figure::new("time", Unit::Seconds, seconds.into_iter().collect())
                .target(Target::AtMost(1.0)),
            Figure::new(
                "highest memory, snapshot included (MB)",
                Unit::Times,
                once(memory / 1e6),
            )
            .target(Target::AtMost(200.0)),
            Figure::new("highest use of a node", Unit::Times, once(after.peak))
                .beside("before", once(before.peak))
                .target(Target::AtMost(0.82)),
            Figure::new("slots above 0.9", Unit::Count, once(after.hot_cells as f64))
                .beside("before", once(before.hot_cells as f64)),
            Figure::new("bytes moved", Unit::Percent, once(after.moved * 100.0))
                .target(Target::AtMost(10.0)),
            Figure::new(
                "transactions on two nodes",
                Unit::Percent,
                once(after.crossing * 100.0),
            )
            .beside("before", once(before.crossing * 100.0)),
        ],
        notes: Vec::new(),
    }
}

/// The most memory that this process has had, bytes; 0 where the system does not tell.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) * 1024.0
}
