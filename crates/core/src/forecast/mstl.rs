//! Seasonal-trend decomposition with several seasons (MSTL), the rest forecast by exponential smoothing.
//!
//! Bandara, Hyndman and Bergmeir 2021, arXiv:2107.13462. Decomposed by `stlrs` through `augurs-mstl`.

use std::{borrow::Cow, error::Error};

use augurs::{
    Fit, Predict,
    mstl::{FittedMSTLModel, FittedTrendModel, MSTLModel, TrendModel},
};

use crate::series::Series;

use super::{
    Fitted, ForecastError, Forecaster, ets,
    guard::{checked, guarded},
};

/// The steps needed beside two cycles of the longest season.
pub const MIN_STEPS: usize = ets::MIN_STEPS;

const NAME: &str = "mstl";

/// MSTL. Needs a season, and two cycles of each; longer seasons are left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mstl;

struct FittedMstl(FittedMSTLModel);

impl Forecaster for Mstl {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fit(&self, series: &Series, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        let filled = series.fill_gaps();
        let found = filled.len();
        let shortest = seasons.iter().copied().filter(|s| *s >= 2).min();
        let needed = shortest
            .ok_or(ForecastError::NoSeason { model: NAME })?
            .saturating_mul(2)
            .max(MIN_STEPS);
        if found < needed {
            return Err(ForecastError::TooShort {
                model: NAME,
                needed,
                found,
            });
        }
        let fits = |s: &usize| *s >= 2 && s.saturating_mul(2) <= found;
        let periods: Vec<usize> = seasons.iter().copied().filter(fits).collect();
        let model = MSTLModel::new(periods, SmoothedTrend);
        let fitted = guarded(NAME, || {
            model.fit(&filled.values).map_err(|e| e.to_string())
        })?;
        Ok(Box::new(FittedMstl(fitted)))
    }
}

impl Fitted for FittedMstl {
    fn predict(&self, horizon: usize) -> Result<Vec<f64>, ForecastError> {
        let forecast = guarded(NAME, || {
            self.0.predict(horizon, None).map_err(|e| e.to_string())
        })?;
        checked(NAME, forecast.point)
    }
}

/// Exponential smoothing of what is left without the seasons, over the recent past only: it need not
/// see the years over which the seasons were learnt.
#[derive(Debug)]
struct SmoothedTrend;

impl TrendModel for SmoothedTrend {
    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed("damped exponential smoothing")
    }

    fn fit(
        &self,
        values: &[f64],
    ) -> Result<Box<dyn FittedTrendModel + Sync + Send>, Box<dyn Error + Send + Sync + 'static>>
    {
        let recent = values.len().saturating_sub(ets::MAX_STEPS);
        let values = values.get(recent..).unwrap_or(values);
        if ets::constant(values).is_some() {
            return augurs::mstl::NaiveTrend::new().fit(values);
        }
        ets::search()?.into_trend_model().fit(values)
    }
}
