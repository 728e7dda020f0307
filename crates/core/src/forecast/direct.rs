//! Direct regressions: coefficients of their own for each step ahead. They change smoothly with it, so they are
//! fitted at some steps only and interpolated; beyond the last one, forecasts are made from forecasts.
//!
//! What SPAR and the regression on profiles share: they differ in what they look at. Values are logarithms, see
//! [`super::logarithm`]. Rows can be weighed anew by their errors, which fits to absolute ones (Holland and Welsch 1977).

use super::{
    Fitted, ForecastError,
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

/// Fits a regression to values without gaps, to be asked for `horizon` steps.
pub(super) fn fit<L: Look + 'static>(
    look: L,
    values: Vec<f64>,
    horizon: usize,
) -> Result<Box<dyn Fitted>, ForecastError> {
    let does_not_fit = |reason: &str| ForecastError::DoesNotFit {
        model: L::NAME,
        reason: reason.to_owned(),
    };
    let scale = Logarithm::of(&values).ok_or_else(|| does_not_fit("all values are zero"))?;
    let logs = scale.to(&values);
    let features = look.at(&logs);
    let knot = |ahead: usize| coefficients(&logs, &features, ahead, L::PASSES);
    let knots = Knots::fit(look.direct().min(horizon), knot);
    Ok(Box::new(Direct {
        knots: knots.ok_or_else(|| does_not_fit("its regression has no solution"))?,
        look,
        scale,
        values,
    }))
}

/// The coefficients for one step ahead.
fn coefficients(
    logs: &[f64],
    features: &impl Features,
    ahead: usize,
    passes: usize,
) -> Option<Vec<f64>> {
    let (size, first) = (features.size(), features.first());
    let end = logs.len().checked_sub(ahead)?;
    let stride = end.saturating_sub(first).div_ceil(MAX_ROWS).max(1);
    let (mut rows, mut targets, mut row) = (Vec::new(), Vec::new(), Vec::new());
    // Backwards, so that the latest rows are always among those.
    for last in (first..end).rev().step_by(stride) {
        features.write(last, ahead, &mut row);
        rows.extend_from_slice(&row);
        targets.push(*logs.get(last + ahead)?);
    }
    if targets.len() < 2 {
        return None;
    }
    let prior = features.prior();
    let mut weights = vec![1.0; targets.len()];
    for pass in 0..=passes {
        let mut regression = Regression::new(size - 1);
        let all = rows.chunks_exact(size).zip(&targets);
        for ((row, target), weight) in all.clone().zip(&weights) {
            regression.add(row, *target, *weight);
        }
        let coefficients = regression.solve(RIDGE, &prior)?;
        if pass == passes {
            return Some(coefficients);
        }
        let errors = all.map(|(row, target)| (target - dot(&coefficients, row)).abs());
        weights = errors.collect();
        weigh(&mut weights);
    }
    None
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
    /// Fits coefficients up to `direct` steps ahead; `None` if any cannot be.
    fn fit(direct: usize, fit: impl Fn(usize) -> Option<Vec<f64>>) -> Option<Self> {
        let fitted = aheads(direct)
            .into_iter()
            .map(|ahead| Some((ahead, fit(ahead)?)));
        fitted.collect::<Option<_>>().map(Self)
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
        let knots = Knots::fit(24, |ahead| Some(vec![ahead as f64])).unwrap();
        for ahead in 1..=24 {
            let mut found = Vec::new();
            knots.at(ahead, &mut found);
            assert!(
                (found[0] - ahead as f64).abs() < 1e-12,
                "{ahead}: {found:?}"
            );
        }
        assert!(knots.0.len() < 12);
        assert!(Knots::fit(24, |ahead| (ahead < 5).then(Vec::new)).is_none());
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
