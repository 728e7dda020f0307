//! Simple exponential smoothing that returns to a slow mean: for what is left without the seasons.
//!
//! f(t+h) = s + φʰ·(l − s), with l and s exponentially weighted means, fast and slow. φ = 1 is simple
//! exponential smoothing, φ < 1 a first-order auto-regression around a drifting mean. Both parameters are
//! chosen from a grid by the absolute errors one step, a quarter of a season and a season ahead.

/// The weights of the latest value that are tried.
const FAST: [f64; 7] = [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0];

/// The seasons after which the deviation from the slow mean has halved, that are tried.
const HALF_LIVES: [f64; 5] = [0.1, 0.3, 1.0, 4.0, f64::INFINITY];

/// The seasons that the slow mean spans.
const SLOW_SEASONS: f64 = 4.0;

/// The last steps to which parameters are fitted.
const MAX_STEPS: usize = 512;

/// Fitted parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Smoothing {
    fast: f64,
    slow: f64,
    phi: f64,
}

impl Smoothing {
    /// Chooses the parameters for a series with this season.
    pub(super) fn fit(values: &[f64], season: usize) -> Self {
        let values = values
            .get(values.len().saturating_sub(MAX_STEPS)..)
            .unwrap_or(values);
        let season = season.max(1);
        let slow = (1.0 / (SLOW_SEASONS * season as f64)).clamp(0.005, 0.1);
        let slows = means(values, slow);
        let mut best = (
            f64::INFINITY,
            Self {
                fast: 0.2,
                slow,
                phi: 1.0,
            },
        );
        for fast in FAST.into_iter().filter(|fast| *fast > slow) {
            let fasts = means(values, fast);
            for half_life in HALF_LIVES {
                let phi = 0.5_f64.powf(1.0 / (half_life * season as f64));
                let loss = loss(values, &fasts, &slows, phi, season);
                if loss < best.0 {
                    best = (loss, Self { fast, slow, phi });
                }
            }
        }
        best.1
    }

    /// Forecasts what comes after so many of `values`, for each origin.
    pub(super) fn curves(
        &self,
        values: &[f64],
        origins: &[usize],
        horizon: usize,
    ) -> Vec<Vec<f64>> {
        let (fasts, slows) = (means(values, self.fast), means(values, self.slow));
        let before = |means: &[f64], origin: usize| {
            let last = origin.min(means.len()).checked_sub(1);
            last.and_then(|last| means.get(last))
                .copied()
                .unwrap_or(0.0)
        };
        let curve = |origin: &usize| {
            let (fast, slow) = (before(&fasts, *origin), before(&slows, *origin));
            let mut part = 1.0;
            let mut next = || {
                part *= self.phi;
                slow + part * (fast - slow)
            };
            (0..horizon).map(|_| next()).collect()
        };
        origins.iter().map(curve).collect()
    }
}

/// The exponentially weighted mean up to each value; at first the plain mean, so that the first value does
/// not weigh more than others.
fn means(values: &[f64], weight: f64) -> Vec<f64> {
    let mut mean = 0.0;
    let step = |(index, value): (usize, &f64)| {
        let weight = weight.max(1.0 / (index + 1) as f64);
        mean += weight * (value - mean);
        mean
    };
    values.iter().enumerate().map(step).collect()
}

/// The sum over three leads of the mean absolute errors.
fn loss(values: &[f64], fast: &[f64], slow: &[f64], phi: f64, season: usize) -> f64 {
    let leads = [1, (season / 4).max(1), season];
    let begin = values.len() / 8;
    let of_lead = |lead: &usize| {
        let part = phi.powi(i32::try_from(*lead).unwrap_or(i32::MAX));
        let origins = fast.iter().zip(slow).skip(begin);
        let errors = origins.zip(values.iter().skip(begin + lead));
        let (mut sum, mut count) = (0.0, 0.0);
        for ((fast, slow), value) in errors {
            sum += (value - slow - part * (fast - slow)).abs();
            count += 1.0;
        }
        if count > 0.0 { sum / count } else { 0.0 }
    };
    leads.iter().map(of_lead).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_forecast_by_its_last_value_and_noise_by_its_mean() {
        let noise = |i: u64| {
            (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / f64::from(1_u32 << 24) - 0.5
        };
        let mut level = 0.0;
        let walk: Vec<f64> = (0..500)
            .map(|i| {
                level += noise(i * i + 7);
                level
            })
            .collect();
        let forecast = Smoothing::fit(&walk, 4).curves(&walk, &[walk.len()], 1);
        assert!(
            (forecast[0][0] - level).abs() < 0.5,
            "{forecast:?} after {level}"
        );
        let white: Vec<f64> = (0..500).map(|i| noise(i * i + 3)).collect();
        let forecast = Smoothing::fit(&white, 4).curves(&white, &[white.len()], 1);
        assert!(forecast[0][0].abs() < 0.15, "{forecast:?}");
    }

    #[test]
    fn nothing_is_forecast_as_zero() {
        assert_eq!(Smoothing::fit(&[], 24).curves(&[], &[0], 2), [[0.0, 0.0]]);
    }
}
