//! What a candidate has to move: which old shards stay in place, and what is copied or changes tables
//! inside the cutover.

use super::explain;
use super::model::Model;
use crate::in_place::{self, Budget, Flow};
use std::ops::Range;

/// The way in which a candidate would be carried out, as far as can be foreseen.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Effort {
    /// Bytes copied ahead of the cutover, or inserted in it.
    pub(super) bytes: f64,
    /// Positions of the old shards whose tables are kept.
    pub(super) kept: Vec<usize>,
    /// Rows that leave kept tables or arrive in them inside the cutover.
    pub(super) moved: f64,
    /// What that adds to its pause, s.
    pub(super) moving: f64,
}

/// What it takes to make targets out of shards: `parts` has, for each target, positions of old shards and the
/// share of their rows that the target takes.
pub(super) fn effort(
    model: &Model,
    table: usize,
    sources: &Range<usize>,
    parts: &[Vec<(usize, f64)>],
) -> Effort {
    let flows: Vec<Flow> = parts
        .iter()
        .enumerate()
        .flat_map(|(target, pieces)| pieces.iter().map(move |piece| (target, *piece)))
        .filter_map(|(target, (shard, share))| {
            let (_, view) = model.shard(table, shard)?;
            Some(Flow {
                source: shard.checked_sub(sources.start)?,
                target,
                rows: share * view.rows,
                bytes: share * view.bytes,
                // A shard whose number of rows is not known cannot be judged.
                may_keep: view.rows > 0.0,
            })
        })
        .collect();
    let budget = Budget {
        delete_rate: model.learned.delete_rate,
        insert_rate: model.learned.insert_rate,
        max_pause: model.policy.max_pause,
    };
    let kept = in_place::choose(&flows, &budget);
    let moves = in_place::moves(&flows, &kept);
    let arriving: f64 = flows
        .iter()
        .filter(|flow| {
            kept.iter()
                .any(|(source, target)| *target == flow.target && *source != flow.source)
        })
        .map(|flow| flow.bytes)
        .sum();
    Effort {
        bytes: in_place::copied_bytes(&flows, &kept) + arriving,
        kept: kept
            .iter()
            .map(|(source, _)| sources.start + source)
            .collect(),
        moved: moves.deletes.max(moves.inserts),
        moving: budget.moving(moves),
    }
}

impl Effort {
    /// The pause of the cutover, s: as long as others were, or as moving the rows takes where that is more.
    pub(super) fn pause(&self, model: &Model) -> f64 {
        let pause = model.learned.pause;
        match self.kept.is_empty() {
            true => pause,
            false => pause.max(in_place::BASE_PAUSE + self.moving),
        }
    }

    /// The way in words: `keeps orders_1 in place and moves 20,000 rows`.
    pub(super) fn way(&self, model: &Model, table: usize) -> String {
        let names: Vec<&str> = self
            .kept
            .iter()
            .filter_map(|shard| model.shard(table, *shard))
            .map(|(shard, _)| shard.name.as_str())
            .collect();
        if names.is_empty() {
            return "it rebuilds every shard concerned".to_owned();
        }
        format!(
            "it keeps {} in place and moves {} rows in its cutover",
            names.join(" and "),
            explain::thousands(self.moved)
        )
    }
}
