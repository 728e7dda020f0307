//! Direct regressions: coefficients of their own for each step ahead. They change smoothly with it, so they are
//! fitted at some steps only and interpolated; beyond the last one, forecasts are made from forecasts.

use super::{linear::dot, logarithm::Logarithm};

/// The coefficients at some steps ahead, ascending; at least one.
#[derive(Debug, Clone)]
pub(super) struct Knots(Vec<(usize, Vec<f64>)>);

impl Knots {
    /// Fits coefficients up to `direct` steps ahead; `None` if any cannot be.
    pub(super) fn fit(direct: usize, fit: impl Fn(usize) -> Option<Vec<f64>>) -> Option<Self> {
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

    /// Up to `most` steps that can be forecast directly, on the scale of the regression. `features` writes those
    /// for so many steps ahead.
    pub(super) fn block(
        &self,
        most: usize,
        scale: Logarithm,
        features: impl Fn(usize, &mut Vec<f64>),
    ) -> Vec<f64> {
        let (mut row, mut coefficients) = (Vec::new(), Vec::new());
        let mut step = |ahead: usize| {
            features(ahead, &mut row);
            self.at(ahead, &mut coefficients);
            scale.limited(dot(&coefficients, &row))
        };
        (1..=self.direct().min(most)).map(&mut step).collect()
    }
}

/// Makes a first block after the first `origin` of `known` as long as the horizon: `next` makes a block from what
/// is known and the blocks before.
pub(super) fn go_on(
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
