//! What the loads of many shards say of their future: forecast together, where alike curves share a fit.

use std::collections::BTreeMap;

use repart_core::forecast::{Forecast, cluster};
use repart_core::plan::input::{Curve, Shard};
use repart_core::series::{Sample, Series};

use crate::decide::options::Options;
use crate::decide::table::season;
use crate::error::{Error, Result};
use crate::pg::time::{self, SECOND};

/// A history that ended longer ago than this many steps, and than [`STALE_SPAN`], says nothing about now.
const STALE_STEPS: i64 = 10;
const STALE_SPAN: i64 = 3_600 * SECOND;

/// The samples that the load now is the median of.
const NOW_SAMPLES: usize = 3;

/// What the load of a shard says.
pub struct Foreseen {
    /// The load now; `None` without samples, and if they are too old to say anything.
    now: Option<f64>,
    /// The load in regular steps; `None` for fewer than two samples, and if they are too old.
    series: Option<Series>,
    /// The forecast of the series.
    made: Option<Forecast>,
    /// The time since the last sample, µs.
    pub lag: i64,
}

impl Foreseen {
    fn observed(load: &[Sample], options: &Options) -> Self {
        let last = load.last().map(|sample| sample.at);
        let lag = last.map_or(0, |last| time::now().saturating_sub(last));
        let step = options.step(load);
        let series = step.and_then(|step| Series::from_samples(load, step).ok());
        let is_recent =
            |series: &Series| lag <= (STALE_STEPS.saturating_mul(series.step)).max(STALE_SPAN);
        let is_stale = series.as_ref().is_some_and(|series| !is_recent(series));
        Self {
            now: last.filter(|_| !is_stale).map(|_| load_now(load)),
            series: series.filter(is_recent),
            made: None,
            lag,
        }
    }

    /// The forecast, if there is one.
    pub fn into_curve(self) -> Option<Curve> {
        self.made.map(curve)
    }

    /// Fills in what it says of a shard; returns the forecast.
    pub fn fill(self, shard: &mut Shard) -> Option<Forecast> {
        if let Some(now) = self.now {
            shard.load_now = now;
        }
        let (series, made) = (self.series?, self.made?);
        shard.history_span = series.end().saturating_sub(series.start);
        shard.recent_peak = recent_peak(&series, season(&made));
        shard.forecast = Some(curve(made.clone()));
        Some(made)
    }
}

/// What the loads of shards, given with their names, say; in their order.
pub fn foresee(loads: &[(&str, Vec<Sample>)], options: &Options) -> Result<Vec<Foreseen>> {
    let observed = |(_, load): &(&str, Vec<Sample>)| Foreseen::observed(load, options);
    let mut all: Vec<Foreseen> = loads.iter().map(observed).collect();
    // By step, because the horizon is so many steps; all reach as far as the one with the oldest sample.
    let mut by_step: BTreeMap<i64, (i64, Vec<usize>)> = BTreeMap::new();
    for (index, one) in all.iter().enumerate() {
        if let Some(series) = &one.series {
            let (lag, members) = by_step.entry(series.step).or_default();
            *lag = one.lag.max(*lag);
            members.push(index);
        }
    }
    for (step, (lag, members)) in by_step {
        let asked = options.for_step(step, lag)?;
        let series: Vec<Series> = members
            .iter()
            .filter_map(|index| all.get(*index)?.series.clone())
            .collect();
        let forecasts = cluster::forecast_all_with(&series, &asked, &options.events);
        for (index, made) in members.into_iter().zip(forecasts) {
            let failed = |source| Error::Forecast {
                shard: loads.get(index).map_or("", |(name, _)| *name).to_owned(),
                source,
            };
            let made = made.map_err(failed)?;
            if let Some(one) = all.get_mut(index) {
                one.made = Some(made);
            }
        }
    }
    Ok(all)
}

fn curve(made: Forecast) -> Curve {
    let season = season(&made);
    Curve {
        start: made.start,
        step: made.step,
        q50: made.q50,
        q90: made.q90,
        q99: made.q99,
        confidence: made.confidence,
        model: made.model,
        season,
    }
}

/// The highest value of the last season; of the whole history where there is none.
fn recent_peak(series: &Series, season: Option<i64>) -> f64 {
    let steps = season
        .and_then(|season| usize::try_from(season / series.step.max(1)).ok())
        .unwrap_or(series.len());
    let recent = series
        .values
        .get(series.len().saturating_sub(steps.max(1))..)
        .unwrap_or_default();
    recent
        .iter()
        .copied()
        .filter(|value| value.is_finite())
        .fold(0.0, f64::max)
}

/// The median of the last samples.
fn load_now(samples: &[Sample]) -> f64 {
    let mut latest: Vec<f64> = samples
        .iter()
        .rev()
        .take(NOW_SAMPLES)
        .map(|sample| sample.value)
        .collect();
    latest.sort_by(f64::total_cmp);
    latest.get(latest.len() / 2).copied().unwrap_or(0.0)
}
