//! Analogs: what came after the days that were most like the last one.
//!
//! The kernel regression of QB5000 (Ma et al., SIGMOD 2018) with the shape of the last days as its input: each earlier
//! day is weighed by how alike its past is, and moved to the level of now. Nothing is fitted, and nothing is assumed
//! but that alike days go on alike, which no regression on lags says. A member of the ensemble only.

use crate::series::Series;

use super::{Fitted, ForecastError, Forecaster, logarithm::Logarithm};

/// The days that are compared, at most.
const MAX_DAYS: usize = 56;

/// The days that there must be.
const MIN_DAYS: usize = 4;

/// The power of the distance that weights fall with.
const POWER: f64 = 8.0;

/// The part of a day after which a difference counts half: the last hours say most about the level of now.
const HALF_LIFE: f64 = 0.15;

/// How much the shape of the whole day counts beside its last hours.
const DAY_SHARE: f64 = 0.3;

/// The part of the difference in level that is left a day later.
const KEPT: f64 = 0.5;

/// The points of a longer season that are compared.
const POINTS: usize = 84;

/// Days that differ by less are the same.
const LEAST_DISTANCE: f64 = 1e-9;

const NAME: &str = "analog";

/// Weighs earlier days. Needs a season.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Analog;

struct Days {
    day: usize,
    week: Option<usize>,
    scale: Logarithm,
    values: Vec<f64>,
}

impl Forecaster for Analog {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fit(&self, series: &Series, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        let values = series.fill_gaps().values;
        let found = values.len();
        let day = seasons.first().copied();
        let day = day.ok_or(ForecastError::NoSeason { model: NAME })?;
        let needed = day.saturating_mul(MIN_DAYS + 1);
        if found < needed {
            return Err(ForecastError::TooShort {
                model: NAME,
                needed,
                found,
            });
        }
        let (scale, _) = Logarithm::of(&values, NAME)?;
        Ok(Box::new(Days {
            day,
            week: seasons.get(1).copied(),
            scale,
            values,
        }))
    }
}

/// An earlier day.
struct Like {
    /// How many steps before.
    back: usize,
    /// By how much the load was lower then.
    lower: f64,
    /// How unlike its past is.
    distance: f64,
}

impl Days {
    /// The days before the end of these logarithms, each with how much the end is like it.
    fn likes(&self, logs: &[f64]) -> Vec<Like> {
        let most = (logs.len() / self.day).saturating_sub(1).min(MAX_DAYS);
        let half_life = HALF_LIFE * self.day as f64;
        let weight = |ago: usize| 0.5_f64.powf(ago as f64 / half_life);
        let weights: Vec<f64> = (0..self.day).map(weight).collect();
        let like = |days: usize| self.like(logs, days * self.day, &weights);
        (1..=most).filter_map(like).collect()
    }

    fn like(&self, logs: &[f64], back: usize, weights: &[f64]) -> Option<Like> {
        let difference = |ago: usize| {
            let at = logs.len().checked_sub(1 + ago)?;
            Some(logs.get(at)? - logs.get(at.checked_sub(back)?)?)
        };
        let day: Vec<f64> = (0..self.day).map_while(difference).collect();
        if day.len() < self.day {
            return None;
        }
        let total: f64 = weights.iter().sum();
        let recent = |of: &dyn Fn(f64) -> f64| {
            let pairs = day.iter().zip(weights);
            pairs.map(|(d, weight)| weight * of(*d)).sum::<f64>() / total
        };
        let lower = recent(&|d| d);
        let mut distance = recent(&|d| (d - lower).abs()) + DAY_SHARE * roughness(&day);
        if let Some(week) = self.week {
            let stride = (week / POINTS).max(1);
            let points = (0..week).step_by(stride).filter_map(difference);
            distance += roughness(&points.collect::<Vec<f64>>());
        }
        Some(Like {
            back,
            lower,
            distance,
        })
    }

    /// The curve after these logarithms.
    fn curve(&self, logs: &[f64], horizon: usize) -> Vec<f64> {
        let likes = self.likes(logs);
        let distances = likes.iter().map(|like| like.distance);
        let least = distances.fold(f64::INFINITY, f64::min).max(LEAST_DISTANCE);
        let weight = |like: &Like| (least / like.distance.max(least)).powf(POWER);
        let weights: Vec<f64> = likes.iter().map(weight).collect();
        let step = |ahead: usize| {
            let kept = KEPT.powf(ahead as f64 / self.day as f64);
            let (mut sum, mut total) = (0.0, 0.0);
            for (like, weight) in likes.iter().zip(&weights) {
                let at = (logs.len() + ahead).checked_sub(like.back);
                if let Some(value) = at.and_then(|at| logs.get(at)) {
                    sum += weight * (value + kept * like.lower);
                    total += weight;
                }
            }
            self.scale
                .limited(if total > 0.0 { sum / total } else { 0.0 })
        };
        self.scale.back((0..horizon).map(step))
    }
}

/// The mean absolute difference from the mean.
fn roughness(values: &[f64]) -> f64 {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    values.iter().map(|v| (v - mean).abs()).sum::<f64>() / count
}

impl Fitted for Days {
    fn model(&self) -> &'static str {
        NAME
    }

    fn history(&self) -> &[f64] {
        &self.values
    }

    fn curves(&self, values: &[f64], origins: &[usize], horizon: usize) -> Option<Vec<Vec<f64>>> {
        let logs = self.scale.to(values);
        let curve = |origin: &usize| self.curve(logs.get(..*origin).unwrap_or(&logs), horizon);
        Some(origins.iter().map(curve).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Busy and quiet days in an order without a season; what a day will be shows in its first hours.
    fn load(hour: usize) -> f64 {
        let is_busy = (hour as u64 / 24 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 0;
        let (of_day, wave) = (
            hour % 24,
            (hour as f64 * std::f64::consts::TAU / 24.0).sin(),
        );
        let afternoon = if is_busy && of_day >= 12 { 3.0 } else { 1.0 };
        let morning = if is_busy && of_day < 12 { 1.3 } else { 1.0 };
        100.0 * (1.5 + wave) * afternoon * morning
    }

    fn fitted(count: usize, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        let series = Series {
            start: 0,
            step: 1,
            values: (0..count).map(load).collect(),
        };
        Analog.fit(&series, seasons)
    }

    #[test]
    fn what_came_after_alike_mornings_is_expected() {
        for days in 40..48 {
            let count = 24 * days + 10;
            let made = fitted(count, &[24]).unwrap().predict(14).unwrap();
            for (step, value) in made.iter().enumerate() {
                let truth = load(count + step);
                assert!(
                    (value - truth).abs() < 0.15 * truth,
                    "day {days} step {step}: {value} {truth}"
                );
            }
        }
    }

    #[test]
    fn a_curve_sees_nothing_after_its_origin() {
        let model = fitted(600, &[24, 168]).unwrap();
        let mut values: Vec<f64> = (0..700).map(load).collect();
        let before = model.curves(&values, &[610, 640], 300).unwrap();
        values.iter_mut().skip(640).for_each(|v| *v *= 50.0);
        assert_eq!(model.curves(&values, &[610, 640], 300).unwrap(), before);
        assert!(before.iter().flatten().all(|v| v.is_finite()));
    }

    #[test]
    fn without_a_season_or_with_too_little_there_is_an_error() {
        let error = |made: Result<Box<dyn Fitted>, ForecastError>| made.map(|_| ()).unwrap_err();
        assert_eq!(
            error(fitted(500, &[])),
            ForecastError::NoSeason { model: NAME }
        );
        assert!(matches!(
            error(fitted(100, &[24])),
            ForecastError::TooShort { .. }
        ));
    }
}
