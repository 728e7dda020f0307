//! A fleet made by formula, for benchmarks and tests of the planner's scale: contiguous ranges of equal bytes on nodes of
//! different strength, a skewed load with daily waves in different time zones, and spikes that the forecast foresees.

use super::input::{CoAccess, Curve, Node, Policy, SECOND, Shard, Snapshot, Table};
use super::step::{Action, Plan};
use std::collections::BTreeMap;

const SLOT: i64 = 1_800 * SECOND;

/// Shards in a row that have their peak at the same hour.
const ZONE: usize = 500;

/// Shards in a row that are as hot as each other.
const RANGE: usize = 100;

/// How a fleet is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// The highest utilisation of a node in a slot.
    pub peak: f64,
    /// How many slots of nodes are above 0.9.
    pub hot_cells: usize,
    /// The share of the transactions on two shards that use two nodes.
    pub crossing: f64,
    /// The share of all bytes that the steps move.
    pub moved: f64,
}

/// Numbers in 0..1 that look random and are always the same.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.next() * end as f64) as usize).min(end.saturating_sub(1))
    }
}

/// So many shards on so many nodes, with forecasts of so many half hours; on average nodes use `fill` of their capacity.
pub fn fleet(shards: usize, nodes: usize, slots: usize, fill: f64) -> Snapshot {
    let mut numbers = Numbers(7);
    let nodes = servers(nodes, &mut numbers);
    let curves = curves(shards, slots, &mut numbers);
    let total: f64 = curves.iter().flatten().sum::<f64>() / slots.max(1) as f64;
    let capacity: f64 = nodes.iter().map(|node| node.capacity).sum();
    let scale = if total > 0.0 {
        fill * capacity / total
    } else {
        0.0
    };
    let now = 1_000 * 86_400 * SECOND;
    let sizes: Vec<f64> = (0..shards).map(|_| 5e8 + 1e9 * numbers.next()).collect();
    let homes = homes(&sizes, &nodes);
    let made = curves.into_iter().zip(sizes).zip(homes).enumerate();
    let shards: Vec<Shard> = made
        .map(|(index, ((curve, bytes), home))| {
            let q90: Vec<f64> = curve.iter().map(|load| load * scale).collect();
            shard(index, shards, &nodes, home, bytes, q90, now)
        })
        .collect();
    let co_access = pairs(shards.len(), &mut numbers);
    let table = Table {
        id: 1,
        name: "synthetic".to_owned(),
        shards,
        ..Table::default()
    };
    Snapshot {
        now,
        tables: vec![table],
        nodes,
        policy: Policy {
            // As many as the bytes that may be moved.
            max_steps: usize::MAX,
            churn_budget: 0.1,
            ..Policy::default()
        },
        co_access,
        ..Snapshot::default()
    }
}

fn servers(count: usize, numbers: &mut Numbers) -> Vec<Node> {
    let strengths = [8.0, 16.0, 16.0, 16.0, 24.0, 32.0];
    (0..count)
        .map(|index| Node {
            name: format!("n{index:03}"),
            capacity: 1e3
                * strengths
                    .get(numbers.below(strengths.len()))
                    .copied()
                    .unwrap_or(16.0),
            disk: Some((2e12, 4e12)),
            ..Node::default()
        })
        .collect()
}

/// Loads before they are scaled: Zipf-Mandelbrot (0.8, 20) in random order, waves of a day, 3 % with a spike, one range
/// in twenty much hotter than the others.
fn curves(shards: usize, slots: usize, numbers: &mut Numbers) -> Vec<Vec<f64>> {
    let mut ranks: Vec<usize> = (0..shards).collect();
    for last in (1..shards).rev() {
        ranks.swap(last, numbers.below(last + 1));
    }
    let zones: Vec<f64> = (0..=shards / ZONE).map(|_| numbers.next()).collect();
    let heat: Vec<f64> = (0..=shards / RANGE)
        .map(|_| match numbers.next() {
            high if high < 0.05 => 2.0,
            usual => 0.7 + 0.5 * usual,
        })
        .collect();
    ranks
        .into_iter()
        .enumerate()
        .map(|(index, rank)| {
            let heat = heat.get(index / RANGE).copied().unwrap_or(1.0);
            let level = heat * (rank as f64 + 21.0).powf(-0.8);
            let zone = zones.get(index / ZONE).copied().unwrap_or(0.0) + 0.05 * numbers.next();
            let spike = (numbers.next() < 0.03).then(|| numbers.below(slots));
            (0..slots)
                .map(|slot| {
                    let day = slot as f64 / 48.0 + zone;
                    let wave = 1.0 + 0.8 * (std::f64::consts::TAU * day).sin();
                    let high = if spike.is_some_and(|at| slot == at || slot == at + 1) {
                        5.0
                    } else {
                        1.0
                    };
                    level * wave * high
                })
                .collect()
        })
        .collect()
}

/// Contiguous ranges, by bytes in proportion to what the nodes can serve.
fn homes(sizes: &[f64], nodes: &[Node]) -> Vec<usize> {
    let capacity: f64 = nodes.iter().map(|node| node.capacity).sum();
    let total: f64 = sizes.iter().sum();
    let (mut node, mut filled) = (0, 0.0);
    sizes
        .iter()
        .map(|bytes| {
            let share = nodes.get(node).map_or(0.0, |node| node.capacity) / capacity * total;
            if filled >= share && node + 1 < nodes.len() {
                (node, filled) = (node + 1, 0.0);
            }
            filled += bytes;
            node
        })
        .collect()
}

fn shard(
    index: usize,
    count: usize,
    nodes: &[Node],
    home: usize,
    bytes: f64,
    q90: Vec<f64>,
    now: i64,
) -> Shard {
    let bound = |at: usize| (at > 0 && at < count).then(|| format!("{at:07}"));
    let peak = q90.iter().copied().fold(0.0, f64::max);
    Shard {
        id: 100 + index as u32,
        name: format!("p{index}"),
        lower: bound(index),
        upper: bound(index + 1),
        node: nodes
            .get(home)
            .map_or_else(String::new, |node| node.name.clone()),
        rows: bytes / 100.0,
        bytes,
        load_now: q90.first().copied().unwrap_or(0.0),
        recent_peak: peak,
        history_span: 30 * 86_400 * SECOND,
        // A millisecond a row: rows/s are what a shard takes of its node's 1,000 ms/s for each processor.
        cost: 1.0,
        forecast: Some(Curve {
            start: now,
            step: SLOT,
            q50: q90.iter().map(|load| load * 0.9).collect(),
            q99: q90.iter().map(|load| load * 1.1).collect(),
            q90,
            confidence: 0.8,
            model: "synthetic".to_owned(),
            season: Some(86_400 * SECOND),
        }),
        ..Shard::default()
    }
}

/// Five pairs for each shard, three of them with near neighbours.
fn pairs(shards: usize, numbers: &mut Numbers) -> Vec<CoAccess> {
    let id = |index: usize| 100 + index as u32;
    (0..shards * 5)
        .map(|pair| {
            let one = pair / 5;
            let other = if pair % 5 < 3 {
                (one + 1 + numbers.below(4)) % shards.max(1)
            } else {
                numbers.below(shards)
            };
            CoAccess {
                a: id(one),
                b: id(other),
                weight: 0.02 * numbers.next(),
            }
        })
        .collect()
}

/// How a fleet is used once the steps of a plan have come true: reckoned anew from its forecasts.
pub fn usage(snapshot: &Snapshot, plan: Option<&Plan>) -> Usage {
    let mut homes: BTreeMap<u32, &str> = BTreeMap::new();
    let (mut bytes, mut moved) = (0.0, 0.0);
    for shard in snapshot.tables.iter().flat_map(|table| &table.shards) {
        homes.insert(shard.id, &shard.node);
        bytes += shard.bytes;
    }
    for step in plan.iter().flat_map(|plan| &plan.steps) {
        if step.action == Action::Move {
            moved += step.bytes;
            homes.extend(
                step.sources
                    .iter()
                    .map(|shard| (*shard, step.target.as_str())),
            );
        }
    }
    let mut used: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for shard in snapshot.tables.iter().flat_map(|table| &table.shards) {
        let (Some(curve), Some(home)) = (&shard.forecast, homes.get(&shard.id)) else {
            continue;
        };
        let sums = used.entry(home).or_default();
        sums.resize(curve.q90.len().max(sums.len()), 0.0);
        for (sum, load) in sums.iter_mut().zip(&curve.q90) {
            *sum += load * shard.cost;
        }
    }
    let cells = snapshot.nodes.iter().flat_map(|node| {
        let sums = used.get(node.name.as_str()).map(Vec::as_slice);
        sums.unwrap_or_default()
            .iter()
            .map(|sum| sum / node.capacity)
    });
    let (mut peak, mut hot_cells) = (0.0, 0);
    for cell in cells {
        peak = f64::max(peak, cell);
        hot_cells += usize::from(cell > 0.9);
    }
    let (mut all, mut crossing) = (0.0, 0.0);
    for pair in snapshot.co_access.iter().filter(|pair| pair.a != pair.b) {
        all += pair.weight;
        if homes.get(&pair.a) != homes.get(&pair.b) {
            crossing += pair.weight;
        }
    }
    Usage {
        peak,
        hot_cells,
        crossing: if all > 0.0 { crossing / all } else { 0.0 },
        moved: if bytes > 0.0 { moved / bytes } else { 0.0 },
    }
}
