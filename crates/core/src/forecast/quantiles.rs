//! Quantiles from the errors that a model made in its backtest: split conformal prediction.
//!
//! Vovk, Gammerman and Shafer 2005; per step of the horizon as in Stankeviciute et al. 2021; errors are
//! divided by what is usual for their step and time of day first (Lei et al. 2018, *locally weighted*
//! conformal inference), and recent ones weigh more (Barber et al. 2023, *Conformal prediction beyond
//! exchangeability*). The offset of quantile q is the ⌈(n + 1)·q⌉-th smallest of n such errors, so that the
//! next lies below it with probability q at least if it is like those before.

use super::calibration::Calibration;
use super::spread::{Spread, Tested};

/// The quantiles of a forecast.
pub const LEVELS: [f64; 3] = [0.5, 0.9, 0.99];

/// What is added to a point forecast to get its upper quantiles: not negative, and ascending. The median
/// is the point forecast itself: the median of few errors is mostly chance, and adding it made real
/// traces worse; it also lets a model without a season borrow one from its own errors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offset {
    /// For the 0.9 quantile.
    pub q90: f64,
    /// For the 0.99 quantile.
    pub q99: f64,
}

impl Offset {
    /// The offsets in the order of [`LEVELS`].
    pub fn levels(&self) -> [f64; 3] {
        [0.0, self.q90, self.q99]
    }

    pub(super) fn scaled(self, factor: f64) -> Self {
        Self {
            q90: self.q90 * factor,
            q99: self.q99 * factor,
        }
    }
}

/// What quantiles are calibrated on.
#[derive(Debug, Clone, PartialEq)]
pub struct Errors {
    /// The backtest; without origins if there was none.
    pub tested: Tested,
    /// Errors of forecasting one step ahead, used where there was no backtest.
    pub one_step: Vec<f64>,
    /// The recent level of the series, for the assumption made where there are few errors.
    pub level: f64,
}

/// Quantile curves, one value per step of the horizon.
#[derive(Debug, Clone, PartialEq)]
pub struct Bands {
    /// The median.
    pub q50: Vec<f64>,
    /// The 0.9 quantile.
    pub q90: Vec<f64>,
    /// The 0.99 quantile.
    pub q99: Vec<f64>,
    /// The 0.9 quantile of the maximum up to each step.
    pub peak: Vec<f64>,
}

/// The quantiles around a curve of points: never negative, and ascending at each step. `start` is the
/// number of values before the first step.
///
/// Steps beyond those of the backtest get the widths of its last one, growing with √h as those of a
/// random walk do. Without a backtest, or with few errors, widths are those of a normal distribution
/// whose variance is that of the errors mixed with the assumption that it is half the level.
pub fn around(points: &[f64], start: usize, errors: &Errors) -> Bands {
    let spread = Spread::of(&errors.tested);
    let calibration = Calibration::of(errors, &spread);
    let offset = |(step, point): (usize, &f64)| calibration.offset(step, start, *point, &spread);
    let offsets: Vec<Offset> = points.iter().enumerate().map(offset).collect();
    let curve = |level: usize| -> Vec<f64> {
        let steps = points.iter().zip(&offsets);
        let value = |(point, offset): (&f64, &Offset)| {
            (point + offset.levels().get(level).copied().unwrap_or(0.0)).max(0.0)
        };
        steps.map(value).collect()
    };
    let q90 = curve(1);
    let widths: Vec<f64> = offsets.iter().map(|offset| offset.q90).collect();
    Bands {
        q50: curve(0),
        peak: peaks(points, &widths, &calibration.peaks(errors, &spread)),
        q90,
        q99: curve(2),
    }
}

/// The mean pinball loss of q50, q90 and q99 over all origins and steps, the quantiles being calibrated on
/// the same errors; 0 if nothing was measured.
pub fn mean_pinball(tested: &Tested) -> f64 {
    let spread = Spread::of(tested);
    let calibration = Calibration::of(
        &Errors {
            tested: tested.clone(),
            one_step: Vec::new(),
            level: 0.0,
        },
        &spread,
    );
    let (mut total, mut count) = (0.0, 0.0);
    let origins = tested.errors.iter().zip(&tested.forecasts);
    for (((errors, forecasts), weight), origin) in origins.zip(&tested.weights).zip(&tested.at) {
        let steps = errors.iter().zip(forecasts).enumerate();
        for (step, (error, point)) in steps.filter(|(_, (error, _))| !error.is_nan()) {
            let offset = calibration.offset(step, *origin, *point, &spread);
            let losses = LEVELS.iter().zip(offset.levels());
            total += weight
                * losses
                    .map(|(q, offset)| super::skill::pinball(error - offset, *q))
                    .sum::<f64>();
            count += weight * LEVELS.len() as f64;
        }
    }
    if count > 0.0 { total / count } else { 0.0 }
}

/// The running maximum of points and widths × factor, never below the highest point so far.
fn peaks(points: &[f64], widths: &[f64], factors: &[(usize, f64)]) -> Vec<f64> {
    let factor = |step: usize| {
        let after = factors.partition_point(|(knot, _)| *knot < step);
        let (right, high) = factors.get(after).or(factors.last()).copied()?;
        let (left, low) = after
            .checked_sub(1)
            .and_then(|i| factors.get(i))
            .copied()
            .unwrap_or((right, high));
        let part = if right > left {
            ((step.min(right) - left) as f64 / (right - left) as f64).min(1.0)
        } else {
            1.0
        };
        Some(low + part * (high - low))
    };
    let mut highest = 0.0_f64;
    let peak = |(step, _): (usize, &f64)| {
        let factor = factor(step).unwrap_or(1.0);
        let upto = points.iter().zip(widths).take(step + 1);
        highest = upto
            .map(|(point, width)| point + factor * width)
            .fold(highest, f64::max);
        highest
    };
    points.iter().enumerate().map(peak).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_grow_beyond_the_steps_that_were_tested() {
        let errors = Errors {
            tested: Tested::evenly(vec![vec![-4.0, 4.0, -4.0, 4.0]; 10], 0),
            one_step: Vec::new(),
            level: 0.0,
        };
        let bands = around(&[10.0; 16], 100, &errors);
        assert_eq!(bands.q50[0], 10.0);
        assert!((bands.q90[3] - 14.0).abs() < 1e-9, "{bands:?}");
        assert!((bands.q90[15] - 18.0).abs() < 1e-9, "{bands:?}");
    }

    #[test]
    fn the_peak_carries_nine_in_ten_of_the_peaks_so_far() {
        // One step in each window is high, never the same: q90 of single steps misses it nearly always.
        let errors: Vec<Vec<f64>> = (0..40)
            .map(|o| {
                (0..24)
                    .map(|s| if (o * 7 + 5) % 24 == s { 10.0 } else { 0.5 })
                    .collect()
            })
            .collect();
        let errors = Errors {
            tested: Tested::evenly(errors, 0),
            one_step: Vec::new(),
            level: 0.0,
        };
        let bands = around(&[1.0; 24], 1_000, &errors);
        assert!(bands.q90[23] < 5.0, "{bands:?}");
        assert!((10.9..13.0).contains(&bands.peak[23]), "{:?}", bands.peak);
        assert!(bands.peak.windows(2).all(|pair| pair[0] <= pair[1]));
    }
}
