//! The time slots that a plan is reckoned in.

use super::input::{Curve, Snapshot};

/// More slots than this are merged into longer ones.
const MAX_SLOTS: i64 = 2_000;

/// Slots without any forecast, over the reactive span.
const REACTIVE_SLOTS: i64 = 12;

/// Consecutive slots from now to the end of the longest forecast. The first is cut at now; the edges
/// of the others are those of the finest forecast.
#[derive(Debug, Clone)]
pub(super) struct Grid {
    edges: Vec<i64>,
}

impl Grid {
    /// The grid of a snapshot; of its reactive span where no shard has a forecast.
    pub(super) fn new(snapshot: &Snapshot, reactive_span: i64) -> Grid {
        let now = snapshot.now;
        let curves = || {
            snapshot
                .tables
                .iter()
                .flat_map(|t| &t.shards)
                .filter_map(|s| usable(&s.forecast, now))
        };
        let span = reactive_span.max(REACTIVE_SLOTS);
        let finest = curves().min_by_key(|curve| curve.step);
        let (anchor, step) = finest.map_or((now, span / REACTIVE_SLOTS), |c| (c.start, c.step));
        let end = curves()
            .map(curve_end)
            .max()
            .unwrap_or(now.saturating_add(span));
        let step = step.max(end.saturating_sub(now) / MAX_SLOTS).max(1);
        let into = now.saturating_sub(anchor).rem_euclid(step);
        let mut edges = vec![now];
        let mut edge = now.saturating_add(step - into);
        while edge < end {
            edges.push(edge);
            edge = edge.saturating_add(step);
        }
        edges.push(end.max(now.saturating_add(1)));
        Grid { edges }
    }

    /// Start and end of every slot.
    pub(super) fn slots(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.edges
            .iter()
            .copied()
            .zip(self.edges.iter().copied().skip(1))
    }

    /// How many slots there are.
    pub(super) fn len(&self) -> usize {
        self.edges.len().saturating_sub(1)
    }

    /// The end of the last slot.
    pub(super) fn end(&self) -> i64 {
        self.edges.last().copied().unwrap_or_default()
    }

    /// When a slot starts.
    pub(super) fn start_of(&self, slot: usize) -> i64 {
        self.edges.get(slot).copied().unwrap_or_else(|| self.end())
    }

    /// The slot of a moment; the first or last for moments outside.
    pub(super) fn slot_at(&self, time: i64) -> usize {
        let after = self.edges.partition_point(|edge| *edge <= time);
        after.saturating_sub(1).min(self.len().saturating_sub(1))
    }

    /// The curve's q90 in each slot: where slots of different length meet, the highest.
    pub(super) fn resample(&self, curve: &Curve) -> Vec<f64> {
        let last = curve.q90.len().saturating_sub(1);
        let index = |time: i64| {
            let slot = time
                .saturating_sub(curve.start)
                .div_euclid(curve.step.max(1));
            usize::try_from(slot.max(0)).unwrap_or(last).min(last)
        };
        self.slots()
            .map(|(start, end)| {
                let covered = curve.q90.get(index(start)..=index(end.saturating_sub(1)));
                covered
                    .unwrap_or_default()
                    .iter()
                    .copied()
                    .map(crate::heat::finite)
                    .fold(0.0, f64::max)
            })
            .collect()
    }

    /// The mean of values per slot over a span that starts at `from`.
    pub(super) fn mean(&self, values: &[f64], from: i64, to: i64) -> f64 {
        let (first, last) = (
            self.slot_at(from),
            self.slot_at(to.max(from.saturating_add(1)) - 1),
        );
        let mut sum = 0.0;
        let mut weight = 0.0;
        for (slot, value) in values.iter().enumerate().take(last + 1).skip(first) {
            let overlap = self.start_of(slot + 1).min(to) - self.start_of(slot).max(from);
            let overlap = overlap.max(1) as f64;
            sum += value * overlap;
            weight += overlap;
        }
        if weight > 0.0 { sum / weight } else { 0.0 }
    }
}

/// The forecast if it says anything about the time after now.
pub(super) fn usable(forecast: &Option<Curve>, now: i64) -> Option<&Curve> {
    forecast
        .as_ref()
        .filter(|c| c.step > 0 && !c.q90.is_empty() && curve_end(c) > now)
}

/// The end of the last slot of a curve.
pub(super) fn curve_end(curve: &Curve) -> i64 {
    let slots = i64::try_from(curve.q90.len()).unwrap_or(i64::MAX);
    curve.start.saturating_add(curve.step.saturating_mul(slots))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::input::{Shard, Table};

    fn snapshot(now: i64, curves: &[(i64, i64, &[f64])]) -> Snapshot {
        let shards = curves.iter().map(|(start, step, q90)| Shard {
            forecast: Some(Curve {
                start: *start,
                step: *step,
                q90: q90.to_vec(),
                ..Curve::default()
            }),
            ..Shard::default()
        });
        let table = Table {
            shards: shards.collect(),
            ..Table::default()
        };
        Snapshot {
            now,
            tables: vec![table],
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_first_slot_is_cut_at_now_and_the_rest_follow_the_forecast() {
        let snapshot = snapshot(25, &[(0, 10, &[1.0, 2.0, 3.0, 4.0, 5.0])]);
        let grid = Grid::new(&snapshot, 100);
        assert_eq!(
            grid.slots().collect::<Vec<_>>(),
            [(25, 30), (30, 40), (40, 50)]
        );
        let curve = snapshot.tables[0].shards[0].forecast.as_ref().unwrap();
        assert_eq!(grid.resample(curve), [3.0, 4.0, 5.0]);
        assert_eq!(grid.slot_at(35), 1);
        assert_eq!((grid.slot_at(0), grid.slot_at(999)), (0, 2));
    }

    #[test]
    fn curves_of_different_step_share_the_finest_grid() {
        let snapshot = snapshot(0, &[(0, 20, &[1.0, 9.0]), (0, 10, &[1.0, 2.0, 3.0])]);
        let grid = Grid::new(&snapshot, 100);
        assert_eq!(grid.len(), 4);
        let coarse = snapshot.tables[0].shards[0].forecast.as_ref().unwrap();
        assert_eq!(grid.resample(coarse), [1.0, 1.0, 9.0, 9.0]);
    }

    #[test]
    fn without_forecast_the_grid_covers_the_reactive_span() {
        let grid = Grid::new(&snapshot(5, &[]), 120);
        assert_eq!((grid.len(), grid.end()), (12, 125));
        let stale = snapshot(500, &[(0, 10, &[1.0])]);
        assert_eq!(Grid::new(&stale, 120).end(), 620);
    }

    #[test]
    fn the_mean_weighs_slots_by_their_overlap() {
        let grid = Grid::new(&snapshot(0, &[(0, 10, &[1.0, 4.0])]), 100);
        assert!((grid.mean(&[1.0, 4.0], 5, 15) - 2.5).abs() < 1e-9);
        assert!((grid.mean(&[1.0, 4.0], 15, 99) - 4.0).abs() < 1e-9);
    }
}
