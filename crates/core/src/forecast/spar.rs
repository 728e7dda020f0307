//! Sparse periodic auto-regression (SPAR): the same phase of the last seasons, plus how the last steps
//! deviated from theirs, with coefficients of their own for each step ahead.
//!
//! y(t+τ) = c + Σₖ aₖ·y(t+τ−kT) + Σⱼ bⱼ·Δy(t−j), where Δy(t−j) = y(t−j) − (1/n)·Σₖ y(t−j−kT).
//! Chen, He, Liu, Lin, Ho and Zhang, *Energy-aware server provisioning … for connection-intensive internet
//! services*, NSDI 2008; Taft et al., *P-Store*, SIGMOD 2018. Least squares with a ridge. Coefficients change
//! smoothly with τ, so they are fitted at some τ only and interpolated. Without a season it is the direct
//! auto-regression. Values are logarithms, see [`super::logarithm`].

use crate::series::Series;

use super::{
    Fitted, ForecastError, Forecaster,
    direct::{self, Knots},
    linear::Regression,
    logarithm::Logarithm,
};

/// The seasons looked back: a week of days.
const MAX_PERIODS: usize = 7;

/// The longer seasons looked back, where there is a longer one: weeks.
const MAX_LONGER: usize = 3;

/// The recent deviations, at most.
const MAX_LAGS: usize = 24;

/// The rows of a regression, at most: beyond, rows are skipped evenly.
const MAX_ROWS: usize = 800;

/// The rows that a coefficient needs.
const ROWS_PER_COEFFICIENT: usize = 3;

/// How much coefficients are shrunk.
const RIDGE: f64 = 1e-3;

/// The steps that are forecast directly without a season; the rest from forecasts.
const DIRECT: usize = 48;

const NAME: &str = "spar";

/// SPAR. Fits as many seasons and deviations as the history has rows for.
#[derive(Debug, Clone, Copy)]
pub struct Spar {
    /// How far ahead it will be asked to forecast, in steps: farther ones are forecast from forecasts.
    pub horizon: usize,
}

impl Default for Spar {
    fn default() -> Self {
        Self {
            horizon: usize::MAX,
        }
    }
}

/// What a forecast looks at.
#[derive(Debug, Clone)]
struct Shape {
    /// How many steps before the target the same phase is, ascending.
    offsets: Vec<usize>,
    /// Those among them that the deviations are from.
    bases: Vec<usize>,
    lags: usize,
    /// The steps that are forecast directly.
    direct: usize,
}

impl Shape {
    /// The largest that leaves enough rows to fit.
    fn of(count: usize, seasons: &[usize]) -> Option<Self> {
        let shortest = seasons.first().copied();
        // Without its season a forecast of a seasonal series is worth nothing a day ahead.
        if shortest.is_some_and(|season| 2 * season >= count) {
            return None;
        }
        let longer = seasons.get(1).copied();
        let lags = MAX_LAGS.min(shortest.unwrap_or(MAX_LAGS));
        let mut tries = Vec::new();
        for weeks in (1..=MAX_LONGER).rev().filter(|_| longer.is_some()) {
            tries.push((MAX_PERIODS, weeks, lags));
        }
        match shortest {
            Some(_) => tries.extend([
                (7, 0, lags),
                (5, 0, lags),
                (3, 0, lags),
                (2, 0, lags),
                (1, 0, lags),
            ]),
            None => tries.push((0, 0, lags)),
        }
        tries
            .extend([lags / 2, lags / 4, 1].map(|lags| (usize::from(shortest.is_some()), 0, lags)));
        tries
            .into_iter()
            .map(|(days, weeks, lags)| {
                Self::with(count, shortest, longer, (days, weeks, lags.max(1)))
            })
            .find(|shape| shape.has_rows(count))
    }

    fn with(
        count: usize,
        day: Option<usize>,
        week: Option<usize>,
        sizes: (usize, usize, usize),
    ) -> Self {
        let (days, weeks, lags) = sizes;
        let multiples = |season: Option<usize>, number: usize| -> Vec<usize> {
            season.map_or(Vec::new(), |season| {
                (1..=number).map(|k| k * season).collect()
            })
        };
        let (days, weeks) = (multiples(day, days), multiples(week, weeks));
        let bases = if weeks.is_empty() {
            days.clone()
        } else {
            weeks.clone()
        };
        let mut offsets: Vec<usize> = days.into_iter().chain(weeks).collect();
        offsets.sort_unstable();
        offsets.dedup();
        let direct = day.unwrap_or_else(|| DIRECT.min(count / 4).max(1));
        Self {
            offsets,
            bases,
            lags,
            direct,
        }
    }

    fn has_rows(&self, count: usize) -> bool {
        count > self.reach() + self.direct + ROWS_PER_COEFFICIENT * self.size()
    }

    /// The coefficients, the intercept among them.
    fn size(&self) -> usize {
        1 + self.offsets.len() + self.lags
    }

    /// The values before the origin that a forecast needs.
    fn reach(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0) + self.lags
    }
}

struct FittedSpar {
    shape: Shape,
    knots: Knots,
    scale: Logarithm,
    values: Vec<f64>,
}

impl Forecaster for Spar {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fit(&self, series: &Series, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        let values = series.fill_gaps().values;
        let found = values.len();
        let shape = Shape::of(found, seasons).ok_or(ForecastError::TooShort {
            model: NAME,
            needed: 2 * seasons.first().copied().unwrap_or(0) + 12,
            found,
        })?;
        let does_not_fit = |reason: &str| ForecastError::DoesNotFit {
            model: NAME,
            reason: reason.to_owned(),
        };
        let scale = Logarithm::of(&values).ok_or_else(|| does_not_fit("all values are zero"))?;
        let logs = scale.to(&values);
        let past = Past::new(&logs, &shape);
        let knots = Knots::fit(shape.direct.min(self.horizon), |ahead| knot(&past, ahead));
        Ok(Box::new(FittedSpar {
            knots: knots.ok_or_else(|| does_not_fit("its regression has no solution"))?,
            shape,
            scale,
            values,
        }))
    }
}

/// What features are made of.
struct Past<'a> {
    logs: &'a [f64],
    deviations: Vec<f64>,
    shape: &'a Shape,
}

impl<'a> Past<'a> {
    fn new(logs: &'a [f64], shape: &'a Shape) -> Self {
        Self {
            deviations: deviations(logs, shape),
            logs,
            shape,
        }
    }

    /// Writes the features for forecasting `ahead` steps after index `last`.
    fn features(&self, last: usize, ahead: usize, into: &mut Vec<f64>) {
        into.clear();
        into.push(1.0);
        let target = last + ahead;
        let value = |offset: &usize| target.checked_sub(*offset).and_then(|at| self.logs.get(at));
        // Seasons before the first value repeat the oldest.
        let mut latest = 0.0;
        into.extend(self.shape.offsets.iter().map(|offset| {
            latest = value(offset).copied().unwrap_or(latest);
            latest
        }));
        into.extend((0..self.shape.lags).map(|j| {
            let deviation = last.checked_sub(j).and_then(|at| self.deviations.get(at));
            deviation.copied().unwrap_or(0.0)
        }));
    }
}

/// Δy at each step; 0 where it has no past. The value itself where there is no season.
fn deviations(values: &[f64], shape: &Shape) -> Vec<f64> {
    let start = shape.bases.last().copied().unwrap_or(0);
    let number = shape.bases.len().max(1) as f64;
    let of = |(at, value): (usize, &f64)| {
        if at < start {
            return 0.0;
        }
        let past = shape.bases.iter().filter_map(|base| values.get(at - base));
        value - past.sum::<f64>() / number
    };
    values.iter().enumerate().map(of).collect()
}

/// Fits the coefficients for one step ahead: intercept, same phases, deviations.
fn knot(past: &Past, ahead: usize) -> Option<Vec<f64>> {
    let shape = past.shape;
    let mut regression = Regression::new(shape.size() - 1);
    let first = shape.reach();
    let end = past.logs.len().checked_sub(ahead)?;
    let stride = end.saturating_sub(first).div_ceil(MAX_ROWS).max(1);
    let mut row = Vec::with_capacity(shape.size());
    // Backwards, so that the latest rows are always among those.
    for last in (first..end).rev().step_by(stride) {
        past.features(last, ahead, &mut row);
        regression.add(&row, *past.logs.get(last + ahead)?, 1.0);
    }
    if regression.rows() < 2 {
        return None;
    }
    let share = 1.0 / shape.bases.len().max(1) as f64;
    let of = |offset: &usize| {
        if shape.bases.contains(offset) {
            share
        } else {
            0.0
        }
    };
    let prior: Vec<f64> = std::iter::once(0.0)
        .chain(shape.offsets.iter().map(of))
        .collect();
    regression.solve(RIDGE, &prior)
}

impl Fitted for FittedSpar {
    fn model(&self) -> &'static str {
        NAME
    }

    fn history(&self) -> &[f64] {
        &self.values
    }

    fn curves(&self, values: &[f64], origins: &[usize], horizon: usize) -> Option<Vec<Vec<f64>>> {
        let logs = self.scale.to(values);
        let shared = Past::new(&logs, &self.shape);
        let block = |past: &Past, count: usize, most: usize| {
            let last = count.saturating_sub(1);
            let features = |ahead: usize, row: &mut Vec<f64>| past.features(last, ahead, row);
            self.knots.block(most, self.scale, features)
        };
        let go_on = |known: &[f64], left: usize| {
            let old = known.len().saturating_sub(self.shape.reach() * 2 + 1);
            let recent = known.get(old..).unwrap_or(known);
            block(&Past::new(recent, &self.shape), recent.len(), left)
        };
        let curve = |origin: &usize| {
            let begin = block(&shared, *origin, horizon);
            let curve = direct::go_on(begin, &logs, *origin, horizon, go_on);
            self.scale.back(curve)
        };
        Some(origins.iter().map(curve).collect())
    }
}
