//! Exponential smoothing in state-space form (error, trend, season), without a season.
//!
//! Hyndman, Koehler, Ord and Snyder, *Forecasting with Exponential Smoothing*, 2008. Fitted by
//! `augurs-ets`. The trend is damped: an undamped one runs away over long horizons (Gardner and
//! McKenzie 1985), and with its slope at zero a damped trend is simple smoothing.

use augurs::{
    Fit, Predict,
    ets::{AutoETS, FittedAutoETS},
};

use crate::series::Series;

use super::{
    Fitted, ForecastError, Forecaster,
    guard::{checked, guarded},
};

/// The steps that exponential smoothing is fitted to, at most: older ones weigh nothing.
pub const MAX_STEPS: usize = 128;

/// The steps it needs: `augurs` computes sizes without sign from fewer.
pub const MIN_STEPS: usize = 12;

const NAME: &str = "ets";

/// Exponential smoothing with a damped additive trend; additive or multiplicative errors by AICc.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ets;

struct FittedEts {
    kind: Kind,
    values: Vec<f64>,
}

enum Kind {
    /// The series never changes, and neither does the forecast.
    Constant(f64),
    Smoothed(Box<FittedAutoETS>),
}

impl Forecaster for Ets {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fit(&self, series: &Series, _seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        let filled = series.fill_gaps();
        let recent = filled.len().saturating_sub(MAX_STEPS);
        let values = filled.values.get(recent..).unwrap_or(&[]);
        if values.len() < MIN_STEPS {
            return Err(ForecastError::TooShort {
                model: NAME,
                needed: MIN_STEPS,
                found: values.len(),
            });
        }
        if let Some(constant) = constant(values) {
            return Ok(Box::new(FittedEts {
                kind: Kind::Constant(constant),
                values: values.to_vec(),
            }));
        }
        let fitted = guarded(NAME, || search()?.fit(values).map_err(|e| e.to_string()))?;
        Ok(Box::new(FittedEts {
            kind: Kind::Smoothed(Box::new(fitted)),
            values: values.to_vec(),
        }))
    }
}

impl Fitted for FittedEts {
    fn model(&self) -> &'static str {
        NAME
    }

    fn history(&self) -> &[f64] {
        &self.values
    }

    /// The library cannot update its state: it would have to be fitted anew.
    fn curves(&self, _: &[f64], _: &[usize], _: usize) -> Option<Vec<Vec<f64>>> {
        None
    }

    fn predict(&self, horizon: usize) -> Result<Vec<f64>, ForecastError> {
        let points = match &self.kind {
            Kind::Constant(value) => vec![*value; horizon],
            Kind::Smoothed(model) => guarded(NAME, || {
                let forecast = model.predict(horizon, None).map_err(|e| e.to_string())?;
                Ok(forecast.point)
            })?,
        };
        checked(NAME, points)
    }
}

/// The models to choose from: additive or multiplicative error, damped additive trend, no season.
pub(super) fn search() -> Result<AutoETS, String> {
    AutoETS::new(1, "ZAN")
        .and_then(|search| search.damped(true))
        .map_err(|e| e.to_string())
}

/// The value, if all are the same: the optimiser has nothing to fit then.
pub(super) fn constant(values: &[f64]) -> Option<f64> {
    let first = values.first().copied()?;
    values.iter().all(|v| *v == first).then_some(first)
}
