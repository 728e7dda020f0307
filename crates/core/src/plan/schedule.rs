//! When a step starts: backwards from its deadline, at the quietest time that still makes it.

use super::model::Model;
use std::collections::BTreeMap;

/// Standard deviations of the copy rate that a start is kept ahead of its deadline (95 %).
const SAFETY: f64 = 1.65;

/// Two times count as equally quiet when their load differs by less than this share.
const TIE: f64 = 1e-6;

/// When a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    pub(super) start: i64,
    pub(super) finish: i64,
    /// The last moment that safely makes the deadline.
    pub(super) start_by: Option<i64>,
    /// It ends after its deadline.
    pub(super) will_miss: bool,
}

/// The migrations already planned, as spans, for each node and in all.
#[derive(Debug, Clone, Default)]
pub(super) struct Lanes {
    of_node: BTreeMap<usize, Vec<(i64, i64)>>,
    all: Vec<(i64, i64)>,
}

/// What is to be planned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task<'t> {
    /// The nodes that are at work.
    pub(super) nodes: &'t [usize],
    /// How long it takes, s.
    pub(super) duration: f64,
    pub(super) deadline: Option<i64>,
    /// Whether it starts as soon as it can, though it has no deadline.
    pub(super) soon: bool,
}

impl Lanes {
    /// Plans a step; reserves nothing yet.
    pub(super) fn place(&self, model: &Model, task: Task) -> Timing {
        let now = model.snapshot.now;
        let (duration, deadline) = (task.duration, task.deadline);
        let length = micros(duration).max(1);
        let reserve = micros(duration * (1.0 + SAFETY * model.learned.copy_rate_spread));
        let start_by = deadline.map(|deadline| deadline.saturating_sub(reserve));
        let latest = start_by
            .unwrap_or_else(|| model.grid.end().saturating_sub(length))
            .max(now);
        let spans = task
            .nodes
            .iter()
            .filter_map(|node| self.of_node.get(node))
            .flatten();
        let in_all = if self.is_limited(model) {
            self.all.as_slice()
        } else {
            &[]
        };
        let ends = spans.chain(in_all).map(|(_, end)| *end);
        let mut times: Vec<i64> = model
            .grid
            .slots()
            .map(|(start, _)| start)
            .chain(ends)
            .collect();
        times.sort_unstable();
        times.dedup();
        let free = |start: &i64| *start >= now && self.is_free(model, task.nodes, *start, length);
        let in_time = times
            .iter()
            .copied()
            .take_while(|start| !task.soon && *start <= latest)
            .filter(free);
        let start = quietest(model, task.nodes, length, in_time)
            .or_else(|| times.iter().copied().find(free))
            .unwrap_or(now);
        let finish = start.saturating_add(length);
        Timing {
            start,
            finish,
            start_by,
            will_miss: deadline.is_some_and(|deadline| finish > deadline),
        }
    }

    /// Reserves the time of a step.
    pub(super) fn reserve(&mut self, nodes: &[usize], timing: &Timing) {
        let span = (timing.start, timing.finish);
        for node in nodes {
            self.of_node.entry(*node).or_default().push(span);
        }
        self.all.push(span);
    }

    /// Whether so few may run in all that it matters.
    fn is_limited(&self, model: &Model) -> bool {
        self.all.len() >= model.policy.max_running
    }

    fn is_free(&self, model: &Model, nodes: &[usize], start: i64, length: i64) -> bool {
        let end = start.saturating_add(length);
        let overlapping = |spans: &[(i64, i64)]| {
            let overlaps = |(from, to): &&(i64, i64)| *from < end && *to > start;
            spans.iter().filter(overlaps).count()
        };
        let has_room = |node: &usize| {
            self.of_node
                .get(node)
                .is_none_or(|spans| overlapping(spans) < model.policy.max_movers)
        };
        nodes.iter().all(has_room)
            && !(self.is_limited(model) && overlapping(&self.all) >= model.policy.max_running)
    }
}

/// The start with the least load on the nodes while the step runs; the earliest on ties.
fn quietest(
    model: &Model,
    nodes: &[usize],
    length: i64,
    starts: impl Iterator<Item = i64>,
) -> Option<i64> {
    let loads: Vec<&[f64]> = nodes
        .iter()
        .filter_map(|node| model.nodes.get(*node))
        .map(|node| node.load.as_slice())
        .collect();
    let mut best: Option<(f64, i64)> = None;
    for start in starts {
        let mean: f64 = loads
            .iter()
            .map(|load| model.grid.mean(load, start, start.saturating_add(length)))
            .sum();
        if best.is_none_or(|(least, _)| mean < least * (1.0 - TIE)) {
            best = Some((mean, start));
        }
    }
    best.map(|(_, start)| start)
}

/// Seconds as µs.
pub(super) fn micros(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}
