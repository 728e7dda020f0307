//! Regression on profiles: what is usual at a time of day and of the week, and how far the load has been from it.
//!
//! A smaller sister of [`super::spar`]: where that has a coefficient per day and per recent step, this has one per
//! *exponentially weighted mean* of them, a dozen in all. Few coefficients need few rows, which serves short and
//! noisy histories. Fitted to absolute errors: bursts are not usual.
//! A member of the ensemble only.

use crate::series::Series;

use super::{
    Fitted, ForecastError, Forecaster,
    direct::{self, Features, Look},
};

/// The weights of the latest day in the profiles of the day.
const DAY_WEIGHTS: [f64; 3] = [1.0, 0.4, 0.12];

/// The weights of the latest week in the profiles of the week.
const WEEK_WEIGHTS: [f64; 2] = [1.0, 0.35];

/// The seasons over which recent deviations are averaged; 0 is the last step alone.
const SPANS: [f64; 5] = [0.0, 1.0 / 24.0, 0.17, 0.6, 2.0];

/// The part of a season to either side over which times of day are averaged in the smoothest profile.
const SMOOTHED: usize = 48;

/// The rows that a coefficient needs.
const ROWS_PER_COEFFICIENT: usize = 4;

/// The seasons that are enough to know what is usual.
const MEMORY: usize = 12;

/// Profile regression. Needs a season; the longer one is left out where the history is short.
#[derive(Debug, Clone, Copy)]
pub(super) struct Profile {
    /// How far ahead it will be asked to forecast, in steps.
    pub horizon: usize,
}

/// The seasons it looks at.
#[derive(Debug, Clone, PartialEq)]
struct Seasons {
    day: usize,
    week: Option<usize>,
}

impl Forecaster for Profile {
    fn name(&self) -> &'static str {
        Seasons::NAME
    }

    fn fit(&self, series: &Series, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        direct::alone(self, series, seasons)
    }

    fn fit_each(
        &self,
        series: &Series,
        seasons: &[usize],
        ends: &[usize],
    ) -> Result<Vec<Box<dyn Fitted>>, ForecastError> {
        let looks = ends.iter().map(|end| Seasons::of(*end, seasons));
        let looks = looks.collect::<Result<Vec<_>, _>>()?;
        direct::fit_each(&looks, &series.fill_gaps().values, ends, self.horizon)
    }
}

impl Seasons {
    /// Those that so many values are enough for.
    fn of(found: usize, seasons: &[usize]) -> Result<Self, ForecastError> {
        let day = seasons.first().copied();
        let day = day.ok_or(ForecastError::NoSeason { model: Self::NAME })?;
        let size = 2 + DAY_WEIGHTS.len() + WEEK_WEIGHTS.len() + SPANS.len();
        let needed = |longest: usize| longest + 2 * day + ROWS_PER_COEFFICIENT * size;
        let week = seasons.get(1).copied();
        let week = week.filter(|week| needed(*week) <= found);
        if needed(day) > found {
            return Err(ForecastError::TooShort {
                model: Self::NAME,
                needed: needed(day),
                found,
            });
        }
        Ok(Self { day, week })
    }
}

impl Look for Seasons {
    const NAME: &'static str = "profile";
    const PASSES: usize = 2;
    type Features = Usual;

    fn at(&self, logs: &[f64]) -> Usual {
        Usual::of(logs, self.day, self.week)
    }

    fn direct(&self) -> usize {
        self.day
    }

    fn memory(&self) -> usize {
        MEMORY * self.week.unwrap_or(self.day)
    }
}

/// What features are made of. All of it looks back: what it says of a step a season ahead, or of the deviations at
/// a step, comes from values up to then, so that one of these serves all origins.
struct Usual {
    /// Per profile, from the first step to a season after the last.
    profiles: Vec<Vec<f64>>,
    /// Per span, at each step.
    deviations: Vec<Vec<f64>>,
    /// How many of the first profiles are fast: the slow ones are what is expected before anything is fitted.
    fast: usize,
    /// The first step with a whole season before it.
    first: usize,
}

impl Usual {
    fn of(logs: &[f64], day: usize, week: Option<usize>) -> Self {
        let until = logs.len() + day;
        let of_day = |weight: &f64| profile(logs, day, *weight, until);
        let mut profiles: Vec<Vec<f64>> = DAY_WEIGHTS.iter().map(of_day).collect();
        let slow = profiles.last().cloned().unwrap_or_default();
        let smooth = smoothed(&slow, day);
        let mut expected = smooth.clone();
        profiles.push(smooth);
        let mut fast = 1;
        if let Some(week) = week {
            fast = DAY_WEIGHTS.len();
            for weight in WEEK_WEIGHTS {
                let mut weekly = profile(logs, week, weight, until);
                // In the first week there is only the day.
                weekly
                    .iter_mut()
                    .zip(&slow)
                    .take(week)
                    .for_each(|(w, d)| *w = *d);
                profiles.push(weekly);
            }
            let weekly = profiles.last().into_iter().flatten();
            expected
                .iter_mut()
                .zip(weekly)
                .for_each(|(e, w)| *e = (*e + w) / 2.0);
        }
        let differences: Vec<f64> = logs.iter().zip(&expected).map(|(v, e)| v - e).collect();
        let mean = |span: &f64| recent_means(&differences, span * day as f64, day);
        Self {
            deviations: SPANS.iter().map(mean).collect(),
            profiles,
            fast,
            first: week.unwrap_or(day) + day,
        }
    }
}

impl Features for Usual {
    fn size(&self) -> usize {
        1 + self.profiles.len() + self.deviations.len()
    }

    fn first(&self) -> usize {
        self.first
    }

    /// At most a season ahead.
    fn write(&self, last: usize, ahead: usize, into: &mut Vec<f64>) {
        into.clear();
        into.push(1.0);
        let at = |curve: &Vec<f64>, index: usize| curve.get(index).copied().unwrap_or(0.0);
        into.extend(self.profiles.iter().map(|curve| at(curve, last + ahead)));
        into.extend(self.deviations.iter().map(|curve| at(curve, last)));
    }

    /// The mean of the slow profiles.
    fn prior(&self) -> Vec<f64> {
        let slow = self.profiles.len() - self.fast;
        let share = 1.0 / slow.max(1) as f64;
        let of = |index: usize| if index > self.fast { share } else { 0.0 };
        (0..=self.profiles.len()).map(of).collect()
    }
}

/// At each step before `until` the exponentially weighted mean of the values one, two … seasons before; in the
/// first season the values themselves.
fn profile(logs: &[f64], season: usize, weight: f64, until: usize) -> Vec<f64> {
    let mut made: Vec<f64> = Vec::with_capacity(until);
    for at in 0..until {
        let value = |at: usize| logs.get(at).copied().unwrap_or(0.0);
        made.push(match at.checked_sub(season) {
            None => value(at),
            Some(back) if back < season => value(back),
            Some(back) => {
                let before = made.get(back).copied().unwrap_or(0.0);
                before + weight * (value(back) - before)
            }
        });
    }
    made
}

/// The mean over the times of day around each; of those after it from one season before, because they are not
/// known a whole season ahead.
fn smoothed(curve: &[f64], season: usize) -> Vec<f64> {
    let reach = (season / SMOOTHED).max(1);
    let mut sums = vec![0.0];
    let mut sum = 0.0;
    sums.extend(curve.iter().map(|value| {
        sum += value;
        sum
    }));
    let between = |from: usize, to: usize| {
        let at = |index: usize| sums.get(index).copied().unwrap_or(sum);
        (at(to) - at(from), (to - from) as f64)
    };
    let mean = |at: usize| {
        let (mut sum, mut count) = between(at.saturating_sub(reach), at + 1);
        if let Some(back) = at.checked_sub(season) {
            let later = between(back + 1, back + 1 + reach);
            (sum, count) = (sum + later.0, count + later.1);
        }
        sum / count
    };
    (0..curve.len()).map(mean).collect()
}

/// The exponentially weighted mean of the differences up to each step, over about `span` steps; those of the first
/// season are not known.
fn recent_means(differences: &[f64], span: f64, season: usize) -> Vec<f64> {
    let weight = 2.0 / (span.max(1.0) + 1.0);
    let mut mean = 0.0;
    let step = |(at, difference): (usize, &f64)| {
        if at >= season {
            mean += weight * (difference - mean);
        }
        mean
    };
    differences.iter().enumerate().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    fn is_burst(hour: usize) -> bool {
        (hour as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57 == 0
    }

    fn load(hour: usize) -> f64 {
        let weekend = if hour / 24 % 7 >= 5 { 0.6 } else { 1.0 };
        let burst = if is_burst(hour) { 900.0 } else { 0.0 };
        100.0 * weekend * (1.5 + (hour as f64 * TAU / 24.0).sin()) + burst
    }

    fn fitted(count: usize, seasons: &[usize]) -> Box<dyn Fitted> {
        let series = Series {
            start: 0,
            step: 1,
            values: (0..count).map(load).collect(),
        };
        Profile { horizon: 24 }.fit(&series, seasons).unwrap()
    }

    #[test]
    fn a_week_is_followed_whatever_bursts_there_were() {
        let made = fitted(700, &[24, 168]).predict(72).unwrap();
        let steps = (0..72).filter(|step| !is_burst(700 + step));
        let (mut wrong, mut measured) = (0.0, 0.0);
        for step in steps {
            wrong += (made[step] - load(700 + step)).abs();
            measured += load(700 + step);
        }
        assert!(wrong < 0.05 * measured, "{wrong} of {measured}");
    }

    #[test]
    fn a_curve_sees_nothing_after_its_origin() {
        let model = fitted(600, &[24, 168]);
        let mut values: Vec<f64> = (0..700).map(load).collect();
        let before = model.curves(&values, &[610, 640], 30).unwrap();
        values.iter_mut().skip(640).for_each(|v| *v *= 50.0);
        assert_eq!(
            model.curves(&values, &[640, 610], 30).unwrap(),
            [before[1].clone(), before[0].clone()]
        );
    }

    #[test]
    fn without_a_season_or_with_too_little_there_is_an_error() {
        let fit = |values: Vec<f64>, seasons: &[usize]| {
            let series = Series {
                start: 0,
                step: 1,
                values,
            };
            Profile { horizon: 5 }.fit(&series, seasons).map(|_| ())
        };
        assert_eq!(
            fit(vec![1.0; 500], &[]),
            Err(ForecastError::NoSeason {
                model: Seasons::NAME
            })
        );
        assert!(matches!(
            fit(vec![1.0; 60], &[24]),
            Err(ForecastError::TooShort { .. })
        ));
        assert!(matches!(
            fit(vec![0.0; 500], &[24]),
            Err(ForecastError::DoesNotFit { .. })
        ));
        assert_eq!(fit(vec![5.0; 500], &[24]), Ok(()));
    }
}
