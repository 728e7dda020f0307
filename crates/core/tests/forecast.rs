//! Forecasts: what a caller may rely on, whatever the series.

// Helpers of tests may unwrap, as tests do; clippy only sees the latter.
#![allow(clippy::unwrap_used)]

use std::f64::consts::TAU;

use proptest::prelude::*;
use repart_core::forecast::{
    Forecast, ForecastError, Forecaster, MAX_HORIZON, Model, Options, Season, ets::Ets, forecast,
    mstl::Mstl,
};
use repart_core::series::Series;

fn series(values: Vec<f64>) -> Series {
    Series {
        start: 1_000,
        step: 10,
        values,
    }
}

fn options(horizon: usize, model: Model) -> Options {
    Options {
        horizon,
        season: Season::Auto,
        model,
    }
}

fn run(values: Vec<f64>, horizon: usize, model: Model) -> Forecast {
    forecast(&series(values), &options(horizon, model)).unwrap()
}

/// Uniform noise in [0, 1): splitmix64.
fn noise(index: u64) -> f64 {
    let mut x = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

fn noisy_sine(count: u64, period: f64, amplitude: f64, seed: u64) -> Vec<f64> {
    let value = |i: u64| {
        let wave = 50.0 * (i as f64 * TAU / period).sin();
        100.0 + wave + amplitude * (noise(seed * 1_000_003 + i) - 0.5)
    };
    (0..count).map(value).collect()
}

fn assert_sound(forecast: &Forecast, horizon: usize) {
    for quantile in [&forecast.q50, &forecast.q90, &forecast.q99, &forecast.peak] {
        assert_eq!(quantile.len(), horizon);
        assert!(
            quantile.iter().all(|v| v.is_finite() && *v >= 0.0),
            "{forecast:?}"
        );
    }
    for ((q50, q90), q99) in forecast.q50.iter().zip(&forecast.q90).zip(&forecast.q99) {
        assert!(q50 <= q90 && q90 <= q99, "{q50} {q90} {q99}");
    }
    assert!((-1.0..=1.0).contains(&forecast.skill), "{}", forecast.skill);
}

#[test]
fn a_forecast_starts_where_the_series_ends() {
    let forecast = run(vec![1.0; 50], 5, Model::Auto);
    assert_eq!((forecast.start, forecast.step), (1_500, 10));
}

#[test]
fn auto_follows_a_noisy_sine_better_than_seasonal_naive() {
    let all = noisy_sine(1_060, 60.0, 40.0, 3);
    let (past, future) = all.split_at(1_000);
    let forecast = run(past.to_vec(), 60, Model::Auto);
    assert_sound(&forecast, 60);
    assert_eq!(
        (forecast.model.as_str(), forecast.seasons.as_slice()),
        ("ensemble", [60].as_slice())
    );
    assert!(forecast.skill > 0.1, "{}", forecast.skill);
    let error = |f: &[f64]| {
        f.iter()
            .zip(future)
            .map(|(a, b)| (a - b).abs())
            .sum::<f64>()
    };
    assert!(error(&forecast.q50) < error(&past[940..]));
    let below = forecast
        .q90
        .iter()
        .zip(future)
        .filter(|(q, y)| y <= q)
        .count();
    assert!((45..60).contains(&below), "{below} of 60 below q90");
}

#[test]
fn widths_follow_the_noise_of_the_step() {
    // Calm by night, noisy by day: a constant factor or width would not tell them apart.
    let value = |i: u64| 100.0 + noise(i) * if i % 24 < 12 { 1.0 } else { 80.0 };
    let set = Options {
        horizon: 24,
        season: Season::Steps(24),
        model: Model::Mstl,
    };
    let forecast = forecast(&series((0..720).map(value).collect()), &set).unwrap();
    let width = |step: usize| forecast.q90[step] - forecast.q50[step];
    let night: f64 = (3..9).map(width).sum();
    let day: f64 = (15..21).map(width).sum();
    assert!(day > 3.0 * night, "day {day}, night {night}");
}

#[test]
fn ets_follows_a_shift_of_the_level() {
    let values = (0..200)
        .map(|i| if i < 150 { 10.0 } else { 50.0 } + noise(i))
        .collect();
    let forecast = run(values, 10, Model::Ets);
    assert_eq!(forecast.model, "ets");
    assert!(
        forecast.q50.iter().all(|v| (45.0..56.0).contains(v)),
        "{:?}",
        forecast.q50
    );
}

#[test]
fn a_constant_series_stays_constant_with_no_width() {
    for model in Model::ALL {
        let forecast = run(vec![42.0; 300], 20, model);
        assert_sound(&forecast, 20);
        assert_eq!(forecast.skill, 0.0, "{model}");
        let all = || forecast.q50.iter().chain(&forecast.q99);
        assert!(
            all().all(|v| (v - 42.0).abs() < 1e-9),
            "{model} {forecast:?}"
        );
    }
}

#[test]
fn an_idle_shard_is_forecast_to_stay_idle() {
    for count in [1, 3, 30, 300] {
        let forecast = run(vec![0.0; count], 7, Model::Auto);
        assert_eq!((forecast.q50, forecast.q99), (vec![0.0; 7], vec![0.0; 7]));
    }
}

#[test]
fn a_perfect_season_is_repeated_with_skill_zero() {
    let values = (0..480).map(|i| f64::from(i % 24)).collect();
    let forecast = run(values, 24, Model::Auto);
    assert_eq!(
        (forecast.model.as_str(), forecast.skill),
        ("seasonal_naive", 0.0)
    );
    assert_eq!(forecast.seasons, [24]);
    for step in 0..24 {
        assert!((forecast.q50[step] - step as f64).abs() < 1e-9);
        assert!((forecast.q99[step] - step as f64).abs() < 1e-9);
    }
}

#[test]
fn few_points_give_a_wide_forecast_that_widens() {
    for count in 1..=3 {
        let forecast = run(vec![100.0; count], 9, Model::Auto);
        assert_sound(&forecast, 9);
        assert_eq!((forecast.q50[0], forecast.skill), (100.0, 0.0));
        assert!(forecast.q90[0] > 110.0, "{forecast:?}");
        assert!(forecast.q90[8] > forecast.q90[0]);
    }
}

#[test]
fn a_model_that_cannot_be_fitted_gives_way_to_a_simpler_one() {
    assert_eq!(
        run(vec![5.0, 6.0, 7.0], 4, Model::Mstl).model,
        "seasonal_naive"
    );
    assert_eq!(
        run((0..100).map(noise).collect(), 4, Model::Mstl).model,
        "ets"
    );
    let short = series(vec![1.0; 5]);
    assert!(matches!(
        Ets.fit(&short, &[]),
        Err(ForecastError::TooShort { model: "ets", .. })
    ));
    assert!(matches!(
        Mstl.fit(&short, &[]),
        Err(ForecastError::NoSeason { .. })
    ));
    assert!(matches!(
        Mstl.fit(&short, &[4]),
        Err(ForecastError::TooShort { .. })
    ));
}

#[test]
fn a_season_set_by_hand_is_used_or_left_out_if_too_long() {
    let values = noisy_sine(200, 20.0, 10.0, 5);
    let with = |steps| {
        let set = Options {
            season: Season::Steps(steps),
            ..options(10, Model::Auto)
        };
        forecast(&series(values.clone()), &set).unwrap().seasons
    };
    assert_eq!(with(40), [40]);
    assert!(with(1).is_empty());
    assert!(with(200).is_empty());
}

#[test]
fn gaps_and_impossible_values_are_looked_through() {
    let truth = noisy_sine(600, 24.0, 5.0, 2);
    let mut values = truth[..500].to_vec();
    for (i, value) in values.iter_mut().enumerate() {
        match i % 31 {
            _ if i < 20 => *value = f64::NAN,
            7 => *value = f64::NAN,
            8 => *value = f64::INFINITY,
            9 => *value = -1e9,
            _ => {}
        }
    }
    values.extend([f64::NAN; 30]);
    let forecast = run(values, 48, Model::Auto);
    assert_sound(&forecast, 48);
    assert_eq!(
        (forecast.start, forecast.seasons.as_slice()),
        (1_000 + 5_300, [24].as_slice())
    );
    for (value, truth) in forecast.q50.iter().zip(&truth[530..]) {
        assert!((value - truth).abs() < 20.0, "{value} for {truth}");
    }
}

#[test]
fn impossible_requests_are_clear_errors() {
    let fail =
        |values: Vec<f64>, options: &Options| forecast(&series(values), options).unwrap_err();
    let auto = options(5, Model::Auto);
    assert_eq!(fail(vec![], &auto), ForecastError::NoData);
    assert_eq!(
        fail(vec![f64::NAN, -1.0, f64::INFINITY], &auto),
        ForecastError::NoData
    );
    assert_eq!(
        fail(vec![1.0], &options(0, Model::Auto)),
        ForecastError::EmptyHorizon
    );
    let horizon = MAX_HORIZON + 1;
    assert_eq!(
        fail(vec![1.0], &options(horizon, Model::Auto)),
        ForecastError::HorizonTooLong { horizon }
    );
    let no_season = Options {
        season: Season::Steps(0),
        ..auto
    };
    assert_eq!(fail(vec![1.0], &no_season), ForecastError::BadSeason);
    let stopped = Series {
        start: 0,
        step: 0,
        values: vec![1.0],
    };
    assert_eq!(
        forecast(&stopped, &auto),
        Err(ForecastError::BadStep { step: 0 })
    );
}

#[test]
fn models_are_known_by_their_sql_names() {
    for model in Model::ALL {
        assert_eq!(model.to_string().parse(), Ok(model));
        assert_eq!(
            serde_json::to_string(&model).unwrap(),
            format!("\"{model}\"")
        );
    }
    let message = "prohpet".parse::<Model>().unwrap_err().to_string();
    assert!(message.contains("\"prohpet\""));
    assert!(
        Model::ALL.iter().all(|m| message.contains(m.name())),
        "{message}"
    );
}

#[test]
fn the_same_series_gives_the_same_forecast() {
    let values = noisy_sine(700, 48.0, 60.0, 9);
    assert_eq!(
        run(values.clone(), 48, Model::Auto),
        run(values, 48, Model::Auto)
    );
}

#[test]
fn history_beyond_the_bound_changes_nothing() {
    let long = noisy_sine(20_000, 50.0, 30.0, 4);
    let recent = long[20_000 - 4_096..].to_vec();
    assert_eq!(
        run(long, 50, Model::Auto).q90,
        run(recent, 50, Model::Auto).q90
    );
}

#[test]
fn the_longest_horizon_and_history_are_forecast() {
    let forecast = run(noisy_sine(5_000, 50.0, 30.0, 6), MAX_HORIZON, Model::Auto);
    assert_sound(&forecast, MAX_HORIZON);
    let width = |step: usize| forecast.q90[step] - forecast.q50[step];
    assert!(
        width(MAX_HORIZON - 1) > width(100),
        "what was never tested is less certain"
    );
}

fn any_season() -> impl Strategy<Value = Season> {
    prop_oneof![Just(Season::Auto), (1_usize..80).prop_map(Season::Steps)]
}

/// Values of all kinds: any bits, ordinary, tiny, huge, repeated.
fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        2 => any::<f64>(),
        6 => 0.0..1_000.0_f64,
        1 => Just(0.0),
        1 => Just(f64::MAX),
        1 => Just(f64::MIN_POSITIVE),
        1 => Just(f64::NAN),
        2 => Just(5.0),
    ]
}

proptest! {
    // A case fits up to thirty models.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_input_gives_a_sound_forecast_or_no_data(
        values in prop::collection::vec(any_value(), 0..160),
        horizon in 1_usize..50,
        season in any_season(),
        model in prop::sample::select(Model::ALL.to_vec()),
    ) {
        let usable = values.iter().any(|v| v.is_finite() && *v >= 0.0);
        match forecast(&series(values), &Options { horizon, season, model }) {
            Ok(forecast) => assert_sound(&forecast, horizon),
            Err(error) => prop_assert!(!usable && error == ForecastError::NoData, "{error}"),
        }
    }

    #[test]
    fn ordinary_load_gives_a_sound_forecast(
        values in prop::collection::vec(0.0..1e6_f64, 1..250),
        period in 2_usize..40,
        swing in 0.0..1e6_f64,
        horizon in 1_usize..60,
        model in prop::sample::select(Model::ALL.to_vec()),
    ) {
        let wave = |i: usize| swing * (1.0 + (i as f64 * TAU / period as f64).sin());
        let load = values.iter().enumerate().map(|(i, v)| v + wave(i)).collect();
        assert_sound(&run(load, horizon, model), horizon);
    }

    #[test]
    fn a_forecast_scales_with_the_unit(seed in 0_u64..1_000, power in -20_i32..20) {
        let values = noisy_sine(200, 12.0, 30.0, seed);
        let factor = 2_f64.powi(power);
        let plain = run(values.clone(), 12, Model::Auto);
        let scaled = run(values.iter().map(|v| v * factor).collect(), 12, Model::Auto);
        prop_assert_eq!(&plain.model, &scaled.model);
        for (a, b) in plain.q90.iter().zip(&scaled.q90) {
            prop_assert!((a * factor - b).abs() <= 1e-6 * b);
        }
    }
}
