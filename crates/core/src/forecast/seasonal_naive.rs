//! The model to beat: what was measured one season ago.
//!
//! Hyndman and Athanasopoulos, *Forecasting: Principles and Practice*, 3rd ed., section 5.2.

use crate::series::Series;

use super::{Fitted, ForecastError, Forecaster};

/// The steps over which the level is averaged where there is no season.
const LEVEL_STEPS: usize = 12;

/// The last steps by which it is judged whether the last value or their mean foretells the next.
const JUDGED_STEPS: usize = 512;

const NAME: &str = "seasonal_naive";

/// Repeats the last season. Among several seasons the one that repeated best so far (the smallest mean
/// absolute difference to the same phase one season before). Without a season: the last value, or the
/// mean of the last 12, whichever was closer to the next value so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct SeasonalNaive {
    /// The season to repeat, in steps, instead of the one that repeated best.
    pub season: Option<usize>,
}

/// Repeats the last cycle for ever.
struct Cycle {
    season: Option<usize>,
    values: Vec<f64>,
}

impl Forecaster for SeasonalNaive {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fit(&self, series: &Series, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        if series.is_empty() {
            return Err(ForecastError::NoData);
        }
        let values = series.fill_gaps().values;
        let season = match self.season {
            Some(season) => Some(season).filter(|season| *season <= values.len()),
            None => best_season(&values, seasons),
        };
        Ok(Box::new(Cycle { season, values }))
    }
}

impl Fitted for Cycle {
    fn model(&self) -> &'static str {
        NAME
    }

    fn history(&self) -> &[f64] {
        &self.values
    }

    fn curves(&self, values: &[f64], origins: &[usize], horizon: usize) -> Option<Vec<Vec<f64>>> {
        let curve = |origin: &usize| {
            let past = values.get(..*origin).unwrap_or(values);
            let cycle = match self.season {
                Some(season) => last(past, season).to_vec(),
                None => vec![level(past)],
            };
            cycle.into_iter().cycle().take(horizon).collect()
        };
        Some(origins.iter().map(curve).collect())
    }
}

/// The last `count` values, or all of them if there are fewer.
fn last(values: &[f64], count: usize) -> &[f64] {
    values
        .get(values.len().saturating_sub(count)..)
        .unwrap_or(values)
}

/// The season with the smallest mean absolute seasonal difference; all are judged on the same steps. A
/// season that the history covers only once is taken if there is no other.
pub(super) fn best_season(values: &[f64], seasons: &[usize]) -> Option<usize> {
    let usable = || {
        seasons
            .iter()
            .copied()
            .filter(|s| *s >= 2 && *s <= values.len())
    };
    let repeated = || usable().filter(|s| s.saturating_mul(2) <= values.len());
    let judged = values.len() - repeated().max().unwrap_or(0);
    let best = repeated()
        .map(|season| (seasonal_difference(values, season, judged), season))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, season)| season);
    best.or_else(|| usable().min())
}

/// The mean of |y(t) − y(t − season)| over the last `judged` steps.
fn seasonal_difference(values: &[f64], season: usize, judged: usize) -> f64 {
    let current = last(values, judged);
    let earlier = last(values, judged + season);
    let total: f64 = current
        .iter()
        .zip(earlier)
        .map(|(now, then)| (now - then).abs())
        .sum();
    total / judged.max(1) as f64
}

/// The last value or the recent mean, whichever foretold the next value better.
fn level(values: &[f64]) -> f64 {
    let (mut by_last, mut by_mean) = (0.0, 0.0);
    for window in last(values, JUDGED_STEPS).windows(LEVEL_STEPS + 1) {
        if let [before @ .., next] = window {
            by_last += before.last().map_or(0.0, |v| (next - v).abs());
            by_mean += (next - mean(before)).abs();
        }
    }
    if by_mean < by_last {
        mean(last(values, LEVEL_STEPS))
    } else {
        values.last().copied().unwrap_or(0.0)
    }
}

/// The arithmetic mean, computed so that it cannot overflow; 0 of nothing.
fn mean(values: &[f64]) -> f64 {
    let count = values.len().max(1) as f64;
    values.iter().map(|v| v / count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predict(values: Vec<f64>, seasons: &[usize], horizon: usize) -> Vec<f64> {
        let series = Series {
            start: 0,
            step: 1,
            values,
        };
        SeasonalNaive::default()
            .fit(&series, seasons)
            .unwrap()
            .predict(horizon)
            .unwrap()
    }

    #[test]
    fn repeats_the_last_season() {
        let values = vec![9.0, 9.0, 1.0, 2.0, 3.0];
        assert_eq!(
            predict(values, &[3], 7),
            [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0]
        );
    }

    #[test]
    fn prefers_the_season_that_repeats_best() {
        // Period 6 exactly; period 3 only roughly.
        let values: Vec<f64> = [1.0, 5.0, 2.0, 2.0, 6.0, 3.0].repeat(4);
        assert_eq!(predict(values, &[3, 6], 6), [1.0, 5.0, 2.0, 2.0, 6.0, 3.0]);
    }

    #[test]
    fn takes_the_mean_of_noise_and_the_last_value_of_a_walk() {
        let noise: Vec<f64> = [4.0, 6.0].repeat(20);
        assert_eq!(predict(noise, &[], 2), [5.0, 5.0]);
        let walk: Vec<f64> = (0..40).map(f64::from).collect();
        assert_eq!(predict(walk, &[], 2), [39.0, 39.0]);
    }
}
