//! Calibrating quantiles: the ranks of the errors of a backtest, divided by what is usual.

use super::folds::fold_of;
use super::quantiles::{Errors, Offset};
use super::spread::{Spread, Tested};

/// The quantile of the peak.
const PEAK_LEVEL: f64 = 0.9;

/// The errors below which a rank means nothing and a normal distribution is assumed instead.
const FEW: usize = 20;

/// The steps around one whose errors are pooled, at most.
const POOLED_STEPS: usize = 9;

/// Quantiles of the standard normal distribution at 0.9 and 0.99.
const NORMAL_90: f64 = 1.281_551_565_544_6;
const NORMAL_99: f64 = 2.326_347_874_040_841;

/// What is assumed of a series of which nothing is known yet: its standard deviation is half its level.
const PRIOR_SPREAD: f64 = 0.5;

/// The errors that this assumption weighs as much as.
const PRIOR_WEIGHT: f64 = 2.0;

/// The offsets for errors of the usual size, at some steps; others are interpolated.
pub(super) struct Calibration {
    /// Steps, ascending, with their offsets in units of the spread.
    knots: Vec<(usize, Offset)>,
    /// The offset where nothing was tested.
    untested: Offset,
}

impl Calibration {
    /// Learns them from a backtest.
    pub(super) fn of(errors: &Errors, spread: &Spread) -> Self {
        let tested = &errors.tested;
        let of_folds = spread.of_folds(tested);
        let knot = |step: usize| {
            let mut pooled = pool(tested, spread, &of_folds, step);
            let values: Vec<f64> = pooled.iter().map(|(error, _)| *error).collect();
            let offset = if values.len() < FEW {
                let usual = spread.at(step, 0, f64::NAN);
                normal(&values, errors.level / usual)
            } else {
                conformal(&mut pooled, tested.effective_origins())
            };
            (step, offset)
        };
        Self {
            knots: steps_to_fit(spread.horizon())
                .into_iter()
                .map(knot)
                .collect(),
            untested: normal(&errors.one_step, errors.level),
        }
    }

    /// The offset at a step of a forecast made after `origin` values, which says `point`.
    pub(super) fn offset(&self, step: usize, origin: usize, point: f64, spread: &Spread) -> Offset {
        let Some((last, _)) = self.knots.last() else {
            return self.untested.scaled(((step + 1) as f64).sqrt());
        };
        let growth = (((step + 1) as f64) / (last + 1) as f64).max(1.0).sqrt();
        let tested = step.min(*last);
        let after = self.knots.partition_point(|(knot, _)| *knot < tested);
        let (right, high) = self
            .knots
            .get(after)
            .copied()
            .unwrap_or((tested, self.untested));
        let (left, low) = after
            .checked_sub(1)
            .and_then(|before| self.knots.get(before))
            .copied()
            .unwrap_or((right, high));
        let part = if right > left {
            (tested - left) as f64 / (right - left) as f64
        } else {
            1.0
        };
        let between = |low: f64, high: f64| low + part * (high - low);
        let q90 = between(low.q90, high.q90);
        Offset {
            q90,
            // Rounding must not swap them where a neighbour is larger by many orders of magnitude.
            q99: between(low.q99, high.q99).max(q90),
        }
        .scaled(growth * spread.at(tested, origin + step, point))
    }

    /// By how much the widths of q90 have to be multiplied so that the highest of `point + width` up to a
    /// step carries the peak at [`PEAK_LEVEL`]: per step, from the peaks in the backtest.
    pub(super) fn peaks(&self, errors: &Errors, spread: &Spread) -> Vec<(usize, f64)> {
        let tested = &errors.tested;
        let needed = |last: usize| {
            let mut factors: Vec<(f64, f64)> = Vec::new();
            let mut origins = Vec::new();
            for (index, origin) in tested.at.iter().enumerate() {
                let width = |step: usize, point: f64| self.offset(step, *origin, point, spread).q90;
                if let Some(factor) = tested.factor_for_peak(index, last, width) {
                    factors.push((factor, tested.weights.get(index).copied().unwrap_or(1.0)));
                    origins.push(*origin);
                }
            }
            let windows = windows(&origins, last + 1)
                * effective(factors.iter().map(|(_, weight)| *weight))
                / factors.len().max(1) as f64;
            (factors.len() >= FEW / 4).then(|| {
                factors.sort_by(|a, b| a.0.total_cmp(&b.0));
                let factor = ranked(&factors, PEAK_LEVEL, windows);
                (
                    last,
                    factor
                        .unwrap_or_else(|| factors.last().map_or(1.0, |(f, _)| f * 1.2))
                        .max(0.0),
                )
            })
        };
        steps_to_fit(spread.horizon())
            .into_iter()
            .filter_map(needed)
            .collect()
    }
}

/// The steps at which offsets are computed, from 0: dense at first.
fn steps_to_fit(horizon: usize) -> Vec<usize> {
    let mut chosen = Vec::new();
    let mut next = 0;
    while next + 1 < horizon {
        chosen.push(next);
        next = (next + 1).max(next * 3 / 2);
    }
    chosen.extend(horizon.checked_sub(1));
    chosen
}

/// The errors around a step, divided by what the other runs of origins say is usual there, with weights that give
/// each origin its own.
fn pool(tested: &Tested, spread: &Spread, of_folds: &[Spread], step: usize) -> Vec<(f64, f64)> {
    let (from, to) = (
        step * 2 / 3,
        (step * 3 / 2).min(spread.horizon().saturating_sub(1)),
    );
    // Few origins, as in a short history, need more steps to make a rank.
    let origins = tested.tested_origins();
    let wide = if origins < FEW { spread.horizon() } else { 0 };
    let (from, to) = (
        from.saturating_sub(wide),
        (to + wide).min(spread.horizon().saturating_sub(1)),
    );
    let stride = (to + 1 - from)
        .div_ceil(POOLED_STEPS.max(FEW / origins.max(1) + 1))
        .max(1);
    let mut pooled = Vec::new();
    let count = tested.errors.len();
    let all = tested.errors.iter().zip(&tested.forecasts).enumerate();
    for (((index, (errors, forecasts)), weight), origin) in all.zip(&tested.weights).zip(&tested.at)
    {
        let others = of_folds.get(fold_of(index, count)).unwrap_or(spread);
        let steps = || (from..=to).step_by(stride);
        let known = |step: &usize| errors.get(*step).is_some_and(|e| !e.is_nan());
        let known_steps = steps().filter(known).count().max(1) as f64;
        pooled.extend(steps().filter(known).filter_map(|step| {
            let point = *forecasts.get(step)?;
            let usual = spread.at_by(others, step, origin + step, point);
            Some((errors.get(step)? / usual, weight / known_steps))
        }));
    }
    pooled
}

/// The number of equal weights that vary as little as these: Kish 1965.
pub fn effective(weights: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut squares) = (0.0, 0.0);
    for weight in weights {
        sum += weight;
        squares += weight * weight;
    }
    if squares > 0.0 {
        sum * sum / squares
    } else {
        0.0
    }
}

/// How many windows of so many steps, one beside the other, those that begin at these origins (ascending) are worth. Where
/// they overlap, the highest value is often the same, though not always: the geometric mean of their number and of how many
/// have room beside each other.
fn windows(origins: &[usize], steps: usize) -> f64 {
    let (Some(first), Some(last)) = (origins.first(), origins.last()) else {
        return 0.0;
    };
    let beside = (last - first + steps) as f64 / steps.max(1) as f64;
    let count = origins.len() as f64;
    (beside.min(count) * count).sqrt()
}

/// The value at the rank of a quantile among ascending weighted values, the next value counted as one of
/// `origins` + 1; `None` if the rank is beyond the largest.
fn ranked(ascending: &[(f64, f64)], level: f64, origins: f64) -> Option<f64> {
    let total: f64 = ascending.iter().map(|(_, weight)| weight).sum();
    let needed = level * total * (1.0 + 1.0 / origins.max(1.0)) * (1.0 - 1e-12);
    let mut sum = 0.0;
    ascending
        .iter()
        .find(|(_, weight)| {
            sum += weight;
            sum >= needed
        })
        .map(|(value, _)| *value)
}

/// Offsets by rank. A model that forecast too high gets no negative offset: it may be right next time.
fn conformal(errors: &mut [(f64, f64)], origins: f64) -> Offset {
    errors.sort_by(|a, b| a.0.total_cmp(&b.0));
    let largest = errors.last().map_or(0.0, |(error, _)| *error);
    let q90 = ranked(errors, 0.9, origins).unwrap_or(largest).max(0.0);
    let tail = q90 * (NORMAL_99 / NORMAL_90);
    let q99 = ranked(errors, 0.99, origins)
        .unwrap_or(largest.max(tail))
        .max(q90);
    Offset { q90, q99 }
}

/// Offsets of a normal distribution around the point forecast.
fn normal(errors: &[f64], level: f64) -> Offset {
    let count = errors.len() as f64;
    let prior = PRIOR_WEIGHT * (PRIOR_SPREAD * level).powi(2);
    let squares: f64 = errors.iter().map(|e| e * e).sum();
    let deviation = ((squares + prior) / (count + PRIOR_WEIGHT)).sqrt();
    Offset {
        q90: NORMAL_90 * deviation,
        q99: NORMAL_99 * deviation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evenly(values: impl Iterator<Item = f64>) -> Vec<(f64, f64)> {
        values.map(|value| (value, 1.0)).collect()
    }

    #[test]
    fn the_rank_of_a_quantile_counts_the_next_error() {
        let mut errors = evenly((1..=99).rev().map(f64::from));
        let offset = conformal(&mut errors, 99.0);
        assert_eq!((offset.q90, offset.q99), (90.0, 99.0));
    }

    #[test]
    fn windows_that_overlap_are_worth_less_than_one_each() {
        let of = |origins: &[usize], steps| windows(origins, steps);
        // Four windows in the room of two.
        assert!((of(&[100, 110, 120, 130], 30) - 8.0_f64.sqrt()).abs() < 1e-9);
        assert!((of(&[100, 200, 300], 10) - 3.0).abs() < 1e-9);
        assert!(of(&[], 10).abs() < 1e-9);
    }

    #[test]
    fn where_the_rank_exceeds_the_errors_the_tail_goes_beyond_the_largest_known() {
        let mut errors = evenly((1..=29).map(f64::from));
        let offset = conformal(&mut errors, 29.0);
        assert_eq!(offset.q90, 27.0);
        assert!((offset.q99 - 27.0 * NORMAL_99 / NORMAL_90).abs() < 1e-9);
        assert!(offset.q99 > 29.0);
    }

    #[test]
    fn a_model_that_forecast_too_high_gets_no_negative_offset() {
        let mut errors = evenly([-5.0; 40].into_iter());
        assert_eq!(conformal(&mut errors, 40.0), Offset { q90: 0.0, q99: 0.0 });
    }

    #[test]
    fn recent_errors_weigh_more() {
        let mut errors: Vec<(f64, f64)> = (0..50).map(|_| (1.0, 0.01)).collect();
        errors.extend((0..50).map(|_| (9.0, 1.0)));
        assert_eq!(conformal(&mut errors, 50.0).q90, 9.0);
    }
}
