//! Shards that go to another node: away from nodes that are to be emptied, from nodes that are or will be used too
//! much, and to the shards that the same transactions use.
//!
//! A greedy search over [`Fleet`]: the worst slot of the worst node first, and for it the shard and the node with the
//! best gain over *all* slots (research/planning.md 7.3, stage 2). Each move passes the gate at once, so that what the
//! next one is judged by has come true.

use super::Row;
use super::candidate::{Candidate, Rejected, Relocation, Target, Value};
use super::effort::Effort;
use super::explain::moves as words;
use super::fleet::{Fleet, Placed};
use super::gate::{Case, EMERGENCY, Gate};
use super::hot::{held, resting};
use super::model::{Basis, Model, at};
use super::step::{Action, Reason};
use std::collections::BTreeSet;

/// Shards of a node that are tried: those that use most of it in its worst slot, and as many that use most per byte.
const TRIED_SHARDS: usize = 12;

/// Nodes that are tried for each: the coolest in that slot, besides the homes of what it is used with.
const TRIED_NODES: usize = 10;

/// Other nodes that are tried: those with most capacity left.
const ROOMY_NODES: usize = 5;

/// The heaviest pairs of shards on two nodes that are looked at.
const TRIED_PAIRS: usize = 1_000;

/// What was held back is shown for so many moves.
const SHOWN: usize = 16;

/// The confidence in what was only seen of late, without a forecast.
const REACTIVE_CONFIDENCE: f64 = 0.3;

/// The confidence in that pairs which transactions use now will go on being used.
const PAIRS_CONFIDENCE: f64 = 0.5;

/// A slot of a node that is used too much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub(super) node: usize,
    pub(super) slot: usize,
    /// The share of the node's capacity.
    pub(super) used: f64,
}

/// A move that could be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance {
    /// Position of the shard in the fleet.
    pub(super) shard: usize,
    /// The node that it would go to.
    pub(super) node: usize,
    /// Overload-seconds gained, without what it costs.
    gain: f64,
    net: f64,
    /// The highest utilisation of that node afterwards.
    peak: f64,
}

/// The moves between nodes, and what was held back.
pub(super) fn choose<'m, 'a>(
    model: &'m Model<'a>,
    gate: &mut Gate<'m, 'a>,
) -> (Vec<Row>, Vec<Rejected>) {
    if model.nodes.len() < 2 {
        return (Vec::new(), Vec::new());
    }
    let mut search = Search::new(model, gate);
    search.drain();
    search.balance();
    search.gather();
    (search.rows, search.held)
}

struct Search<'s, 'm, 'a> {
    model: &'m Model<'a>,
    gate: &'s mut Gate<'m, 'a>,
    fleet: Fleet<'m, 'a>,
    /// Per shard: it may be moved for its load.
    free: Vec<bool>,
    /// Nodes that may receive something.
    open: Vec<usize>,
    rows: Vec<Row>,
    held: Vec<Rejected>,
    /// The plan has no room for more.
    full: bool,
}

impl<'s, 'm, 'a> Search<'s, 'm, 'a> {
    fn new(model: &'m Model<'a>, gate: &'s mut Gate<'m, 'a>) -> Self {
        let fleet = Fleet::new(model);
        let open = (0..model.nodes.len())
            .filter(|node| fleet.closed(*node).is_none())
            .collect();
        let free = fleet
            .shards
            .iter()
            .map(|placed| {
                let Placed { table, shard, node } = *placed;
                !gate.is_used(table, shard)
                    && !fleet.is_away(node)
                    && bound(model, table).is_none()
                    && held(model, table, shard).is_none()
                    && resting(model, table, shard).is_none()
            })
            .collect();
        Self {
            model,
            gate,
            fleet,
            free,
            open,
            rows: Vec::new(),
            held: Vec::new(),
            full: false,
        }
    }

    /// Empties the nodes that are to be, the largest shards first.
    fn drain(&mut self) {
        for node in 0..self.model.nodes.len() {
            let known = self.model.nodes.get(node).and_then(|node| node.known);
            if !known.is_some_and(|node| node.draining) {
                continue;
            }
            let mut shards = match self.fleet.members.get(node) {
                Some(member) => member.shards.clone(),
                None => continue,
            };
            let bytes = |shard: &usize| self.fleet.view(*shard).map_or(0.0, |view| view.bytes);
            shards.sort_by(|a, b| bytes(b).total_cmp(&bytes(a)).then(a.cmp(b)));
            for shard in shards {
                if self.full {
                    return;
                }
                self.evacuate(shard);
            }
        }
    }

    /// Finds a place for a shard of a node that is to be emptied.
    fn evacuate(&mut self, shard: usize) {
        let Some(placed) = self.fleet.shards.get(shard).copied() else {
            return;
        };
        if self.gate.is_used(placed.table, placed.shard) {
            return;
        }
        let subject = words::draining(&self.fleet, shard);
        if let Some((rule, why)) = self.obstacle(placed) {
            return self.hold_back(shard, rule, format!("{subject}, but {why}"));
        }
        let hard = self.model.objective.hard_limit;
        let now = self.model.snapshot.now;
        let mut best: Option<(f64, f64, usize)> = None;
        for node in &self.open {
            if *node == placed.node || !self.fleet.has_room(shard, *node) {
                continue;
            }
            let change = self.fleet.change(shard, *node, now);
            if change.target_peak > hard {
                continue;
            }
            let arriving = self.fleet.arriving(shard, *node, now);
            let price = arriving - self.fleet.crossing(change.joined);
            let better = |(least, peak, _): &(f64, f64, usize)| {
                price < least - 1e-9 || price <= least + 1e-9 && change.target_peak < *peak
            };
            if best.as_ref().is_none_or(better) {
                best = Some((price, change.target_peak, *node));
            }
        }
        let Some((_, _, node)) = best else {
            let why = words::no_room(&self.fleet, shard);
            return self.hold_back(shard, Reason::NoCapacity, format!("{subject}, but {why}"));
        };
        let candidate = self.candidate(shard, node, Reason::Drain, None, 1.0, subject);
        let case = Case {
            emergency: false,
            impact: None,
        };
        self.judge(candidate, shard, node, case, Vec::new());
    }

    /// Why a shard cannot leave, whatever for.
    fn obstacle(&self, placed: Placed) -> Option<(Reason, String)> {
        if self.fleet.is_away(placed.node) {
            let node = self
                .model
                .nodes
                .get(placed.node)
                .map_or("", |node| node.name);
            return Some((Reason::Unmovable, format!("{node} does not answer")));
        }
        if let Some(why) = bound(self.model, placed.table) {
            return Some((Reason::Unmovable, why));
        }
        held(self.model, placed.table, placed.shard)
    }

    /// Why a shard is not moved for its load, if that is not for want of a place.
    fn impediment(&self, shard: usize) -> Option<String> {
        let placed = self.fleet.shards.get(shard).copied()?;
        let (table, at) = (placed.table, placed.shard);
        let why = self
            .obstacle(placed)
            .or_else(|| resting(self.model, table, at))
            .map(|(_, why)| why);
        why.or_else(|| {
            let used = self.gate.is_used(table, at);
            used.then(|| "another step of this plan changes it".to_owned())
        })
    }

    /// Relieves the nodes that are or will be used too much.
    fn balance(&mut self) {
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
        options.sort_by(|a, b| b.net.total_cmp(&a.net).then(a.peak.total_cmp(&b.peak)));
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

    /// Where a shard could go with a gain.
    fn options_of(&self, shard: usize, coolest: &[usize]) -> Vec<Chance> {
        let Some(placed) = self.fleet.shards.get(shard) else {
            return Vec::new();
        };
        let homes = self.fleet.together.get(shard).map(Vec::as_slice);
        let mut nodes = coolest.to_vec();
        for (other, _) in homes.unwrap_or_default() {
            if let Some(home) = self.fleet.shards.get(*other)
                && home.node != placed.node
                && self.open.contains(&home.node)
                && !nodes.contains(&home.node)
            {
                nodes.push(home.node);
            }
        }
        let now = self.model.snapshot.now;
        let leaving = self.fleet.leaving(shard, now);
        let price = self.fleet.price(shard, now);
        nodes
            .into_iter()
            .filter(|node| self.fleet.has_room(shard, *node))
            .filter_map(|node| {
                let joined = self.fleet.crossing(self.fleet.joined(shard, node));
                let gain = leaving - self.fleet.arriving(shard, node, now) + joined;
                let net = gain - price;
                let peak = self.fleet.change(shard, node, now).target_peak;
                let is_bearable = peak <= self.model.objective.hard_limit;
                (net > 0.0 && is_bearable).then_some(Chance {
                    shard,
                    node,
                    gain,
                    net,
                    peak,
                })
            })
            .collect()
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

    fn second_best(&self, option: Chance, reason: Reason) -> Rejected {
        let now = self.model.snapshot.now;
        let value = Value {
            benefit: option.gain,
            cost: self.fleet.price(option.shard, now),
        };
        let why = words::second(&self.fleet, option.shard, option.node, value);
        let candidate = self.candidate(option.shard, option.node, reason, None, 1.0, String::new());
        candidate.reject(Reason::LowerRatio, why, Some(value))
    }

    fn candidate(
        &self,
        shard: usize,
        node: usize,
        reason: Reason,
        deadline: Option<i64>,
        confidence: f64,
        subject: String,
    ) -> Candidate {
        let placed = self.fleet.shards.get(shard).copied();
        let (table, at) = placed.map_or((0, 0), |placed| (placed.table, placed.shard));
        Candidate {
            action: Action::Move,
            reason,
            table,
            subject: at,
            sources: at..at + 1,
            boundaries: Vec::new(),
            targets: vec![Target {
                pieces: vec![(at, 1.0)],
            }],
            effort: Effort {
                bytes: self.fleet.view(shard).map_or(0.0, |view| view.bytes),
                ..Effort::default()
            },
            deadline,
            confidence,
            to: Some(Relocation {
                node,
                subject,
                deed: words::deed(&self.fleet, shard, node),
            }),
        }
    }

    /// Asks the gate; makes the move if it is let through.
    fn judge(
        &mut self,
        candidate: Candidate,
        shard: usize,
        node: usize,
        case: Case,
        others: Vec<Rejected>,
    ) -> bool {
        let fleet = &self.fleet;
        let value = |finish: i64| {
            let change = fleet.change(shard, node, finish);
            Value {
                benefit: change.relief + fleet.crossing(change.joined),
                cost: fleet.price(shard, finish),
            }
        };
        match self.gate.judge_as(&candidate, case, value) {
            Ok(accepted) => {
                self.rows.push((accepted, others));
                self.fleet.apply(shard, node);
                if let Some(free) = self.free.get_mut(shard) {
                    *free = false;
                }
                true
            }
            Err(rejected) => {
                self.full = rejected.rule == Reason::ChurnBudget;
                self.show(rejected);
                false
            }
        }
    }

    fn hold_back(&mut self, shard: usize, rule: Reason, why: String) {
        let candidate = self.candidate(shard, usize::MAX, rule, None, 1.0, String::new());
        self.show(candidate.reject(rule, why, None));
    }

    fn show(&mut self, rejected: Rejected) {
        if self.held.len() < SHOWN {
            self.held.push(rejected);
        }
    }

    /// Says of nodes that stay above the hard limit that nothing can be done, and of which shard that is because.
    fn report_stuck(&mut self) {
        let hard = self.model.objective.hard_limit;
        for node in 0..self.fleet.members.len() {
            let Some(member) = self.fleet.members.get(node) else {
                continue;
            };
            let (slot, used) = super::model::peak(&member.utilisation);
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

    /// Brings shards together that the same transactions use.
    fn gather(&mut self) {
        let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
        for (one, others) in self.fleet.together.iter().enumerate() {
            for (other, weight) in others.iter().filter(|(other, _)| *other > one) {
                if self.home(one) != self.home(*other) {
                    pairs.push((*weight, one, *other));
                }
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        for (weight, one, other) in pairs.into_iter().take(TRIED_PAIRS) {
            if self.full {
                return;
            }
            self.join(one, other, weight);
        }
    }

    fn home(&self, shard: usize) -> usize {
        self.fleet.shards.get(shard).map_or(0, |placed| placed.node)
    }

    /// Moves one of two shards to the other, if one of the ways is worth it.
    fn join(&mut self, one: usize, other: usize, weight: f64) {
        let mut options = Vec::new();
        for (shard, to) in [(one, other), (other, one)] {
            let node = self.home(to);
            if node == self.home(shard)
                || !self.free.get(shard).copied().unwrap_or(false)
                || !self.open.contains(&node)
            {
                continue;
            }
            let found = self.options_of(shard, &[node]);
            options.extend(
                found
                    .into_iter()
                    .filter(|option| option.node == node)
                    .map(|o| (o, to)),
            );
        }
        let limit = self.model.objective.limit;
        let now = self.model.snapshot.now;
        options.retain(|(option, _)| {
            let change = self.fleet.change(option.shard, option.node, now);
            change.joined > 0.0 && change.target_peak <= limit
        });
        options.sort_by(|a, b| b.0.net.total_cmp(&a.0.net));
        let Some((best, partner)) = options.first().copied() else {
            return;
        };
        let case = Case {
            emergency: false,
            impact: self.share_of_crossing(best),
        };
        let subject = words::together(&self.fleet, best.shard, partner, weight);
        let others = options
            .get(1)
            .map(|(other, _)| self.second_best(*other, Reason::Gather));
        let others: Vec<Rejected> = others.into_iter().collect();
        let (shard, node) = (best.shard, best.node);
        let candidate =
            self.candidate(shard, node, Reason::Gather, None, PAIRS_CONFIDENCE, subject);
        self.judge(candidate, shard, node, case, others);
    }

    /// What joining a shard with its partners spares, as a share of what its node does.
    fn share_of_crossing(&self, option: Chance) -> Option<f64> {
        let node = self.home(option.shard);
        let member = self.fleet.members.get(node)?;
        let capacity = self.model.nodes.get(node)?.capacity;
        let busy = member.now * capacity;
        let joined = self.fleet.joined(option.shard, option.node);
        let spared = joined * self.model.policy.cross_node * 1e3;
        (busy > 0.0).then(|| spared / busy)
    }
}

/// Why the shards of a table cannot go to another node.
fn bound(model: &Model, table: usize) -> Option<String> {
    let table = model.snapshot.tables.get(table)?;
    let why = table.bound.as_ref()?;
    Some(format!(
        "shards of {} cannot leave their node: {why}",
        table.name
    ))
}
