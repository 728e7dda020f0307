//! How large errors usually are: by step of the horizon, by time of day and by the level that is forecast. What
//! quantiles are relative to.

use super::{
    calibration::effective,
    folds::{self, FOLDS},
};

/// The errors that the assumption weighs as much as, that all times of day err alike.
const PRIOR_COUNT: f64 = 8.0;

/// The part of a season to either side over which times of day are averaged.
const SMOOTHED: usize = 24;

/// No time of day and no level errs by more than this factor more, or less, than usual.
const MOST: f64 = 8.0;

/// The powers of its level that the errors of a load may grow with: noise of its own, counts, and what varies in
/// proportion (Taylor 1961, *Aggregation, variance and the mean*).
const POWERS: [f64; 3] = [0.0, 0.5, 1.0];

/// What the errors of other runs of origins say is usual is not believed to be less than this part of what all say.
const LEAST_OF_ALL: f64 = 0.5;

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
        width: impl Fn(usize, f64) -> f64,
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
            let width = width(step, *point);
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
    /// The mean of what was forecast.
    level: f64,
    /// Errors grow with this power of what is forecast, relative to that.
    power: f64,
}

impl Spread {
    /// Learns it from a backtest: with the power that makes its errors likeliest.
    pub(super) fn of(tested: &Tested) -> Self {
        let with = |power: f64| {
            let spread = Self::with(tested, &tested.weights, power);
            (spread.surprise(tested), spread)
        };
        let all = POWERS.map(with).into_iter();
        let likelier = |a: (f64, Self), b: (f64, Self)| if b.0 < a.0 { b } else { a };
        all.reduce(likelier).map_or_else(
            || Self::with(tested, &tested.weights, 0.0),
            |(_, spread)| spread,
        )
    }

    /// What the errors of a run of origins are relative to: learnt from the other runs, one per run. None where so few
    /// origins were tested that the others would say too little: a model that is fitted anew at each has but a handful.
    pub(super) fn of_folds(&self, tested: &Tested) -> Vec<Self> {
        let is_known = |errors: &&Vec<f64>| errors.iter().any(|error| !error.is_nan());
        if tested.errors.iter().filter(is_known).count() < folds::ENOUGH {
            return Vec::new();
        }
        let without = |fold| Self::with(tested, &folds::without(&tested.weights, fold), self.power);
        (0..FOLDS).map(without).collect()
    }

    fn with(tested: &Tested, weights: &[f64], power: f64) -> Self {
        let level = level(tested);
        let relative = |(errors, forecasts): (&Vec<f64>, &Vec<f64>)| {
            let pairs = errors.iter().zip(forecasts);
            pairs
                .map(|(e, f)| e.abs() / growth(*f, level, power))
                .collect()
        };
        let sizes: Vec<Vec<f64>> = tested
            .errors
            .iter()
            .zip(&tested.forecasts)
            .map(relative)
            .collect();
        let by_step = by_step(&sizes, weights);
        Self {
            by_phase: by_phase(tested, &sizes, weights, &by_step),
            by_step,
            level,
            power,
        }
    }

    /// How unlikely the errors are, if they are of Laplace's distribution with this as its scale: the negative
    /// logarithm of their likelihood.
    fn surprise(&self, tested: &Tested) -> f64 {
        let mut sum = 0.0;
        let origins = tested.errors.iter().zip(&tested.forecasts);
        for (((errors, forecasts), weight), origin) in origins.zip(&tested.weights).zip(&tested.at)
        {
            let steps = errors.iter().zip(forecasts).enumerate();
            for (step, (error, point)) in steps.filter(|(_, (error, _))| !error.is_nan()) {
                let usual = self.at(step, origin + step, *point);
                sum += weight * (usual.ln() + error.abs() / usual);
            }
        }
        sum
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

    /// At a step of a forecast, for a value with `index` values before it that is forecast as `point`.
    pub(super) fn at(&self, step: usize, index: usize, point: f64) -> f64 {
        let phase = self.by_phase.get(index % self.by_phase.len().max(1));
        let by_time = self.at_step(step) * phase.copied().unwrap_or(1.0);
        (by_time * growth(point, self.level, self.power)).max(LEAST)
    }

    /// The same as others say, as far as it is believed.
    pub(super) fn at_by(&self, others: &Self, step: usize, index: usize, point: f64) -> f64 {
        let usual = self.at(step, index, point);
        others.at(step, index, point).max(LEAST_OF_ALL * usual)
    }
}

/// The mean of what was forecast.
fn level(tested: &Tested) -> f64 {
    let all = tested.forecasts.iter().flatten().filter(|f| !f.is_nan());
    all.clone().sum::<f64>() / all.count().max(1) as f64
}

/// By how much errors are larger where `point` is forecast.
fn growth(point: f64, level: f64, power: f64) -> f64 {
    if power <= 0.0 || level <= 0.0 || point.is_nan() {
        return 1.0;
    }
    (point / level).clamp(1.0 / MOST, MOST).powf(power)
}

/// The mean absolute error around each step.
fn by_step(sizes: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let horizon = sizes.iter().map(Vec::len).max().unwrap_or(0);
    let mut sums = vec![(0.0, 0.0); horizon + 1];
    for (sizes, weight) in sizes.iter().zip(weights) {
        for (slot, size) in sums
            .iter_mut()
            .skip(1)
            .zip(sizes)
            .filter(|(_, size)| !size.is_nan())
        {
            slot.0 += weight * size;
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
fn by_phase(tested: &Tested, sizes: &[Vec<f64>], weights: &[f64], by_step: &[f64]) -> Vec<f64> {
    let season = tested.season;
    if season < 2 {
        return Vec::new();
    }
    let mut sums = vec![(0.0, 0.0); season];
    for ((sizes, weight), origin) in sizes.iter().zip(weights).zip(&tested.at) {
        let steps = sizes.iter().zip(by_step).enumerate();
        for (step, (size, usual)) in steps.filter(|(_, (e, u))| !e.is_nan() && **u > 0.0) {
            if let Some(slot) = sums.get_mut((origin + step) % season) {
                slot.0 += weight * size / usual;
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
            forecasts: vec![vec![1.0; 21]; 60],
            weights: vec![1.0; 60],
            season: 12,
        };
        let spread = Spread::of(&tested);
        assert!(spread.at(3, 603, 1.0) > 4.0 * spread.at(3, 609, 1.0));
        assert!(spread.at(20, 603, 1.0) > 2.5 * spread.at(1, 603, 1.0));
    }

    #[test]
    fn a_handful_of_origins_is_not_divided() {
        let tested = |known: usize| {
            let errors = |origin| vec![if origin < known { 1.0 } else { f64::NAN }; 5];
            Tested::evenly((0..40).map(errors).collect(), 0)
        };
        let folds = |known| {
            let tested = tested(known);
            Spread::of(&tested).of_folds(&tested).len()
        };
        assert_eq!((folds(4), folds(40)), (0, FOLDS));
    }

    #[test]
    fn errors_that_grow_with_what_is_forecast_are_seen_to() {
        // Weekdays and weekends: the time of day does not tell them apart.
        let level = |index: usize| if index / 12 % 7 >= 5 { 1.0 } else { 4.0 };
        let noise = |index: usize| ((index * 7_919) % 101) as f64 / 101.0 - 0.5;
        let with = |power: f64| {
            let error = |index: usize| noise(index) * f64::powf(level(index), power);
            let steps = |o: usize| (0..12).map(move |s| 100 + 7 * o + s);
            let tested = Tested {
                at: (0..40).map(|o| 100 + 7 * o).collect(),
                errors: (0..40).map(|o| steps(o).map(error).collect()).collect(),
                forecasts: (0..40).map(|o| steps(o).map(level).collect()).collect(),
                weights: vec![1.0; 40],
                season: 12,
            };
            let spread = Spread::of(&tested);
            spread.at(3, 603, 4.0) / spread.at(3, 603, 1.0)
        };
        assert!((with(1.0) - 4.0).abs() < 1e-9 && (with(0.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_tested_has_no_spread() {
        let spread = Spread::of(&Tested::default());
        assert_eq!((spread.horizon(), spread.at(5, 5, 1.0)), (0, LEAST));
    }
}
