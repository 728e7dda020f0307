//! Prophet: a piecewise linear trend, seasons as Fourier series, and regressors such as holidays.
//!
//! Taylor and Letham 2018, *Forecasting at scale*. Features and predictions are those of `augurs-prophet`;
//! what Stan does there is done by [`optimizer`]. It learns nothing from the last steps, which makes it weak
//! on load a few hours ahead, and fitting takes longer than all other models together: `auto` leaves it out.

pub mod optimizer;
mod posterior;

use std::collections::HashMap;
use std::num::NonZeroU32;

use augurs::prophet::{
    FeatureMode, PositiveFloat, PredictionData, Prophet as Library, ProphetOptions,
    Regressor as LibraryRegressor, Seasonality, SeasonalityOption, Standardize, TrainingData,
};

use crate::series::Series;

use super::{
    Fitted, ForecastError, Forecaster,
    guard::{checked, guarded},
};

use optimizer::Lbfgs;

/// The steps it needs.
pub const MIN_STEPS: usize = 12;

/// The steps it is fitted to, at most: the latest.
pub const MAX_STEPS: usize = 2_000;

/// The terms of the Fourier series of a season, at most.
const MAX_ORDER: usize = 10;

/// The library counts in seconds; one step is taken as an hour, whatever it is.
const STEP_SECONDS: i64 = 3_600;
const SECONDS_PER_DAY: f64 = 86_400.0;

const NAME: &str = "prophet";

/// A known influence: a holiday (1 on its steps, else 0), or any other quantity known in advance.
#[derive(Debug, Clone, PartialEq)]
pub struct Regressor {
    /// Its values from the first step of the history on, to the end of every forecast; missing ones are 0.
    pub values: Vec<f64>,
    /// Whether its effect is in proportion to the trend.
    pub is_multiplicative: bool,
}

impl Regressor {
    /// A holiday on these steps, counted from the first of the history.
    pub fn holiday(steps: impl IntoIterator<Item = usize>) -> Self {
        let mut values = Vec::new();
        for step in steps {
            if values.len() <= step {
                values.resize(step + 1, 0.0);
            }
            if let Some(slot) = values.get_mut(step) {
                *slot = 1.0;
            }
        }
        Self {
            values,
            is_multiplicative: false,
        }
    }
}

/// Prophet with linear growth, its default priors, and the seasons it is given.
#[derive(Debug, Clone, Default)]
pub struct Prophet {
    /// What else the load depends on.
    pub regressors: Vec<Regressor>,
    /// Whether seasons and holidays are in proportion to the trend.
    pub is_multiplicative: bool,
}

struct FittedProphet {
    model: Library<Lbfgs>,
    regressors: Vec<Regressor>,
    /// The steps seen, also those that it was not fitted to.
    values: Vec<f64>,
    /// Predictions are rounded to this: the library sums components in an order of its own.
    grain: f64,
}

impl Forecaster for Prophet {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fit(&self, series: &Series, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        let found = series.len();
        let skipped = found.saturating_sub(MAX_STEPS);
        let usable = series.values.iter().filter(|v| v.is_finite()).count();
        if usable < MIN_STEPS {
            return Err(ForecastError::TooShort {
                model: NAME,
                needed: MIN_STEPS,
                found: usable,
            });
        }
        let largest = series
            .values
            .iter()
            .filter(|v| v.is_finite())
            .fold(0.0_f64, |m, v| m.max(v.abs()));
        let model = guarded(NAME, || {
            let mut model = self.library(found - skipped, seasons)?;
            let known =
                (skipped..found).filter(|at| series.values.get(*at).is_some_and(|v| v.is_finite()));
            let (steps, values): (Vec<usize>, Vec<f64>) = known
                .filter_map(|at| Some((at, *series.values.get(at)?)))
                .unzip();
            let data = TrainingData::new(steps.iter().map(seconds).collect(), values)
                .and_then(|data| data.with_regressors(columns(&self.regressors, &steps)))
                .map_err(|e| e.to_string())?;
            model
                .fit(data, Default::default())
                .map_err(|e| e.to_string())?;
            Ok(model)
        })?;
        Ok(Box::new(FittedProphet {
            model,
            regressors: self.regressors.clone(),
            values: series.values.clone(),
            grain: (largest * 1e-9).max(f64::MIN_POSITIVE),
        }))
    }
}

impl Prophet {
    fn library(&self, count: usize, seasons: &[usize]) -> Result<Library<Lbfgs>, String> {
        let off = SeasonalityOption::Manual(false);
        let mode = if self.is_multiplicative {
            FeatureMode::Multiplicative
        } else {
            FeatureMode::Additive
        };
        let options = ProphetOptions {
            yearly_seasonality: off,
            weekly_seasonality: off,
            daily_seasonality: off,
            seasonality_mode: mode,
            uncertainty_samples: 0,
            ..ProphetOptions::default()
        };
        let mut model = Library::new(options, Lbfgs);
        for season in seasons
            .iter()
            .filter(|season| **season >= 2 && 2 * **season <= count)
        {
            let days = *season as f64 * STEP_SECONDS as f64 / SECONDS_PER_DAY;
            let order = u32::try_from((season / 2).min(MAX_ORDER))
                .ok()
                .and_then(NonZeroU32::new);
            let order = order.ok_or("a season has no Fourier series")?;
            let period = PositiveFloat::try_new(days).map_err(|e| e.to_string())?;
            let seasonality = Seasonality::new(period, order);
            model
                .add_seasonality(season.to_string(), seasonality)
                .map_err(|e| e.to_string())?;
        }
        for (index, regressor) in self.regressors.iter().enumerate() {
            let kind = if regressor.is_multiplicative {
                LibraryRegressor::multiplicative()
            } else {
                LibraryRegressor::additive()
            };
            model.add_regressor(index.to_string(), kind.with_standardize(Standardize::Auto));
        }
        Ok(model)
    }
}

/// The time of a step, as the library counts it.
fn seconds(step: &usize) -> i64 {
    i64::try_from(*step)
        .unwrap_or(i64::MAX / STEP_SECONDS)
        .saturating_mul(STEP_SECONDS)
}

/// The regressors at these steps, by the names that the library knows them by.
fn columns(regressors: &[Regressor], steps: &[usize]) -> HashMap<String, Vec<f64>> {
    let at =
        |regressor: &Regressor, step: &usize| regressor.values.get(*step).copied().unwrap_or(0.0);
    let column = |(index, regressor): (usize, &Regressor)| {
        (
            index.to_string(),
            steps.iter().map(|step| at(regressor, step)).collect(),
        )
    };
    regressors.iter().enumerate().map(column).collect()
}

impl FittedProphet {
    fn predict_from(&self, origin: usize, horizon: usize) -> Result<Vec<f64>, ForecastError> {
        let steps: Vec<usize> = (origin..origin + horizon).collect();
        let predicted = guarded(NAME, || {
            let data = PredictionData::new(steps.iter().map(seconds).collect());
            let data = data
                .with_regressors(columns(&self.regressors, &steps))
                .map_err(|e| e.to_string())?;
            self.model.predict(data).map_err(|e| e.to_string())
        })?;
        let points = predicted
            .yhat
            .point
            .into_iter()
            .map(|v| (v / self.grain).round() * self.grain);
        checked(NAME, points.collect())
    }
}

impl Fitted for FittedProphet {
    fn model(&self) -> &'static str {
        NAME
    }

    fn history(&self) -> &[f64] {
        &self.values
    }

    fn curves(&self, _: &[f64], origins: &[usize], horizon: usize) -> Option<Vec<Vec<f64>>> {
        let curve = |origin: &usize| self.predict_from(*origin, horizon).ok();
        origins.iter().map(curve).collect()
    }

    fn predict(&self, horizon: usize) -> Result<Vec<f64>, ForecastError> {
        self.predict_from(self.values.len(), horizon)
    }
}
