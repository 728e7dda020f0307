//! Thousands of series: alike ones share a fit, and lose little by it.

// Helpers of tests may unwrap, as tests do; clippy only sees the latter.
#![allow(clippy::unwrap_used)]

use std::f64::consts::TAU;

use repart_core::forecast::{Forecast, Model, Options, Season, cluster::forecast_all, forecast};
use repart_core::series::Series;

const STEPS: usize = 28 * 24;
const DAY: usize = 24;

/// Uniform noise in [0, 1): splitmix64.
fn noise(index: u64) -> f64 {
    let mut x = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The load of a shard: one of eight curves with a level, a noise and a weekend of its own.
fn shard(number: u64, steps: usize) -> Vec<f64> {
    let (phase, sharpness) = (
        (number % 4) as f64 * 6.0,
        1.0 + (number / 4 % 2) as f64 * 2.0,
    );
    let level = (noise(number) * 6.0).exp();
    let value = |i: usize| {
        let wave = (1.0 + ((i as f64 + phase) * TAU / DAY as f64).sin()) / 2.0;
        let weekend = if i / DAY % 7 >= 5 { 0.6 } else { 1.0 };
        let noise = 0.9 + 0.2 * noise(number * 1_000_003 + i as u64);
        level * weekend * (0.3 + wave.powf(sharpness)) * noise
    };
    (0..steps).map(value).collect()
}

fn series(values: &[f64]) -> Series {
    Series {
        start: 0,
        step: 3_600_000_000,
        values: values.to_vec(),
    }
}

fn options() -> Options {
    Options {
        horizon: DAY,
        season: Season::Auto,
        model: Model::Auto,
    }
}

fn wape(forecasts: &[Forecast], all: &[Vec<f64>]) -> (f64, f64) {
    let (mut wrong, mut total, mut below) = (0.0, 0.0, 0.0);
    for (forecast, values) in forecasts.iter().zip(all) {
        let level = values.iter().sum::<f64>() / values.len() as f64;
        for (step, truth) in values[STEPS..].iter().enumerate() {
            wrong += (truth - forecast.q50[step]).abs() / level;
            total += truth / level;
            below += f64::from(u8::from(*truth <= forecast.q90[step]));
        }
    }
    (wrong / total, below / (forecasts.len() * DAY) as f64)
}

#[test]
fn a_shared_fit_is_nearly_as_good_as_one_of_its_own() {
    let all: Vec<Vec<f64>> = (0..64).map(|number| shard(number, STEPS + DAY)).collect();
    let past: Vec<Series> = all.iter().map(|values| series(&values[..STEPS])).collect();
    let shared: Vec<Forecast> = forecast_all(&past, &options())
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let alone: Vec<Forecast> = past
        .iter()
        .map(|one| forecast(one, &options()).unwrap())
        .collect();
    let ((shared, covered), (alone, _)) = (wape(&shared, &all), wape(&alone, &all));
    println!(
        "WAPE {:.2} % shared, {:.2} % alone; q90 covers {:.1} %",
        100.0 * shared,
        100.0 * alone,
        100.0 * covered
    );
    assert!(shared < 1.15 * alone, "{shared} shared, {alone} alone");
    assert!((0.85..=0.96).contains(&covered), "{covered}");
}

#[test]
fn odd_series_among_many_get_a_forecast_or_a_clear_error() {
    let mut all: Vec<Series> = (0..40).map(|number| series(&shard(number, 400))).collect();
    all.push(series(&[]));
    all.push(series(&[0.0; 400]));
    all.push(series(&[f64::NAN; 400]));
    all.push(series(&[f64::MAX; 400]));
    all.push(series(&[5.0, f64::INFINITY, -3.0]));
    let made = forecast_all(&all, &options());
    assert_eq!(made.len(), all.len());
    for (one, series) in made.iter().zip(&all) {
        let usable = series.values.iter().any(|v| v.is_finite() && *v >= 0.0);
        assert_eq!(one.is_ok(), usable);
        if let Ok(forecast) = one {
            let curves = || forecast.q50.iter().zip(&forecast.q90).zip(&forecast.q99);
            assert!(curves().all(|((a, b), c)| a.is_finite() && a <= b && b <= c && c.is_finite()));
            assert_eq!((forecast.q50.len(), forecast.peak.len()), (DAY, DAY));
        }
    }
    assert_eq!(made, forecast_all(&all, &options()));
}
