//! Sparse periodic auto-regression (SPAR): the same phase of the last seasons, plus how the last steps
//! deviated from theirs, with coefficients of their own for each step ahead.
//!
//! y(t+τ) = c + Σₖ aₖ·y(t+τ−kT) + Σⱼ bⱼ·Δy(t−j), where Δy(t−j) = y(t−j) − (1/n)·Σₖ y(t−j−kT).
//! Chen, He, Liu, Lin, Ho and Zhang, *Energy-aware server provisioning … for connection-intensive internet
//! services*, NSDI 2008; Taft et al., *P-Store*, SIGMOD 2018. Least squares with a ridge. Coefficients change
//! smoothly with τ, so they are fitted at some τ only and interpolated. Without a season it is the direct
//! auto-regression.

use crate::series::Series;

use super::{
    Fitted, ForecastError, Forecaster,
    guard::checked,
    linear::{Regression, dot},
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

/// The coefficients at one step ahead: intercept, same phases, deviations.
#[derive(Debug, Clone)]
struct Knot {
    ahead: usize,
    coefficients: Vec<f64>,
}

struct FittedSpar {
    shape: Shape,
    knots: Vec<Knot>,
    /// What is subtracted from all values.
    mean: f64,
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
        let mean = values.iter().map(|v| v / found as f64).sum::<f64>();
        let centred: Vec<f64> = values.iter().map(|v| v - mean).collect();
        let deviations = deviations(&centred, &shape);
        let aheads = aheads(shape.direct.min(self.horizon));
        let fit = |ahead: usize| knot(&centred, &deviations, &shape, ahead);
        let knots: Option<Vec<Knot>> = aheads.into_iter().map(fit).collect();
        let knots = knots.ok_or_else(|| ForecastError::DoesNotFit {
            model: NAME,
            reason: "its regression has no solution".to_owned(),
        })?;
        Ok(Box::new(FittedSpar {
            shape,
            knots,
            mean,
            values,
        }))
    }
}

/// The steps ahead at which coefficients are fitted: dense at first.
fn aheads(direct: usize) -> Vec<usize> {
    let mut chosen = Vec::new();
    let mut next = 1;
    while next < direct {
        chosen.push(next);
        next = (next + 1).max(next * 3 / 2);
    }
    chosen.push(direct);
    chosen
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

/// Writes the features for forecasting `ahead` steps after index `origin`.
fn features(
    values: &[f64],
    deviations: &[f64],
    shape: &Shape,
    origin: usize,
    ahead: usize,
    into: &mut Vec<f64>,
) {
    into.clear();
    into.push(1.0);
    let target = origin + ahead;
    let value = |offset: &usize| target.checked_sub(*offset).and_then(|at| values.get(at));
    // Seasons before the first value repeat the oldest.
    let mut last = 0.0;
    into.extend(shape.offsets.iter().map(|offset| {
        last = value(offset).copied().unwrap_or(last);
        last
    }));
    into.extend((0..shape.lags).map(|j| {
        origin
            .checked_sub(j)
            .and_then(|at| deviations.get(at))
            .copied()
            .unwrap_or(0.0)
    }));
}

/// Fits the coefficients for one step ahead.
fn knot(values: &[f64], deviations: &[f64], shape: &Shape, ahead: usize) -> Option<Knot> {
    let mut regression = Regression::new(shape.size() - 1);
    let first = shape.reach();
    let last = values.len().checked_sub(ahead)?;
    let stride = last.saturating_sub(first).div_ceil(MAX_ROWS).max(1);
    let mut row = Vec::with_capacity(shape.size());
    // Backwards, so that the latest rows are always among those.
    for origin in (first..last).rev().step_by(stride) {
        features(values, deviations, shape, origin, ahead, &mut row);
        regression.add(&row, *values.get(origin + ahead)?, 1.0);
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
    let coefficients = regression.solve(RIDGE, &prior)?;
    Some(Knot {
        ahead,
        coefficients,
    })
}

impl FittedSpar {
    /// The coefficients for one step ahead, interpolated.
    fn at(&self, ahead: usize) -> Option<Vec<f64>> {
        let after = self.knots.iter().position(|knot| knot.ahead >= ahead)?;
        let right = self.knots.get(after)?;
        if right.ahead == ahead {
            return Some(right.coefficients.clone());
        }
        let left = self.knots.get(after.checked_sub(1)?)?;
        let part = (ahead - left.ahead) as f64 / (right.ahead - left.ahead) as f64;
        let pairs = left.coefficients.iter().zip(&right.coefficients);
        Some(pairs.map(|(l, r)| l + part * (r - l)).collect())
    }

    /// The forecast after the end of `values`, which are extended by it block by block.
    fn extend(&self, values: &[f64], horizon: usize) -> Vec<f64> {
        let keep = self.shape.reach() * 2 + 1;
        let mut known: Vec<f64> = values
            .iter()
            .skip(values.len().saturating_sub(keep))
            .map(|v| v - self.mean)
            .collect();
        let direct = self.knots.last().map_or(1, |knot| knot.ahead);
        let coefficients: Vec<Vec<f64>> = (1..=direct.min(horizon))
            .map_while(|ahead| self.at(ahead))
            .collect();
        let mut made = Vec::with_capacity(horizon);
        let mut row = Vec::new();
        while made.len() < horizon && !coefficients.is_empty() {
            let deviations = deviations(&known, &self.shape);
            let origin = known.len().saturating_sub(1);
            let mut block = Vec::with_capacity(direct);
            for (index, coefficients) in coefficients.iter().enumerate().take(horizon - made.len())
            {
                features(
                    &known,
                    &deviations,
                    &self.shape,
                    origin,
                    index + 1,
                    &mut row,
                );
                block.push(dot(coefficients, &row));
            }
            known.extend(&block);
            made.extend(block);
        }
        made.into_iter().map(|v| v + self.mean).collect()
    }
}

impl Fitted for FittedSpar {
    fn predict(&self, horizon: usize) -> Result<Vec<f64>, ForecastError> {
        checked(NAME, self.extend(&self.values, horizon))
    }

    fn predict_after(
        &self,
        values: &[f64],
        horizon: usize,
    ) -> Option<Result<Vec<f64>, ForecastError>> {
        Some(checked(NAME, self.extend(values, horizon)))
    }
}
