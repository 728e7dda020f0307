//! Relieving nodes that are or will be used too much: the worst slot of the worst node first.

use std::collections::BTreeSet;

use super::{Cell, Chance, REACTIVE_CONFIDENCE, ROOMY_NODES, Search, TRIED_NODES, TRIED_SHARDS};
use crate::plan::candidate::Rejected;
use crate::plan::explain::moves as words;
use crate::plan::gate::{Case, EMERGENCY};
use crate::plan::model::{Basis, at, peak};
use crate::plan::step::Reason;

impl Search<'_, '_, '_> {
    /// Relieves the nodes that are or will be used too much.
    pub(super) fn balance(&mut self) {
        let mut stuck: BTreeSet<(usize, usize)> = BTreeSet::new();
        while !self.full {
            let Some(cell) = self.worst(&stuck) else {
                break;
            };
            let options = self.options(cell);
            let Some(best) = options.first().copied() else {
                stuck.insert((cell.node, cell.slot));
                continue;
            };
            if !self.relieve(cell, best, options.get(1).copied()) {
                stuck.insert((cell.node, cell.slot));
            }
        }
        self.report_stuck();
    }

    /// The slot in which a node is used most above the limit.
    fn worst(&self, stuck: &BTreeSet<(usize, usize)>) -> Option<Cell> {
        let limit = self.model.objective.limit;
        let mut worst: Option<Cell> = None;
        for (node, member) in self.fleet.members.iter().enumerate() {
            if self.fleet.is_away(node) || member.shards.is_empty() {
                continue;
            }
            for (slot, used) in member.utilisation.iter().copied().enumerate() {
                if used > limit
                    && worst.is_none_or(|cell| used > cell.used)
                    && !stuck.contains(&(node, slot))
                {
                    worst = Some(Cell { node, slot, used });
                }
            }
        }
        worst
    }

    /// Moves that would relieve a slot of a node, the best first.
    fn options(&self, cell: Cell) -> Vec<Chance> {
        let Some(member) = self.fleet.members.get(cell.node) else {
            return Vec::new();
        };
        let mut parts: Vec<(usize, f64, f64)> = member
            .shards
            .iter()
            .filter(|shard| self.free.get(**shard).copied().unwrap_or(false))
            .map(|shard| {
                let part = self.fleet.part(*shard, cell.node, cell.slot);
                let bytes = self.fleet.view(*shard).map_or(1.0, |view| view.bytes);
                (*shard, part, part / bytes.max(1.0))
            })
            .filter(|(_, part, _)| *part > 0.0)
            .collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut shards: Vec<usize> = parts.iter().take(TRIED_SHARDS).map(|p| p.0).collect();
        parts.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
        for (shard, _, _) in parts.iter().take(TRIED_SHARDS) {
            if !shards.contains(shard) {
                shards.push(*shard);
            }
        }
        let coolest = self.coolest(cell);
        let mut options: Vec<Chance> = shards
            .into_iter()
            .flat_map(|shard| self.options_of(shard, &coolest))
            .collect();
        options.sort_by(|a, b| b.net.total_cmp(&a.net));
        options
    }

    fn coolest(&self, cell: Cell) -> Vec<usize> {
        let used = |node: &usize| {
            let member = self.fleet.members.get(*node);
            member.map_or(f64::INFINITY, |member| at(&member.utilisation, cell.slot))
        };
        let mut nodes: Vec<usize> = self
            .open
            .iter()
            .copied()
            .filter(|node| *node != cell.node)
            .collect();
        nodes.sort_by(|a, b| used(a).total_cmp(&used(b)).then(a.cmp(b)));
        let others = nodes.split_off(nodes.len().min(TRIED_NODES));
        // A large shard fits a large node that is not among the coolest.
        let room = |node: &usize| {
            let size = self
                .fleet
                .members
                .get(*node)
                .map_or(0.0, |member| member.size);
            (1.0 - used(node)) * size
        };
        let mut roomy = others;
        roomy.sort_by(|a, b| room(b).total_cmp(&room(a)).then(a.cmp(b)));
        nodes.extend(roomy.into_iter().take(ROOMY_NODES));
        nodes
    }

    /// Makes a move that relieves a slot, if the gate lets it through.
    fn relieve(&mut self, cell: Cell, best: Chance, second: Option<Chance>) -> bool {
        let Some(member) = self.fleet.members.get(cell.node) else {
            return false;
        };
        let (model, now) = (self.model, self.model.snapshot.now);
        let sure = self.confidence(cell);
        let (reason, deadline, confidence) = if member.now > model.objective.limit {
            let confidence = sure.map_or(REACTIVE_CONFIDENCE, |sure| 0.5 + sure / 2.0);
            (Reason::HotNow, now, confidence)
        } else {
            let above = |limit: f64| member.utilisation.iter().position(|used| *used > limit);
            let slot = above(model.objective.hard_limit).or_else(|| above(model.objective.limit));
            let deadline = model.grid.start_of(slot.unwrap_or_default());
            (
                Reason::PredictedHot,
                deadline,
                sure.unwrap_or(REACTIVE_CONFIDENCE),
            )
        };
        let may_wait = reason == Reason::PredictedHot && cell.used <= model.objective.hard_limit;
        let share = self.fleet.part(best.shard, cell.node, cell.slot) / cell.used;
        let case = Case {
            emergency: member.now > EMERGENCY,
            impact: may_wait.then_some(share),
        };
        let subject = words::overloaded(&self.fleet, cell, reason);
        let others: Vec<Rejected> = second
            .map(|other| self.second_best(other, reason))
            .into_iter()
            .collect();
        let candidate = self.candidate(
            best.shard,
            best.node,
            reason,
            Some(deadline),
            confidence,
            subject,
        );
        self.judge(candidate, best.shard, best.node, case, others)
    }

    /// How far the forecasts of what uses a slot of a node can be acted upon; `None` where there are none.
    fn confidence(&self, cell: Cell) -> Option<f64> {
        let member = self.fleet.members.get(cell.node)?;
        let (mut sum, mut weight) = (0.0, 0.0);
        for shard in &member.shards {
            let view = self.fleet.view(*shard)?;
            if view.basis == Basis::Forecast {
                let part = self.fleet.part(*shard, cell.node, cell.slot);
                sum += part * view.confidence;
                weight += part;
            }
        }
        (weight > 0.0).then(|| sum / weight)
    }

    /// Says of nodes that stay above the hard limit that nothing can be done, and of which shard that is because.
    fn report_stuck(&mut self) {
        let hard = self.model.objective.hard_limit;
        for node in 0..self.fleet.members.len() {
            let Some(member) = self.fleet.members.get(node) else {
                continue;
            };
            let (slot, used) = peak(&member.utilisation);
            if used <= hard || self.full {
                continue;
            }
            let part = |shard: &usize| self.fleet.part(*shard, node, slot);
            let largest = member
                .shards
                .iter()
                .copied()
                .max_by(|a, b| part(a).total_cmp(&part(b)).then(b.cmp(a)));
            if let Some(shard) = largest {
                let cell = Cell { node, slot, used };
                let why = words::stuck(&self.fleet, cell, shard, self.impediment(shard));
                self.hold_back(shard, Reason::NoCapacity, why);
            }
        }
    }
}
