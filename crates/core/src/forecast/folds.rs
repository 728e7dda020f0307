//! Cross-fitting: what is learnt from errors must not be judged by the same errors, or it looks better than it is.
//!
//! Origins are divided into a few runs; whatever is fitted to errors and then applied to those of a run is fitted to
//! the other runs (cross-conformal prediction: Vovk 2015, *Cross-conformal predictors*). Runs, not single origins,
//! because the forecasts from neighbouring origins share most of what was measured after them.

/// The runs.
pub(super) const FOLDS: usize = 4;

/// The origins from which on a quarter of them may be left out: three in each run.
pub(super) const ENOUGH: usize = 3 * FOLDS;

/// The run of one of `count` origins.
pub(super) fn fold_of(origin: usize, count: usize) -> usize {
    origin * FOLDS / count.max(1)
}

/// The weights of the origins, those of one run being 0.
pub(super) fn without(weights: &[f64], fold: usize) -> Vec<f64> {
    let left = |(origin, weight): (usize, &f64)| {
        if fold_of(origin, weights.len()) == fold {
            0.0
        } else {
            *weight
        }
    };
    weights.iter().enumerate().map(left).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_origin_is_left_out_once_in_one_run_with_its_neighbours() {
        assert_eq!(without(&[1.0; 6], 0), [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        for count in [1, 3, 4, 9, 40] {
            let all = (0..FOLDS).map(|fold| without(&vec![1.0; count], fold));
            let left_out: f64 = all
                .map(|weights| count as f64 - weights.iter().sum::<f64>())
                .sum();
            assert!((left_out - count as f64).abs() < 1e-9);
        }
        assert!(without(&[], 0).is_empty());
    }
}
