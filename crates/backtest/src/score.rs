//! What forecasts are judged by.

use repart_core::forecast::{Forecast, quantiles::LEVELS, skill::pinball};

/// A peak is missed when it is under-forecast by more than this part of it.
pub const PEAK_MISS: f64 = 0.15;

/// Sums over the steps up to one horizon.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    /// The sum of |measured − median|.
    pub errors: f64,
    /// The sum of what was measured.
    pub measured: f64,
    /// The sum of the pinball losses of all quantiles.
    pub pinball: f64,
    /// The steps with a value at or below q90.
    pub covered: f64,
    /// The steps with a value.
    pub count: f64,
}

impl Sums {
    /// The sum of absolute errors relative to the sum of what was measured.
    pub fn wape(&self) -> f64 {
        self.errors / self.measured.max(f64::MIN_POSITIVE)
    }

    /// The share of values at or below q90.
    pub fn coverage(&self) -> f64 {
        self.covered / self.count.max(1.0)
    }

    /// Adds a step, with what q50, q90 and q99 said of it.
    pub fn add(&mut self, measured: f64, quantiles: [f64; 3]) {
        self.errors += (measured - quantiles[0]).abs();
        self.measured += measured.abs();
        let losses = LEVELS.iter().zip(quantiles);
        self.pinball += losses
            .map(|(level, quantile)| pinball(measured - quantile, *level))
            .sum::<f64>();
        self.covered += f64::from(u8::from(measured <= quantiles[1] + 1e-9 * measured.abs()));
        self.count += 1.0;
    }
}

/// How a model did on one trace.
#[derive(Debug, Clone, Default)]
pub struct Score {
    /// Per horizon.
    pub by_horizon: Vec<Sums>,
    /// The windows of the longest horizon in which something was measured.
    pub windows: f64,
    /// Those whose peak the median under-forecast by more than [`PEAK_MISS`].
    pub median_missed: f64,
    /// The same for the quantile of the peak.
    pub peak_missed: f64,
    /// The windows whose peak was at or below the quantile of the peak.
    pub peak_covered: f64,
    /// The sum of quantile of the peak / peak.
    pub peak_height: f64,
    /// The time of a forecast, ms: the sum and the longest.
    pub millis: f64,
    /// The longest.
    pub most_millis: f64,
    /// The sum of skills.
    pub skill: f64,
    /// The forecasts.
    pub forecasts: f64,
}

impl Score {
    /// Nothing yet, for so many horizons.
    pub fn new(horizons: usize) -> Self {
        Self {
            by_horizon: vec![Sums::default(); horizons],
            ..Self::default()
        }
    }

    /// Adds a forecast, with what was measured after its origin, and how long it took.
    pub fn add(&mut self, forecast: &Forecast, measured: &[f64], horizons: &[usize], millis: f64) {
        let curves = forecast.q50.iter().zip(&forecast.q90).zip(&forecast.q99);
        for (step, (value, ((q50, q90), q99))) in measured.iter().zip(curves).enumerate() {
            if !value.is_finite() {
                continue;
            }
            for (horizon, sums) in horizons.iter().zip(&mut self.by_horizon) {
                if step < *horizon {
                    sums.add(*value, [*q50, *q90, *q99]);
                }
            }
        }
        self.add_peak(forecast, measured);
        self.millis += millis;
        self.most_millis = self.most_millis.max(millis);
        self.skill += forecast.skill;
        self.forecasts += 1.0;
    }

    fn add_peak(&mut self, forecast: &Forecast, measured: &[f64]) {
        let largest = |values: &[f64]| {
            values
                .iter()
                .copied()
                .filter(|v| v.is_finite())
                .fold(0.0, f64::max)
        };
        let (truth, peak) = (
            largest(measured),
            forecast.peak.last().copied().unwrap_or(0.0),
        );
        if truth <= 0.0 {
            return;
        }
        let missed = |guess: f64| f64::from(u8::from(guess < (1.0 - PEAK_MISS) * truth));
        self.windows += 1.0;
        self.median_missed += missed(largest(&forecast.q50));
        self.peak_missed += missed(peak);
        self.peak_covered += f64::from(u8::from(truth <= peak * (1.0 + 1e-9)));
        self.peak_height += peak / truth;
    }
}

/// The geometric mean; NaN of nothing.
pub fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value.ln();
        count += 1.0;
    }
    (sum / count).exp()
}
