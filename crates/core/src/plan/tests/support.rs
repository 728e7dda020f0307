//! Snapshots to plan for, and a world in which steps come true.

use crate::plan::input::{Bucket, Curve, Learned, Policy, SECOND, Shard, Snapshot, Table};
use crate::plan::{Action, Step};

pub(super) const HOUR: i64 = 3_600 * SECOND;
pub(super) const DAY: i64 = 24 * HOUR;
pub(super) const NOW: i64 = 1_000 * DAY;
pub(super) const CAPACITY: f64 = 1_000.0;

/// A forecast of hourly slots from now, with a season of a day.
pub(super) fn curve(q90: Vec<f64>) -> Curve {
    let scaled = |factor: f64| q90.iter().map(|load| load * factor).collect();
    Curve {
        start: NOW,
        step: HOUR,
        q50: scaled(0.9),
        q99: scaled(1.1),
        q90,
        confidence: 0.8,
        model: "test".to_owned(),
        season: Some(DAY),
    }
}

/// Equal buckets with inner edges `from + 1 ..`, six digits each.
pub(super) fn buckets(from: usize, shares: &[f64]) -> Vec<Bucket> {
    let bucket = |(index, share): (usize, &f64)| Bucket {
        upper: (index + 1 < shares.len()).then(|| format!("{:06}", from + index + 1)),
        share: *share,
        rows_share: 1.0 / shares.len() as f64,
        single_key: false,
    };
    shares.iter().enumerate().map(bucket).collect()
}

/// Shard number `index` of a table: keys `index × 1000` to the next, 1 GB, eight equal buckets.
pub(super) fn shard(index: usize, q90: Vec<f64>) -> Shard {
    let peak = q90.iter().copied().fold(0.0, f64::max);
    Shard {
        id: 100 + index as u32,
        name: format!("orders_p{index}"),
        lower: Some(format!("{:06}", index * 1000)),
        upper: Some(format!("{:06}", (index + 1) * 1000)),
        node: "local".to_owned(),
        rows: 1e7,
        bytes: 1e9,
        buckets: buckets(index * 1000, &[0.125; 8]),
        load_now: q90.first().copied().unwrap_or(0.0),
        recent_peak: peak,
        forecast: Some(curve(q90)),
        history_span: 30 * DAY,
        mergeable_with_next: true,
        ..Shard::default()
    }
}

/// A snapshot of one table.
pub(super) fn snapshot(mut shards: Vec<Shard>) -> Snapshot {
    if let Some(first) = shards.first_mut() {
        first.lower = None;
    }
    if let Some(last) = shards.last_mut() {
        last.upper = None;
        last.mergeable_with_next = false;
    }
    let table = Table {
        id: 1,
        name: "orders".to_owned(),
        shards,
        ..Table::default()
    };
    let policy = Policy {
        shard_capacity: CAPACITY,
        churn_budget: 1.0,
        ..Policy::default()
    };
    Snapshot {
        now: NOW,
        tables: vec![table],
        nodes: Vec::new(),
        policy,
        learned: Learned::default(),
        co_access: Vec::new(),
    }
}

/// A day of constant load.
pub(super) fn constant(load: f64) -> Vec<f64> {
    vec![load; 24]
}

/// A day that is quiet but for the hours from `from` on.
pub(super) fn peak_at(from: usize, quiet: f64, high: f64) -> Vec<f64> {
    (0..24)
        .map(|hour| if hour >= from { high } else { quiet })
        .collect()
}

/// The finest piece of a source: its owner among the sources, upper edge, shares of the owner.
struct Piece {
    owner: usize,
    upper: Option<String>,
    share: f64,
    rows_share: f64,
}

fn pieces(owner: usize, shard: &Shard) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = shard
        .buckets
        .iter()
        .map(|b| Piece {
            owner,
            upper: b.upper.clone(),
            share: b.share,
            rows_share: b.rows_share,
        })
        .collect();
    if pieces.is_empty() {
        pieces.push(Piece {
            owner,
            upper: None,
            share: 1.0,
            rows_share: 1.0,
        });
    }
    pieces.last_mut().unwrap().upper = shard.upper.clone();
    pieces
}

/// Carries a step out. Panics unless its targets tile the range of its sources.
pub(super) fn apply(snapshot: &mut Snapshot, step: &Step, next_id: &mut u32) {
    let table = snapshot
        .tables
        .iter_mut()
        .find(|table| table.id == step.table)
        .unwrap();
    let first = table
        .shards
        .iter()
        .position(|shard| shard.id == step.sources[0])
        .unwrap();
    let range = first..first + step.sources.len();
    let sources: Vec<Shard> = table.shards[range.clone()].to_vec();
    let last = sources.last().unwrap();
    assert_eq!(
        sources.iter().map(|s| s.id).collect::<Vec<_>>(),
        step.sources,
        "not adjacent"
    );
    assert_eq!(
        (&sources[0].lower, &last.upper),
        (&step.key_from, &step.key_to)
    );
    assert!(
        sources[..sources.len() - 1]
            .iter()
            .all(|s| s.mergeable_with_next)
    );
    let groups = divide(&sources, &step.boundaries);
    match step.action {
        Action::Split => assert!(groups.len() > 1 && sources.len() == 1),
        Action::Shift => assert!(groups.len() == 2 && sources.len() == 2),
        _ => assert!(groups.len() == 1 && sources.len() > 1),
    }
    let mut lower = step.key_from.clone();
    let mut made: Vec<Shard> = Vec::new();
    for group in &groups {
        *next_id += 1;
        let mut shard = target(&sources, group, *next_id);
        shard.lower = std::mem::replace(&mut lower, shard.upper.clone());
        made.push(shard);
    }
    made.last_mut().unwrap().mergeable_with_next = last.mergeable_with_next;
    table.shards.splice(range, made);
}

/// The pieces of the sources between boundaries, each of which must be an inner edge, in order.
fn divide(sources: &[Shard], boundaries: &[String]) -> Vec<Vec<Piece>> {
    let mut edges = boundaries.iter().peekable();
    let mut groups: Vec<Vec<Piece>> = vec![Vec::new()];
    let all = sources
        .iter()
        .enumerate()
        .flat_map(|(owner, shard)| pieces(owner, shard));
    for piece in all {
        let cut = edges
            .next_if(|edge| piece.upper.as_ref() == Some(edge))
            .is_some();
        groups.last_mut().unwrap().push(piece);
        if cut {
            groups.push(Vec::new());
        }
    }
    assert!(
        edges.next().is_none(),
        "not ascending inner edges: {boundaries:?}"
    );
    assert!(
        groups.iter().all(|group| !group.is_empty()),
        "a boundary is a bound of the sources"
    );
    groups
}

/// The q90 curve of a shard.
fn q90(shard: &Shard) -> &[f64] {
    shard.forecast.as_ref().map_or(&[], |curve| &curve.q90)
}

/// The shard that a group of pieces makes.
fn target(sources: &[Shard], group: &[Piece], id: u32) -> Shard {
    let by_load = |value: &dyn Fn(&Shard) -> f64| -> f64 {
        group
            .iter()
            .map(|p| value(&sources[p.owner]) * p.share)
            .sum()
    };
    let by_rows = |value: fn(&Shard) -> f64| -> f64 {
        group
            .iter()
            .map(|p| value(&sources[p.owner]) * p.rows_share)
            .sum()
    };
    let load = |slot: usize| by_load(&|shard| q90(shard)[slot]);
    let forecast = sources[0].forecast.as_ref();
    Shard {
        id,
        name: format!("orders_n{id}"),
        upper: group.last().unwrap().upper.clone(),
        rows: by_rows(|shard| shard.rows),
        bytes: by_rows(|shard| shard.bytes),
        buckets: group.iter().map(|piece| bucket(sources, piece)).collect(),
        load_now: by_load(&|shard| shard.load_now),
        recent_peak: by_load(&|shard| shard.recent_peak),
        forecast: forecast.map(|_| curve((0..q90(&sources[0]).len()).map(load).collect())),
        mergeable_with_next: true,
        ..sources[0].clone()
    }
}

/// A piece as a bucket of its new shard. (Shares need not sum to 1.)
fn bucket(sources: &[Shard], piece: &Piece) -> Bucket {
    let owner = &sources[piece.owner];
    Bucket {
        upper: piece.upper.clone(),
        share: (q90(owner).iter().sum::<f64>() + 1e-9) * piece.share,
        rows_share: owner.rows * piece.rows_share,
        single_key: false,
    }
}
