//! Candidates that give an edge of a hot shard to a neighbour: no new shard, and fewer bytes.

use super::candidate::{Candidate, Rejected, Target};
use super::effort::{Effort, effort};
use super::explain;
use super::hot::{Need, Refusal, rejection};
use super::model::{Basis, Model, at};
use super::obstacle::blocked;
use super::step::{Action, Reason};
use crate::heat::Segment;

/// Both shards must end up below this share of their limit, so that a shift is not undone by noise.
const MARGIN: f64 = 0.9;

/// The shards that an edge of this one could be given to.
pub(super) fn neighbours(model: &Model, table: usize, shard: usize) -> Vec<usize> {
    let Some((owner, _)) = model.table(table) else {
        return Vec::new();
    };
    let adjoins = |lower: usize| {
        owner
            .shards
            .get(lower)
            .is_some_and(|s| s.mergeable_with_next)
    };
    let below = shard.checked_sub(1).filter(|lower| adjoins(*lower));
    let above = Some(shard + 1).filter(|upper| adjoins(shard) && *upper < owner.shards.len());
    below.into_iter().chain(above).collect()
}

/// The smallest edge whose shift to a neighbour leaves both well below the limit.
pub(super) fn to(
    model: &Model,
    table: usize,
    shard: usize,
    neighbour: usize,
    need: &Need,
    segments: &[Segment],
) -> Result<Candidate, Rejected> {
    let pair = Pair {
        model,
        table,
        shard,
        neighbour,
    };
    let run = pair
        .run(segments)
        .map_err(|(rule, why)| rejection(table, shard, Action::Shift, rule, why))?;
    let keeper = Target {
        pieces: vec![(shard, 1.0 - run.share)],
    };
    let receiver = Target {
        pieces: vec![(neighbour, 1.0), (shard, run.share)],
    };
    Ok(Candidate {
        action: Action::Shift,
        reason: need.reason,
        table,
        subject: shard,
        sources: pair.sources(),
        effort: pair.effort(&run),
        boundaries: vec![run.boundary],
        targets: if neighbour < shard {
            vec![receiver, keeper]
        } else {
            vec![keeper, receiver]
        },
        deadline: need.deadline,
        confidence: need.confidence,
        to: None,
    })
}

/// A hot shard and the neighbour that could take an edge of it.
struct Pair<'m, 'a> {
    model: &'m Model<'a>,
    table: usize,
    shard: usize,
    neighbour: usize,
}

impl Pair<'_, '_> {
    /// The smallest run that is enough and not too much.
    fn run(&self, segments: &[Segment]) -> Result<EdgeRun, Refusal> {
        let model = self.model;
        let (Some((giver, view)), Some((taker, taker_view))) = (
            model.shard(self.table, self.shard),
            model.shard(self.table, self.neighbour),
        ) else {
            return Err((Reason::NoCapacity, "there is no neighbour".to_owned()));
        };
        if let Some((rule, why)) = blocked(model, self.table, self.neighbour) {
            return Err((
                rule,
                format!(
                    "{} could take an edge of {}, but {why}",
                    taker.name, giver.name
                ),
            ));
        }
        if taker_view.basis == Basis::NoHistory {
            let why = format!(
                "{} has no history, so that what it can take is not known",
                taker.name
            );
            return Err((Reason::NoHistory, why));
        }
        let enough = |run: &EdgeRun| view.peak().1 * (1.0 - run.share) <= MARGIN * view.limit;
        let bearable = |run: &EdgeRun| {
            let load = |slot| taker_view.at_worst(slot) + at(&view.load, slot) * run.share;
            (0..model.grid.len())
                .map(load)
                .all(|load| load <= MARGIN * taker_view.limit)
        };
        let run = edge_runs(segments, self.neighbour < self.shard)
            .find(enough)
            .filter(bearable);
        let run = run.ok_or_else(|| {
            let why = format!(
                "{} cannot take enough of {} and stay below the limit",
                taker.name, giver.name
            );
            (Reason::NoCapacity, why)
        })?;
        let (least, most) = (model.policy.min_shard_bytes, model.policy.max_shard_bytes);
        if (1.0 - run.rows_share) * view.bytes < least {
            let why = format!(
                "{} would be left with less than {}",
                giver.name,
                explain::bytes(least)
            );
            return Err((Reason::TooSmall, why));
        }
        if most > 0.0 && taker_view.bytes + run.rows_share * view.bytes > most {
            let why = format!("{} would grow above {}", taker.name, explain::bytes(most));
            return Err((Reason::NoCapacity, why));
        }
        Ok(run)
    }

    /// What shifting a run takes.
    fn effort(&self, run: &EdgeRun) -> Effort {
        let keeper = vec![(self.shard, 1.0 - run.rows_share)];
        let receiver = vec![(self.neighbour, 1.0), (self.shard, run.rows_share)];
        let parts = if self.neighbour < self.shard {
            [receiver, keeper]
        } else {
            [keeper, receiver]
        };
        effort(self.model, self.table, &self.sources(), &parts)
    }

    fn sources(&self) -> std::ops::Range<usize> {
        self.shard.min(self.neighbour)..self.shard.max(self.neighbour) + 1
    }
}

/// A run of buckets at one end of a shard.
struct EdgeRun {
    share: f64,
    rows_share: f64,
    /// Where it ends inside the shard.
    boundary: String,
}

/// The runs at the lower or upper end, ever longer; never the whole shard.
fn edge_runs(segments: &[Segment], lower_end: bool) -> impl Iterator<Item = EdgeRun> + '_ {
    let total = |part: &[Segment]| {
        part.iter()
            .fold((0.0, 0.0), |sum, s| (sum.0 + s.share, sum.1 + s.rows_share))
    };
    (1..segments.len()).filter_map(move |length| {
        let cut = if lower_end {
            length
        } else {
            segments.len() - length
        };
        let (below, above) = segments.split_at_checked(cut)?;
        let boundary = below.last()?.upper.clone()?;
        let (share, rows_share) = total(if lower_end { below } else { above });
        Some(EdgeRun {
            share,
            rows_share,
            boundary,
        })
    })
}
