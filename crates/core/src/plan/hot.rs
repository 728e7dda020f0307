//! Candidates against hot and overlarge shards: split, and shift to a neighbour.

use super::candidate::{Candidate, Proposal, Rejected, Target};
use super::effort::effort;
use super::explain;
use super::model::{Basis, Model, View, at, peak};
use super::shift;
use super::step::{Action, Reason};
use crate::heat::{self, Segment};

/// A shard is not split when one key has this share of its load and is too hot by itself.
const POPULAR: f64 = 0.5;

/// A shard is not split for its load where keys are appended in this order, and this share of the load is at the
/// end at which they are: the new shards would be as the old one, one idle and one hot.
const APPENDED: f64 = 0.8;
const AT_THE_END: f64 = 0.5;

/// How much of a shard, by its rows, counts as its end.
const END: f64 = 0.1;

/// The confidence in a load that is there but has no usable forecast.
const REACTIVE_CONFIDENCE: f64 = 0.3;

/// A rule that forbids something, and how.
pub(super) type Refusal = (Reason, String);

/// Why a shard needs relief.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Need {
    pub(super) reason: Reason,
    pub(super) deadline: Option<i64>,
    pub(super) confidence: f64,
}

/// Whether a shard needs relief; `Err` when it seems so but there is no ground to act on.
pub(super) fn need(model: &Model, view: &View, bytes_limit: f64) -> Result<Option<Need>, Reason> {
    let now = model.snapshot.now;
    if view.now > view.limit {
        let sure = if view.basis == Basis::Forecast {
            0.5 + view.confidence / 2.0
        } else {
            REACTIVE_CONFIDENCE
        };
        return Ok(Some(Need {
            reason: Reason::HotNow,
            deadline: Some(now),
            confidence: sure,
        }));
    }
    if view.basis == Basis::Forecast && view.peak().1 > view.limit {
        let deadline = Some(passes_at(model, view));
        return Ok(Some(Need {
            reason: Reason::PredictedHot,
            deadline,
            confidence: view.confidence,
        }));
    }
    if bytes_limit > 0.0 && view.bytes > bytes_limit {
        return Ok(Some(Need {
            reason: Reason::TooLarge,
            deadline: None,
            confidence: 1.0,
        }));
    }
    match view.basis {
        Basis::LowConfidence if peak(&view.forecast).1 > view.limit => Err(Reason::LowConfidence),
        Basis::NoHistory if view.recent_peak > view.limit => Err(Reason::NoHistory),
        _ => Ok(None),
    }
}

/// When the load first passes the hard limit, or if it never does, the limit.
fn passes_at(model: &Model, view: &View) -> i64 {
    let first_above = |limit: f64| view.load.iter().position(|load| *load > limit);
    let hard = view.capacity * model.objective.hard_limit;
    let slot = first_above(hard)
        .or_else(|| first_above(view.limit))
        .unwrap_or_default();
    model.grid.start_of(slot)
}

/// What can be done about a shard; `None` if it needs nothing.
pub(super) fn proposal(model: &Model, table: usize, shard: usize) -> Option<Proposal> {
    let (of_shard, view) = model.shard(table, shard)?;
    let mut proposal = empty(model, table, shard);
    let mut refuse = |rule, why| {
        proposal
            .rejected
            .push(rejection(table, shard, Action::Split, rule, why))
    };
    let need = match need(model, view, model.policy.max_shard_bytes) {
        Ok(None) => return None,
        Ok(Some(need)) => need,
        Err(rule) => {
            refuse(rule, explain::unforecast(model, table, shard, rule));
            return Some(proposal);
        }
    };
    let but = |why: String| {
        format!(
            "{}, but {why}",
            explain::subject(model, table, shard, need.reason)
        )
    };
    let segments = heat::segments(
        of_shard.lower.as_deref(),
        of_shard.upper.as_deref(),
        &of_shard.buckets,
    );
    if let Some((rule, why)) = blocked(model, table, shard).or_else(|| {
        indivisible(&need, view, &segments).or_else(|| appended(&need, of_shard.append, &segments))
    }) {
        refuse(rule, but(why));
    } else {
        match split(model, table, shard, &need, &segments) {
            Ok(candidate) => proposal.candidates.push(candidate),
            Err((rule, why)) => refuse(rule, but(why)),
        }
        add_shifts(model, &mut proposal, &need, &segments);
        rank(model, &mut proposal.candidates);
    }
    proposal.deadline = need.deadline;
    Some(proposal)
}

/// Adds shifts to either neighbour. They help against load only.
fn add_shifts(model: &Model, proposal: &mut Proposal, need: &Need, segments: &[Segment]) {
    let (table, shard) = (proposal.table, proposal.subject);
    if need.reason == Reason::TooLarge {
        return;
    }
    for neighbour in shift::neighbours(model, table, shard) {
        match shift::to(model, table, shard, neighbour, need, segments) {
            Ok(candidate) => proposal.candidates.push(candidate),
            Err(rejected) => proposal.rejected.push(rejected),
        }
    }
}

/// Puts those first that bring every shard below its limit, then those with the better benefit/cost.
fn rank(model: &Model, candidates: &mut [Candidate]) {
    candidates.sort_by_cached_key(|candidate| {
        let (_, view) = match model.shard(candidate.table, candidate.subject) {
            Some(found) => found,
            None => return (true, 0),
        };
        let finish = model
            .snapshot
            .now
            .saturating_add((candidate.duration(model) * 1e6) as i64);
        let ratio = candidate.value(model, finish).ratio();
        // total_cmp order as an integer, so that it can be a cached key; descending.
        let order = if ratio > 0.0 {
            -(ratio.to_bits() as i64)
        } else {
            0
        };
        (candidate.load_after(model) > view.limit, order)
    });
}

/// Why a shard may not be reshaped now.
pub(super) fn blocked(model: &Model, table: usize, shard: usize) -> Option<Refusal> {
    let (of_shard, _) = model.shard(table, shard)?;
    if let Some(reason) = &of_shard.indivisible {
        let why = format!("{} cannot be reshaped: {reason}", of_shard.name);
        return Some((Reason::Unmovable, why));
    }
    held(model, table, shard).or_else(|| resting(model, table, shard))
}

/// Why a shard may not be touched now, whatever for.
pub(super) fn held(model: &Model, table: usize, shard: usize) -> Option<Refusal> {
    let (of_shard, _) = model.shard(table, shard)?;
    let name = &of_shard.name;
    if of_shard.busy {
        return Some((
            Reason::Busy,
            format!("a migration of {name} is queued or running"),
        ));
    }
    if let Some(reason) = &of_shard.unmovable {
        return Some((
            Reason::Unmovable,
            format!("{name} cannot be migrated: {reason}"),
        ));
    }
    None
}

/// Why a shard that was migrated of late is left alone.
pub(super) fn resting(model: &Model, table: usize, shard: usize) -> Option<Refusal> {
    let (of_shard, _) = model.shard(table, shard)?;
    let name = &of_shard.name;
    let rested = model.snapshot.now.saturating_sub(of_shard.last_change?);
    if rested >= model.policy.dwell {
        return None;
    }
    let left = explain::span(model.policy.dwell.saturating_sub(rested.max(0)));
    Some((
        Reason::Dwell,
        format!(
            "{name} was migrated {} ago and rests for {left} more",
            explain::span(rested)
        ),
    ))
}

/// Why no boundary would help.
fn indivisible(need: &Need, view: &View, segments: &[Segment]) -> Option<Refusal> {
    let hottest = segments.iter().max_by(|a, b| a.share.total_cmp(&b.share));
    let Some(hottest) = hottest.filter(|hottest| segments.len() > 1 || hottest.single_key) else {
        let why = "it is not known how its keys are distributed (ANALYZE helps)".to_owned();
        return Some((Reason::UnknownKeys, why));
    };
    let by_itself = hottest.share * view.peak().1;
    let popular = hottest.single_key && hottest.share >= POPULAR && by_itself > view.limit;
    if segments.len() > 1 && (need.reason == Reason::TooLarge || !popular) {
        return None;
    }
    let share = explain::percent(hottest.share);
    Some((
        Reason::SingleKeyHot,
        format!("one key carries {share} of it and no boundary can divide a key"),
    ))
}

/// Why a boundary would not help against load that moves on as keys are appended.
fn appended(need: &Need, append: f64, segments: &[Segment]) -> Option<Refusal> {
    if need.reason == Reason::TooLarge || append.abs() < APPENDED {
        return None;
    }
    let (mut rows, mut load) = (0.0, 0.0);
    let mut from_the_end: Vec<&Segment> = segments.iter().collect();
    if append > 0.0 {
        from_the_end.reverse();
    }
    for segment in from_the_end {
        // The first one counts however large it is.
        if rows > 0.0 && rows + segment.rows_share > END {
            break;
        }
        rows += segment.rows_share;
        load += segment.share;
    }
    let end = if append > 0.0 { "highest" } else { "lowest" };
    (load >= AT_THE_END).then(|| {
        let share = explain::percent(load);
        (
            Reason::AppendHot,
            format!(
                "{share} of it falls on the {end} keys, to which new ones are added in order: a split would leave it all in one shard"
            ),
        )
    })
}

/// The evenest split into as many parts as are needed.
fn split(
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

fn empty(model: &Model, table: usize, shard: usize) -> Proposal {
    let severity = model.shard(table, shard).map_or(0.0, |(_, view)| {
        view.peak().1.max(peak(&view.forecast).1) / view.limit
    });
    Proposal {
        table,
        subject: shard,
        deadline: None,
        severity,
        candidates: Vec::new(),
        rejected: Vec::new(),
    }
}

pub(super) fn rejection(
    table: usize,
    shard: usize,
    action: Action,
    rule: Reason,
    why: String,
) -> Rejected {
    let sources = shard..shard + 1;
    Rejected {
        action,
        table,
        sources,
        boundaries: Vec::new(),
        rule,
        why,
        value: None,
        bytes: 0.0,
    }
}
