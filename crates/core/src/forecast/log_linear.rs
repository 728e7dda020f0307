//! Linear regression on lags of the logarithm, one step ahead, iterated: the last steps, the same time of
//! the last days and of the last weeks.
//!
//! The linear model of QB5000 (Ma et al., *Query-based workload forecasting for self-driving database
//! management systems*, SIGMOD 2018). Logarithms, because load varies in proportion to its level.

use crate::series::Series;

use super::{
    Fitted, ForecastError, Forecaster, direct,
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
        direct::alone(self, series, seasons)
    }

    fn fit_each(
        &self,
        series: &Series,
        seasons: &[usize],
        ends: &[usize],
    ) -> Result<Vec<Box<dyn Fitted>>, ForecastError> {
        let values = series.fill_gaps().values;
        let all_lags = ends.iter().map(|end| {
            lags(*end, seasons).ok_or(ForecastError::TooShort {
                model: NAME,
                needed: 12,
                found: *end,
            })
        });
        let all_lags = all_lags.collect::<Result<Vec<_>, _>>()?;
        let (scale, logs) = Logarithm::of(&values, NAME)?;
        direct::by_look(&all_lags, ends, |lags, ends| {
            let no_solution = || ForecastError::does_not_fit(NAME, direct::NO_SOLUTION);
            let found = regress(&logs, lags, ends).ok_or_else(no_solution)?;
            let fitted = found.into_iter().zip(ends).map(|(coefficients, end)| {
                let fitted = FittedLogLinear {
                    lags: lags.clone(),
                    coefficients,
                    scale: scale.having_seen(logs.get(..*end).unwrap_or(&logs)),
                    values: values.get(..*end).unwrap_or(&values).to_vec(),
                };
                Box::new(fitted) as Box<dyn Fitted>
            });
            Ok(fitted.collect())
        })
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

/// The coefficients that the first so many values give, for each of `ends`, ascending.
fn regress(values: &[f64], lags: &[usize], ends: &[usize]) -> Option<Vec<Vec<f64>>> {
    let longest = lags.last().copied()?;
    let mut next = longest.max(ends.last()?.saturating_sub(MAX_ROWS));
    let mut regression = Regression::new(lags.len());
    let mut row = Vec::with_capacity(lags.len() + 1);
    let mut upto = |end: &usize| {
        for at in next..*end {
            features(values, lags, at, &mut row);
            regression.add(&row, *values.get(at)?, 1.0);
        }
        next = next.max(*end);
        regression.solve(RIDGE, &[])
    };
    ends.iter().map(&mut upto).collect()
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
