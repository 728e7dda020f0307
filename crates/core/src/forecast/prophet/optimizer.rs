//! Finding the maximum of the posterior with argmin's L-BFGS, where Prophet would ask Stan.

use std::cell::RefCell;

use argmin::core::{CostFunction, Error as ArgminError, Executor, Gradient};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use augurs::prophet::PositiveFloat;
use augurs::prophet::optimizer::{
    Data, Error, InitialParams, OptimizeOpts, OptimizedParams, Optimizer,
};

use super::posterior::Posterior;

/// The corrections that L-BFGS remembers.
const MEMORY: usize = 12;

/// Iterations of one run, and runs: each begins anew where the one before ended.
const MAX_ITERATIONS: u64 = 400;
const MAX_RUNS: usize = 4;

/// A run that improves the log density by less than this was the last.
const ENOUGH: f64 = 1e-4;

/// The gradient, in units of the curvature, at which a run ends.
const TOLERANCE: f64 = 1e-5;

/// The noise that is assumed to choose units, as a part of the largest value.
const USUAL_NOISE: f64 = 0.1;

/// L-BFGS on the posterior, in units in which the curvature is about 1. Deterministic.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lbfgs;

/// The posterior in those units, with the best point seen: a line search that ends with an error, as it
/// may where rounding hides the descent, must not lose what was found before.
struct Problem<'a> {
    posterior: &'a Posterior,
    scales: &'a [f64],
    best: &'a RefCell<(f64, Vec<f64>)>,
}

impl Problem<'_> {
    fn evaluate(&self, scaled: &[f64]) -> (f64, Vec<f64>) {
        let point: Vec<f64> = scaled.iter().zip(self.scales).map(|(x, s)| x * s).collect();
        let (cost, gradient) = self.posterior.evaluate(&point);
        if let Ok(mut best) = self.best.try_borrow_mut()
            && cost < best.0
        {
            *best = (cost, scaled.to_vec());
        }
        (
            cost,
            gradient
                .iter()
                .zip(self.scales)
                .map(|(g, s)| g * s)
                .collect(),
        )
    }
}

impl CostFunction for Problem<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, scaled: &Vec<f64>) -> Result<f64, ArgminError> {
        Ok(self.evaluate(scaled).0)
    }
}

impl Gradient for Problem<'_> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, scaled: &Vec<f64>) -> Result<Vec<f64>, ArgminError> {
        Ok(self.evaluate(scaled).1)
    }
}

impl Optimizer for Lbfgs {
    fn optimize(
        &self,
        init: &InitialParams,
        data: &Data,
        _: &OptimizeOpts,
    ) -> Result<OptimizedParams, Error> {
        let posterior = Posterior::new(data).ok_or_else(|| {
            Error::static_str("logistic growth is not supported: use linear or flat")
        })?;
        let order = posterior.canonical_order();
        let posterior = posterior.reordered(&order);
        let start = start(init, &posterior, &order);
        let found = maximise(&posterior, start);
        if !found.iter().all(|v| v.is_finite()) {
            return Err(Error::static_str("the posterior has no finite maximum"));
        }
        parameters(&found, &posterior, &order, data)
    }
}

fn start(init: &InitialParams, posterior: &Posterior, order: &[usize]) -> Vec<f64> {
    let trend = if posterior.trend_size() == 1 {
        vec![init.m]
    } else {
        vec![init.k, init.m]
    };
    let changes = init.delta.iter().copied().chain(std::iter::repeat(0.0));
    let number = posterior.trend_size() - trend.len();
    let betas = order
        .iter()
        .map(|index| init.beta.get(*index).copied().unwrap_or(0.0));
    let noise = f64::from(init.sigma_obs).min(USUAL_NOISE).ln();
    trend
        .into_iter()
        .chain(changes.take(number))
        .chain(betas)
        .chain([noise])
        .collect()
}

fn maximise(posterior: &Posterior, start: Vec<f64>) -> Vec<f64> {
    let scales = posterior.scales(USUAL_NOISE);
    let scaled: Vec<f64> = start.iter().zip(&scales).map(|(x, s)| x / s).collect();
    let best = RefCell::new((f64::INFINITY, scaled));
    for _ in 0..MAX_RUNS {
        let (before, from) = best.borrow().clone();
        let problem = Problem {
            posterior,
            scales: &scales,
            best: &best,
        };
        // Its error is a line search that found no more descent: what it saw is in `best`.
        let ended = run(problem, from);
        let improved = before - best.borrow().0;
        if ended.is_ok() && improved < ENOUGH || improved <= 0.0 {
            break;
        }
    }
    let found = best.into_inner().1;
    found.iter().zip(&scales).map(|(x, s)| x * s).collect()
}

fn run(problem: Problem, from: Vec<f64>) -> Result<(), ArgminError> {
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), MEMORY)
        .with_tolerance_grad(TOLERANCE)?
        .with_tolerance_cost(1e-12)?;
    Executor::new(problem, solver)
        .configure(|state| state.param(from).max_iters(MAX_ITERATIONS))
        .timer(false)
        .run()?;
    Ok(())
}

fn parameters(
    found: &[f64],
    posterior: &Posterior,
    order: &[usize],
    data: &Data,
) -> Result<OptimizedParams, Error> {
    let trend_size = posterior.trend_size();
    let (trend, rest) = found.split_at(trend_size.min(found.len()));
    let (k, m, delta) = match trend {
        [m] => (0.0, *m, vec![0.0; data.t_change.len()]),
        [k, m, delta @ ..] => (*k, *m, delta.to_vec()),
        [] => return Err(Error::static_str("the trend has no parameters")),
    };
    let mut beta = vec![0.0; order.len()];
    for (index, value) in order.iter().zip(rest) {
        if let Some(slot) = beta.get_mut(*index) {
            *slot = *value;
        }
    }
    let sigma = rest.last().copied().unwrap_or(0.0).exp();
    Ok(OptimizedParams {
        k,
        m,
        sigma_obs: PositiveFloat::try_new(sigma.max(f64::MIN_POSITIVE)).map_err(Error::custom)?,
        delta,
        beta,
        trend: posterior.trend_of(trend),
    })
}
