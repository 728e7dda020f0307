//! From a raw series to the history that the models see: clean, complete, bounded and scaled.

use crate::series::{Series, fill_linearly, usable_or_nan};

use super::{ForecastError, Season, outage, regime, seasons, shift};

/// The steps that seasons are looked for in and models are fitted to: the last so many, 24 weeks of hours. With less,
/// a forecast of the next hour is worse.
pub const MAX_HISTORY: usize = 4_096;

/// Microseconds per day.
const DAY: i64 = 86_400_000_000;

const DAYS_PER_WEEK: usize = 7;

/// The days of the clock that there must be to try it as a season.
const MIN_DAYS: usize = 3;

/// A history ready for the models: no gap, in the order of 1, not longer than [`MAX_HISTORY`].
#[derive(Debug, Clone)]
pub struct History {
    /// The values, divided by `scale`; at least one.
    pub series: Series,
    /// Whether each value was measured; what was filled in is never used to judge a model.
    pub observed: Vec<bool>,
    /// What one unit of the values is, in the unit of the original series; positive.
    pub scale: f64,
    /// The seasons, in steps, ascending; each occurs at least once in full.
    pub seasons: Vec<usize>,
    /// A day of the clock where no season was found: noise may hide it, and the ensemble tries it all the same.
    pub day: Option<usize>,
}

impl History {
    /// A value in the unit of the original series; finite for every finite input.
    pub fn rescale(&self, value: f64) -> f64 {
        (value * self.scale).clamp(0.0, f64::MAX)
    }
}

/// Cleans a series, finds its seasons, fills its gaps and cuts it to the length that models are fitted to.
///
/// Gaps longer than a quarter of the shortest season are filled from one season before, others
/// linearly. Values are divided by the largest, because MSTL works in single precision. What came before
/// a shift of the level is brought to the level after it, and what came before a change of the pattern is left
/// out.
///
/// # Errors
/// [`ForecastError::NoData`] without a usable value, [`ForecastError::BadSeason`] for a season of 0.
pub fn prepare(series: &Series, season: Season) -> Result<History, ForecastError> {
    if season == Season::Steps(0) {
        return Err(ForecastError::BadSeason);
    }
    let mut values = recent(series).ok_or(ForecastError::NoData)?;
    let missed = series.values.len() - values.len();
    let largest = values
        .iter()
        .copied()
        .filter(|v| !v.is_nan())
        .fold(0.0, f64::max);
    let scale = if largest > 0.0 { largest } else { 1.0 };
    values.iter_mut().for_each(|v| *v /= scale);
    let mut filled = values.clone();
    fill_linearly(&mut filled);
    let seasons = match season {
        Season::Auto => with_week(seasons::detect(&filled), series.step, values.len()),
        Season::Steps(steps) if steps >= 2 && steps < values.len() => vec![steps],
        Season::Steps(_) => Vec::new(),
    };
    if let Some(season) = seasons.first() {
        outage::forget(&mut values, *season);
    }
    let observed: Vec<bool> = values.iter().map(|v| !v.is_nan()).collect();
    if let Some(season) = seasons.first() {
        fill_from_season(&mut values, *season);
    }
    fill_linearly(&mut values);
    let shortest = seasons.first().copied();
    shift::undo_level_shift(&mut values, shortest.unwrap_or(1));
    let cut = shortest.and_then(|season| regime::begin(&values, season));
    let cut = cut.unwrap_or(0);
    let seasons: Vec<usize> = seasons
        .into_iter()
        .filter(|season| *season <= values.len() - cut)
        .collect();
    let day = match season {
        Season::Auto if seasons.is_empty() => clock_day(series.step, values.len() - cut),
        _ => None,
    };
    let skipped = i64::try_from(missed + cut).unwrap_or(i64::MAX);
    let values = values.split_off(cut);
    Ok(History {
        series: Series {
            start: series
                .start
                .saturating_add(series.step.saturating_mul(skipped)),
            step: series.step,
            values,
        },
        observed: observed.into_iter().skip(cut).collect(),
        scale,
        seasons,
        day,
    })
}

/// A day of the clock, in steps, where there are three of them.
fn clock_day(step: i64, count: usize) -> Option<usize> {
    let day = usize::try_from(DAY / step).ok();
    let is_whole = DAY % step == 0;
    day.filter(|day| is_whole && *day >= seasons::MIN_SEASON && MIN_DAYS * day <= count)
}

/// Adds the week to a day of the clock, where there are three of them: people live by it, and few weeks are not
/// enough to see it in the autocorrelation. What does not help, the ensemble leaves out.
fn with_week(mut seasons: Vec<usize>, step: i64, count: usize) -> Vec<usize> {
    if let [day] = seasons.as_slice()
        && i64::try_from(*day)
            .ok()
            .and_then(|day| day.checked_mul(step))
            == Some(DAY)
        && count >= 3 * DAYS_PER_WEEK * day
    {
        seasons.push(DAYS_PER_WEEK * day);
    }
    seasons
}

/// The last [`MAX_HISTORY`] values from the first usable one on, the others NaN; `None` without any.
fn recent(series: &Series) -> Option<Vec<f64>> {
    let old = series.values.len().saturating_sub(MAX_HISTORY);
    let mut values: Vec<f64> = series
        .values
        .iter()
        .skip(old)
        .copied()
        .map(usable_or_nan)
        .collect();
    let first = values.iter().position(|v| !v.is_nan())?;
    values.drain(..first);
    Some(values)
}

/// Fills gaps longer than a quarter of the season with the values one season earlier.
fn fill_from_season(values: &mut [f64], season: usize) {
    let mut index = season;
    while index < values.len() {
        let missing = |v: &&f64| v.is_nan();
        let gap = values.iter().skip(index).take_while(missing).count();
        if gap * 4 > season {
            for at in index..index + gap {
                let earlier = at.checked_sub(season).and_then(|i| values.get(i)).copied();
                if let (Some(slot), Some(value)) = (values.get_mut(at), earlier) {
                    *slot = value;
                }
            }
        }
        index += gap.max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: Vec<f64>) -> Series {
        Series {
            start: 0,
            step: 1,
            values,
        }
    }

    #[test]
    fn a_long_gap_repeats_the_season_before_it() {
        let mut values: Vec<f64> = (0..96).map(|i| f64::from(i % 24)).collect();
        for slot in values.iter_mut().take(70).skip(50) {
            *slot = f64::NAN;
        }
        let history = prepare(&series(values), Season::Steps(24)).unwrap();
        for (i, value) in history.series.values.iter().enumerate() {
            assert!(
                (history.rescale(*value) - (i % 24) as f64).abs() < 1e-9,
                "step {i}"
            );
        }
        assert_eq!(history.observed.iter().filter(|o| !**o).count(), 20);
    }

    #[test]
    fn leading_gaps_and_old_history_are_cut() {
        let mut values = vec![f64::NAN; 10];
        values.extend((0..20_000).map(f64::from));
        let history = prepare(&series(values), Season::Steps(1)).unwrap();
        assert_eq!(history.series.len(), MAX_HISTORY);
        assert_eq!(history.series.end(), 20_010);
        assert_eq!(
            history.rescale(*history.series.values.last().unwrap()),
            19_999.0
        );
    }

    #[test]
    fn a_season_longer_than_the_history_is_ignored() {
        let history = prepare(&series(vec![1.0; 10]), Season::Steps(10)).unwrap();
        assert!(history.seasons.is_empty());
    }
}
