//! When a step starts: backwards from its deadline, at the quietest time that still makes it.

use super::model::Model;

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

/// The migrations already planned for each node, as spans.
#[derive(Debug, Clone, Default)]
pub(super) struct Lanes {
    taken: Vec<(usize, i64, i64)>,
}

impl Lanes {
    /// Plans a step that takes `duration` s on a node; reserves nothing yet.
    pub(super) fn place(
        &self,
        model: &Model,
        node: usize,
        duration: f64,
        deadline: Option<i64>,
    ) -> Timing {
        let now = model.snapshot.now;
        let length = micros(duration).max(1);
        let reserve = micros(duration * (1.0 + SAFETY * model.learned.copy_rate_spread));
        let start_by = deadline.map(|deadline| deadline.saturating_sub(reserve));
        let latest = start_by
            .unwrap_or_else(|| model.grid.end().saturating_sub(length))
            .max(now);
        let ends = self
            .taken
            .iter()
            .filter(|(n, _, _)| *n == node)
            .map(|(_, _, end)| *end);
        let mut times: Vec<i64> = model
            .grid
            .slots()
            .map(|(start, _)| start)
            .chain(ends)
            .collect();
        times.sort_unstable();
        times.dedup();
        let free = |start: &i64| *start >= now && self.is_free(model, node, *start, length);
        let in_time = times
            .iter()
            .copied()
            .take_while(|start| *start <= latest)
            .filter(free);
        let start = quietest(model, node, length, in_time)
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
    pub(super) fn reserve(&mut self, node: usize, timing: &Timing) {
        self.taken.push((node, timing.start, timing.finish));
    }

    fn is_free(&self, model: &Model, node: usize, start: i64, length: i64) -> bool {
        let end = start.saturating_add(length);
        let overlaps =
            |(n, from, to): &&(usize, i64, i64)| *n == node && *from < end && *to > start;
        self.taken.iter().filter(overlaps).count() < model.policy.max_movers
    }
}

/// The start with the least load on the node while the step runs; the earliest on ties.
fn quietest(
    model: &Model,
    node: usize,
    length: i64,
    starts: impl Iterator<Item = i64>,
) -> Option<i64> {
    let load = model
        .nodes
        .get(node)
        .map(|node| node.load.as_slice())
        .unwrap_or_default();
    let mut best: Option<(f64, i64)> = None;
    for start in starts {
        let mean = model.grid.mean(load, start, start.saturating_add(length));
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
