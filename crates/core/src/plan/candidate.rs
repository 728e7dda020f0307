//! What could be done: candidates with their gain and price, and why others were ruled out.

use super::effort::Effort;
use super::model::{Model, at};
use super::objective;
use super::step::{Action, Reason};
use std::ops::Range;

/// A new shard, made of shares of old ones.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    /// Position of an old shard in its table and the share of its load that the target takes.
    pub(super) pieces: Vec<(usize, f64)>,
}

/// A step that could be taken.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub(super) action: Action,
    pub(super) reason: Reason,
    /// Position of the table in the snapshot.
    pub(super) table: usize,
    /// Position of the shard that gave rise to it.
    pub(super) subject: usize,
    /// Positions of the shards that are replaced.
    pub(super) sources: Range<usize>,
    pub(super) boundaries: Vec<String>,
    pub(super) targets: Vec<Target>,
    /// What is copied and moved.
    pub(super) effort: Effort,
    pub(super) deadline: Option<i64>,
    pub(super) confidence: f64,
    /// Where it goes, if it goes to another node.
    pub(super) to: Option<Relocation>,
}

/// The move of a shard to another node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Relocation {
    /// Position of the node that it goes to.
    pub(super) node: usize,
    /// What gives rise to it, in words.
    pub(super) subject: String,
    /// What it does, in words.
    pub(super) deed: String,
}

/// What a candidate gains and costs, overload-seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Value {
    pub(super) benefit: f64,
    pub(super) cost: f64,
}

impl Value {
    /// Benefit per cost.
    pub(super) fn ratio(&self) -> f64 {
        self.benefit / self.cost.max(1e-9)
    }
}

/// Something that was not done, and the rule that forbade it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rejected {
    pub(super) action: Action,
    pub(super) table: usize,
    pub(super) sources: Range<usize>,
    pub(super) boundaries: Vec<String>,
    pub(super) rule: Reason,
    pub(super) why: String,
    pub(super) value: Option<Value>,
    pub(super) bytes: f64,
}

/// All that could be done about one shard or group, the best first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Proposal {
    /// Position of the table.
    pub(super) table: usize,
    /// Position of the shard.
    pub(super) subject: usize,
    pub(super) deadline: Option<i64>,
    /// Peak load as a multiple of the limit.
    pub(super) severity: f64,
    pub(super) candidates: Vec<Candidate>,
    pub(super) rejected: Vec<Rejected>,
}

impl Candidate {
    /// The load of a target in a slot, rows/s.
    pub(super) fn target_load(&self, model: &Model, target: &Target, slot: usize) -> f64 {
        let piece = |(shard, share): &(usize, f64)| {
            model
                .shard(self.table, *shard)
                .map_or(0.0, |(_, view)| at(&view.load, slot) * share)
        };
        target.pieces.iter().map(piece).sum()
    }

    /// The highest load of the hottest source, rows/s.
    pub(super) fn load_before(&self, model: &Model) -> f64 {
        let views = self
            .sources
            .clone()
            .filter_map(|shard| model.shard(self.table, shard));
        views.map(|(_, view)| view.peak().1).fold(0.0, f64::max)
    }

    /// The highest load of the hottest target, rows/s.
    pub(super) fn load_after(&self, model: &Model) -> f64 {
        let slots = 0..model.grid.len();
        let loads = slots.flat_map(|slot| {
            self.targets
                .iter()
                .map(move |target| self.target_load(model, target, slot))
        });
        loads.fold(0.0, f64::max)
    }

    /// The capacity of its shards, rows/s.
    pub(super) fn capacity(&self, model: &Model) -> f64 {
        model
            .shard(self.table, self.subject)
            .map_or(f64::INFINITY, |(_, view)| view.capacity)
    }

    /// How long it takes, s.
    pub(super) fn duration(&self, model: &Model) -> f64 {
        objective::duration(&model.learned, self.effort.bytes, self.effort.pause(model))
    }

    /// By how many shards the table grows (negative: shrinks).
    pub(super) fn growth(&self) -> f64 {
        self.targets.len() as f64 - self.sources.len() as f64
    }

    /// What it gains and costs if its cutover is at `finish`: load is relieved only from then on.
    pub(super) fn value(&self, model: &Model, finish: i64) -> Value {
        let capacity = self.capacity(model);
        let before: f64 = self
            .sources
            .clone()
            .filter_map(|shard| model.shard(self.table, shard))
            .map(|(_, view)| {
                model
                    .objective
                    .overload(finish, |slot| at(&view.load, slot) / view.capacity)
            })
            .sum();
        let after: f64 = self
            .targets
            .iter()
            .map(|target| {
                let load = |slot| self.target_load(model, target, slot) / capacity;
                model.objective.overload(finish, load)
            })
            .sum();
        let fewer = (-self.growth()).max(0.0);
        let cutover = model.grid.slot_at(finish);
        let loads = self
            .sources
            .clone()
            .filter_map(|shard| model.shard(self.table, shard));
        let utilisation: f64 = loads
            .map(|(_, view)| at(&view.load, cutover) / view.capacity)
            .sum();
        let (policy, learned) = (&model.policy, &model.learned);
        let horizon = model.objective.horizon();
        Value {
            benefit: before - after + objective::merge_benefit(policy, fewer),
            cost: objective::cost(
                policy,
                learned,
                self.effort.bytes,
                self.effort.pause(model),
                utilisation,
                self.growth(),
                horizon,
            ),
        }
    }

    /// The candidate as one that was not taken.
    pub(super) fn reject(&self, rule: Reason, why: String, value: Option<Value>) -> Rejected {
        Rejected {
            action: self.action,
            table: self.table,
            sources: self.sources.clone(),
            boundaries: self.boundaries.clone(),
            rule,
            why,
            value,
            bytes: self.effort.bytes,
        }
    }
}
