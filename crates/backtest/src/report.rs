//! The tables that are printed.

use repart_core::forecast::Model;

use crate::{
    fleet::Fleet,
    m4,
    references::Reference,
    rolling::{Scores, Task},
    score::{Score, geometric_mean},
    trace::Trace,
};

/// One trace with its scores.
pub struct Evaluated {
    /// The trace's name.
    pub name: String,
    /// What was forecast.
    pub task: Task,
    /// Per model.
    pub scores: Scores,
    /// What else to compare with; the same for every trace.
    pub references: Vec<Reference>,
}

/// Prints what is known of a trace before it is forecast.
pub fn print_trace(trace: &Trace, task: &Task) {
    let missing = trace.series.values.iter().filter(|v| v.is_nan()).count();
    println!(
        "\n{}: {} steps of {} s, {missing} missing; {} origins; horizons {}",
        trace.name,
        trace.series.len(),
        trace.series.step / 1_000_000,
        task.origins.len(),
        task.names.join(", ")
    );
    println!("{}", header(&task.names));
}

fn header(names: &[String]) -> String {
    let mut line = format!("{:<16}", "model");
    for what in ["WAPE %", "rel. WAPE", "rel. pinball"] {
        for name in names {
            line += &format!(" {:>9}", format!("{} {name}", short(what)));
        }
    }
    line + "  q90 cov. | peak: q50 miss, q90 miss, q90 cov., height | skill | ms mean, most"
}

fn short(what: &str) -> &str {
    match what {
        "WAPE %" => "%",
        "rel. WAPE" => "W/",
        _ => "P/",
    }
}

/// Prints a row per model.
pub fn print_scores(scores: &Scores) {
    let Some((_, naive)) = scores.first() else {
        return;
    };
    for (name, score) in scores {
        println!("{}", row(name, score, naive));
    }
}

/// Prints a row per reference: see [`crate::references`].
pub fn print_references(references: &[Reference], scores: &Scores) {
    let Some((_, naive)) = scores.first() else {
        return;
    };
    for reference in references {
        let mut line = format!("{:<16}", reference.name);
        for (error, sums) in reference.errors.iter().zip(&naive.by_horizon) {
            line += &format!(" {:>9.2}", 100.0 * error / sums.measured);
        }
        for value in reference.relative(naive) {
            line += &format!(" {value:>9.3}");
        }
        println!("{line}");
    }
}

impl Reference {
    /// WAPE relative to that of seasonal naive, per horizon.
    fn relative(&self, naive: &Score) -> impl Iterator<Item = f64> {
        let pairs = self.errors.iter().zip(&naive.by_horizon);
        pairs.map(|(error, sums)| error / sums.errors)
    }
}

/// WAPE and pinball of a model relative to those of seasonal naive, per horizon.
fn relative(score: &Score, naive: &Score) -> [Vec<f64>; 2] {
    let pairs = || score.by_horizon.iter().zip(&naive.by_horizon);
    [
        pairs().map(|(s, n)| s.errors / n.errors).collect(),
        pairs().map(|(s, n)| s.pinball / n.pinball).collect(),
    ]
}

fn row(name: &str, score: &Score, naive: &Score) -> String {
    let mut line = format!("{name:<16}");
    for sums in &score.by_horizon {
        line += &format!(" {:>9.2}", 100.0 * sums.wape());
    }
    for values in relative(score, naive) {
        for value in values {
            line += &format!(" {value:>9.3}");
        }
    }
    let coverage = score
        .by_horizon
        .last()
        .map_or(f64::NAN, |s| 100.0 * s.coverage());
    let windows = score.windows.max(1.0);
    let of_windows = |sum: f64| 100.0 * sum / windows;
    let forecasts = score.forecasts.max(1.0);
    line + &format!(
        " {coverage:>8.1}% | {:>5.1}% {:>5.1}% {:>5.1}% {:>5.2} | {:>5.2} | {:>6.1} {:>6.1}",
        of_windows(score.median_missed),
        of_windows(score.peak_missed),
        of_windows(score.peak_covered),
        score.peak_height / windows,
        score.skill / forecasts,
        score.millis / forecasts,
        score.most_millis,
    )
}

/// Prints geometric means over the traces with hours, the range of coverages, and the times.
pub fn print_summary(all: &[Evaluated]) {
    let daily: Vec<&Evaluated> = all.iter().filter(|one| one.task.is_daily).collect();
    let Some(first) = daily.first() else { return };
    println!(
        "\nGeometric means over {} traces, relative to daily seasonal naive",
        daily.len()
    );
    println!(
        "{:<16} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  {:>15} {:>10} {:>10} {:>8}",
        "model",
        "W/ 1 h",
        "W/ 6 h",
        "W/ 24 h",
        "P/ 1 h",
        "P/ 6 h",
        "P/ 24 h",
        "q90 cov. range",
        "q50 miss",
        "peak miss",
        "ms"
    );
    for (index, (name, _)) in first.scores.iter().enumerate() {
        let of_all: Vec<(&Score, &Score)> = daily
            .iter()
            .filter_map(|one| Some((&one.scores.get(index)?.1, &one.scores.first()?.1)))
            .collect();
        println!("{}", summary_row(name, &of_all));
    }
    for (index, reference) in first.references.iter().enumerate() {
        let relative = |one: &&Evaluated, horizon: usize| {
            let (_, naive) = one.scores.first()?;
            one.references.get(index)?.relative(naive).nth(horizon)
        };
        print_wapes(reference.name, &daily, relative);
    }
    print_best(&daily);
}

/// Prints a row of geometric means of relative WAPEs alone.
fn print_wapes(
    name: &str,
    daily: &[&Evaluated],
    relative: impl Fn(&&Evaluated, usize) -> Option<f64>,
) {
    let mut line = format!("{name:<16}");
    for horizon in 0..3 {
        let of_all = daily.iter().filter_map(|one| relative(one, horizon));
        line += &format!(" {:>9.3}", geometric_mean(of_all));
    }
    println!("{line}");
}

/// Prints how well one would do who knew for each trace and horizon which model but `auto` is the best there.
fn print_best(daily: &[&Evaluated]) {
    let best = |one: &&Evaluated, horizon: usize| {
        let (_, naive) = one.scores.first()?;
        let single = one
            .scores
            .iter()
            .filter(|(name, _)| name != Model::Auto.name());
        let wapes = single.filter_map(|(_, score)| relative(score, naive)[0].get(horizon).copied());
        Some(wapes.fold(f64::INFINITY, f64::min))
    };
    print_wapes("best of each", daily, best);
}

fn summary_row(name: &str, of_all: &[(&Score, &Score)]) -> String {
    let mut line = format!("{name:<16}");
    for kind in 0..2 {
        for horizon in 0..3 {
            let value = |(s, n): &(&Score, &Score)| relative(s, n).get(kind)?.get(horizon).copied();
            line += &format!(" {:>9.3}", geometric_mean(of_all.iter().filter_map(value)));
        }
    }
    let coverages = || {
        of_all
            .iter()
            .filter_map(|(s, _)| Some(100.0 * s.by_horizon.last()?.coverage()))
    };
    let least = coverages().fold(f64::INFINITY, f64::min);
    let most = coverages().fold(0.0, f64::max);
    let mean = |pick: fn(&Score) -> f64| {
        of_all.iter().map(|(s, _)| pick(s)).sum::<f64>() / of_all.len().max(1) as f64
    };
    line + &format!(
        "  {:>15} {:>9.1}% {:>9.1}% {:>8.1}",
        format!("{least:.1}-{most:.1} %"),
        mean(|s| 100.0 * s.median_missed / s.windows.max(1.0)),
        mean(|s| 100.0 * s.peak_missed / s.windows.max(1.0)),
        mean(|s| s.millis / s.forecasts.max(1.0)),
    )
}

/// Prints the head of the table of M4.
pub fn print_m4_header(count: usize, part: &str) {
    println!("\nM4 hourly, {count} series, horizon 48, {part}");
    println!(
        "{:<16} {:>7} {:>7} {:>9} {:>9} {:>8}",
        "model", "sMAPE", "MASE", "rel. WAPE", "q90 cov.", "ms"
    );
}

/// Prints a row of the table of M4.
pub fn print_m4(name: &str, score: &m4::Score) {
    println!(
        "{name:<16} {:>7.2} {:>7.3} {:>9.3} {:>8.1}% {:>8.1}",
        score.smape,
        score.mase,
        score.wape,
        100.0 * score.coverage,
        score.millis
    );
}

/// Prints what forecasting many shards at once took.
pub fn print_fleet(fleet: &Fleet) {
    println!(
        "{} shards, four weeks of hours each, forecast a day ahead in {:.2} s of one processor",
        fleet.shards, fleet.seconds
    );
    for (name, sums) in [
        ("shared fits", fleet.shared),
        ("their own fits", fleet.alone),
    ] {
        println!(
            "{name:<16} WAPE {:>5.2} %  q90 cov. {:>5.1} %",
            100.0 * sums.wape(),
            100.0 * sums.coverage()
        );
    }
}
