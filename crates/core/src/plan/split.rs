//! Where to cut a shard.

use super::candidate::{Candidate, Target};
use super::effort::effort;
use super::explain;
use super::hot::{Need, Refusal};
use super::model::{Model, View, at};
use super::step::{Action, Reason};
use crate::heat::{self, Segment};

/// The evenest split into as many parts as are needed.
pub(super) fn split(
    model: &Model,
    table: usize,
    shard: usize,
    need: &Need,
    segments: &[Segment],
) -> Result<Candidate, Refusal> {
    let gone = || (Reason::UnknownKeys, "the shard is gone".to_owned());
    let (_, view) = model.shard(table, shard).ok_or_else(gone)?;
    let most = most_parts(model, table)?;
    let cuts = cuts(model, view, most, need, segments)?;
    let boundaries = heat::boundaries(segments, &cuts).ok_or_else(gone)?;
    let runs = runs(segments, &cuts);
    let parts: Vec<Vec<(usize, f64)>> = runs.iter().map(|(_, rows)| vec![(shard, *rows)]).collect();
    Ok(Candidate {
        action: Action::Split,
        reason: need.reason,
        table,
        subject: shard,
        sources: shard..shard + 1,
        boundaries,
        targets: runs
            .iter()
            .map(|(load, _)| Target {
                pieces: vec![(shard, *load)],
            })
            .collect(),
        effort: effort(model, table, &(shard..shard + 1), &parts),
        deadline: need.deadline,
        confidence: need.confidence,
        to: None,
    })
}

/// How many parts a shard of the table may be split into.
fn most_parts(model: &Model, table: usize) -> Result<usize, Refusal> {
    let (shards, most) = (
        model.views.get(table).map_or(0, Vec::len),
        model.policy.max_shards,
    );
    match model
        .policy
        .max_parts
        .min(most.saturating_add(1).saturating_sub(shards))
    {
        parts if parts >= 2 => Ok(parts),
        _ => Err((
            Reason::MaxShards,
            format!("the table has {shards} shards and may have {most}"),
        )),
    }
}

/// Where to cut: by load, or by rows if the shard is too large.
fn cuts(
    model: &Model,
    view: &View,
    most: usize,
    need: &Need,
    segments: &[Segment],
) -> Result<Vec<usize>, Refusal> {
    let (policy, by_size) = (&model.policy, need.reason == Reason::TooLarge);
    let weight = |segment: &Segment| {
        if by_size {
            segment.rows_share
        } else {
            segment.share
        }
    };
    let weights: Vec<f64> = segments.iter().map(weight).collect();
    let goal = if by_size {
        policy.max_shard_bytes / view.bytes
    } else {
        view.limit / view.peak().1
    };
    let rows = prefix_sums(segments.iter().map(|s| s.rows_share));
    let big_enough = |from: usize, to: usize| {
        (at(&rows, to) - at(&rows, from)) * view.bytes >= policy.min_shard_bytes
    };
    enough_parts(&weights, most, goal, big_enough).ok_or_else(|| {
        let least = explain::bytes(policy.min_shard_bytes);
        (
            Reason::TooSmall,
            format!("a split would leave a shard smaller than {least}"),
        )
    })
}

/// Cuts into the fewest parts of which none weighs more than `goal`; if there is no such division,
/// into the fewest that come (within 1 %) as near to it as `most` parts can.
fn enough_parts(
    weights: &[f64],
    most: usize,
    goal: f64,
    allowed: impl Fn(usize, usize) -> bool,
) -> Option<Vec<usize>> {
    let mut best: Option<(f64, Vec<usize>)> = None;
    for parts in 2..=most.min(weights.len()) {
        let Some(cuts) = heat::balanced_cuts(weights, parts, &allowed) else {
            continue;
        };
        let heaviest = run_sums(weights, &cuts).into_iter().fold(0.0, f64::max);
        if best
            .as_ref()
            .is_none_or(|(least, _)| heaviest < least * 0.99)
        {
            best = Some((heaviest, cuts));
        }
        if heaviest <= goal {
            break;
        }
    }
    best.map(|(_, cuts)| cuts)
}

/// The sum of each run between cuts.
fn run_sums(weights: &[f64], cuts: &[usize]) -> Vec<f64> {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain(std::iter::once(weights.len()));
    starts
        .zip(ends)
        .map(|(from, to)| weights.iter().take(to).skip(from).sum())
        .collect()
}

/// 0 and the sums of the first one, two, … values.
fn prefix_sums(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let sums = values.scan(0.0, |sum, value| {
        *sum += value;
        Some(*sum)
    });
    std::iter::once(0.0).chain(sums).collect()
}

/// Share of load and of rows of each run.
fn runs(segments: &[Segment], cuts: &[usize]) -> Vec<(f64, f64)> {
    let loads: Vec<f64> = segments.iter().map(|s| s.share).collect();
    let rows: Vec<f64> = segments.iter().map(|s| s.rows_share).collect();
    run_sums(&loads, cuts)
        .into_iter()
        .zip(run_sums(&rows, cuts))
        .collect()
}
