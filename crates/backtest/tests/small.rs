//! A small backtest: what must hold on any machine, and on any trace like these.

// Helpers of tests may unwrap, as tests do; clippy only sees the latter.
#![allow(clippy::unwrap_used)]

use std::f64::consts::TAU;
use std::fmt::Write;

use repart_backtest::arguments::Arguments;
use repart_backtest::references;
use repart_backtest::rolling::{self, Scores, Task};
use repart_backtest::{report, trace};

/// Uniform noise in [0, 1): splitmix64.
fn noise(index: u64) -> f64 {
    let mut x = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Scores on eight weeks of hours, written to a file and read again as `make backtest` does.
fn scores(name: &str, load: impl Fn(usize) -> f64) -> Scores {
    let folder =
        std::env::temp_dir().join(format!("repart-backtest-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{name}.csv"));
    let mut text = "hour,requests\n".to_owned();
    for hour in 0..8 * 168 {
        writeln!(text, "{hour},{:.3}", load(hour)).unwrap();
    }
    std::fs::write(&path, text).unwrap();
    let words = [
        "folder",
        "--origins",
        "24",
        "--models",
        "auto,seasonal_naive,spar",
    ];
    let arguments = Arguments::parse(words.map(str::to_owned).into_iter()).unwrap();
    let trace = trace::read(&path, arguments.least_step, arguments.index_step).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let task = Task::of(&trace, &arguments).unwrap();
    report::print_trace(&trace, &task);
    let runs = rolling::run(&trace, &task, &arguments);
    let scores = rolling::scores(&trace, &task, &runs);
    report::print_scores(&scores);
    let references = references::of(&trace, &task, &runs);
    report::print_references(&references, &scores);
    let names: Vec<&str> = references.iter().map(|r| r.name).collect();
    assert_eq!(
        names,
        ["median of them", "auto, level told", "in hindsight"]
    );
    let auto = row(&scores, "auto").by_horizon.iter();
    for (told, auto) in references[1].errors.iter().zip(auto) {
        assert!(*told <= auto.errors, "who is told the level errs less");
    }
    scores
}

fn row<'a>(scores: &'a Scores, name: &str) -> &'a repart_backtest::score::Score {
    &scores.iter().find(|(row, _)| row == name).unwrap().1
}

fn week(hour: usize) -> f64 {
    let weekend = if hour / 24 % 7 >= 5 { 0.5 } else { 1.0 };
    1_000.0 * weekend * (1.2 + (hour as f64 * TAU / 24.0).sin())
}

#[test]
fn on_a_day_within_a_week_auto_beats_both_seasonal_naives() {
    let scores = scores("periodic", |hour| {
        week(hour) * (0.9 + 0.2 * noise(hour as u64))
    });
    let (auto, day) = (row(&scores, "auto"), row(&scores, "naive (day)"));
    for (ours, naive) in auto.by_horizon.iter().zip(&day.by_horizon) {
        assert!(
            ours.errors < naive.errors,
            "{ours:?} is not below {naive:?}"
        );
        assert!(
            ours.pinball < naive.pinball,
            "{ours:?} is not below {naive:?}"
        );
    }
    let weekly = row(&scores, "naive (week)").by_horizon.last().unwrap();
    assert!(auto.by_horizon.last().unwrap().errors < weekly.errors);
    assert!(auto.skill > 0.0);
}

#[test]
fn coverage_is_calibrated_on_noise() {
    let scores = scores("noise", |hour| 500.0 + 200.0 * noise(hour as u64 + 77_777));
    let auto = row(&scores, "auto");
    let coverage = auto.by_horizon.last().unwrap().coverage();
    assert!((0.85..=0.95).contains(&coverage), "{coverage}");
    assert!(auto.peak_covered >= 0.8 * auto.windows, "{auto:?}");
}
