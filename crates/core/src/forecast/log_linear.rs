//! Linear regression on lags of the logarithm, one step ahead, iterated: the last steps, the same time of
//! the last days and of the last weeks.
//!
//! The linear model of QB5000 (Ma et al., *Query-based workload forecasting for self-driving database
//! management systems*, SIGMOD 2018). Logarithms, because load varies in proportion to its level.

use crate::series::Series;

use super::{
    Fitted, ForecastError, Forecaster,
    linear::{Regression, dot},
    logarithm::Logarithm,
};

/// The last steps that it looks at.
const NEAR: usize = 12;

/// The days that it looks back.
const DAYS: usize = 7;

/// The weeks that it looks back.
const WEEKS: usize = 2;

/// The rows of the regression, at most: the latest.
const MAX_ROWS: usize = 2_000;

/// The rows that a coefficient needs.
const ROWS_PER_COEFFICIENT: usize = 4;

/// How much coefficients are shrunk.
const RIDGE: f64 = 1e-3;

const NAME: &str = "log_linear";

/// Log-linear regression on lags. Lags that the history has too few rows for are left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogLinear;

struct FittedLogLinear {
    lags: Vec<usize>,
    coefficients: Vec<f64>,
    scale: Logarithm,
    values: Vec<f64>,
}

impl Forecaster for LogLinear {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fit(&self, series: &Series, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        let values = series.fill_gaps().values;
        let found = values.len();
        let lags = lags(found, seasons).ok_or(ForecastError::TooShort {
            model: NAME,
            needed: 12,
            found,
        })?;
        let does_not_fit = |reason: &str| ForecastError::DoesNotFit {
            model: NAME,
            reason: reason.to_owned(),
        };
        let scale = Logarithm::of(&values).ok_or_else(|| does_not_fit("all values are zero"))?;
        let coefficients = regress(&scale.to(&values), &lags);
        Ok(Box::new(FittedLogLinear {
            lags,
            coefficients: coefficients
                .ok_or_else(|| does_not_fit("its regression has no solution"))?,
            scale,
            values,
        }))
    }
}

/// The lags that `count` values are enough for, ascending; `None` for too few values for any.
fn lags(count: usize, seasons: &[usize]) -> Option<Vec<usize>> {
    let day = seasons.first().copied();
    let week = seasons.get(1).copied();
    let near = || 1..=NEAR.min(count / 8);
    let days = |days: usize| {
        let around = day.into_iter().flat_map(move |day| [day - 1, day, day + 1]);
        around.chain(
            day.into_iter()
                .flat_map(move |day| (2..=days).map(move |k| k * day)),
        )
    };
    let weeks = |weeks: usize| {
        let around = week.into_iter().flat_map(|week| [week - 1, week, week + 1]);
        around.chain(
            week.into_iter()
                .flat_map(move |week| (2..=weeks).map(move |k| k * week)),
        )
    };
    let tries: [Vec<usize>; 6] = [
        near().chain(days(DAYS)).chain(weeks(WEEKS)).collect(),
        near().chain(days(DAYS)).chain(weeks(1)).collect(),
        near().chain(days(DAYS)).collect(),
        near().chain(days(3)).collect(),
        near().chain(days(1)).collect(),
        near().collect(),
    ];
    tries.into_iter().find_map(|mut lags| {
        lags.sort_unstable();
        lags.dedup();
        let longest = *lags.last()?;
        // As many rows as the longest lag, or a whole cycle of it would stand for all.
        let rows = count.checked_sub(longest)?;
        (rows >= ROWS_PER_COEFFICIENT * lags.len() && 2 * rows >= longest).then_some(lags)
    })
}

fn regress(values: &[f64], lags: &[usize]) -> Option<Vec<f64>> {
    let longest = lags.last().copied()?;
    let first = longest.max(values.len().saturating_sub(MAX_ROWS));
    let mut regression = Regression::new(lags.len());
    let mut row = Vec::with_capacity(lags.len() + 1);
    for at in first..values.len() {
        features(values, lags, at, &mut row);
        regression.add(&row, *values.get(at)?, 1.0);
    }
    regression.solve(RIDGE, &[])
}

fn features(values: &[f64], lags: &[usize], at: usize, into: &mut Vec<f64>) {
    into.clear();
    into.push(1.0);
    into.extend(lags.iter().map(|lag| {
        at.checked_sub(*lag)
            .and_then(|at| values.get(at))
            .copied()
            .unwrap_or(0.0)
    }));
}

impl FittedLogLinear {
    /// The curve after these logarithms.
    fn extend(&self, logs: &[f64], horizon: usize) -> Vec<f64> {
        let longest = self.lags.last().copied().unwrap_or(1);
        let recent = logs.iter().skip(logs.len().saturating_sub(longest));
        let mut known: Vec<f64> = recent.copied().collect();
        let past = known.len();
        let mut row = Vec::with_capacity(self.lags.len() + 1);
        for _ in 0..horizon {
            features(&known, &self.lags, known.len(), &mut row);
            known.push(self.scale.limited(dot(&self.coefficients, &row)));
        }
        self.scale.back(known.into_iter().skip(past))
    }
}

impl Fitted for FittedLogLinear {
    fn model(&self) -> &'static str {
        NAME
    }

    fn history(&self) -> &[f64] {
        &self.values
    }

    fn curves(&self, values: &[f64], origins: &[usize], horizon: usize) -> Option<Vec<Vec<f64>>> {
        let logs = self.scale.to(values);
        let past = |origin: &usize| logs.get(..*origin).unwrap_or(&logs);
        let curve = |origin: &usize| self.extend(past(origin), horizon);
        Some(origins.iter().map(curve).collect())
    }
}
