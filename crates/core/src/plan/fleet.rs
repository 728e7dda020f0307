//! The nodes with the shards on them: how much each is used in every slot, and what moving a shard changes.
//!
//! The unit of a node's load is the millisecond of execution per second: what statements take there, waits for I/O
//! included. It compares shards with small and large rows, and reads with writes, where rows would not; a shard whose
//! times are not known (no sampler there) counts its rows at the price of the others' rows. A node serves 1,000 for each
//! of its processors. What a node does besides, it is measured to do: the part of its own forecast utilisation that its
//! shards do not explain stays with it.

use super::model::{Basis, Model, View, at};
use super::objective;
use crate::heat::finite;
use std::collections::BTreeMap;

/// A shard on a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// Positions of the table and the shard in it.
    pub(super) table: usize,
    pub(super) shard: usize,
    /// Position of the node.
    pub(super) node: usize,
}

/// One node as it would be after the moves so far.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// The share of its capacity that is used, per slot, at q90.
    pub(super) utilisation: Vec<f64>,
    /// The same now.
    pub(super) now: f64,
    /// Its capacity, as a multiple of the mean.
    pub(super) size: f64,
    /// Positions of its shards in [`Fleet::shards`].
    pub(super) shards: Vec<usize>,
    /// Bytes free on its disk and in all, where that is known.
    pub(super) disk: Option<(f64, f64)>,
    /// Its overload-seconds over the horizon.
    pub(super) overload: f64,
}

/// All nodes, and where the shards are.
pub(super) struct Fleet<'m, 'a> {
    pub(super) model: &'m Model<'a>,
    pub(super) members: Vec<Member>,
    pub(super) shards: Vec<Placed>,
    /// Of each shard, those that the same transactions use, with transactions per second.
    pub(super) together: Vec<Vec<(usize, f64)>>,
}

/// What moving one shard would come to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Change {
    /// By how many overload-seconds the nodes' sum falls.
    pub(super) relief: f64,
    /// Transactions per second that use two nodes, less.
    pub(super) joined: f64,
    /// The highest utilisation of the two nodes afterwards.
    pub(super) source_peak: f64,
    pub(super) target_peak: f64,
}

impl<'m, 'a> Fleet<'m, 'a> {
    /// The nodes of a model, as they are.
    pub(super) fn new(model: &'m Model<'a>) -> Fleet<'m, 'a> {
        let mut shards = Vec::new();
        for (table, views) in model.views.iter().enumerate() {
            shards.extend(views.iter().enumerate().map(|(shard, view)| Placed {
                table,
                shard,
                node: view.node,
            }));
        }
        let together = together(model, &shards);
        let mean = model.nodes.iter().map(|node| node.capacity).sum::<f64>()
            / model.nodes.len().max(1) as f64;
        let mut fleet = Fleet {
            model,
            members: Vec::new(),
            shards,
            together,
        };
        let mut of_node = vec![Vec::new(); model.nodes.len()];
        for (position, placed) in fleet.shards.iter().enumerate() {
            if let Some(list) = of_node.get_mut(placed.node) {
                list.push(position);
            }
        }
        for (node, list) in of_node.into_iter().enumerate() {
            let member = fleet.member(node, list, mean);
            fleet.members.push(member);
        }
        fleet
    }

    fn member(&self, node: usize, shards: Vec<usize>, mean: f64) -> Member {
        let model = self.model;
        let slots = model.grid.len();
        let (mut by_shards, mut now) = (vec![0.0; slots], 0.0);
        let capacity = model.nodes.get(node).map_or(1.0, |node| node.capacity);
        for view in shards.iter().filter_map(|shard| self.view(*shard)) {
            for (sum, load) in by_shards.iter_mut().zip(&view.load) {
                *sum += load * view.cost / capacity;
            }
            now += view.now * view.cost / capacity;
        }
        let known = model.nodes.get(node).and_then(|node| node.known);
        let measured = known.and_then(|node| node.utilisation).map(finite);
        let forecast = known.and_then(|node| model.node_forecast(node));
        // What is there now is there, whatever the forecast says; without one it stays.
        let besides = (measured.unwrap_or(0.0) - now).max(0.0);
        let utilisation = (0..slots)
            .map(|slot| {
                let shards = at(&by_shards, slot);
                match &forecast {
                    Some(forecast) if slot > 0 => shards.max(at(forecast, slot)),
                    Some(forecast) => shards.max(at(forecast, slot)).max(measured.unwrap_or(0.0)),
                    None => shards + besides,
                }
            })
            .collect::<Vec<f64>>();
        let disk = known.and_then(|node| node.disk);
        Member {
            overload: self.overload(&utilisation, |_| 0.0),
            now: now.max(measured.unwrap_or(0.0)),
            size: if mean > 0.0 { capacity / mean } else { 1.0 },
            utilisation,
            shards,
            disk: disk.map(|(free, total)| (finite(free), finite(total))),
        }
    }

    /// The view of a shard.
    pub(super) fn view(&self, shard: usize) -> Option<&'m View> {
        let placed = self.shards.get(shard)?;
        self.model.views.get(placed.table)?.get(placed.shard)
    }

    /// Overload-seconds of a utilisation that changes by so much.
    fn overload(&self, utilisation: &[f64], change: impl Fn(usize) -> f64) -> f64 {
        let used = |slot| at(utilisation, slot) + change(slot);
        self.model.objective.overload(self.model.snapshot.now, used)
    }

    /// What a shard uses of a node's capacity in a slot.
    pub(super) fn part(&self, shard: usize, node: usize, slot: usize) -> f64 {
        let capacity = self.model.nodes.get(node).map_or(1.0, |node| node.capacity);
        self.view(shard)
            .map_or(0.0, |view| at(&view.load, slot) * view.cost / capacity)
    }

    /// The same on the safe side, for a node that is to receive it.
    fn part_at_worst(&self, shard: usize, node: usize, slot: usize) -> f64 {
        let capacity = self.model.nodes.get(node).map_or(1.0, |node| node.capacity);
        self.view(shard).map_or(0.0, |view| {
            let load = if view.basis == Basis::Forecast {
                at(&view.load, slot)
            } else {
                view.at_worst(slot)
            };
            load * view.cost / capacity
        })
    }

    /// What its node is spared if the shard leaves: overload-seconds.
    pub(super) fn leaving(&self, shard: usize, from: i64) -> f64 {
        let Some(placed) = self.shards.get(shard) else {
            return 0.0;
        };
        let Some(member) = self.members.get(placed.node) else {
            return 0.0;
        };
        let without = |slot| at(&member.utilisation, slot) - self.part(shard, placed.node, slot);
        let objective = &self.model.objective;
        let before = self.before(placed.node, from);
        (before - objective.overload(from, without)) * member.size
    }

    /// What a node bears more if the shard comes: overload-seconds.
    pub(super) fn arriving(&self, shard: usize, node: usize, from: i64) -> f64 {
        let Some(member) = self.members.get(node) else {
            return f64::INFINITY;
        };
        let with = |slot| at(&member.utilisation, slot) + self.part_at_worst(shard, node, slot);
        let after = self.model.objective.overload(from, with);
        (after - self.before(node, from)) * member.size
    }

    fn before(&self, node: usize, from: i64) -> f64 {
        let Some(member) = self.members.get(node) else {
            return 0.0;
        };
        if from <= self.model.snapshot.now {
            return member.overload;
        }
        self.model
            .objective
            .overload(from, |slot| at(&member.utilisation, slot))
    }

    /// What moving a shard to a node would come to, with its cutover at a moment.
    pub(super) fn change(&self, shard: usize, node: usize, cutover: i64) -> Change {
        let from = self.shards.get(shard).map_or(0, |placed| placed.node);
        let relief = self.leaving(shard, cutover) - self.arriving(shard, node, cutover);
        let peak = |node: usize, part: &dyn Fn(usize) -> f64| {
            let member = self.members.get(node);
            let used = |slot| member.map_or(0.0, |m| at(&m.utilisation, slot)) + part(slot);
            (0..self.model.grid.len()).map(used).fold(0.0, f64::max)
        };
        Change {
            relief,
            joined: self.joined(shard, node),
            source_peak: peak(from, &|slot| -self.part(shard, from, slot)),
            target_peak: peak(node, &|slot| self.part_at_worst(shard, node, slot)),
        }
    }

    /// By how many transactions per second on two nodes there are less if the shard goes to a node.
    pub(super) fn joined(&self, shard: usize, node: usize) -> f64 {
        let from = self.shards.get(shard).map_or(0, |placed| placed.node);
        let neighbours = self.together.get(shard).map(Vec::as_slice);
        let weigh = |(other, weight): &(usize, f64)| match self.shards.get(*other) {
            Some(placed) if placed.node == node => *weight,
            Some(placed) if placed.node == from => -*weight,
            _ => 0.0,
        };
        neighbours.unwrap_or_default().iter().map(weigh).sum()
    }

    /// The overload-seconds that transactions on two nodes cost, over the horizon.
    pub(super) fn crossing(&self, transactions: f64) -> f64 {
        transactions * self.model.policy.cross_node * self.model.objective.horizon()
    }

    /// Why a node cannot take a shard; `None` if it can.
    pub(super) fn closed(&self, node: usize) -> Option<String> {
        let known = self.model.nodes.get(node)?.known?;
        if known.away {
            return Some("it does not answer".to_owned());
        }
        if known.draining {
            return Some("it is to be emptied".to_owned());
        }
        known.closed.clone()
    }

    /// Whether the disk of a node has room for a shard: for the copy, for as much write-ahead log while it is made,
    /// and for what is to be left free.
    pub(super) fn has_room(&self, shard: usize, node: usize) -> bool {
        let bytes = self.view(shard).map_or(0.0, |view| view.bytes);
        let disk = self.members.get(node).and_then(|member| member.disk);
        disk.is_none_or(|(free, total)| {
            free >= 2.0 * bytes && free - bytes >= self.model.policy.min_free_disk * total
        })
    }

    /// Whether its node does not answer, so that it cannot leave.
    pub(super) fn is_away(&self, node: usize) -> bool {
        let known = self.model.nodes.get(node).and_then(|node| node.known);
        known.is_some_and(|node| node.away)
    }

    /// Moves a shard.
    pub(super) fn apply(&mut self, shard: usize, node: usize) {
        let Some(from) = self.shards.get(shard).map(|placed| placed.node) else {
            return;
        };
        let (bytes, now) = self
            .view(shard)
            .map_or((0.0, 0.0), |view| (view.bytes, view.now * view.cost));
        for (member, sign) in [(from, -1.0), (node, 1.0)] {
            let slots = 0..self.model.grid.len();
            let parts: Vec<f64> = slots.map(|slot| self.part(shard, member, slot)).collect();
            let capacity = self
                .model
                .nodes
                .get(member)
                .map_or(1.0, |node| node.capacity);
            let Some(changed) = self.members.get_mut(member) else {
                continue;
            };
            for (used, part) in changed.utilisation.iter_mut().zip(&parts) {
                *used = (*used + sign * part).max(0.0);
            }
            changed.now = (changed.now + sign * now / capacity).max(0.0);
            if let Some((free, _)) = &mut changed.disk {
                *free -= sign * bytes;
            }
            if sign > 0.0 {
                changed.shards.push(shard);
            } else {
                changed.shards.retain(|own| *own != shard);
            }
            let utilisation = changed.utilisation.clone();
            let overload = self.overload(&utilisation, |_| 0.0);
            if let Some(changed) = self.members.get_mut(member) {
                changed.overload = overload;
            }
        }
        if let Some(placed) = self.shards.get_mut(shard) {
            placed.node = node;
        }
    }

    /// The overload-seconds that moving a shard costs, and how long it takes.
    pub(super) fn price(&self, shard: usize, cutover: i64) -> f64 {
        let Some(view) = self.view(shard) else {
            return f64::INFINITY;
        };
        let (policy, learned) = (&self.model.policy, &self.model.learned);
        let utilisation = at(&view.load, self.model.grid.slot_at(cutover)) / view.capacity;
        objective::cost(
            policy,
            learned,
            view.bytes,
            learned.pause,
            utilisation,
            0.0,
            0.0,
        )
    }
}

/// Which shards are used together, by their positions.
fn together(model: &Model, shards: &[Placed]) -> Vec<Vec<(usize, f64)>> {
    let mut together = vec![Vec::new(); shards.len()];
    if model.snapshot.co_access.is_empty() {
        return together;
    }
    let mut positions: BTreeMap<u32, usize> = BTreeMap::new();
    for (position, placed) in shards.iter().enumerate() {
        if let Some((shard, _)) = model.shard(placed.table, placed.shard) {
            positions.insert(shard.id, position);
            positions.extend(shard.companions.iter().map(|id| (*id, position)));
        }
    }
    let mut sums: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for pair in &model.snapshot.co_access {
        if let (Some(a), Some(b)) = (positions.get(&pair.a), positions.get(&pair.b))
            && a != b
        {
            *sums.entry((*a.min(b), *a.max(b))).or_default() += finite(pair.weight);
        }
    }
    for ((a, b), weight) in sums {
        for (one, other) in [(a, b), (b, a)] {
            if let Some(list) = together.get_mut(one) {
                list.push((other, weight));
            }
        }
    }
    together
}
