//! Judging a model on the series' own past: the rolling-origin backtest, pinball loss and skill.
//!
//! Tashman 2000, *Out-of-sample tests of forecasting accuracy*. The model is fitted anew at each of a
//! few origins, sees only what came before, and is compared with what was measured after.

use super::{ForecastError, Forecaster, guard::checked, prepare::History, quantiles};

/// The origins of a backtest, at most. Each costs one fit of every model.
pub const MAX_ORIGINS: usize = 10;

/// The origins of a backtest, at least: fewer say nothing about how errors vary.
pub const MIN_ORIGINS: usize = 3;

/// The steps that a model sees at the first origin, at least.
const MIN_TRAINING: usize = 12;

/// The part of a loss by which models must differ to differ at all: rounding, relative to a history
/// that is scaled to 1.
pub(super) const NEGLIGIBLE: f64 = 1e-6;

/// Where a backtest forecasts from, and how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    /// The number of values seen at each origin, ascending; the last origin is `horizon` before the end.
    pub at: Vec<usize>,
    /// How many steps each forecast spans; not more than was asked for, and less if the history is short.
    pub horizon: usize,
}

/// The errors of one model at all origins.
#[derive(Debug, Clone, PartialEq)]
pub struct Backtest {
    /// Per origin and step: measured − forecast, in the unit of the history; NaN where nothing was measured.
    pub errors: Vec<Vec<f64>>,
}

/// Chooses the origins for a history of `count` steps, or `None` if it is too short for three.
///
/// Origins are a multiple of the shortest season apart where at least six fit, so that step h always
/// meets the same time of day and its errors can be compared; else spread over what there is.
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
    let room = available - horizon;
    let spacing = match seasons.first() {
        Some(season) if room / season >= 5 => *season,
        _ => (room / (MAX_ORIGINS - 1)).clamp(1, horizon),
    };
    let number = (room / spacing + 1).min(MAX_ORIGINS);
    let at = (0..number)
        .rev()
        .map(|back| count - horizon - back * spacing)
        .collect();
    Some(Origins { at, horizon })
}

/// Fits the model at every origin and collects its errors.
///
/// # Errors
/// The first [`ForecastError`] of a fit or a prediction: a model that fails in the past is not to be
/// trusted with the future.
pub fn backtest(
    model: &dyn Forecaster,
    history: &History,
    origins: &Origins,
) -> Result<Backtest, ForecastError> {
    let errors: Result<Vec<Vec<f64>>, ForecastError> = origins
        .at
        .iter()
        .map(|origin| errors_from(model, history, *origin, origins.horizon))
        .collect();
    Ok(Backtest { errors: errors? })
}

/// The errors of one forecast.
fn errors_from(
    model: &dyn Forecaster,
    history: &History,
    origin: usize,
    horizon: usize,
) -> Result<Vec<f64>, ForecastError> {
    let mut past = history.series.clone();
    past.values.truncate(origin);
    let points = model.fit(&past, &history.seasons)?.predict(horizon)?;
    let points = checked(model.name(), points)?;
    let measured = history
        .series
        .values
        .iter()
        .zip(&history.observed)
        .skip(origin);
    let errors = points.iter().zip(measured).map(
        |(point, (value, observed))| {
            if *observed { value - point } else { f64::NAN }
        },
    );
    Ok(errors.collect())
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

/// The mean pinball loss of the model's q50, q90 and q99 over all origins and steps; 0 if nothing was
/// measured. The quantiles at an origin are calibrated on the errors at the *other* origins, so that
/// no forecast is judged by what it was fitted to.
pub fn mean_pinball(backtest: &Backtest) -> f64 {
    let (mut total, mut count) = (0.0, 0.0);
    for (origin, errors) in backtest.errors.iter().enumerate() {
        let others: Vec<&[f64]> = backtest
            .errors
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != origin)
            .map(|(_, errors)| errors.as_slice())
            .collect();
        let offsets = quantiles::offsets(&others);
        for (error, offset) in errors.iter().zip(offsets).filter(|(e, _)| !e.is_nan()) {
            let losses = quantiles::LEVELS.iter().zip(offset.levels());
            total += losses
                .map(|(q, offset)| pinball(error - offset, *q))
                .sum::<f64>();
            count += quantiles::LEVELS.len() as f64;
        }
    }
    if count > 0.0 { total / count } else { 0.0 }
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
    fn origins_are_whole_seasons_apart_and_end_before_the_horizon() {
        let origins = origins(1_000, 24, &[24, 168]).unwrap();
        assert_eq!((origins.horizon, origins.at.len()), (24, MAX_ORIGINS));
        assert_eq!(origins.at.last(), Some(&976));
        assert!(origins.at.windows(2).all(|pair| pair[1] - pair[0] == 24));
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
                    assert_eq!(origins.at.last(), Some(&(count - origins.horizon)));
                    assert!(origins.at.windows(2).all(|pair| pair[0] < pair[1]));
                    assert!(
                        origins.at[0] >= 4,
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

    #[test]
    fn errors_that_vary_less_cost_less() {
        let errors = |size: f64| Backtest {
            errors: (0..6)
                .map(|o| {
                    (0..12)
                        .map(|h| size * f64::from((o * 7 + h * 5) % 11 - 5))
                        .collect()
                })
                .collect(),
        };
        assert_eq!(mean_pinball(&errors(0.0)), 0.0);
        let ratio = mean_pinball(&errors(2.0)) / mean_pinball(&errors(1.0));
        assert!((ratio - 2.0).abs() < 1e-9);
        let unknown = Backtest {
            errors: vec![vec![f64::NAN; 3]; 4],
        };
        assert_eq!(mean_pinball(&unknown), 0.0);
    }
}
