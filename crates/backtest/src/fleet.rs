//! Many shards at once: how long it takes to forecast all of them anew, and what sharing fits costs in accuracy.
//!
//! The loads are made up: no public trace has thousands of shards. Four weeks of hours, of eight curves, each shard
//! with a level, a noise, and every hundredth with a phase of its own.

use std::f64::consts::TAU;

use repart_core::forecast::{
    Forecast, ForecastError, Model, Options, Season, cluster::forecast_all, forecast,
};
use repart_core::series::Series;

use crate::{clock::Clock, score::Sums, trace::SECOND};

const DAY: usize = 24;
const STEPS: usize = 28 * DAY;

/// Every so-manieth shard is like no other.
const ODD: u64 = 100;

/// The shards that are forecast by themselves too, to compare.
const COMPARED: usize = 50;

/// How the shards of a fleet were forecast.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    /// The shards.
    pub shards: usize,
    /// The processor time for all of them, s.
    pub seconds: f64,
    /// How far the forecasts of some of them were off, with shared fits.
    pub shared: Sums,
    /// The same for a fit of their own.
    pub alone: Sums,
}

/// Uniform noise in [0, 1): splitmix64.
fn noise(index: u64) -> f64 {
    let mut x = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The load of a shard, hour by hour, with the day that is to be forecast.
fn load(number: u64) -> Vec<f64> {
    let odd = if number.is_multiple_of(ODD) {
        24.0 * noise(number ^ 0xFFFF_FFFF)
    } else {
        0.0
    };
    let phase = (number % 4) as f64 * 6.0 + odd;
    let sharpness = 1.0 + (number / 4 % 2) as f64 * 2.0;
    let level = (noise(number) * 6.0).exp();
    let value = |hour: usize| {
        let wave = (1.0 + ((hour as f64 + phase) * TAU / DAY as f64).sin()) / 2.0;
        let weekend = if hour / DAY % 7 >= 5 { 0.6 } else { 1.0 };
        let noise = 0.9 + 0.2 * noise(number * 1_000_003 + hour as u64);
        level * weekend * (0.3 + wave.powf(sharpness)) * noise
    };
    (0..STEPS + DAY).map(value).collect()
}

/// Forecasts so many shards a day ahead.
///
/// # Errors
/// The first [`ForecastError`] of a shard.
pub fn measure(shards: usize) -> Result<Fleet, ForecastError> {
    let loads: Vec<Vec<f64>> = (0..shards as u64).map(load).collect();
    let past = |load: &Vec<f64>| Series {
        start: 0,
        step: 3_600 * SECOND,
        values: load.iter().take(STEPS).copied().collect(),
    };
    let past: Vec<Series> = loads.iter().map(past).collect();
    let options = Options {
        horizon: DAY,
        season: Season::Auto,
        model: Model::Auto,
    };
    let clock = Clock::start();
    let made = forecast_all(&past, &options);
    let seconds = clock.millis() / 1e3;
    let made = made.into_iter().collect::<Result<Vec<Forecast>, _>>()?;
    let (mut shared, mut alone) = (Sums::default(), Sums::default());
    // Odd, to meet all curves, and one of their kind now and then.
    let every = shards.div_ceil(COMPARED) | 1;
    let all = loads.iter().zip(&past).zip(&made);
    for ((load, past), made) in all.step_by(every) {
        let truth = load.get(STEPS..).unwrap_or_default();
        add(&mut shared, made, truth, load);
        add(&mut alone, &forecast(past, &options)?, truth, load);
    }
    Ok(Fleet {
        shards,
        seconds,
        shared,
        alone,
    })
}

/// Adds what a forecast was off by, relative to the level of the shard: large ones must not hide the others.
fn add(sums: &mut Sums, made: &Forecast, truth: &[f64], load: &[f64]) {
    let level = load.iter().sum::<f64>() / load.len().max(1) as f64;
    let curves = made.q50.iter().zip(&made.q90).zip(&made.q99);
    for (value, ((q50, q90), q99)) in truth.iter().zip(curves) {
        sums.add(value / level, [q50 / level, q90 / level, q99 / level]);
    }
}
