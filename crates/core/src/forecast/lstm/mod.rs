//! A small recurrent network (LSTM) that corrects the value one season ago, one step ahead, iterated.
//!
//! Own code: the crates that have one do not belong into a backend. `candle` (0.11) needs `rayon`, whatever
//! its features, and threads are not allowed there; `burn` (0.21, its smallest back end) brings 382 crates for
//! a thousand weights. Training is Adam on short sequences, with early stopping on the last part of the
//! history and a fixed seed. It takes longer than all other models together: `auto` leaves it out.

mod cell;

use std::f64::consts::TAU;

use crate::series::Series;

use super::{Fitted, ForecastError, Forecaster};

use cell::{INPUTS, State, Trace, WEIGHTS};

/// The steps it needs.
pub const MIN_STEPS: usize = 48;

/// The steps it is trained on, at most: the latest.
const MAX_STEPS: usize = 1_500;

/// The steps that errors are followed back.
const SEQUENCE: usize = 32;

/// Passes over the history, at most, and those without improvement that end the training.
const MAX_EPOCHS: usize = 40;
const PATIENCE: usize = 6;

/// The last part of the history, on which training is stopped.
const HELD_OUT: f64 = 0.2;

/// The steps that are run through before a forecast, so that the state is the series' own.
const WARM_UP: usize = 128;

/// Adam (Kingma and Ba 2015).
const RATE: f64 = 5e-3;
const MOMENTUM: f64 = 0.9;
const SECOND_MOMENTUM: f64 = 0.999;

/// The longest gradient of a sequence.
const MAX_GRADIENT: f64 = 5.0;

const NAME: &str = "lstm";

/// LSTM.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lstm;

struct FittedLstm {
    weights: Vec<f64>,
    scale: Scale,
    season: usize,
    values: Vec<f64>,
}

/// Values with mean 0 and deviation 1.
#[derive(Debug, Clone, Copy)]
struct Scale {
    mean: f64,
    deviation: f64,
}

impl Forecaster for Lstm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn fit(&self, series: &Series, seasons: &[usize]) -> Result<Box<dyn Fitted>, ForecastError> {
        let values = series.fill_gaps().values;
        let season = seasons
            .first()
            .copied()
            .filter(|season| 3 * season <= values.len())
            .unwrap_or(1);
        let needed = MIN_STEPS.max(2 * season);
        if values.len() < needed {
            return Err(ForecastError::TooShort {
                model: NAME,
                needed,
                found: values.len(),
            });
        }
        // Whole seasons are left out, so that the phase counts from the same step as in a forecast.
        let old = values.len().saturating_sub(MAX_STEPS);
        let recent = values.get(old - old % season..).unwrap_or(&values);
        let scale = Scale::of(recent);
        let scaled: Vec<f64> = recent
            .iter()
            .map(|v| (v - scale.mean) / scale.deviation)
            .collect();
        let weights = train(&scaled, season);
        Ok(Box::new(FittedLstm {
            weights,
            scale,
            season,
            values,
        }))
    }
}

impl Scale {
    fn of(values: &[f64]) -> Self {
        let count = values.len().max(1) as f64;
        let mean = values.iter().map(|v| v / count).sum::<f64>();
        let variance = values
            .iter()
            .map(|v| (v - mean).powi(2) / count)
            .sum::<f64>();
        let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
        Self { mean, deviation }
    }
}

/// The inputs for the value at an index, and what the network's output is added to; `values` must reach to
/// the index before.
fn inputs(values: &[f64], at: usize, season: usize) -> ([f64; INPUTS], f64) {
    let before = |lag: usize| {
        at.checked_sub(lag)
            .and_then(|at| values.get(at))
            .copied()
            .unwrap_or(0.0)
    };
    let angle = (at % season.max(1)) as f64 / season.max(1) as f64 * TAU;
    let base = before(season);
    // By how much the last step differs from the one a season before: what a network need not learn.
    let deviation = before(1) - before(season + 1);
    ([before(1), deviation, angle.sin(), angle.cos()], base)
}

fn train(values: &[f64], season: usize) -> Vec<f64> {
    let held_out = values.len() - (values.len() as f64 * HELD_OUT) as usize;
    let mut weights = cell::initial();
    let mut adam = Adam::default();
    let mut best = (
        held_out_loss(&weights, values, season, held_out),
        weights.clone(),
    );
    let mut without_gain = 0;
    for _ in 0..MAX_EPOCHS {
        let mut state = State::default();
        let mut from = season + 1;
        while from < held_out {
            let to = (from + SEQUENCE).min(held_out);
            let gradient = sequence(&weights, values, season, from..to, &mut state);
            adam.step(&mut weights, &gradient);
            from = to;
        }
        let loss = held_out_loss(&weights, values, season, held_out);
        without_gain += 1;
        if loss < best.0 {
            best = (loss, weights.clone());
            without_gain = 0;
        }
        if without_gain >= PATIENCE {
            break;
        }
    }
    best.1
}

/// The gradient of one sequence, which goes on from the state of the one before.
fn sequence(
    weights: &[f64],
    values: &[f64],
    season: usize,
    range: std::ops::Range<usize>,
    state: &mut State,
) -> Vec<f64> {
    let count = range.len().max(1) as f64;
    let mut traces: Vec<Trace> = Vec::with_capacity(SEQUENCE);
    let mut differences = Vec::with_capacity(SEQUENCE);
    for at in range {
        let (inputs, base) = inputs(values, at, season);
        let (output, trace) = cell::step(weights, &inputs, state);
        let target = values.get(at).copied().unwrap_or(0.0);
        traces.push(trace);
        differences.push((base + output - target) / count);
    }
    let mut gradient = vec![0.0; WEIGHTS];
    cell::back(weights, &traces, &differences, &mut gradient);
    let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    if length > MAX_GRADIENT {
        gradient
            .iter_mut()
            .for_each(|g| *g *= MAX_GRADIENT / length);
    }
    gradient
}

/// The mean absolute error one step ahead from an index on.
fn held_out_loss(weights: &[f64], values: &[f64], season: usize, from: usize) -> f64 {
    let mut state = State::default();
    let (mut sum, mut count) = (0.0, 0.0_f64);
    for at in (season + 1).max(from.saturating_sub(WARM_UP))..values.len() {
        let (inputs, base) = inputs(values, at, season);
        let (output, _) = cell::step(weights, &inputs, &mut state);
        if at >= from {
            sum += (base + output - values.get(at).copied().unwrap_or(0.0)).abs();
            count += 1.0;
        }
    }
    let loss = sum / count.max(1.0);
    if loss.is_finite() {
        loss
    } else {
        f64::INFINITY
    }
}

struct Adam {
    first: Vec<f64>,
    second: Vec<f64>,
    steps: i32,
}

impl Default for Adam {
    fn default() -> Self {
        Self {
            first: vec![0.0; WEIGHTS],
            second: vec![0.0; WEIGHTS],
            steps: 0,
        }
    }
}

impl Adam {
    fn step(&mut self, weights: &mut [f64], gradient: &[f64]) {
        self.steps = self.steps.saturating_add(1);
        let first_part = 1.0 - MOMENTUM.powi(self.steps);
        let second_part = 1.0 - SECOND_MOMENTUM.powi(self.steps);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((weight, gradient), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
            *first += (1.0 - MOMENTUM) * (gradient - *first);
            *second += (1.0 - SECOND_MOMENTUM) * (gradient * gradient - *second);
            *weight -= RATE * (*first / first_part) / ((*second / second_part).sqrt() + 1e-8);
        }
    }
}

impl FittedLstm {
    fn extend(&self, values: &[f64], horizon: usize) -> Vec<f64> {
        let keep = (2 * self.season + 2 + WARM_UP).min(values.len());
        let skipped = values.len() - keep;
        // The phase counts from the first value, of which a whole number of seasons is left out.
        let skipped = skipped - skipped % self.season.max(1);
        let scaled = |v: &f64| (v - self.scale.mean) / self.scale.deviation;
        let mut known: Vec<f64> = values.iter().skip(skipped).map(scaled).collect();
        let past = known.len();
        let range = known
            .iter()
            .copied()
            .fold((0.0_f64, 0.0_f64), |(l, m), v| (l.min(v), m.max(v)));
        let room = 0.5 * (range.1 - range.0);
        let mut state = State::default();
        for at in self.season + 1..past + horizon {
            let (inputs, base) = inputs(&known, at, self.season);
            let (output, _) = cell::step(&self.weights, &inputs, &mut state);
            if at >= past {
                known.push((base + output).clamp(range.0 - room, range.1 + room));
            }
        }
        let made = known.iter().skip(past);
        made.map(|v| v * self.scale.deviation + self.scale.mean)
            .collect()
    }
}

impl Fitted for FittedLstm {
    fn model(&self) -> &'static str {
        NAME
    }

    fn history(&self) -> &[f64] {
        &self.values
    }

    fn curves(&self, values: &[f64], origins: &[usize], horizon: usize) -> Option<Vec<Vec<f64>>> {
        let past = |origin: &usize| values.get(..*origin).unwrap_or(values);
        let curve = |origin: &usize| self.extend(past(origin), horizon);
        Some(origins.iter().map(curve).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_seasonal_naive_cannot_know_is_learnt() {
        // An auto-regressive disturbance on a wave: the last step says where the next will be.
        let mut disturbance = 0.0;
        let mut state = 1_u64;
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        };
        let values: Vec<f64> = (0..900)
            .map(|i| {
                disturbance = 0.9 * disturbance + 10.0 * noise();
                100.0 + 30.0 * (f64::from(i) * TAU / 24.0).sin() + disturbance
            })
            .collect();
        let past = Series {
            start: 0,
            step: 1,
            values: values[..800].to_vec(),
        };
        let fitted = Lstm.fit(&past, &[24]).unwrap();
        let (mut ours, mut naive) = (0.0, 0.0);
        for at in 800..900 {
            let next = fitted.predict_after(&values, &[at], 1).unwrap().unwrap();
            ours += (next[0][0] - values[at]).abs();
            naive += (values[at - 24] - values[at]).abs();
        }
        assert!(ours < 0.65 * naive, "{ours}, seasonal naive {naive}");
        assert_eq!(
            fitted.predict(48).unwrap(),
            Lstm.fit(&past, &[24]).unwrap().predict(48).unwrap()
        );
    }
}
