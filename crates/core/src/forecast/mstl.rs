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

/// The steps that are decomposed, at most, where they hold [`MIN_CYCLES`]: older ones say nothing of the seasons of now.
const MAX_STEPS: usize = 672;

/// The cycles of the longest season that are decomposed, where there are as many.
const MIN_CYCLES: usize = 3;

/// The steps of the shortest season, at most: finer ones are averaged before, which costs less and is less noisy.
const MAX_PER_SEASON: usize = 24;

const NAME: &str = "mstl";

/// MSTL. Needs a season, and two cycles of each; longer seasons are left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mstl;

struct FittedMstl {
    /// How many values came before those that were decomposed.
    begin: usize,
    /// The sum of the seasons at each step that was decomposed.
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
        let width = width(&periods);
        let longest = periods.last().copied().unwrap_or(shortest);
        let wanted = (MAX_STEPS * width).max(MIN_CYCLES.saturating_mul(longest));
        let kept = wanted.min(found) / width * width;
        let begin = found - kept;
        let recent = values.get(begin..).unwrap_or_default();
        let parts = decompose(recent, &periods, width)?;
        let at = |index: usize| parts.iter().filter_map(|part| part.get(index)).sum::<f64>();
        let seasonal: Vec<f64> = (0..kept).map(at).collect();
        let rest: Vec<f64> = recent.iter().zip(&seasonal).map(|(v, s)| v - s).collect();
        let last = |(part, period): (&Vec<f64>, &usize)| {
            part.iter().skip(kept - period).copied().collect()
        };
        Ok(Box::new(FittedMstl {
            begin,
            cycles: parts.iter().zip(&periods).map(last).collect(),
            smoothing: Smoothing::fit(&rest, shortest),
            seasonal,
            values,
        }))
    }
}

/// The steps that are averaged before they are decomposed: all seasons are whole numbers of them.
fn width(periods: &[usize]) -> usize {
    let most = periods
        .first()
        .map_or(1, |shortest| shortest / MAX_PER_SEASON);
    let divides = |width: &usize| periods.iter().all(|period| period.is_multiple_of(*width));
    (1..=most.max(1)).rev().find(divides).unwrap_or(1)
}

/// The seasonal components, one per period, of means of `width` values.
fn decompose(
    values: &[f64],
    periods: &[usize],
    width: usize,
) -> Result<Vec<Vec<f64>>, ForecastError> {
    let mean = |block: &[f64]| block.iter().sum::<f64>() / width as f64;
    let means: Vec<f64> = values.chunks_exact(width).map(mean).collect();
    let periods: Vec<usize> = periods.iter().map(|period| period / width).collect();
    let model = MSTLModel::new(periods.clone(), NaiveTrend::new());
    let fitted = guarded(NAME, || model.fit(&means).map_err(|e| e.to_string()))?;
    let parts = fitted.fit().seasonal().iter().zip(periods);
    let parts = parts.map(|(part, period)| widened(part, period, width));
    Ok(parts.collect())
}

/// Values at each step from the means of `width` steps of a season of `period` means, interpolated.
fn widened(means: &[f32], period: usize, width: usize) -> Vec<f64> {
    // Before the first mean and after the last comes what is there a season later or earlier: if the curve stayed
    // where it is, the last steps of a steep season would look like a new level.
    let at = |block: usize| {
        let index = match block {
            0 => period.saturating_sub(1),
            block if block > means.len() => means.len().saturating_sub(period),
            block => block - 1,
        };
        means.get(index).map_or(0.0, |v| f64::from(*v))
    };
    let step = |index: usize| {
        // The middle of a block is what its mean says.
        let position = (index as f64 + 0.5) / width as f64 + 0.5;
        let (left, part) = (position.floor() as usize, position.fract());
        at(left) + part * (at(left + 1) - at(left))
    };
    (0..means.len() * width).map(step).collect()
}

impl FittedMstl {
    /// The sum of the seasons at a step counted from the first that was decomposed.
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
        let recent = values.iter().skip(self.begin);
        let rest: Vec<f64> = recent.enumerate().map(rest).collect();
        let since = |origin: &usize| origin.saturating_sub(self.begin);
        let origins: Vec<usize> = origins.iter().map(since).collect();
        let smooth = self.smoothing.curves(&rest, &origins, horizon);
        let seasonal = |(origin, smooth): (&usize, Vec<f64>)| {
            let steps = smooth.into_iter().enumerate();
            steps
                .map(|(step, level)| level + self.season_at(origin + step))
                .collect()
        };
        Some(origins.iter().zip(smooth).map(seasonal).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_widened_without_a_step_between() {
        assert_eq!(widened(&[0.0, 4.0, 8.0], 3, 1), [0.0, 4.0, 8.0]);
        assert_eq!(
            widened(&[0.0, 4.0], 2, 4),
            [1.5, 0.5, 0.5, 1.5, 2.5, 3.5, 3.5, 2.5]
        );
    }

    #[test]
    fn only_what_all_seasons_are_multiples_of_is_averaged() {
        assert_eq!(width(&[24, 168]), 1);
        assert_eq!(width(&[96, 672]), 4);
        assert_eq!(width(&[1_440]), 60);
        assert_eq!(width(&[97]), 1);
        assert_eq!(width(&[]), 1);
    }

    #[test]
    fn a_fine_and_a_long_history_are_followed_like_others() {
        let load = |minute: usize| {
            let day = (minute as f64 / 288.0 * std::f64::consts::TAU).sin();
            100.0 + 50.0 * day
        };
        let series = Series {
            start: 0,
            step: 1,
            values: (0..4_001).map(load).collect(),
        };
        let made = Mstl.fit(&series, &[288]).unwrap().predict(400).unwrap();
        for (step, value) in made.iter().enumerate() {
            assert!(
                (value - load(4_001 + step)).abs() < 3.0,
                "step {step}: {value}"
            );
        }
    }
}
