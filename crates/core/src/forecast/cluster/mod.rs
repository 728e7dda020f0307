//! Many series at once: those whose curves are alike share a fit, each with its own level and its own errors.
//!
//! As in QB5000 (Ma et al., SIGMOD 2018), where clusters of queries are forecast instead of queries: series are
//! joined to the first cluster whose leader is similar enough by cosine. A cluster is forecast by the mean of
//! its members, each scaled to 1; a member's forecast is that times its own recent level, and its quantiles
//! are calibrated on the errors that this would have made for it. So ten thousand shards cost tens of fits.

mod member;

use std::collections::BTreeMap;

use crate::series::Series;

use super::{
    Forecast, ForecastError, Options, auto, check,
    events::{Effects, Event},
    forecast, prepare,
};

/// Fewer series than this are forecast each by itself.
pub const SHARED_FROM: usize = 32;

/// A history shorter than this is forecast by itself, at little cost.
const MIN_STEPS: usize = 96;

/// The recent steps that curves are compared by, averaged to as many values as the second.
const COMPARED_STEPS: usize = 512;
const COMPARED_VALUES: usize = 256;

/// Curves are alike from this cosine on.
const ALIKE: f64 = 0.98;

/// The clusters, at most; then a series joins the most similar.
const MAX_CLUSTERS: usize = 48;

/// The members that the curve of a cluster is the mean of, at most: more change nothing.
const AVERAGED: usize = 64;

/// Forecasts many series, in their order. Where there are at least [`SHARED_FROM`] with the same step and
/// end, those with similar curves share a fit; others are as from [`forecast`].
pub fn forecast_all(all: &[Series], options: &Options) -> Vec<Result<Forecast, ForecastError>> {
    let mut made: Vec<Option<Result<Forecast, ForecastError>>> = vec![None; all.len()];
    for group in aligned(all).into_values() {
        if group.len() < SHARED_FROM {
            continue;
        }
        for cluster in clusters(all, &group) {
            share(all, &cluster, options, &mut made);
        }
    }
    let alone = |(slot, series): (Option<Result<Forecast, ForecastError>>, &Series)| {
        slot.unwrap_or_else(|| forecast(series, options))
    };
    made.into_iter().zip(all).map(alone).collect()
}

/// As [`forecast_all`], knowing events: see [`super::events`].
pub fn forecast_all_with(
    all: &[Series],
    options: &Options,
    known: &[Event],
) -> Vec<Result<Forecast, ForecastError>> {
    if known.is_empty() {
        return forecast_all(all, options);
    }
    let effects = |series| Effects::of(series, options.season, known);
    let effects: Vec<Option<Effects>> = all.iter().map(effects).collect();
    let without = |(series, effects): (&Series, &Option<Effects>)| match effects {
        Some(effects) => effects.without(series),
        None => series.clone(),
    };
    let plain: Vec<Series> = all.iter().zip(&effects).map(without).collect();
    let mut made = forecast_all(&plain, options);
    for (made, effects) in made.iter_mut().zip(&effects) {
        if let (Ok(made), Some(effects)) = (made, effects) {
            effects.put_on(made);
        }
    }
    made
}

/// The series that are long enough to share a fit, by step, end and order of their length.
fn aligned(all: &[Series]) -> BTreeMap<(i64, i64, u32), Vec<usize>> {
    let mut groups: BTreeMap<(i64, i64, u32), Vec<usize>> = BTreeMap::new();
    for (index, series) in all.iter().enumerate() {
        let usable = series.values.iter().any(|v| v.is_finite() && *v > 0.0);
        if usable && series.len() >= MIN_STEPS {
            let length = series.len().ilog2();
            groups
                .entry((series.step, series.end(), length))
                .or_default()
                .push(index);
        }
    }
    groups
}

/// Divides a group into clusters, each led by the series with the highest load.
fn clusters(all: &[Series], group: &[usize]) -> Vec<Vec<usize>> {
    let of = |index: &usize| {
        all.get(*index)
            .map(|series| (*index, level(series), shape(series)))
    };
    let mut shapes: Vec<(usize, f64, Vec<f64>)> = group.iter().filter_map(of).collect();
    shapes.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut found: Vec<(Vec<f64>, Vec<usize>)> = Vec::new();
    for (index, _, shape) in shapes {
        let mut best = (f64::NEG_INFINITY, 0);
        for (number, (leader, _)) in found.iter().enumerate() {
            let similarity = super::linear::dot(leader, &shape);
            if similarity > best.0 {
                best = (similarity, number);
            }
        }
        let joins = best.0 >= ALIKE || found.len() >= MAX_CLUSTERS;
        match found.get_mut(best.1).filter(|_| joins) {
            Some((_, members)) => members.push(index),
            None => found.push((shape, vec![index])),
        }
    }
    found.into_iter().map(|(_, members)| members).collect()
}

/// The mean of the recent usable values.
fn level(series: &Series) -> f64 {
    let recent = series
        .values
        .iter()
        .rev()
        .take(COMPARED_STEPS)
        .filter(|v| v.is_finite() && **v >= 0.0);
    let (mut sum, mut count) = (0.0, 0.0_f64);
    for value in recent {
        sum += value;
        count += 1.0;
    }
    sum / count.max(1.0)
}

/// The recent curve, averaged, with length 1.
fn shape(series: &Series) -> Vec<f64> {
    let recent = series.len().min(COMPARED_STEPS);
    let width = (recent / COMPARED_VALUES).max(1);
    let values = series
        .values
        .get(series.len() - recent..)
        .unwrap_or_default();
    let usual = level(series);
    let block = |block: &[f64]| {
        let sum: f64 = block
            .iter()
            .map(|v| {
                if v.is_finite() && *v >= 0.0 {
                    *v
                } else {
                    usual
                }
            })
            .sum();
        sum / block.len().max(1) as f64
    };
    // From the end, so that series of different lengths are compared at the same times.
    let mut shape: Vec<f64> = values
        .rchunks(width)
        .take(COMPARED_VALUES)
        .map(block)
        .collect();
    let length = super::linear::dot(&shape, &shape)
        .sqrt()
        .max(f64::MIN_POSITIVE);
    shape.iter_mut().for_each(|v| *v /= length);
    shape
}

/// Forecasts a cluster by its mean curve. A cluster of one, and one whose curve has no forecast, are left out.
fn share(
    all: &[Series],
    members: &[usize],
    options: &Options,
    made: &mut [Option<Result<Forecast, ForecastError>>],
) {
    let [first, _, ..] = members else { return };
    let fitted = check(options).and_then(|()| {
        let curve = mean_curve(all, members, *first)?;
        let history = prepare::prepare(&curve, options.season)?;
        let choice = auto::choose(&history, options)?;
        Ok((history, choice))
    });
    let Ok((history, choice)) = fitted else {
        return;
    };
    if choice.errors.tested.at.is_empty() {
        return;
    }
    for index in members {
        let (Some(series), Some(slot)) = (all.get(*index), made.get_mut(*index)) else {
            continue;
        };
        *slot = Some(Ok(member::forecast(series, &history, &choice)));
    }
}

/// The mean of the first members, each divided by its level; as long as the shortest of them.
fn mean_curve(all: &[Series], members: &[usize], first: usize) -> Result<Series, ForecastError> {
    let averaged = || {
        members
            .iter()
            .take(AVERAGED)
            .filter_map(|index| all.get(*index))
    };
    let length = averaged().map(Series::len).min().unwrap_or(0);
    let mut sums = vec![(0.0, 0.0); length];
    for series in averaged() {
        let level = level(series).max(f64::MIN_POSITIVE);
        let recent = series.values.iter().skip(series.len() - length);
        for (slot, value) in sums
            .iter_mut()
            .zip(recent)
            .filter(|(_, v)| v.is_finite() && **v >= 0.0)
        {
            slot.0 += value / level;
            slot.1 += 1.0;
        }
    }
    let leader = all.get(first).ok_or(ForecastError::NoData)?;
    let skipped = i64::try_from(leader.len() - length).unwrap_or(0);
    Ok(Series {
        start: leader
            .start
            .saturating_add(leader.step.saturating_mul(skipped)),
        step: leader.step,
        values: sums.into_iter().map(|(sum, count)| sum / count).collect(),
    })
}
