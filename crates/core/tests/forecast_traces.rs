//! Forecasts of a real trace: hourly requests to all Wikimedia sites (public domain), read from
//! `../shared/data`. Skipped with a message where that folder is absent.

// Helpers of tests may unwrap, as tests do; clippy only sees the latter.
#![allow(clippy::unwrap_used)]

use std::{fs, ops::Range, path::Path};

use repart_core::forecast::{Forecast, Model, Options, Season, forecast, seasons};
use repart_core::series::{Sample, Series};

const HOUR: i64 = 3_600_000_000;
const DAY: usize = 24;
const ORIGINS: usize = 24;

/// The requests per hour, as a series; `None` if the trace is not there.
fn wikimedia() -> Option<Series> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/wikipedia_hourly_requests_2008-10_2009-12.csv");
    let Ok(text) = fs::read_to_string(&path) else {
        println!("skipped: {} is not there", path.display());
        return None;
    };
    let mut samples = Vec::new();
    for line in text.lines().skip(1) {
        let mut columns = line.split(',');
        let at = hours_since_2008(columns.next().unwrap()) * HOUR;
        let value = columns.next().unwrap().parse().unwrap();
        samples.push(Sample {
            at: at + HOUR,
            seconds: 3600.0,
            value,
        });
    }
    Some(Series::from_samples(&samples, HOUR).unwrap())
}

/// Hours from 2008-01-01 to a time like "2008-10-01 13:00:00" in 2008 or later.
fn hours_since_2008(time: &str) -> i64 {
    let number = |range: Range<usize>| time[range].parse::<i64>().unwrap();
    let year = number(0..4);
    let leap = year % 4 == 0;
    let months = [
        31,
        if leap { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let month = usize::try_from(number(5..7)).unwrap();
    let years = (year - 2008) * 365 + (year - 2005) / 4;
    let days = years + months[..month - 1].iter().sum::<i64>() + number(8..10) - 1;
    days * 24 + number(11..13)
}

/// The last days of the trace, `ORIGINS` of them, 5 days apart so that every weekday comes up.
fn origins(series: &Series) -> impl Iterator<Item = usize> {
    let last = series.len() - DAY;
    (0..ORIGINS).map(move |back| last - back * 5 * DAY)
}

fn day_ahead(series: &Series, origin: usize) -> Forecast {
    let past = Series {
        values: series.values[..origin].to_vec(),
        ..series.clone()
    };
    let options = Options {
        horizon: DAY,
        season: Season::Auto,
        model: Model::Auto,
    };
    forecast(&past, &options).unwrap()
}

#[test]
fn the_day_and_the_week_are_found_in_hourly_requests() {
    let Some(series) = wikimedia() else { return };
    let filled = series.fill_gaps().values;
    let found =
        |weeks: usize, origin: usize| seasons::detect(&filled[origin - weeks * 7 * DAY..origin]);
    for origin in origins(&series) {
        assert_eq!(
            found(24, origin),
            [24, 168],
            "24 weeks before hour {origin}"
        );
    }
    let days = origins(&series)
        .filter(|origin| found(8, *origin).contains(&24))
        .count();
    let weeks = origins(&series)
        .filter(|origin| found(8, *origin) == [24, 168])
        .count();
    println!(
        "In 8 weeks of hours the day is found {days} times and day and week {weeks} times of {ORIGINS}"
    );
    assert_eq!(days, ORIGINS);
    assert!(weeks * 4 >= ORIGINS * 3);
}

#[test]
fn auto_beats_daily_seasonal_naive_a_day_ahead_with_calibrated_quantiles() {
    let Some(series) = wikimedia() else { return };
    let (mut error, mut naive_error, mut total, mut skill) = (0.0, 0.0, 0.0, 0.0);
    let (mut below_90, mut below_99, mut count) = (0.0, 0.0, 0.0);
    for origin in origins(&series) {
        let forecast = day_ahead(&series, origin);
        skill += forecast.skill / ORIGINS as f64;
        for step in 0..DAY {
            let truth = series.values[origin + step];
            let yesterday = series.values[origin + step - DAY];
            if truth.is_nan() || yesterday.is_nan() {
                continue;
            }
            error += (truth - forecast.q50[step]).abs();
            naive_error += (truth - yesterday).abs();
            total += truth;
            below_90 += f64::from(u8::from(truth <= forecast.q90[step]));
            below_99 += f64::from(u8::from(truth <= forecast.q99[step]));
            count += 1.0;
        }
    }
    println!(
        "Wikimedia, day ahead, {ORIGINS} origins: WAPE {:.2} % (daily seasonal naive {:.2} %), \
         q90 covers {:.1} %, q99 covers {:.1} %, mean skill {skill:.2}",
        100.0 * error / total,
        100.0 * naive_error / total,
        100.0 * below_90 / count,
        100.0 * below_99 / count,
    );
    assert!(
        error < 0.9 * naive_error,
        "{error} is not below {naive_error}"
    );
    assert!((0.75..=0.99).contains(&(below_90 / count)));
    assert!(below_99 / count >= 0.9);
    assert!(skill > 0.0);
}
