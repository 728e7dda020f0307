//! What else `auto` is compared with, by WAPE alone: the combination that studies use, and what nobody can know before.

use crate::{
    hindsight,
    rolling::{Run, Task},
    score::Sums,
    trace::Trace,
};
use repart_core::forecast::Model;

/// A row beside the models.
#[derive(Debug, Clone)]
pub struct Reference {
    /// What it is called.
    pub name: &'static str,
    /// Per horizon of the task, the sum of absolute errors, over the same steps as the forecasts.
    pub errors: Vec<f64>,
}

/// The models that a median is of, at least.
const MIN_MODELS: usize = 3;

/// The references of a trace, with how each model did there.
pub fn of(trace: &Trace, task: &Task, runs: &[Run]) -> Vec<Reference> {
    let drawn = Reference {
        name: "in hindsight",
        errors: hindsight::errors(trace, task),
    };
    let median = median_of(trace, task, runs).map(|errors| Reference {
        name: "median of them",
        errors,
    });
    let auto = runs.iter().find(|run| run.model == Model::Auto);
    let level = auto.map(|auto| Reference {
        name: "auto, level told",
        errors: errors(trace, task, |origin, horizon| {
            let told = trace.steps_from(task.origins.get(origin).copied()?, horizon);
            Some(at_level(auto.median(origin)?.get(..horizon)?, told))
        }),
    });
    median.into_iter().chain(level).chain([drawn]).collect()
}

/// The errors of the median, at each step, of seasonal naive by day and by week and of all other models but `auto`: with
/// four others, the ensemble of the study that the figures to reach come from. `None` of too few.
fn median_of(trace: &Trace, task: &Task, runs: &[Run]) -> Option<Vec<f64>> {
    // Seasonal naive by the best season is that by day or by week once more.
    let is_left_out = |run: &Run| {
        [Model::Auto, Model::SeasonalNaive]
            .map(Model::name)
            .contains(&run.name.as_str())
    };
    let others: Vec<&Run> = runs.iter().filter(|run| !is_left_out(run)).collect();
    let median = |origin: usize, horizon: usize| {
        let curves: Vec<&[f64]> = others.iter().filter_map(|r| r.median(origin)).collect();
        let step = |step: usize| {
            let values = curves.iter().filter_map(|curve| curve.get(step).copied());
            hindsight::median(values.collect())
        };
        (0..horizon).map(step).collect()
    };
    (others.len() >= MIN_MODELS).then(|| errors(trace, task, median))
}

/// Per horizon, the sum of absolute errors of a curve that is made for each origin and horizon.
fn errors(
    trace: &Trace,
    task: &Task,
    curve: impl Fn(usize, usize) -> Option<Vec<f64>>,
) -> Vec<f64> {
    let of_horizon = |horizon: &usize| {
        let mut sums = Sums::default();
        for (index, origin) in task.origins.iter().enumerate() {
            let measured = trace.steps_from(*origin, *horizon);
            for (value, point) in measured.iter().zip(curve(index, *horizon).iter().flatten()) {
                if value.is_finite() {
                    sums.add(*value, [*point; 3]);
                }
            }
        }
        sums.errors
    };
    task.horizons.iter().map(of_horizon).collect()
}

/// A curve multiplied by the factor with which its absolute errors are least: what it would be had it been told how high
/// the load is going to be, and had to know its shape only.
fn at_level(curve: &[f64], measured: &[f64]) -> Vec<f64> {
    let pairs = curve.iter().zip(measured);
    let pairs = pairs.filter(|(point, value)| **point > 0.0 && value.is_finite());
    let mut ratios: Vec<(f64, f64)> = pairs.map(|(p, value)| (value / p, *p)).collect();
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = ratios.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut upto = 0.0;
    let middle = ratios.iter().find(|(_, weight)| {
        upto += weight;
        upto >= half
    });
    let factor = middle.map_or(1.0, |(ratio, _)| *ratio);
    curve.iter().map(|point| point * factor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_told_leaves_the_errors_of_the_shape() {
        assert_eq!(
            at_level(&[1.0, 2.0, 4.0], &[3.0, 6.0, 12.0]),
            [3.0, 6.0, 12.0]
        );
        assert_eq!(at_level(&[1.0, 1.0, 1.0], &[2.0, 2.0, 90.0]), [2.0; 3]);
        assert_eq!(at_level(&[0.0, 0.0], &[2.0, f64::NAN]), [0.0, 0.0]);
    }
}
