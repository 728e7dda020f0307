//! What no forecast can know: how far single values are from the values around them.
//!
//! A curve that is drawn through what was measured, afterwards: at each step the median of the values beside it, the
//! one in the middle left out. It knows every rise and every burst that lasts, but not the noise of a single step. Where
//! it errs by nearly as much as a forecast, there is little left to win.

use crate::{rolling::Task, trace::Trace};

/// The steps to either side. Of all these the best is taken, afterwards too.
const REACHES: [usize; 5] = [1, 2, 4, 8, 16];

/// Per horizon of the task, the sum of absolute errors of such a curve, over the same steps as the forecasts.
pub fn errors(trace: &Trace, task: &Task) -> Vec<f64> {
    let values = &trace.series.values;
    let of_reach = |reach: usize, horizon: usize| {
        let steps = task
            .origins
            .iter()
            .flat_map(|origin| *origin..origin + horizon);
        let known = steps.filter(|at| values.get(*at).is_some_and(|v| v.is_finite()));
        let error = |at: usize| Some((values.get(at)? - around(values, at, reach)?).abs());
        known.filter_map(error).sum::<f64>()
    };
    let best = |horizon: &usize| {
        let sums = REACHES.map(|reach| of_reach(reach, *horizon));
        sums.into_iter().fold(f64::INFINITY, f64::min)
    };
    task.horizons.iter().map(best).collect()
}

/// The median of the values beside one.
fn around(values: &[f64], at: usize, reach: usize) -> Option<f64> {
    let near = values.iter().enumerate().take(at + reach + 1);
    let near = near
        .skip(at.saturating_sub(reach))
        .filter(|(i, v)| *i != at && v.is_finite());
    median(near.map(|(_, value)| *value).collect())
}

/// The median; of an even number the mean of both in the middle. `None` of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (
        values.get(values.len().checked_sub(1)? / 2)?,
        values.get(values.len() / 2)?,
    );
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_itself_is_not_known() {
        let values = [1.0, 2.0, 90.0, 4.0, 5.0];
        assert_eq!(around(&values, 2, 1), Some(3.0));
        assert_eq!(around(&values, 2, 2), Some(3.0));
        assert_eq!(around(&values, 0, 1), Some(2.0));
        assert_eq!(around(&[7.0], 0, 4), None);
    }
}
