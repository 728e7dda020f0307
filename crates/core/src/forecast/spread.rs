//! How large errors usually are: by step of the horizon and by time of day. What quantiles are relative to.

use super::calibration::effective;

/// The errors that the assumption weighs as much as, that all times of day err alike.
const PRIOR_COUNT: f64 = 8.0;

/// The part of a season to either side over which times of day are averaged.
const SMOOTHED: usize = 24;

/// No time of day errs by more than this factor more, or less, than usual.
const MOST: f64 = 8.0;

/// Errors of a history that is scaled to 1 are not usually smaller than this: what is divided by it must
/// stay finite.
const LEAST: f64 = 1e-9;

/// The backtest of a forecast.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tested {
    /// Per origin and step: measured − forecast, NaN where unknown.
    pub errors: Vec<Vec<f64>>,
    /// Per origin and step: what was forecast; of the same shape.
    pub forecasts: Vec<Vec<f64>>,
    /// How many values came before each origin.
    pub at: Vec<usize>,
    /// How much each origin counts, at most 1: the recent ones most.
    pub weights: Vec<f64>,
    /// The season whose phases err differently, in steps; 0 without one.
    pub season: usize,
}

impl Tested {
    /// Errors around a forecast of 0, at origins that all count alike.
    #[cfg(test)]
    pub(super) fn evenly(errors: Vec<Vec<f64>>, season: usize) -> Self {
        Self {
            forecasts: errors.iter().map(|steps| vec![0.0; steps.len()]).collect(),
            at: (0..errors.len()).map(|origin| origin * 5).collect(),
            weights: vec![1.0; errors.len()],
            errors,
            season,
        }
    }

    /// The number of origins that vary as much as these weighted ones.
    pub(super) fn effective_origins(&self) -> f64 {
        let tested = self.weights.iter().zip(&self.errors);
        let has_errors = |errors: &[f64]| errors.iter().any(|e| !e.is_nan());
        effective(tested.filter_map(|(weight, errors)| has_errors(errors).then_some(*weight)))
    }

    /// The origins with any error.
    pub(super) fn tested_origins(&self) -> usize {
        let has_errors = |errors: &&Vec<f64>| errors.iter().any(|e| !e.is_nan());
        self.errors.iter().filter(has_errors).count()
    }

    /// The smallest factor with which `point + factor × width` reaches the highest measured value among the
    /// steps up to and with `last`; `None` if not all were measured.
    pub(super) fn factor_for_peak(
        &self,
        origin: usize,
        last: usize,
        width: impl Fn(usize) -> f64,
    ) -> Option<f64> {
        let errors = self.errors.get(origin)?.get(..=last)?;
        let forecasts = self.forecasts.get(origin)?.get(..=last)?;
        if errors.iter().any(|e| e.is_nan()) {
            return None;
        }
        let measured = errors.iter().zip(forecasts).map(|(e, f)| e + f);
        let highest = measured.fold(f64::NEG_INFINITY, f64::max);
        let needed = |(step, point): (usize, &f64)| {
            let missing = highest - point;
            let width = width(step);
            if missing <= 0.0 {
                0.0
            } else if width > 0.0 {
                missing / width
            } else {
                f64::INFINITY
            }
        };
        let factor = forecasts
            .iter()
            .enumerate()
            .map(needed)
            .fold(f64::INFINITY, f64::min);
        factor.is_finite().then_some(factor)
    }
}

/// The usual size of an error.
#[derive(Debug, Clone)]
pub(super) struct Spread {
    by_step: Vec<f64>,
    /// Relative to that, per phase of the season; empty without one.
    by_phase: Vec<f64>,
}

impl Spread {
    /// Learns it from a backtest.
    pub(super) fn of(tested: &Tested) -> Self {
        let by_step = by_step(tested);
        Self {
            by_phase: by_phase(tested, &by_step),
            by_step,
        }
    }

    /// The steps that were tested.
    pub(super) fn horizon(&self) -> usize {
        self.by_step.len()
    }

    /// At a step, over all times of day.
    pub(super) fn at_step(&self, step: usize) -> f64 {
        self.by_step
            .get(step)
            .or(self.by_step.last())
            .copied()
            .unwrap_or(0.0)
    }

    /// At a step of a forecast, for a value with `index` values before it.
    pub(super) fn at(&self, step: usize, index: usize) -> f64 {
        let phase = self.by_phase.get(index % self.by_phase.len().max(1));
        (self.at_step(step) * phase.copied().unwrap_or(1.0)).max(LEAST)
    }
}

/// The mean absolute error around each step.
fn by_step(tested: &Tested) -> Vec<f64> {
    let horizon = tested.errors.iter().map(Vec::len).max().unwrap_or(0);
    let mut sums = vec![(0.0, 0.0); horizon + 1];
    for (errors, weight) in tested.errors.iter().zip(&tested.weights) {
        for (slot, error) in sums
            .iter_mut()
            .skip(1)
            .zip(errors)
            .filter(|(_, e)| !e.is_nan())
        {
            slot.0 += weight * error.abs();
            slot.1 += weight;
        }
    }
    let mut before = (0.0, 0.0);
    for slot in &mut sums {
        slot.0 += before.0;
        slot.1 += before.1;
        before = *slot;
    }
    let sum = |upto: usize| sums.get(upto.min(horizon)).copied().unwrap_or((0.0, 0.0));
    let mut last = 0.0;
    let around = |step: usize| {
        let (from, to) = (sum(step * 2 / 3), sum(step * 3 / 2 + 1));
        if to.1 > from.1 {
            last = (to.0 - from.0) / (to.1 - from.1);
        }
        last
    };
    (0..horizon).map(around).collect()
}

/// How much larger errors are at each phase of the season than usual.
fn by_phase(tested: &Tested, by_step: &[f64]) -> Vec<f64> {
    let season = tested.season;
    if season < 2 {
        return Vec::new();
    }
    let mut sums = vec![(0.0, 0.0); season];
    for ((errors, weight), origin) in tested.errors.iter().zip(&tested.weights).zip(&tested.at) {
        let steps = errors.iter().zip(by_step).enumerate();
        for (step, (error, usual)) in steps.filter(|(_, (e, u))| !e.is_nan() && **u > 0.0) {
            if let Some(slot) = sums.get_mut((origin + step) % season) {
                slot.0 += weight * error.abs() / usual;
                slot.1 += weight;
            }
        }
    }
    let reach = season / SMOOTHED;
    let around = |phase: usize| {
        let near =
            (0..=2 * reach).filter_map(|shift| sums.get((phase + season + shift - reach) % season));
        let (sum, count) = near.fold((0.0, 0.0), |(s, c), (sum, count)| (s + sum, c + count));
        ((sum + PRIOR_COUNT) / (count + PRIOR_COUNT)).clamp(1.0 / MOST, MOST)
    };
    (0..season).map(around).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_grow_with_the_step_and_by_day_are_told_apart() {
        // By day (the first half of 12 steps) errors are nine times larger; at step 20 five times those at 0.
        let error = |index: usize, step: usize| {
            (1.0 + step as f64 / 5.0) * if index % 12 < 6 { 0.9 } else { 0.1 }
        };
        let tested = Tested {
            at: (0..60).map(|o| 100 + 7 * o).collect(),
            errors: (0..60)
                .map(|o| (0..21).map(|s| error(100 + 7 * o + s, s)).collect())
                .collect(),
            forecasts: Vec::new(),
            weights: vec![1.0; 60],
            season: 12,
        };
        let spread = Spread::of(&tested);
        assert!(spread.at(3, 603) > 4.0 * spread.at(3, 609));
        assert!(spread.at(20, 603) > 2.5 * spread.at(1, 603));
    }

    #[test]
    fn nothing_tested_has_no_spread() {
        let spread = Spread::of(&Tested::default());
        assert_eq!((spread.horizon(), spread.at(5, 5)), (0, LEAST));
    }
}
