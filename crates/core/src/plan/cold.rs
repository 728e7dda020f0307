//! Candidates for cold neighbours: merge.
//!
//! Cold means: together the neighbours stay below `cold_fraction` of the limit of one shard, in the
//! forecast *and* in the last season, and that has been watched for two seasons. Skill is not asked
//! for: the past season is the safeguard, and a shard without load shows no confidence.

use super::candidate::{Candidate, Proposal, Target};
use super::effort::effort;
use super::hot::need;
use super::model::{Model, View};
use super::obstacle::blocked;
use super::step::{Action, Reason};
use crate::plan::input::Shard;

/// A merged shard may reach this share of `max_shard_bytes`, so that it is not soon split again.
const SIZE_MARGIN: f64 = 0.7;

/// Why cold neighbours were not merged, counted in pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ColdTally {
    /// Their history covers less than two seasons.
    pub(super) young: usize,
    /// They are busy, unmovable or resting.
    pub(super) blocked: usize,
    /// Together they would be too large.
    pub(super) large: usize,
}

/// A run of adjacent shards, summed up.
struct Run {
    first: usize,
    next: usize,
    load: Vec<f64>,
    recent_peak: f64,
    now: f64,
    bytes: f64,
    young: bool,
    blocked: bool,
}

impl Run {
    fn start(model: &Model, table: usize, at: usize, shard: &Shard, view: &View) -> Run {
        Run {
            first: at,
            next: at + 1,
            load: view.forecast.clone(),
            recent_peak: view.recent_peak,
            now: view.now,
            bytes: view.bytes,
            young: shard.history_span < view.season.saturating_mul(2),
            blocked: blocked(model, table, at).is_some(),
        }
    }

    /// This run and the next shard's.
    fn joined(&self, other: &Run) -> Run {
        Run {
            first: self.first,
            next: other.next,
            load: self
                .load
                .iter()
                .zip(&other.load)
                .map(|(a, b)| a + b)
                .collect(),
            recent_peak: self.recent_peak + other.recent_peak,
            now: self.now + other.now,
            bytes: self.bytes + other.bytes,
            young: self.young || other.young,
            blocked: self.blocked || other.blocked,
        }
    }

    /// The highest load it has had or will have, rows/s.
    fn peak(&self) -> f64 {
        self.load
            .iter()
            .copied()
            .fold(self.recent_peak.max(self.now), f64::max)
    }
}

/// The cold groups of a table, and how many cold pairs must wait.
pub(super) fn groups(model: &Model, table: usize) -> (Vec<Proposal>, ColdTally) {
    let mut proposals = Vec::new();
    let mut tally = ColdTally::default();
    let Some((owner, views)) = model.table(table) else {
        return (proposals, tally);
    };
    let mut run: Option<Run> = None;
    for (at, (shard, view)) in owner.shards.iter().zip(views).enumerate() {
        let own = candidate_shard(model, view).then(|| Run::start(model, table, at, shard, view));
        let adjoins = at
            .checked_sub(1)
            .and_then(|i| owner.shards.get(i))
            .is_some_and(|s| s.mergeable_with_next);
        let joined = match (&run, &own) {
            (Some(run), Some(own)) if adjoins => Some(run.joined(own)),
            _ => None,
        };
        let fits = joined
            .as_ref()
            .is_some_and(|joined| fits(model, view, joined, &mut tally));
        if fits {
            run = joined;
        } else {
            proposals.extend(run.take().and_then(|run| merge(model, table, &run)));
            run = own;
        }
    }
    proposals.extend(run.and_then(|run| merge(model, table, &run)));
    (proposals, tally)
}

/// Whether a shard could be part of a cold group at all.
fn candidate_shard(model: &Model, view: &View) -> bool {
    let quiet = matches!(need(model, view, model.policy.max_shard_bytes), Ok(None));
    quiet && view.limit.is_finite() && !view.forecast.is_empty()
}

/// Whether a longer run is still cold and may be merged; counts why not.
fn fits(model: &Model, view: &View, joined: &Run, tally: &mut ColdTally) -> bool {
    if joined.peak() >= model.policy.cold_fraction * view.limit {
        return false;
    }
    let most = model.policy.max_shard_bytes * SIZE_MARGIN;
    if joined.young {
        tally.young += 1;
    } else if joined.blocked {
        tally.blocked += 1;
    } else if most > 0.0 && joined.bytes > most {
        tally.large += 1;
    } else {
        return joined.next - joined.first <= model.policy.max_merge;
    }
    false
}

fn merge(model: &Model, table: usize, run: &Run) -> Option<Proposal> {
    if run.next - run.first < 2 {
        return None;
    }
    let (_, view) = model.shard(table, run.first)?;
    let sources = run.first..run.next;
    let pieces: Vec<(usize, f64)> = sources.clone().map(|at| (at, 1.0)).collect();
    let confidences = (run.first..run.next)
        .filter_map(|at| model.shard(table, at))
        .map(|(_, view)| view.confidence);
    let candidate = Candidate {
        action: Action::Merge,
        reason: Reason::ColdGroup,
        table,
        subject: run.first,
        sources: sources.clone(),
        boundaries: Vec::new(),
        targets: vec![Target {
            pieces: pieces.clone(),
        }],
        effort: effort(model, table, &sources, std::slice::from_ref(&pieces)),
        deadline: None,
        // Two quiet seasons count, with or without confidence.
        confidence: confidences.fold(1.0, f64::min).max(0.5),
        to: None,
    };
    Some(Proposal {
        table,
        subject: run.first,
        deadline: None,
        severity: run.peak() / view.limit,
        candidates: vec![candidate],
        rejected: Vec::new(),
    })
}
