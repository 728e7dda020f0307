//! Candidates against hot and overlarge shards: split, and shift to a neighbour.

use super::candidate::{Candidate, Proposal, Rejected};
use super::explain;
use super::model::{Basis, Model, View, peak};
use super::obstacle::{appended, blocked, indivisible};
use super::shift;
use super::split::split;
use super::step::{Action, Reason};
use crate::heat::{self, Segment};

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
