//! Judging a model on the series' own past: the rolling-origin backtest, pinball loss and skill.
//!
//! Tashman 2000, *Out-of-sample tests of forecasting accuracy*. The model is fitted anew at each of a
//! few origins, sees only what came before, and is compared with what was measured after.

use crate::series::Series;

use super::{Fitted, ForecastError, Forecaster, prepare::History};

/// The origins of a backtest, at most.
pub const MAX_ORIGINS: usize = 40;

/// The origins at which a model that cannot follow the series is fitted anew, at most.
const MAX_REFITS: usize = 4;

/// The fits of a model that can follow: its coefficients are those of the latest before an origin.
const FITS: usize = 2;

/// The origins of a backtest with the whole horizon after them, at least: fewer say nothing about how
/// errors vary.
pub const MIN_ORIGINS: usize = 3;

/// The steps that a model sees at the first origin, at least.
const MIN_TRAINING: usize = 12;

/// The seasons and the horizons that origins are spread over, where there are as many.
const SPAN_SEASONS: usize = 14;
const SPAN_HORIZONS: usize = 4;

/// The steps that origins are spread over, where there are as many.
const MIN_SPAN: usize = 96;

/// The golden ratio − 1: its multiples modulo 1 are spread evenly, so that origins meet all times of day.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// The part of a loss by which models must differ to differ at all: rounding, relative to a history
/// that is scaled to 1.
pub(super) const NEGLIGIBLE: f64 = 1e-6;

/// Where a backtest forecasts from, and how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// The number of values seen at each origin, ascending. After the last ones less than a horizon is
    /// known: that shows soonest when the load has changed.
    pub at: Vec<usize>,
    /// How many steps each forecast spans; not more than was asked for, and less if the history is short.
    pub horizon: usize,
}

impl Origins {
    /// How much each origin counts: those one span earlier half as much.
    pub(super) fn weights(&self) -> Vec<f64> {
        let (first, last) = (
            self.at.first().copied().unwrap_or(0),
            self.at.last().copied().unwrap_or(0),
        );
        let span = (last - first).max(1) as f64;
        let weight = |at: &usize| 0.5_f64.powf((last - at) as f64 / (span * HALF_LIFE));
        self.at.iter().map(weight).collect()
    }
}

/// The part of the span of origins after which one counts half.
const HALF_LIFE: f64 = 0.5;

/// The errors of one model at all origins.
#[derive(Debug, Clone, PartialEq)]
pub struct Backtest {
    /// Per origin and step: measured − forecast, in the unit of the history; NaN where nothing was measured
    /// or forecast.
    pub errors: Vec<Vec<f64>>,
}

/// Chooses the origins for a history of `count` steps, or `None` if it is too short for three.
pub fn origins(count: usize, horizon: usize, seasons: &[usize]) -> Option<Origins> {
    let longest = seasons.last().copied().unwrap_or(0);
    let enough = |training: &usize| *training + MIN_ORIGINS < count + 1;
    let training = [longest.saturating_mul(2).max(MIN_TRAINING), longest.max(4)]
        .into_iter()
        .find(enough)?;
    let available = count - training;
    // A third of what is available is for moving the origin, the rest for looking ahead from it.
    let horizon = horizon
        .min((available * 2).div_ceil(3))
        .min(available + 1 - MIN_ORIGINS)
        .max(1);
    let day = seasons.first().copied().unwrap_or(1);
    let wanted = (SPAN_SEASONS * day)
        .max(SPAN_HORIZONS.saturating_mul(horizon))
        .max(MIN_SPAN);
    // No more than half of the history, or models would be judged by what they make of much less of it.
    let span = available.min(wanted.min((count / 2).max(horizon + MIN_ORIGINS)));
    let number = span.min(MAX_ORIGINS);
    let origin = |index: usize| {
        let shift = (index as f64 * GOLDEN).fract();
        count - span + ((index as f64 + shift) * span as f64 / number as f64) as usize
    };
    let mut at: Vec<usize> = (0..number).map(origin).filter(|at| *at < count).collect();
    at.dedup();
    Some(Origins { at, horizon })
}

/// Forecasts at every origin and collects the errors. A model that can follow a series is fitted twice;
/// another is fitted anew at some of the origins, and not tested at the others.
///
/// # Errors
/// The first [`ForecastError`] of a fit or a prediction: a model that fails in the past is not to be
/// trusted with the future.
pub fn backtest(
    model: &dyn Forecaster,
    history: &History,
    seasons: &[usize],
    origins: &Origins,
) -> Result<Backtest, ForecastError> {
    tested(model, history, seasons, origins).map(|(_, backtest)| backtest)
}

/// The model fitted to the whole history, and its backtest.
///
/// # Errors
/// As [`backtest`].
pub(super) fn tested(
    model: &dyn Forecaster,
    history: &History,
    seasons: &[usize],
    origins: &Origins,
) -> Result<(Box<dyn Fitted>, Backtest), ForecastError> {
    let series = &history.series;
    let count = origins.at.len();
    let groups = || origins.at.chunks(count.div_ceil(FITS).max(1));
    let begins = groups().filter_map(|group| group.first().copied());
    let ends: Vec<usize> = begins.chain([series.len()]).collect();
    let mut fitted = model.fit_each(series, seasons, &ends)?;
    let whole = fitted.pop().ok_or(ForecastError::NoData)?;
    let mut curves = Vec::with_capacity(count);
    for (group, fitted) in groups().zip(fitted) {
        match fitted.predict_after(&series.values, group, origins.horizon) {
            Some(followed) => curves.extend(followed?),
            None => curves.extend(refitted(model, series, seasons, group, origins)?),
        }
    }
    let errors = curves.iter().zip(&origins.at);
    let errors = errors.map(|(curve, origin)| errors_of(curve, history, *origin, origins.horizon));
    let backtest = Backtest {
        errors: errors.collect(),
    };
    Ok((whole, backtest))
}

/// The forecasts of a model that is fitted anew at some of these origins; none at the others.
fn refitted(
    model: &dyn Forecaster,
    series: &Series,
    seasons: &[usize],
    group: &[usize],
    origins: &Origins,
) -> Result<Vec<Vec<f64>>, ForecastError> {
    let every = origins.at.len().div_ceil(MAX_REFITS).max(1);
    let chosen: Vec<usize> = group.iter().step_by(every).copied().collect();
    let fitted = model.fit_each(series, seasons, &chosen)?;
    let mut curves = vec![Vec::new(); group.len()];
    for (slot, fitted) in curves.iter_mut().step_by(every).zip(fitted) {
        *slot = fitted.predict(origins.horizon)?;
    }
    Ok(curves)
}

/// What was measured minus what was forecast; NaN where either is unknown.
fn errors_of(points: &[f64], history: &History, origin: usize, horizon: usize) -> Vec<f64> {
    let error = |step: usize| {
        let index = origin + step;
        let measured = history.observed.get(index).copied().unwrap_or(false);
        match (history.series.values.get(index), points.get(step)) {
            (Some(value), Some(point)) if measured => value - point,
            _ => f64::NAN,
        }
    };
    (0..horizon).map(error).collect()
}

/// Pinball (quantile) loss of a forecast that errs by `error` = measured − forecast, at quantile `q`.
/// Koenker and Bassett 1978.
pub fn pinball(error: f64, q: f64) -> f64 {
    if error >= 0.0 {
        q * error
    } else {
        (q - 1.0) * error
    }
}

/// 1 − loss / loss of seasonal naive, in [-1, 1]: 1 is perfect, 0 is no better than repeating the last
/// season, below is worse. Where seasonal naive is perfect there is nothing to win: 0 for a model that
/// is perfect too, else -1. Seasonal naive itself has skill 0.
pub fn skill(loss: f64, naive_loss: f64) -> f64 {
    if (loss - naive_loss).abs() <= NEGLIGIBLE || loss.is_nan() || naive_loss.is_nan() {
        0.0
    } else if naive_loss <= 0.0 {
        -1.0
    } else {
        (1.0 - loss / naive_loss).clamp(-1.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_meet_all_times_of_day_and_reach_to_the_end() {
        let origins = origins(1_400, 24, &[24, 168]).unwrap();
        assert_eq!((origins.horizon, origins.at.len()), (24, MAX_ORIGINS));
        assert!(origins.at.last() > Some(&1_376));
        let mut hours: Vec<usize> = origins.at.iter().map(|at| at % 24).collect();
        hours.sort_unstable();
        hours.dedup();
        assert!(hours.len() >= 10, "{hours:?}");
        let weights = origins.weights();
        assert!(weights.windows(2).all(|pair| pair[0] <= pair[1]) && weights.last() == Some(&1.0));
    }

    #[test]
    fn origins_stay_within_the_history_however_short() {
        for count in 0..400 {
            for horizon in [1, 5, 60, 1_000] {
                for seasons in [&[][..], &[7], &[24], &[24, 168]] {
                    let Some(origins) = origins(count, horizon, seasons) else {
                        continue;
                    };
                    assert!((MIN_ORIGINS..=MAX_ORIGINS).contains(&origins.at.len()));
                    assert!((1..=horizon).contains(&origins.horizon));
                    assert!(origins.at.last() < Some(&count));
                    assert!(origins.at.windows(2).all(|pair| pair[0] < pair[1]));
                    assert!(
                        origins.at[0] >= 4,
                        "{count} {horizon} {seasons:?} {origins:?}"
                    );
                    let whole = origins
                        .at
                        .iter()
                        .filter(|at| *at + origins.horizon <= count);
                    assert!(
                        whole.count() >= 1,
                        "{count} {horizon} {seasons:?} {origins:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn pinball_loss_weighs_what_is_above_the_quantile() {
        assert_eq!(pinball(10.0, 0.9), 9.0);
        assert!((pinball(-10.0, 0.9) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn skill_compares_with_seasonal_naive_and_is_never_nan() {
        assert_eq!(skill(0.25, 1.0), 0.75);
        assert_eq!(skill(0.0, 1.0), 1.0);
        assert_eq!(skill(5.0, 1.0), -1.0);
        assert_eq!(skill(0.0, 0.0), 0.0);
        assert_eq!(skill(1.0, 0.0), -1.0);
        assert_eq!(skill(f64::NAN, 1.0), 0.0);
    }
}
