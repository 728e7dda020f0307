//! Prophet with our optimiser against what its authors publish.

// Helpers of tests may unwrap, as tests do; clippy only sees the latter.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use augurs::prophet::{PredictionData, Prophet as Library, ProphetOptions, TrainingData};
use repart_core::forecast::Forecaster;
use repart_core::forecast::prophet::{Prophet, Regressor, optimizer::Lbfgs};
use repart_core::series::Series;

const DAY: i64 = 86_400;

/// Days since 1970-01-01. Howard Hinnant, *chrono-compatible low-level date algorithms*.
fn days(date: &str) -> i64 {
    let number = |from: usize, to: usize| date[from..to].parse::<i64>().unwrap();
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn peyton_manning() -> (Vec<i64>, Vec<f64>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/prophet_example_wp_log_peyton_manning.csv");
    let text = fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let (date, value) = line.split_once(',').unwrap();
        (
            days(date.trim_matches('"')) * DAY,
            value.parse::<f64>().unwrap(),
        )
    };
    text.lines().skip(1).map(line).unzip()
}

/// The last five days of the forecast of a year in the quick start of Prophet's documentation: by its Python
/// package (facebook/prophet at 0256d5e, docs/_docs/quick_start.md), and by its R package.
const PUBLISHED: [(&str, f64, f64); 5] = [
    ("2017-01-15", 8.205065, 8.214232),
    ("2017-01-16", 8.530088, 8.539239),
    ("2017-01-17", 8.317468, 8.326654),
    ("2017-01-18", 8.150081, 8.159337),
    ("2017-01-19", 8.162015, 8.171276),
];

#[test]
fn the_quick_start_of_prophet_is_reproduced() {
    let (dates, values) = peyton_manning();
    let options = ProphetOptions {
        uncertainty_samples: 0,
        ..ProphetOptions::default()
    };
    let mut model = Library::new(options, Lbfgs);
    let data = TrainingData::new(dates, values).unwrap();
    model.fit(data, Default::default()).unwrap();
    let future = PUBLISHED.map(|(date, _, _)| days(date) * DAY).to_vec();
    let predicted = model.predict(PredictionData::new(future)).unwrap();
    for ((date, python, r), ours) in PUBLISHED.iter().zip(&predicted.yhat.point) {
        println!("{date}: {ours:.6}, published {python} (Python) and {r} (R)");
        // The two publications differ by 0.009: where Stan stops depends on its version.
        let distance = (ours - python).abs().min((ours - r).abs());
        assert!(
            distance < 0.01,
            "{date}: {ours}, published {python} and {r}"
        );
    }
}

fn series(values: Vec<f64>) -> Series {
    Series {
        start: 0,
        step: 1_000_000,
        values,
    }
}

/// A day of 24 steps on a rising level, and 60 more on the given steps.
fn with_holidays(count: usize, holidays: &[usize]) -> Vec<f64> {
    let value = |i: usize| {
        let wave = 30.0 * (i as f64 * std::f64::consts::TAU / 24.0).sin();
        let holiday = if holidays.contains(&i) { 60.0 } else { 0.0 };
        100.0 + 0.05 * i as f64 + wave + holiday
    };
    (0..count).map(value).collect()
}

#[test]
fn a_holiday_that_is_known_is_forecast() {
    let holidays: Vec<usize> = (0..5)
        .flat_map(|week| week * 168 + 100..week * 168 + 124)
        .collect();
    let values = with_holidays(840, &holidays);
    let past = series(values[..740].to_vec());
    let plain = Prophet::default();
    let knowing = Prophet {
        regressors: vec![Regressor::holiday(holidays.iter().copied())],
        ..Prophet::default()
    };
    let error = |model: &Prophet| -> f64 {
        let points = model.fit(&past, &[24]).unwrap().predict(100).unwrap();
        let errors = points
            .iter()
            .zip(&values[740..])
            .map(|(f, y)| (f - y).abs());
        errors.sum::<f64>() / 100.0
    };
    let (plain, knowing) = (error(&plain), error(&knowing));
    println!("mean absolute error {plain:.2} without and {knowing:.2} with the holidays");
    assert!(
        knowing < 2.0 && knowing < plain / 4.0,
        "{knowing} with, {plain} without"
    );
}

#[test]
fn the_same_history_gives_the_same_forecast() {
    let past = series(with_holidays(400, &[]));
    let run = || {
        Prophet::default()
            .fit(&past, &[24, 168])
            .unwrap()
            .predict(48)
            .unwrap()
    };
    assert_eq!(run(), run());
}

#[test]
fn gaps_constants_and_zeros_are_survived() {
    let mut gaps = with_holidays(300, &[]);
    gaps.iter_mut()
        .skip(100)
        .take(50)
        .for_each(|v| *v = f64::NAN);
    for values in [gaps, vec![7.0; 100], vec![0.0; 100]] {
        let past = series(values.clone());
        let points = Prophet::default()
            .fit(&past, &[24])
            .unwrap()
            .predict(30)
            .unwrap();
        let most = values
            .iter()
            .copied()
            .filter(|v| v.is_finite())
            .fold(0.0, f64::max);
        assert!(
            points.iter().all(|v| (0.0..=2.0 * most).contains(v)),
            "{points:?}"
        );
    }
    assert!(Prophet::default().fit(&series(vec![1.0; 5]), &[]).is_err());
}
