//! Forecasts of the load of one shard: quantiles of a future curve, with a measure of their worth.
//!
//! [`forecast`] cleans the series, finds its seasons, combines the models by how they did on a
//! rolling-origin backtest of the series' own past, step by step of the horizon, and puts quantiles around
//! the curve from the errors that the combination made there (split conformal prediction). Many series at
//! once are forecast by [`cluster::forecast_all`].
//!
//! Pure and deterministic; the cost is bounded whatever the length of the history (see
//! [`prepare::MAX_HISTORY`] and [`skill::MAX_ORIGINS`]).

mod analog;
pub mod auto;
mod calibration;
pub mod cluster;
mod combine;
mod confidence;
mod direct;
pub mod ets;
pub mod events;
mod folds;
mod guard;
mod linear;
pub mod log_linear;
mod logarithm;
#[cfg(feature = "lstm")]
pub mod lstm;
pub mod mstl;
mod outage;
pub mod prepare;
mod profile;
pub mod prophet;
pub mod quantiles;
mod regime;
pub mod seasonal_naive;
pub mod seasons;
mod shift;
pub mod skill;
mod smoothing;
pub mod spar;
pub mod spread;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::series::Series;

/// The longest horizon, in steps: no plan looks further, and it bounds memory.
pub const MAX_HORIZON: usize = 10_000;

/// Why there is no forecast.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ForecastError {
    /// The series has no finite, non-negative value.
    #[error("the series has no usable values")]
    NoData,
    /// A horizon of zero steps was asked for.
    #[error("the horizon of a forecast must be at least one step")]
    EmptyHorizon,
    /// The horizon exceeds [`MAX_HORIZON`].
    #[error("the horizon of a forecast must be at most {MAX_HORIZON} steps, not {horizon}")]
    HorizonTooLong {
        /// The horizon that was asked for, in steps.
        horizon: usize,
    },
    /// The step of the series is not positive.
    #[error("the step of a series must be positive, not {step} microseconds")]
    BadStep {
        /// The step of the series, in microseconds.
        step: i64,
    },
    /// A season of zero steps was set by hand.
    #[error("a season must be at least one step long")]
    BadSeason,
    /// No model has this name.
    #[error(
        "unknown forecast model \"{name}\"; valid models are {}",
        quoted_models()
    )]
    UnknownModel {
        /// The name that was given.
        name: String,
    },
    /// A model needs more history than there is.
    #[error("model \"{model}\" needs at least {needed} steps of history, not {found}")]
    TooShort {
        /// The name of the model.
        model: &'static str,
        /// The steps it needs.
        needed: usize,
        /// The steps there are.
        found: usize,
    },
    /// A model that works on seasons was given none.
    #[error("model \"{model}\" needs a season")]
    NoSeason {
        /// The name of the model.
        model: &'static str,
    },
    /// Fitting failed, or gave values that are not finite.
    #[error("model \"{model}\" does not fit this series: {reason}")]
    DoesNotFit {
        /// The name of the model.
        model: &'static str,
        /// What went wrong, in the words of the library that fits it.
        reason: String,
    },
}

impl ForecastError {
    /// A model that could not be fitted, and why.
    fn does_not_fit(model: &'static str, reason: &str) -> Self {
        ForecastError::DoesNotFit {
            model,
            reason: reason.to_owned(),
        }
    }
}

/// A way to forecast.
pub trait Forecaster {
    /// The SQL name of the model.
    fn name(&self) -> &'static str;

    /// Fits the model to a series; missing values are filled first. `seasons` are lengths in steps,
    /// ascending; those that the history is too short for are left out.
    ///
    /// # Errors
    /// [`ForecastError`] if the series has no value, is too short for the model, or cannot be fitted.
    fn fit(&self, series: &Series, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError>;

    /// Fits the model to several beginnings of a series: what [`Forecaster::fit`] makes of its first values, so many
    /// as `ends` say, ascending. For models whose fits share most of their work.
    ///
    /// # Errors
    /// The first error of a fit.
    fn fit_each(
        &self,
        series: &Series,
        seasons: &[usize],
        ends: &[usize],
    ) -> Result<Vec<Box<dyn Fitted>>, ForecastError> {
        let fit = |end: &usize| {
            let values = series.values.get(..*end).unwrap_or(&series.values);
            let beginning = Series {
                values: values.to_vec(),
                ..*series
            };
            self.fit(&beginning, seasons)
        };
        ends.iter().map(fit).collect()
    }
}

/// A fitted model.
pub trait Fitted {
    /// The SQL name of the model.
    fn model(&self) -> &'static str;

    /// What it was fitted to, without gaps.
    fn history(&self) -> &[f64];

    /// A curve of `horizon` steps from each of `origins`, with the same coefficients. `values` are the series
    /// the model was fitted to and what came after it, without gaps; an origin is how many of them its curve
    /// may see. All at once, because most of what a curve needs serves the others too. `None` if the model
    /// would have to be fitted anew.
    fn curves(&self, values: &[f64], origins: &[usize], horizon: usize) -> Option<Vec<Vec<f64>>>;

    /// The point forecast of the `horizon` steps after the series, finite and not negative.
    ///
    /// # Errors
    /// [`ForecastError::DoesNotFit`] if the model gives a value that is not finite.
    fn predict(&self, horizon: usize) -> Result<Vec<f64>, ForecastError> {
        let history = self.history();
        let made = self.curves(history, &[history.len()], horizon);
        guard::checked(self.model(), made.into_iter().flatten().flatten().collect())
    }

    /// The point forecasts from each of `origins`: [`Fitted::curves`], each finite and not negative.
    fn predict_after(
        &self,
        values: &[f64],
        origins: &[usize],
        horizon: usize,
    ) -> Option<Result<Vec<Vec<f64>>, ForecastError>> {
        let curves = self.curves(values, origins, horizon)?;
        let checked = |curve| guard::checked(self.model(), curve);
        Some(curves.into_iter().map(checked).collect())
    }
}

/// Which model to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// Those of the others that do best on the series' own recent past, combined.
    #[default]
    Auto,
    /// What was measured one season ago.
    SeasonalNaive,
    /// Exponential smoothing with a damped trend.
    Ets,
    /// Seasonal decomposition with exponential smoothing of the rest.
    Mstl,
    /// Sparse periodic auto-regression.
    Spar,
    /// Regression of the logarithm on its lags.
    LogLinear,
    /// Trend with changes, Fourier series and regressors.
    Prophet,
    /// A recurrent network. Without the feature `lstm` the next simpler model.
    Lstm,
}

impl Model {
    /// Every model, in the order in which SQL lists them.
    pub const ALL: [Model; 8] = [
        Model::Auto,
        Model::SeasonalNaive,
        Model::Ets,
        Model::Mstl,
        Model::Spar,
        Model::LogLinear,
        Model::Prophet,
        Model::Lstm,
    ];

    /// The SQL name.
    pub fn name(self) -> &'static str {
        match self {
            Model::Auto => "auto",
            Model::SeasonalNaive => "seasonal_naive",
            Model::Ets => "ets",
            Model::Mstl => "mstl",
            Model::Spar => "spar",
            Model::LogLinear => "log_linear",
            Model::Prophet => "prophet",
            Model::Lstm => "lstm",
        }
    }
}

/// All names, each in double quotes.
fn quoted_models() -> String {
    Model::ALL.map(|model| format!("\"{model}\"")).join(", ")
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Model {
    type Err = ForecastError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Model::ALL
            .into_iter()
            .find(|model| model.name() == name)
            .ok_or_else(|| ForecastError::UnknownModel {
                name: name.to_owned(),
            })
    }
}

/// Where the season comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Season {
    /// Detected in the series; see [`seasons::detect`].
    #[default]
    Auto,
    /// Set by hand, in steps. 1 means no season; one longer than the history is ignored.
    Steps(usize),
}

/// What to forecast, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// How many steps ahead; 1 to [`MAX_HORIZON`].
    pub horizon: usize,
    /// Where the season comes from.
    pub season: Season,
    /// Which model to use. One that cannot be fitted to the series gives way to a simpler one.
    pub model: Model,
}

/// A forecast: three quantiles per step. All values are finite, not negative, and
/// `q50[i] <= q90[i] <= q99[i]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// The start of the first step, in microseconds since the Unix epoch: the end of the series.
    pub start: i64,
    /// The length of a step, in microseconds.
    pub step: i64,
    /// The median, per step.
    pub q50: Vec<f64>,
    /// The value that one in ten exceeds, per step.
    pub q90: Vec<f64>,
    /// The value that one in a hundred exceeds, per step.
    pub q99: Vec<f64>,
    /// The value that the highest of all steps up to and with this one exceeds once in ten, per step: what
    /// a plan must be able to carry. Not below the highest `q50` so far, and ascending.
    pub peak: Vec<f64>,
    /// The model that was used: one of [`Model::ALL`] but "auto", or "ensemble" for a combination of several.
    pub model: String,
    /// 1 − pinball loss / pinball loss of seasonal naive over the rolling backtest, in [-1, 1].
    /// 0 for seasonal naive itself, and where the history is too short to tell. See [`skill::skill`].
    pub skill: f64,
    /// How far the forecast can be acted upon, in [0, 1]: whether it says more than a flat line, or is
    /// close in absolute terms. Unlike skill it is high for a load that repeats perfectly. 0 where the
    /// history is too short to tell.
    pub confidence: f64,
    /// The lengths of the seasons that were used, in steps, ascending; empty if there are none.
    pub seasons: Vec<usize>,
}

/// Forecasts the steps after the end of `series`.
///
/// Values that are negative or not finite count as missing. With `Model::Auto` the models that did best on
/// the rolling backtest are combined; a model set by hand is used if it can be fitted, else the next
/// simpler one, and [`Forecast::model`] says which.
///
/// # Errors
/// [`ForecastError`] for an empty series, a horizon of 0 or beyond [`MAX_HORIZON`], a season of 0, or
/// a step that is not positive.
pub fn forecast(series: &Series, options: &Options) -> Result<Forecast, ForecastError> {
    check(options)?;
    if series.step <= 0 {
        return Err(ForecastError::BadStep { step: series.step });
    }
    let history = prepare::prepare(series, options.season)?;
    let choice = auto::choose(&history, options)?;
    let bands = quantiles::around(&choice.points, history.series.len(), &choice.errors);
    let rescale = |values: Vec<f64>| values.into_iter().map(|v| history.rescale(v)).collect();
    Ok(Forecast {
        start: series.end(),
        step: series.step,
        q50: rescale(bands.q50),
        peak: rescale(bands.peak),
        q90: rescale(bands.q90),
        q99: rescale(bands.q99),
        model: choice.model.to_owned(),
        skill: choice.skill,
        confidence: choice.confidence,
        seasons: history.seasons,
    })
}

/// Whether such a forecast can be asked for at all.
fn check(options: &Options) -> Result<(), ForecastError> {
    match options.horizon {
        0 => Err(ForecastError::EmptyHorizon),
        horizon if horizon > MAX_HORIZON => Err(ForecastError::HorizonTooLong { horizon }),
        _ => Ok(()),
    }
}
