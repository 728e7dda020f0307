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
    direct::{self, Features, Look},
};

/// The seasons looked back: a week of days.
const MAX_PERIODS: usize = 7;

/// The longer seasons looked back, where there is a longer one: weeks.
const MAX_LONGER: usize = 3;

/// The recent deviations, at most.
const MAX_LAGS: usize = 24;

/// The rows that a coefficient needs.
const ROWS_PER_COEFFICIENT: usize = 3;

/// The steps that are forecast directly without a season; the rest from forecasts.
const DIRECT: usize = 48;

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
#[derive(Debug, Clone, PartialEq)]
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

impl Forecaster for Spar {
    fn name(&self) -> &'static str {
        Shape::NAME
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
        let shape = |end: &usize| {
            Shape::of(*end, seasons).ok_or(ForecastError::TooShort {
                model: Shape::NAME,
                needed: 2 * seasons.first().copied().unwrap_or(0) + 12,
                found: *end,
            })
        };
        let shapes = ends.iter().map(shape).collect::<Result<Vec<_>, _>>()?;
        direct::fit_each(&shapes, &series.fill_gaps().values, ends, self.horizon)
    }
}

impl Look for Shape {
    const NAME: &'static str = "spar";
    const PASSES: usize = 0;
    type Features = Past;

    fn at(&self, logs: &[f64]) -> Past {
        Past {
            deviations: deviations(logs, self),
            logs: logs.to_vec(),
            shape: self.clone(),
        }
    }

    fn direct(&self) -> usize {
        self.direct
    }

    fn memory(&self) -> usize {
        self.reach() * 2 + 1
    }
}

/// What features are made of.
struct Past {
    logs: Vec<f64>,
    deviations: Vec<f64>,
    shape: Shape,
}

impl Features for Past {
    fn size(&self) -> usize {
        self.shape.size()
    }

    fn first(&self) -> usize {
        self.shape.reach()
    }

    fn write(&self, last: usize, ahead: usize, into: &mut Vec<f64>) {
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

    /// The mean of the seasons that deviations are from.
    fn prior(&self) -> Vec<f64> {
        let bases = &self.shape.bases;
        let share = 1.0 / bases.len().max(1) as f64;
        let of = |offset: &usize| if bases.contains(offset) { share } else { 0.0 };
        let offsets = self.shape.offsets.iter().map(of);
        std::iter::once(0.0).chain(offsets).collect()
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
