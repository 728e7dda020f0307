//! What finished migrations teach: their outcomes are watched for a season and handed to the core.

use repart_core::feedback::{self, Outcome};
use repart_core::plan::Action;
use repart_core::plan::input::Learned;

use crate::catalog::forecasts;
use crate::catalog::outcomes::{self, Recorded};
use crate::error::Result;
use crate::pg::time;
use crate::settings;

/// Outcomes that are looked at; the core uses the last 50 for rates and the last ten gains.
const RECENT: i64 = 200;

/// What the next plan should assume.
pub fn learned() -> Result<Learned> {
    let outcomes = outcomes::recent(RECENT)?
        .iter()
        .map(outcome)
        .collect::<Result<Vec<_>>>()?;
    Ok(feedback::learn(&Learned::default(), &outcomes))
}

/// A migration as the core sees it. The gain is the peak load that its hottest shard was spared, in rows/s:
/// only the ratio of what was promised and what came counts, and it is known after a whole season.
fn outcome(recorded: &Recorded) -> Result<Outcome> {
    let judged = recorded.judged_until.unwrap_or(i64::MIN) >= end_of_judgement(recorded)?;
    // A shard on another node has the same load as before: what a move gains, its node shows.
    let gain = |after: Option<f64>| {
        let before = recorded.load_before.filter(|_| recorded.kind != "move");
        Some(before? - after?)
    };
    Ok(Outcome {
        kind: action(&recorded.kind),
        bytes: recorded.bytes,
        rows: recorded.rows,
        predicted_duration: recorded.predicted_duration.unwrap_or(0.0),
        duration: recorded.duration,
        pause: recorded.pause_ms.unwrap_or(0.0) / 1e3,
        copy_seconds: recorded.copy_seconds,
        benefit_predicted: gain(recorded.predicted_load_after).unwrap_or(0.0).max(0.0),
        benefit_realised: gain(recorded.load_after).filter(|_| judged),
        moved: recorded.moved,
    })
}

fn action(kind: &str) -> Action {
    match kind {
        "split" => Action::Split,
        "merge" => Action::Merge,
        "shift" => Action::Shift,
        "move" => Action::Move,
        _ => Action::None,
    }
}

/// Looks at the load of what recent migrations made, for one season after each (the horizon where no
/// season is known). To be called after samples were taken.
pub fn judge() -> Result<()> {
    let now = time::now();
    for recorded in outcomes::recent(RECENT)? {
        let until = end_of_judgement(&recorded)?.min(now);
        if recorded.judged_until.is_none_or(|judged| judged < until) {
            outcomes::judge(recorded.migration, until)?;
        }
    }
    Ok(())
}

/// One season after the migration, µs since the Unix epoch.
fn end_of_judgement(recorded: &Recorded) -> Result<i64> {
    let season = forecasts::longest_season(&recorded.shards)?.filter(|season| *season > 0);
    Ok(recorded
        .finished_at
        .saturating_add(season.unwrap_or(time::span(settings::horizon()))))
}
