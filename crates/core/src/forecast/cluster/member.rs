//! What a cluster's forecast says of one of its members: times its own level, with quantiles from its own errors.

use crate::series::Series;

use super::super::{
    Forecast,
    auto::Choice,
    prepare::History,
    quantiles::{self, Errors},
    skill,
    spread::Tested,
};

/// The steps that a member's level is taken from, at least; else two seasons.
const LEVEL_STEPS: usize = 24;

/// One member beside the curve of its cluster, over the same steps.
struct Beside<'a> {
    values: Vec<f64>,
    curve: &'a [f64],
    /// Sums of the values and of the curve before each step, where the value is known.
    sums: Vec<(f64, f64)>,
    window: usize,
}

impl<'a> Beside<'a> {
    fn new(series: &Series, history: &'a History, scale: f64) -> Self {
        let curve = history.series.values.as_slice();
        let skipped = series.len().saturating_sub(curve.len());
        let usable = |v: &f64| {
            if v.is_finite() && *v >= 0.0 {
                *v / scale
            } else {
                f64::NAN
            }
        };
        let mut values: Vec<f64> = series.values.iter().skip(skipped).map(usable).collect();
        let missing = curve.len() - values.len();
        values.splice(0..0, std::iter::repeat_n(f64::NAN, missing));
        let mut sums = vec![(0.0, 0.0)];
        let mut sum = (0.0, 0.0);
        for (value, curve) in values.iter().zip(curve) {
            if !value.is_nan() {
                sum = (sum.0 + value, sum.1 + curve);
            }
            sums.push(sum);
        }
        let season = history.seasons.first().copied().unwrap_or(0);
        Self {
            values,
            curve,
            sums,
            window: (2 * season).max(LEVEL_STEPS),
        }
    }

    /// The member's level relative to the curve's before a step.
    fn ratio(&self, at: usize) -> f64 {
        let sum = |at: usize| {
            self.sums
                .get(at.min(self.curve.len()))
                .copied()
                .unwrap_or((0.0, 0.0))
        };
        let (now, then) = (sum(at), sum(at.saturating_sub(self.window)));
        if now.1 > then.1 {
            (now.0 - then.0) / (now.1 - then.1)
        } else {
            0.0
        }
    }

    /// The errors of the curve's forecasts, times the member's level.
    fn errors(&self, tested: &Tested) -> Vec<Vec<f64>> {
        let of_origin = |(origin, forecasts): (&usize, &Vec<f64>)| {
            let ratio = self.ratio(*origin);
            let values = self.values.iter().skip(*origin);
            values
                .zip(forecasts)
                .map(|(value, forecast)| value - ratio * forecast)
                .collect()
        };
        tested
            .at
            .iter()
            .zip(&tested.forecasts)
            .map(of_origin)
            .collect()
    }

    /// The mean absolute errors of repeating the last season, and of the level before each origin.
    fn simple_errors(&self, tested: &Tested) -> (f64, f64) {
        let season = tested.season.max(1);
        let (mut repeated, mut flat, mut count) = (0.0, 0.0, 0.0_f64);
        for (origin, forecasts) in tested.at.iter().zip(&tested.forecasts) {
            let window = origin.saturating_sub(self.window)..*origin;
            let before = self
                .values
                .get(window)
                .unwrap_or_default()
                .iter()
                .filter(|v| !v.is_nan());
            let level = before.clone().sum::<f64>() / before.count().max(1) as f64;
            for (step, _) in forecasts.iter().enumerate() {
                let then = (origin + step % season)
                    .checked_sub(season)
                    .and_then(|at| self.values.get(at));
                if let (Some(value), Some(then)) = (self.values.get(origin + step), then)
                    && !value.is_nan()
                    && !then.is_nan()
                {
                    repeated += (value - then).abs();
                    flat += (value - level).abs();
                    count += 1.0;
                }
            }
        }
        (repeated / count.max(1.0), flat / count.max(1.0))
    }
}

/// The forecast of a member. Skill and confidence compare absolute errors.
pub(super) fn forecast(series: &Series, history: &History, choice: &Choice) -> Forecast {
    let largest = series
        .values
        .iter()
        .filter(|v| v.is_finite())
        .fold(0.0_f64, |m, v| m.max(*v));
    let scale = if largest > 0.0 { largest } else { 1.0 };
    let beside = Beside::new(series, history, scale);
    let errors = beside.errors(&choice.errors.tested);
    let (mut wrong, mut measured, mut count) = (0.0, 0.0, 0.0_f64);
    for (origin, errors) in choice.errors.tested.at.iter().zip(&errors) {
        for (error, value) in errors
            .iter()
            .zip(beside.values.iter().skip(*origin))
            .filter(|(e, _)| !e.is_nan())
        {
            wrong += error.abs();
            measured += value.abs();
            count += 1.0;
        }
    }
    let (repeated, flat) = beside.simple_errors(&choice.errors.tested);
    let loss = wrong / count.max(1.0);
    let ratio = beside.ratio(history.series.len());
    let points: Vec<f64> = choice
        .points
        .iter()
        .map(|point| (ratio * point).max(0.0))
        .collect();
    let tested = Tested {
        errors,
        ..scaled(&choice.errors.tested, &beside)
    };
    let errors = Errors {
        tested,
        one_step: Vec::new(),
        level: ratio * choice.errors.level,
    };
    let bands = quantiles::around(&points, history.series.len(), &errors);
    let rescale = |values: Vec<f64>| {
        values
            .into_iter()
            .map(|v| (v * scale).clamp(0.0, f64::MAX))
            .collect()
    };
    let close = if wrong <= skill::NEGLIGIBLE {
        1.0
    } else {
        1.0 - wrong / f64::max(measured, f64::MIN_POSITIVE)
    };
    Forecast {
        start: series.end(),
        step: series.step,
        q50: rescale(bands.q50),
        q90: rescale(bands.q90),
        peak: rescale(bands.peak),
        q99: rescale(bands.q99),
        model: choice.model.to_owned(),
        skill: skill::skill(loss, repeated),
        confidence: skill::skill(loss, flat).max(close).clamp(0.0, 1.0),
        seasons: history.seasons.clone(),
    }
}

/// What was forecast for the curve, at the member's level.
fn scaled(tested: &Tested, beside: &Beside) -> Tested {
    let of_origin = |(origin, forecasts): (&usize, &Vec<f64>)| {
        let ratio = beside.ratio(*origin);
        forecasts.iter().map(|forecast| ratio * forecast).collect()
    };
    Tested {
        forecasts: tested
            .at
            .iter()
            .zip(&tested.forecasts)
            .map(of_origin)
            .collect(),
        errors: Vec::new(),
        at: tested.at.clone(),
        weights: tested.weights.clone(),
        season: tested.season,
    }
}
