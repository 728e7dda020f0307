//! Shards that go to another node: away from nodes that are to be emptied, from nodes that are or will be used too
//! much, and to the shards that the same transactions use.
//!
//! A greedy search over [`Fleet`]: the worst slot of the worst node first, and for it the shard and the node with the
//! best gain over *all* slots (research/planning.md 7.3, stage 2). Each move passes the gate at once, so that what the
//! next one is judged by has come true.

mod balance;
mod drain;
mod gather;

use crate::plan::Row;
use crate::plan::candidate::{Candidate, Rejected, Relocation, Target, Value};
use crate::plan::effort::Effort;
use crate::plan::explain::moves as words;
use crate::plan::fleet::{Fleet, Placed};
use crate::plan::gate::{Case, Gate};
use crate::plan::model::Model;
use crate::plan::obstacle::{held, resting};
use crate::plan::step::{Action, Reason};

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
                })
            })
            .collect()
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
