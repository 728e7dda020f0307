//! Direct regressions: coefficients of their own for each step ahead. They change smoothly with it, so they are
//! fitted at some steps only and interpolated; beyond the last one, forecasts are made from forecasts.
//!
//! What SPAR and the regression on profiles share: they differ in what they look at. Values are logarithms, see
//! [`super::logarithm`]. Rows can be weighed anew by their errors, which fits to absolute ones (Holland and Welsch 1977).

use crate::series::Series;

use super::{
    Fitted, ForecastError, Forecaster,
    linear::{Regression, dot},
    logarithm::Logarithm,
};

/// The rows of a regression, at most: beyond, rows are skipped evenly.
const MAX_ROWS: usize = 800;

/// How much coefficients are shrunk.
const RIDGE: f64 = 1e-3;

/// Errors below this part of their mean weigh alike.
const SMALL_ERROR: f64 = 0.5;

/// What a regression sees of a series. All of it looks back: what it says after a step comes from values up to that
/// step, so that one serves all origins.
pub(super) trait Features {
    /// How many there are, the intercept among them.
    fn size(&self) -> usize;

    /// The first step with a whole past.
    fn first(&self) -> usize;

    /// Writes those for forecasting `ahead` steps after index `last`.
    fn write(&self, last: usize, ahead: usize, into: &mut Vec<f64>);

    /// What coefficients are shrunk towards.
    fn prior(&self) -> Vec<f64>;
}

/// What a regression looks at.
pub(super) trait Look {
    /// The name of the model.
    const NAME: &'static str;

    /// The times that rows are weighed anew by their errors.
    const PASSES: usize;

    /// What it makes of a series.
    type Features: Features;

    /// The features of a series of logarithms.
    fn at(&self, logs: &[f64]) -> Self::Features;

    /// The steps that are forecast directly.
    fn direct(&self) -> usize;

    /// The last steps of a series that are enough for what comes after it.
    fn memory(&self) -> usize;
}

/// A fitted regression.
struct Direct<L> {
    look: L,
    knots: Knots,
    scale: Logarithm,
    values: Vec<f64>,
}

/// Why a regression was not fitted.
pub(super) const NO_SOLUTION: &str = "its regression has no solution";

/// Fits a model that implements [`Forecaster::fit_each`] to a whole series.
///
/// # Errors
/// That of the fit.
pub(super) fn alone(
    model: &dyn Forecaster,
    series: &Series,
    seasons: &[usize],
) -> Result<Box<dyn Fitted>, ForecastError> {
    let fitted = model.fit_each(series, seasons, &[series.len()])?;
    fitted.into_iter().next().ok_or(ForecastError::NoData)
}

/// Fits a regression to several beginnings of values without gaps, as long as `ends` say, ascending; each looks at
/// what `looks` says. To be asked for `horizon` steps.
///
/// Those that look at the same share their sums: a row that an earlier one has seen is not added again. The logarithms
/// are around the mean of all values, which is no more than a unit; how far a forecast may go is by what each has seen.
///
/// # Errors
/// [`ForecastError::DoesNotFit`] if all values are zero, or the regression has no solution.
pub(super) fn fit_each<L: Look + Clone + PartialEq + 'static>(
    looks: &[L],
    values: &[f64],
    ends: &[usize],
    horizon: usize,
) -> Result<Vec<Box<dyn Fitted>>, ForecastError> {
    let (scale, logs) = Logarithm::of(values, L::NAME)?;
    by_look(looks, ends, |look, ends| {
        let seen = |end: usize| logs.get(..end).unwrap_or(&logs);
        let features = look.at(seen(ends.last().copied().unwrap_or(0)));
        let knot = |ahead: usize| coefficients(&logs, &features, ahead, ends, L::PASSES);
        let knots = Knots::fit(look.direct().min(horizon), ends.len(), knot);
        let knots = knots.ok_or_else(|| ForecastError::does_not_fit(L::NAME, NO_SOLUTION))?;
        let fitted = knots.into_iter().zip(ends).map(|(knots, end)| {
            let fitted = Direct {
                knots,
                look: look.clone(),
                scale: scale.having_seen(seen(*end)),
                values: values.get(..*end).unwrap_or(values).to_vec(),
            };
            Box::new(fitted) as Box<dyn Fitted>
        });
        Ok(fitted.collect())
    })
}

/// The fits of each end, in order: those that look at the same are made together by `fit`.
pub(super) fn by_look<L: PartialEq>(
    looks: &[L],
    ends: &[usize],
    fit: impl Fn(&L, &[usize]) -> Result<Vec<Box<dyn Fitted>>, ForecastError>,
) -> Result<Vec<Box<dyn Fitted>>, ForecastError> {
    let mut fitted = Vec::with_capacity(ends.len());
    let mut rest = ends;
    for group in looks.chunk_by(|a, b| a == b) {
        let (Some(look), Some((ends, later))) = (group.first(), rest.split_at_checked(group.len()))
        else {
            break;
        };
        rest = later;
        fitted.extend(fit(look, ends)?);
    }
    Ok(fitted)
}

/// The coefficients for one step ahead, from the first so many values as each of `ends` says.
///
/// Where rows are weighed by their errors, those are of the coefficients of the first end that has seen the row: so
/// the sums are shared, and nothing that came later weighs.
fn coefficients(
    logs: &[f64],
    features: &impl Features,
    ahead: usize,
    ends: &[usize],
    passes: usize,
) -> Option<Vec<Vec<f64>>> {
    let rows = Rows::of(logs, features, ahead, ends)?;
    let prior = features.prior();
    let mut weights = vec![1.0; rows.targets.len()];
    let mut found = rows.solve(&weights, &prior)?;
    for _ in 0..passes {
        rows.weigh(&found, &mut weights);
        found = rows.solve(&weights, &prior)?;
    }
    Some(found)
}

/// The rows of a regression.
struct Rows {
    size: usize,
    features: Vec<f64>,
    targets: Vec<f64>,
    /// How many of them each end has seen, ascending.
    seen: Vec<usize>,
}

impl Rows {
    /// Those for one step ahead; `None` if the first end has not seen two of them.
    fn of(logs: &[f64], from: &impl Features, ahead: usize, ends: &[usize]) -> Option<Self> {
        let (size, first) = (from.size(), from.first());
        let count = ends.last()?.checked_sub(ahead)?.checked_sub(first)?;
        let stride = count.div_ceil(MAX_ROWS).max(1);
        let mut rows = Self {
            size,
            features: Vec::with_capacity(size * (count / stride + 1)),
            targets: Vec::with_capacity(count / stride + 1),
            seen: Vec::with_capacity(ends.len()),
        };
        let mut row = Vec::with_capacity(size);
        // The latest row is always among them.
        let mut last = first + count.saturating_sub(1) % stride;
        for end in ends {
            while last + ahead < *end {
                from.write(last, ahead, &mut row);
                rows.features.extend_from_slice(&row);
                rows.targets.push(*logs.get(last + ahead)?);
                last += stride;
            }
            rows.seen.push(rows.targets.len());
        }
        (*rows.seen.first()? >= 2).then_some(rows)
    }

    /// The rows that each end has seen first, with their numbers.
    fn parts(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let begins = std::iter::once(0).chain(self.seen.iter().copied());
        begins.zip(&self.seen).map(|(begin, end)| begin..*end)
    }

    fn row(&self, index: usize) -> (&[f64], f64) {
        let row = self
            .features
            .get(index * self.size..(index + 1) * self.size);
        let target = self.targets.get(index).copied();
        (row.unwrap_or_default(), target.unwrap_or(0.0))
    }

    /// The coefficients for each end.
    fn solve(&self, weights: &[f64], prior: &[f64]) -> Option<Vec<Vec<f64>>> {
        let mut regression = Regression::new(self.size - 1);
        let part = |part: std::ops::Range<usize>| {
            for index in part {
                let (row, target) = self.row(index);
                regression.add(row, target, *weights.get(index)?);
            }
            regression.solve(RIDGE, prior)
        };
        self.parts().map(part).collect()
    }

    /// Weighs each row by the error of the coefficients of the first end that has seen it.
    fn weigh(&self, found: &[Vec<f64>], weights: &mut [f64]) {
        for (part, coefficients) in self.parts().zip(found) {
            let Some(weights) = weights.get_mut(part.clone()) else {
                return;
            };
            for (weight, index) in weights.iter_mut().zip(part) {
                let (row, target) = self.row(index);
                *weight = (target - dot(coefficients, row)).abs();
            }
            weigh(weights);
        }
    }
}

/// Makes weights of the sizes of errors, with which their squares count as they do.
fn weigh(errors: &mut [f64]) {
    let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
    let small = (SMALL_ERROR * mean).max(f64::MIN_POSITIVE);
    for error in errors {
        *error = small / error.max(small);
    }
}

impl<L: Look> Direct<L> {
    /// Up to `most` steps after the first `count` values that can be forecast directly, as logarithms.
    fn block(&self, features: &L::Features, count: usize, most: usize) -> Vec<f64> {
        let (mut row, mut coefficients) = (Vec::new(), Vec::new());
        let step = |ahead: usize| {
            features.write(count.saturating_sub(1), ahead, &mut row);
            self.knots.at(ahead, &mut coefficients);
            self.scale.limited(dot(&coefficients, &row))
        };
        (1..=self.knots.direct().min(most)).map(step).collect()
    }
}

impl<L: Look> Fitted for Direct<L> {
    fn model(&self) -> &'static str {
        L::NAME
    }

    fn history(&self) -> &[f64] {
        &self.values
    }

    fn curves(&self, values: &[f64], origins: &[usize], horizon: usize) -> Option<Vec<Vec<f64>>> {
        let logs = self.scale.to(values);
        let shared = self.look.at(&logs);
        let next = |known: &[f64], left: usize| {
            let old = known.len().saturating_sub(self.look.memory());
            let recent = known.get(old..).unwrap_or(known);
            self.block(&self.look.at(recent), recent.len(), left)
        };
        let curve = |origin: &usize| {
            let begin = self.block(&shared, *origin, horizon);
            let curve = go_on(begin, &logs, *origin, horizon, next);
            self.scale.back(curve)
        };
        Some(origins.iter().map(curve).collect())
    }
}

/// The coefficients at some steps ahead, ascending; at least one.
#[derive(Debug, Clone)]
struct Knots(Vec<(usize, Vec<f64>)>);

impl Knots {
    /// Fits coefficients up to `direct` steps ahead, of `count` fits at once; `None` if any cannot be.
    fn fit(
        direct: usize,
        count: usize,
        fit: impl Fn(usize) -> Option<Vec<Vec<f64>>>,
    ) -> Option<Vec<Self>> {
        let mut all = vec![Self(Vec::new()); count];
        for ahead in aheads(direct) {
            for (knots, coefficients) in all.iter_mut().zip(fit(ahead)?) {
                knots.0.push((ahead, coefficients));
            }
        }
        Some(all)
    }

    /// The steps that are forecast directly.
    fn direct(&self) -> usize {
        self.0.last().map_or(1, |(ahead, _)| *ahead)
    }

    /// The coefficients for one step ahead, interpolated.
    fn at(&self, ahead: usize, into: &mut Vec<f64>) {
        into.clear();
        let after = self.0.partition_point(|(knot, _)| *knot < ahead);
        let Some((right, high)) = self.0.get(after).or(self.0.last()) else {
            return;
        };
        match after.checked_sub(1).and_then(|before| self.0.get(before)) {
            Some((left, low)) if *right > ahead => {
                let part = (ahead - left) as f64 / (right - left) as f64;
                into.extend(low.iter().zip(high).map(|(l, h)| l + part * (h - l)));
            }
            _ => into.extend(high),
        }
    }
}

/// Makes a first block after the first `origin` of `known` as long as the horizon: `next` makes a block from what
/// is known and the blocks before.
fn go_on(
    begin: Vec<f64>,
    known: &[f64],
    origin: usize,
    horizon: usize,
    next: impl Fn(&[f64], usize) -> Vec<f64>,
) -> Vec<f64> {
    if begin.len() >= horizon {
        return begin;
    }
    let mut all = known.get(..origin).unwrap_or(known).to_vec();
    let past = all.len();
    all.extend(begin);
    while all.len() < past + horizon {
        let block = next(&all, past + horizon - all.len());
        if block.is_empty() {
            break;
        }
        all.extend(block);
    }
    all.split_off(past)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_are_interpolated_between_the_steps_they_were_fitted_at() {
        let knots = Knots::fit(24, 1, |ahead| Some(vec![vec![ahead as f64]])).unwrap();
        let [knots] = knots.as_slice() else {
            panic!("one fit was asked for")
        };
        for ahead in 1..=24 {
            let mut found = Vec::new();
            knots.at(ahead, &mut found);
            assert!(
                (found[0] - ahead as f64).abs() < 1e-12,
                "{ahead}: {found:?}"
            );
        }
        assert!(knots.0.len() < 12);
        assert!(Knots::fit(24, 1, |ahead| (ahead < 5).then(Vec::new)).is_none());
    }

    #[test]
    fn blocks_go_on_from_the_blocks_before() {
        let count = |known: &[f64], left: usize| vec![known.len() as f64; left.min(4)];
        let made = go_on(vec![20.0; 4], &[0.0; 50], 20, 10, count);
        assert_eq!(
            made,
            [20.0, 20.0, 20.0, 20.0, 24.0, 24.0, 24.0, 24.0, 28.0, 28.0]
        );
    }
}
