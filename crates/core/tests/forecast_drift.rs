//! After a change of regime a forecast recovers within one season; calibration on synthetic noise.

// Helpers of tests may unwrap, as tests do; clippy only sees the latter.
#![allow(clippy::unwrap_used)]

use std::f64::consts::TAU;

use repart_core::forecast::{Forecast, Model, Options, Season, forecast};
use repart_core::series::Series;

const DAY: usize = 24;

/// Uniform noise in [0, 1): splitmix64.
fn noise(index: u64) -> f64 {
    let mut x = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

fn wave(step: usize, phase: f64) -> f64 {
    100.0 + 60.0 * ((step as f64 + phase) * TAU / DAY as f64).sin()
}

fn made(values: &[f64], origin: usize, horizon: usize) -> Forecast {
    let past = Series {
        start: 0,
        step: 1_000_000,
        values: values[..origin].to_vec(),
    };
    let options = Options {
        horizon,
        season: Season::Steps(DAY),
        model: Model::Auto,
    };
    forecast(&past, &options).unwrap()
}

/// The sum of absolute errors of the day after `origin`: of the forecast, and of repeating the last day.
fn errors(values: &[f64], origin: usize) -> (f64, f64) {
    let forecast = made(values, origin, DAY);
    let pairs = (0..DAY).map(|step| {
        (
            values[origin + step],
            forecast.q50[step],
            values[origin + step - DAY],
        )
    });
    pairs.fold((0.0, 0.0), |(ours, naive), (truth, point, before)| {
        (ours + (truth - point).abs(), naive + (truth - before).abs())
    })
}

/// The load at a step.
type Load = fn(usize) -> f64;

#[test]
fn a_forecast_recovers_within_one_season_after_a_change() {
    let change = 40 * DAY;
    let quiet = |i: usize| 12.0 * (noise(i as u64) - 0.5);
    let changes: [(&str, Load); 4] = [
        ("twice the level", |i| 2.0 * wave(i, 0.0)),
        ("a third of the level", |i| wave(i, 0.0) / 3.0),
        ("six hours later", |i| wave(i, -6.0)),
        ("twice a day", |i| wave(2 * i, 3.0)),
    ];
    for (name, after) in changes {
        let value = |i: usize| (if i < change { wave(i, 0.0) } else { after(i) }) + quiet(i);
        let values: Vec<f64> = (0..change + 4 * DAY).map(value).collect();
        let (mut ours, mut naive) = (0.0, 0.0);
        // One season after, and the eighth that shows that the new pattern repeats.
        for origin in [4, 7, 11, 17].map(|later| change + DAY + later) {
            let (error, of_naive) = errors(&values, origin);
            ours += error;
            naive += of_naive;
        }
        println!(
            "{name}: {:.2} of the error of repeating the last day, one day after",
            ours / naive
        );
        assert!(
            ours <= 1.25 * naive,
            "{name}: {ours} with, {naive} for seasonal naive"
        );
    }
}

#[test]
fn quantiles_and_peaks_are_calibrated_on_noise() {
    // Noise that is larger by day, with a long tail.
    let spike = |i: usize| (-noise(i as u64 + 900_001).max(1e-9).ln()) * wave(i, 0.0) * 0.2;
    let values: Vec<f64> = (0..90 * DAY).map(|i| wave(i, 0.0) + spike(i)).collect();
    let (mut below, mut count, mut peaks, mut windows) = (0.0, 0.0, 0.0, 0.0);
    for origin in (60 * DAY..89 * DAY).step_by(17) {
        let forecast = made(&values, origin, DAY);
        let truth = &values[origin..origin + DAY];
        below += truth
            .iter()
            .zip(&forecast.q90)
            .filter(|(y, q)| y <= q)
            .count() as f64;
        count += DAY as f64;
        let highest = truth.iter().copied().fold(0.0, f64::max);
        peaks += f64::from(u8::from(highest <= forecast.peak[DAY - 1]));
        windows += 1.0;
    }
    println!(
        "q90 covers {:.1} %, the peak {:.1} % of {windows} days",
        100.0 * below / count,
        100.0 * peaks / windows
    );
    assert!(
        (0.85..=0.95).contains(&(below / count)),
        "{}",
        below / count
    );
    assert!(
        (0.8..=1.0).contains(&(peaks / windows)),
        "{}",
        peaks / windows
    );
}

#[test]
fn auto_is_not_worse_than_seasonal_naive_on_periodic_load() {
    for (seed, amplitude) in [(1, 5.0), (2, 30.0), (3, 80.0)] {
        let value = |i: usize| wave(i, 0.0) + amplitude * noise(seed * 100_003 + i as u64);
        let values: Vec<f64> = (0..50 * DAY).map(value).collect();
        let (mut ours, mut naive) = (0.0, 0.0);
        for origin in (40 * DAY..48 * DAY).step_by(13) {
            let (error, of_naive) = errors(&values, origin);
            ours += error;
            naive += of_naive;
        }
        println!(
            "noise of {amplitude}: {:.2} of the error of repeating the last day",
            ours / naive
        );
        assert!(ours < naive, "{ours} with, {naive} for seasonal naive");
    }
}
