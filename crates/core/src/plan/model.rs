//! The snapshot made ready for planning: every load on one grid, every limit in rows/s.

use super::grid::{Grid, curve_end, usable};
use super::input::{Learned, Node, Policy, Shard, Snapshot, Table};
use super::objective::{Objective, checked, checked_learned};
use crate::heat::finite;
use std::collections::BTreeMap;

/// What the expected load of a shard rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basis {
    /// A forecast that can be acted upon.
    Forecast,
    /// Only the load now: the forecast cannot be acted upon.
    LowConfidence,
    /// Only the load now: there is no forecast.
    NoHistory,
}

/// Milliseconds of execution per second that one processor can serve.
const BUSY_PROCESSOR: f64 = 1_000.0;

/// One shard on the grid.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Rows/s it may serve; infinite if not known.
    pub(super) capacity: f64,
    /// Rows/s it should stay below.
    pub(super) limit: f64,
    /// What `load` rests on.
    pub(super) basis: Basis,
    /// The load per slot that steps are judged by, rows/s.
    pub(super) load: Vec<f64>,
    /// The q90 forecast per slot, to be acted upon or not; empty without one.
    pub(super) forecast: Vec<f64>,
    /// The load now, rows/s.
    pub(super) now: f64,
    /// The highest load of the last season, rows/s.
    pub(super) recent_peak: f64,
    /// The season, or else the horizon of the forecast, µs.
    pub(super) season: i64,
    /// Skill of the forecast, 0..1.
    pub(super) confidence: f64,
    /// Bytes and rows, cleaned.
    pub(super) bytes: f64,
    pub(super) rows: f64,
    /// Position of its node in [`Model::nodes`].
    pub(super) node: usize,
    /// Milliseconds of execution on its node that a row of its load takes.
    pub(super) cost: f64,
}

impl View {
    /// The highest load that is planned for, and its slot.
    pub(super) fn peak(&self) -> (usize, f64) {
        peak(&self.load)
    }

    /// The load in a slot on the safe side, for a shard that is to receive more.
    pub(super) fn at_worst(&self, slot: usize) -> f64 {
        let planned = at(&self.load, slot);
        match self.basis {
            Basis::Forecast => planned,
            _ => planned
                .max(at(&self.forecast, slot))
                .max(self.now)
                .max(self.recent_peak),
        }
    }
}

/// One node on the grid.
#[derive(Debug, Clone)]
pub(super) struct NodeLoad<'a> {
    pub(super) name: &'a str,
    /// Relative strength.
    pub(super) weight: f64,
    /// Rows/s per slot of this plan's shards on it.
    pub(super) load: Vec<f64>,
    /// Milliseconds of execution that it can serve per second.
    pub(super) capacity: f64,
    /// What the snapshot says of it, if anything.
    pub(super) known: Option<&'a Node>,
}

/// A snapshot ready for planning.
pub(super) struct Model<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) policy: Policy,
    pub(super) learned: Learned,
    pub(super) grid: Grid,
    pub(super) objective: Objective,
    /// A view per table and shard, in the order of the snapshot.
    pub(super) views: Vec<Vec<View>>,
    pub(super) nodes: Vec<NodeLoad<'a>>,
    /// Bytes of all shards.
    pub(super) total_bytes: f64,
}

impl<'a> Model<'a> {
    /// Prepares a snapshot.
    pub(super) fn new(snapshot: &'a Snapshot) -> Model<'a> {
        let policy = checked(&snapshot.policy);
        let grid = Grid::new(snapshot, policy.reactive_span);
        let objective = Objective::new(&policy, &grid);
        let (names, mut nodes) = nodes(snapshot, grid.len());
        let mean_cost = mean_cost(snapshot.tables.iter().flat_map(|table| &table.shards));
        // Without any measurement: a shard at its capacity keeps one processor at work.
        let usual_cost = mean_cost.unwrap_or(if policy.shard_capacity > 0.0 {
            BUSY_PROCESSOR / policy.shard_capacity
        } else {
            0.0
        });
        let mut views = Vec::with_capacity(snapshot.tables.len());
        for table in &snapshot.tables {
            let otherwise = self::mean_cost(table.shards.iter()).unwrap_or(usual_cost);
            let of_shard = |shard: &Shard| {
                let node = names.get(shard.node.as_str()).copied().unwrap_or_default();
                let weight = nodes.get(node).map_or(1.0, |node| node.weight);
                let cost = Some(finite(shard.cost)).filter(|cost| *cost > 0.0);
                View {
                    cost: cost.unwrap_or(otherwise),
                    ..view(shard, snapshot.now, &policy, &grid, node, weight)
                }
            };
            let of_table: Vec<View> = table.shards.iter().map(of_shard).collect();
            add_to_nodes(&of_table, &mut nodes);
            views.push(of_table);
        }
        let total_bytes = views.iter().flatten().map(|view| view.bytes).sum();
        let learned = checked_learned(&snapshot.learned);
        Model {
            snapshot,
            policy,
            learned,
            grid,
            objective,
            views,
            nodes,
            total_bytes,
        }
    }

    /// A table with its views.
    pub(super) fn table(&self, table: usize) -> Option<(&'a Table, &[View])> {
        Some((
            self.snapshot.tables.get(table)?,
            self.views.get(table)?.as_slice(),
        ))
    }

    /// A shard with its view.
    pub(super) fn shard(&self, table: usize, shard: usize) -> Option<(&'a Shard, &View)> {
        let (owner, views) = self.table(table)?;
        Some((owner.shards.get(shard)?, views.get(shard)?))
    }

    /// The forecast utilisation of a node in each slot, if it can be acted upon.
    pub(super) fn node_forecast(&self, node: &Node) -> Option<Vec<f64>> {
        let curve = usable(&node.forecast, self.snapshot.now)?;
        let is_sure = finite(curve.confidence) >= self.policy.min_confidence;
        is_sure.then(|| self.grid.resample(curve))
    }

    /// Load-seconds (rows) of a curve over the horizon.
    pub(super) fn volume(&self, load: &[f64]) -> f64 {
        let seconds = self
            .grid
            .slots()
            .map(|(start, end)| (end - start) as f64 / 1e6);
        seconds
            .zip(load)
            .map(|(seconds, load)| seconds * load)
            .sum()
    }
}

/// What a row costs on average, by the load now; `None` where that is not known of any of these shards.
fn mean_cost<'s>(shards: impl Iterator<Item = &'s Shard>) -> Option<f64> {
    let (mut busy, mut rows) = (0.0, 0.0);
    for shard in shards {
        let (cost, load) = (finite(shard.cost), finite(shard.load_now).max(1e-3));
        if cost > 0.0 {
            busy += cost * load;
            rows += load;
        }
    }
    (rows > 0.0).then(|| busy / rows)
}

/// The nodes by name, those of the shards included.
fn nodes(snapshot: &Snapshot, slots: usize) -> (BTreeMap<&str, usize>, Vec<NodeLoad<'_>>) {
    let mut known: BTreeMap<&str, Option<&Node>> = BTreeMap::new();
    for shard in snapshot.tables.iter().flat_map(|table| &table.shards) {
        known.insert(&shard.node, None);
    }
    for node in &snapshot.nodes {
        known.insert(&node.name, Some(node));
    }
    let names = known
        .keys()
        .enumerate()
        .map(|(index, name)| (*name, index))
        .collect();
    let weakest = snapshot
        .nodes
        .iter()
        .map(|node| finite(node.capacity))
        .filter(|capacity| *capacity > 0.0)
        .reduce(f64::min)
        .unwrap_or(BUSY_PROCESSOR);
    let loads = known.iter().map(|(name, known)| {
        let positive = |value: f64, otherwise| match finite(value) {
            value if value > 0.0 => value,
            _ => otherwise,
        };
        let weight = known.map_or(1.0, |node| positive(node.weight, 1.0));
        let capacity = known.map_or(weakest, |node| positive(node.capacity, weakest));
        NodeLoad {
            name,
            weight,
            load: vec![0.0; slots],
            capacity: capacity * weight,
            known: *known,
        }
    });
    (names, loads.collect())
}

fn add_to_nodes(views: &[View], nodes: &mut [NodeLoad<'_>]) {
    for view in views {
        if let Some(node) = nodes.get_mut(view.node) {
            for (sum, load) in node.load.iter_mut().zip(&view.load) {
                *sum += load;
            }
        }
    }
}

fn view(shard: &Shard, now: i64, policy: &Policy, grid: &Grid, node: usize, weight: f64) -> View {
    let curve = usable(&shard.forecast, now);
    let forecast = curve.map(|curve| grid.resample(curve)).unwrap_or_default();
    let confidence = curve.map_or(0.0, |curve| finite(curve.confidence).min(1.0));
    let basis = match curve {
        None => Basis::NoHistory,
        Some(_) if confidence < policy.min_confidence => Basis::LowConfidence,
        Some(_) => Basis::Forecast,
    };
    let load_now = finite(shard.load_now);
    let load = match basis {
        // What is there now is there whatever the forecast says.
        Basis::Forecast => raise_first(forecast.clone(), load_now),
        _ => {
            let until = now.saturating_add(policy.reactive_span);
            grid.slots()
                .map(|(start, _)| if start < until { load_now } else { 0.0 })
                .collect()
        }
    };
    let known = policy.shard_capacity > 0.0;
    let capacity = if known {
        policy.shard_capacity * weight
    } else {
        f64::INFINITY
    };
    let horizon = curve.map_or(0, |curve| curve_end(curve).saturating_sub(curve.start));
    let season = curve
        .and_then(|curve| curve.season)
        .filter(|season| *season > 0);
    View {
        capacity,
        limit: capacity * policy.target_utilisation,
        basis,
        load,
        forecast,
        now: load_now,
        recent_peak: finite(shard.recent_peak),
        season: season.unwrap_or(horizon),
        confidence,
        bytes: finite(shard.bytes),
        rows: finite(shard.rows),
        node,
        cost: 0.0,
    }
}

fn raise_first(mut load: Vec<f64>, now: f64) -> Vec<f64> {
    if let Some(first) = load.first_mut() {
        *first = first.max(now);
    }
    load
}

/// The value in a slot, 0 outside.
pub(super) fn at(values: &[f64], slot: usize) -> f64 {
    values.get(slot).copied().unwrap_or(0.0)
}

/// The highest value and its slot; the first on ties.
pub(super) fn peak(values: &[f64]) -> (usize, f64) {
    values
        .iter()
        .copied()
        .enumerate()
        .fold(
            (0, 0.0),
            |best, (slot, value)| {
                if value > best.1 { (slot, value) } else { best }
            },
        )
}
