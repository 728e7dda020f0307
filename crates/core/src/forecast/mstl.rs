//! Seasonal-trend decomposition with several seasons (MSTL), the rest forecast by exponential smoothing.
//!
//! Bandara, Hyndman and Bergmeir 2021, arXiv:2107.13462. Decomposed by `stlrs` through `augurs-mstl`. The
//! last cycle of each season repeats; the rest is smoothed here (see [`super::smoothing`]), so that the
//! model can follow a series without being decomposed anew at each origin of a backtest.

use augurs::{
    Fit,
    mstl::{MSTLModel, NaiveTrend},
};

use crate::series::Series;

use super::{Fitted, ForecastError, Forecaster, guard::guarded, smoothing::Smoothing};

/// The steps needed beside two cycles of the longest season.
pub const MIN_STEPS: usize = 12;

const NAME: &str = "mstl";

/// MSTL. Needs a season, and two cycles of each; longer seasons are left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mstl;

struct FittedMstl {
    /// The sum of the seasons at each step it was fitted to.
    seasonal: Vec<f64>,
    /// The last cycle of each season.
    cycles: Vec<Vec<f64>>,
    smoothing: Smoothing,
    values: Vec<f64>,
}

impl Forecaster for Mstl {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fit(&self, series: &Series, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        let values = series.fill_gaps().values;
        let found = values.len();
        let shortest = seasons.iter().copied().filter(|s| *s >= 2).min();
        let shortest = shortest.ok_or(ForecastError::NoSeason { model: NAME })?;
        let needed = shortest.saturating_mul(2).max(MIN_STEPS);
        if found < needed {
            return Err(ForecastError::TooShort {
                model: NAME,
                needed,
                found,
            });
        }
        let fits = |s: &usize| *s >= 2 && s.saturating_mul(2) <= found;
        let periods: Vec<usize> = seasons.iter().copied().filter(fits).collect();
        let parts = decompose(&values, &periods)?;
        let at = |index: usize| parts.iter().filter_map(|part| part.get(index)).sum::<f64>();
        let seasonal: Vec<f64> = (0..found).map(at).collect();
        let rest: Vec<f64> = values.iter().zip(&seasonal).map(|(v, s)| v - s).collect();
        let last = |(part, period): (&Vec<f64>, &usize)| {
            part.iter().skip(found - period).copied().collect()
        };
        Ok(Box::new(FittedMstl {
            cycles: parts.iter().zip(&periods).map(last).collect(),
            smoothing: Smoothing::fit(&rest, shortest),
            seasonal,
            values,
        }))
    }
}

/// The seasonal components, one per period.
fn decompose(values: &[f64], periods: &[usize]) -> Result<Vec<Vec<f64>>, ForecastError> {
    let model = MSTLModel::new(periods.to_vec(), NaiveTrend::new());
    let fitted = guarded(NAME, || model.fit(values).map_err(|e| e.to_string()))?;
    let widened = |part: &Vec<f32>| part.iter().copied().map(f64::from).collect();
    Ok(fitted.fit().seasonal().iter().map(widened).collect())
}

impl FittedMstl {
    /// The sum of the seasons at a step counted from the first it was fitted to.
    fn season_at(&self, index: usize) -> f64 {
        if let Some(value) = self.seasonal.get(index) {
            return *value;
        }
        let ahead = index - self.seasonal.len();
        let of = |cycle: &Vec<f64>| {
            cycle
                .get(ahead % cycle.len().max(1))
                .copied()
                .unwrap_or(0.0)
        };
        self.cycles.iter().map(of).sum()
    }
}

impl Fitted for FittedMstl {
    fn model(&self) -> &'static str {
        NAME
    }

    fn history(&self) -> &[f64] {
        &self.values
    }

    fn curves(&self, values: &[f64], origins: &[usize], horizon: usize) -> Option<Vec<Vec<f64>>> {
        let rest = |(index, value): (usize, &f64)| value - self.season_at(index);
        let rest: Vec<f64> = values.iter().enumerate().map(rest).collect();
        let smooth = self.smoothing.curves(&rest, origins, horizon);
        let seasonal = |(origin, smooth): (&usize, Vec<f64>)| {
            let steps = smooth.into_iter().enumerate();
            steps
                .map(|(step, level)| level + self.season_at(origin + step))
                .collect()
        };
        Some(origins.iter().zip(smooth).map(seasonal).collect())
    }
}
