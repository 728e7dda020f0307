//! Combining models by how well they did: at each step of the horizon those that did best there.
//!
//! Combinations beat single models (Makridakis et al. 2020, the M4 competition: 12 of the best 17). Weights
//! are fixed powers of the loss instead of fitted, because fitted ones overfit the few origins (the
//! *forecast combination puzzle*, Smith and Wallis 2009).

use super::{
    folds::{self, FOLDS},
    skill::Backtest,
    spread::Tested,
};

/// The usual errors of the reference that an error counts as, at most: bursts that nothing foresaw would drown what
/// models differ in.
const MAX_ERROR: f64 = 10.0;

/// The power of the loss that weights fall with.
const POWER: f64 = 4.0;

/// A weight below this part of all is as good as none.
const NEGLIGIBLE_WEIGHT: f64 = 0.02;

/// Weights hold for so many times the steps that were tested.
const MAX_UNTESTED: usize = 3;

/// A model with its future and its past.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// The model's name.
    pub name: &'static str,
    /// Its forecast.
    pub points: Vec<f64>,
    /// Its past.
    pub backtest: Backtest,
}

/// A weighted median of models.
#[derive(Debug, Clone)]
pub(super) struct Combined {
    /// The forecast.
    pub points: Vec<f64>,
    /// Its errors in the past; of the shape of the members'. Those of each run of origins are with the weights that
    /// the others give: see [`folds`].
    pub errors: Vec<Vec<f64>>,
    /// The mean weight of each member over the horizon.
    pub shares: Vec<f64>,
}

/// Combines the members. The first is what the losses of the others are relative to.
pub(super) fn combine(members: &[Member], origin_weights: &[f64]) -> Combined {
    let horizon = members.iter().map(|m| m.points.len()).max().unwrap_or(0);
    let tested = members
        .iter()
        .flat_map(|m| &m.backtest.errors)
        .map(Vec::len)
        .max()
        .unwrap_or(0);
    let weights = weights(members, origin_weights, tested);
    let count = origin_weights.len();
    let without = |fold| self::weights(members, &folds::without(origin_weights, fold), tested);
    let of_folds: Vec<Vec<Vec<f64>>> = (0..FOLDS).map(without).collect();
    // Far beyond what was tested nothing is known but that the last season may come again.
    let untested = only_the_first(members.len());
    let at = |step: usize| match weights.get(step).or(weights.last()) {
        Some(weights) if step < MAX_UNTESTED * tested => weights.as_slice(),
        _ => untested.as_slice(),
    };
    let at_origin = |origin: usize, step: usize| {
        let weights = of_folds.get(folds::fold_of(origin, count));
        let at_step = weights.and_then(|weights| weights.get(step).or(weights.last()));
        at_step.unwrap_or(&untested)
    };
    let points = (0..horizon).map(|step| {
        let of_members = members
            .iter()
            .map(|member| member.points.get(step).copied());
        average(of_members, at(step))
    });
    let points: Vec<f64> = points.collect();
    let error = |origin: usize, step: usize| {
        let of_members = members
            .iter()
            .map(|member| member.backtest.errors.get(origin)?.get(step).copied());
        average(of_members, at_origin(origin, step))
    };
    let errors = (0..count).map(|origin| (0..tested).map(|step| error(origin, step)).collect());
    let share = |index: usize| {
        let sum: f64 = weights
            .iter()
            .filter_map(|weights| weights.get(index))
            .sum();
        sum / weights.len().max(1) as f64
    };
    Combined {
        points,
        errors: errors.collect(),
        shares: (0..members.len()).map(share).collect(),
    }
}

/// The weighted median of what is known; NaN of nothing. Between the two values around the middle of the weights
/// it is interpolated, so that of two it is their mean: a median ignores the one model that runs away.
fn average(values: impl Iterator<Item = Option<f64>>, weights: &[f64]) -> f64 {
    let known = values.zip(weights);
    let known = known.filter_map(|(value, weight)| Some((value?, *weight)));
    let mut known: Vec<(f64, f64)> = known.filter(|(v, w)| !v.is_nan() && *w > 0.0).collect();
    known.sort_by(|a, b| a.0.total_cmp(&b.0));
    let middle = known.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut upto = 0.0;
    let mut before: Option<(f64, f64)> = None;
    for (value, weight) in known {
        let at = upto + weight / 2.0;
        match before {
            None if at >= middle => return value,
            Some((lower, below)) if at >= middle => {
                return lower + (value - lower) * (middle - below) / (at - below);
            }
            _ => before = Some((value, at)),
        }
        upto += weight;
    }
    before.map_or(f64::NAN, |(value, _)| value)
}

/// Per step, the weight of each member; they sum to 1.
fn weights(members: &[Member], origin_weights: &[f64], horizon: usize) -> Vec<Vec<f64>> {
    let Some(reference) = members.first() else {
        return Vec::new();
    };
    let losses: Vec<Vec<f64>> = members
        .iter()
        .map(|member| {
            relative_losses(
                &member.backtest,
                &reference.backtest,
                origin_weights,
                horizon,
            )
        })
        .collect();
    // What cannot be improved needs no richer model.
    let errors = reference.backtest.errors.iter().flatten();
    if errors
        .filter(|e| !e.is_nan())
        .all(|e| e.abs() <= super::skill::NEGLIGIBLE)
    {
        return vec![only_the_first(members.len())];
    }
    let at = |step: usize| {
        let of: Vec<f64> = losses
            .iter()
            .map(|l| l.get(step).copied().unwrap_or(f64::INFINITY))
            .collect();
        normalised(&of)
    };
    (0..horizon.max(1)).map(at).collect()
}

fn normalised(losses: &[f64]) -> Vec<f64> {
    let best = losses
        .iter()
        .copied()
        .fold(f64::INFINITY, f64::min)
        .max(1e-9);
    let raw = |loss: &f64| (best / loss.max(best)).powf(POWER);
    let raw: Vec<f64> = losses.iter().map(raw).collect();
    let total: f64 = raw.iter().sum();
    let kept: Vec<f64> = raw
        .into_iter()
        .map(|w| {
            if w < NEGLIGIBLE_WEIGHT * total {
                0.0
            } else {
                w
            }
        })
        .collect();
    let total: f64 = kept.iter().sum();
    if total > 0.0 {
        kept.into_iter().map(|w| w / total).collect()
    } else {
        only_the_first(losses.len())
    }
}

fn only_the_first(count: usize) -> Vec<f64> {
    (0..count)
        .map(|index| if index == 0 { 1.0 } else { 0.0 })
        .collect()
}

/// The mean absolute error around each step, relative to that of the reference at the same origins. Errors are cut to
/// so many times the usual one.
fn relative_losses(
    backtest: &Backtest,
    reference: &Backtest,
    origin_weights: &[f64],
    horizon: usize,
) -> Vec<f64> {
    let most = MAX_ERROR * usual_error(reference);
    let mut sums = vec![(0.0, 0.0); horizon + 1];
    let pairs = backtest
        .errors
        .iter()
        .zip(&reference.errors)
        .zip(origin_weights);
    for ((errors, others), weight) in pairs {
        let steps = sums.iter_mut().skip(1).zip(errors.iter().zip(others));
        for (slot, (error, other)) in steps.filter(|(_, (e, o))| !e.is_nan() && !o.is_nan()) {
            slot.0 += weight * error.abs().min(most);
            slot.1 += weight * other.abs().min(most);
        }
    }
    let mut before = (0.0, 0.0);
    for slot in &mut sums {
        slot.0 += before.0;
        slot.1 += before.1;
        before = *slot;
    }
    let sum = |upto: usize| sums.get(upto.min(horizon)).copied().unwrap_or((0.0, 0.0));
    let around = |step: usize| {
        let (from, to) = (sum(step * 2 / 3), sum(step * 3 / 2 + 1));
        // Relative to a reference without errors, even the smallest error is large.
        (to.0 - from.0 + super::skill::NEGLIGIBLE) / (to.1 - from.1 + super::skill::NEGLIGIBLE)
    };
    (0..horizon).map(around).collect()
}

/// The median absolute error; infinite where it says nothing, because most values are forecast without any.
fn usual_error(backtest: &Backtest) -> f64 {
    let errors = backtest.errors.iter().flatten().map(|error| error.abs());
    let mut errors: Vec<f64> = errors.filter(|error| !error.is_nan()).collect();
    let middle = errors.len() / 2;
    if middle >= errors.len() {
        return f64::INFINITY;
    }
    let (_, usual, _) = errors.select_nth_unstable_by(middle, f64::total_cmp);
    if *usual > super::skill::NEGLIGIBLE {
        *usual
    } else {
        f64::INFINITY
    }
}

/// The errors with what is needed to calibrate quantiles on them.
pub(super) fn tested(
    errors: Vec<Vec<f64>>,
    at: &[usize],
    values: &[f64],
    weights: &[f64],
    season: usize,
) -> Tested {
    let forecast = |(errors, origin): (&Vec<f64>, &usize)| {
        let measured = values.iter().skip(*origin);
        errors
            .iter()
            .zip(measured)
            .map(|(error, value)| value - error)
            .collect()
    };
    Tested {
        forecasts: errors.iter().zip(at).map(forecast).collect(),
        errors,
        at: at.to_vec(),
        weights: weights.to_vec(),
        season,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &'static str, point: f64, errors: &[f64]) -> Member {
        Member {
            name,
            points: vec![point; errors.len()],
            backtest: Backtest {
                errors: vec![errors.to_vec(); 5],
            },
        }
    }

    #[test]
    fn each_step_takes_the_models_that_did_well_there() {
        let naive = member("naive", 0.0, &[1.0; 64]);
        let near: Vec<f64> = (0..64).map(|s| if s < 4 { 0.1 } else { 3.0 }).collect();
        let members = [naive, member("near", 10.0, &near)];
        let combined = combine(&members, &[1.0; 5]);
        assert_eq!((combined.points[0], combined.points[63]), (10.0, 0.0));
    }

    #[test]
    fn a_burst_that_no_model_foresaw_does_not_make_them_alike() {
        let errors = |usual: f64, burst: f64| {
            let at = |step| if step == 20 { burst } else { usual };
            (0..64).map(at).collect::<Vec<f64>>()
        };
        let good = member("good", 10.0, &errors(0.1, 900.0));
        let bad = member("bad", 0.0, &errors(1.0, 899.0));
        let naive = member("naive", 0.0, &errors(1.0, 900.0));
        let combined = combine(&[naive, bad, good], &[1.0; 5]);
        let least = combined
            .points
            .iter()
            .copied()
            .fold(f64::INFINITY, f64::min);
        assert!(least > 8.5, "{:?}", combined.points);
    }

    #[test]
    fn equal_models_share_and_unknown_values_are_left_out() {
        let members = [
            member("a", 2.0, &[1.0, 1.0]),
            member("b", 4.0, &[-1.0, f64::NAN]),
        ];
        let combined = combine(&members, &[1.0; 5]);
        assert!((combined.points[0] - 3.0).abs() < 1e-6);
        assert!(combined.errors[0][0].abs() < 1e-6);
        assert!((combined.errors[0][1] - 1.0).abs() < 1e-6);
    }
}
