//! The hourly series of the M4 competition, with its official split and its two measures.
//!
//! Makridakis, Spiliotis and Assimakopoulos 2020, *The M4 Competition: 100,000 time series and 61
//! forecasting methods*. Hourly series have frequency 24 and a horizon of 48.

use std::path::Path;

use repart_core::forecast::{self, Model, Options, Season};
use repart_core::series::Series;

use crate::{
    Error,
    arguments::{Arguments, Part},
    clock::Clock,
    score::geometric_mean,
    trace::SECOND,
};

const FREQUENCY: usize = 24;
const HORIZON: usize = 48;

/// The files of the official split.
pub const FILES: [&str; 2] = ["m4_hourly_train.csv", "m4_hourly_test.csv"];

/// One series.
#[derive(Debug, Clone)]
pub struct Split {
    /// What a model sees.
    pub train: Vec<f64>,
    /// What it forecasts.
    pub test: Vec<f64>,
}

/// How a model did over all series.
#[derive(Debug, Clone, Default)]
pub struct Score {
    /// The mean symmetric percentage error, in %.
    pub smape: f64,
    /// The mean of absolute errors relative to those of the daily seasonal naive in the history.
    pub mase: f64,
    /// The geometric mean of WAPE relative to the daily seasonal naive.
    pub wape: f64,
    /// The share of values at or below q90.
    pub coverage: f64,
    /// The mean time per series, ms.
    pub millis: f64,
    /// The series.
    pub series: usize,
}

/// Both files of the split; `None` if the folder has none.
///
/// # Errors
/// [`Error::Read`] or [`Error::NotATrace`].
pub fn read(folder: &Path) -> Result<Option<Vec<Split>>, Error> {
    let [train, test] = FILES.map(|name| folder.join(name));
    if !train.exists() || !test.exists() {
        return Ok(None);
    }
    let pairs = rows(&train)?.into_iter().zip(rows(&test)?);
    Ok(Some(
        pairs.map(|(train, test)| Split { train, test }).collect(),
    ))
}

fn rows(path: &Path) -> Result<Vec<Vec<f64>>, Error> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: shown.clone(),
        source,
    })?;
    let number = |field: &str| field.trim_matches('"').parse::<f64>();
    let row = |line: &str| -> Result<Vec<f64>, Error> {
        let fields = line
            .split(',')
            .skip(1)
            .filter(|field| !matches!(*field, "" | "\"\"" | "NA"));
        let values: Result<Vec<f64>, _> = fields.map(number).collect();
        values.map_err(|e| Error::NotATrace {
            path: shown.clone(),
            reason: e.to_string(),
        })
    };
    text.lines().skip(1).map(row).collect()
}

/// Evaluates one model. Validation forecasts the last 48 values of the histories instead.
pub fn evaluate(all: &[Split], model: Model, season: Season, arguments: &Arguments) -> Score {
    let mut score = Score::default();
    let mut ratios = Vec::new();
    for Split { train, test } in all.iter().step_by(arguments.m4) {
        let (past, future) = match arguments.part {
            Part::Test => (train.as_slice(), test.as_slice()),
            Part::Validation | Part::Percent(..) => {
                train.split_at(train.len().saturating_sub(HORIZON))
            }
        };
        let series = Series {
            start: 0,
            step: 3_600 * SECOND,
            values: past.to_vec(),
        };
        let options = Options {
            horizon: HORIZON,
            season,
            model,
        };
        let clock = Clock::start();
        let Ok(made) = forecast::forecast(&series, &options) else {
            continue;
        };
        score.millis += clock.millis();
        score.smape += smape(&made.q50, future);
        score.mase += absolute(&made.q50, future) / scale(past);
        let repeated: Vec<f64> = past
            .iter()
            .skip(past.len() - FREQUENCY)
            .copied()
            .cycle()
            .take(HORIZON)
            .collect();
        let naive = absolute(&repeated, future);
        if naive > 0.0 {
            ratios.push((absolute(&made.q50, future) / naive).max(1e-3));
        }
        let below = made
            .q90
            .iter()
            .zip(future)
            .filter(|(q, y)| *y <= *q)
            .count();
        score.coverage += below as f64 / future.len() as f64;
        score.series += 1;
    }
    let count = score.series.max(1) as f64;
    for mean in [
        &mut score.smape,
        &mut score.mase,
        &mut score.coverage,
        &mut score.millis,
    ] {
        *mean /= count;
    }
    score.wape = geometric_mean(ratios.into_iter());
    score
}

fn smape(forecast: &[f64], measured: &[f64]) -> f64 {
    let pairs = forecast.iter().zip(measured);
    let sum: f64 = pairs
        .map(|(f, y)| 200.0 * (f - y).abs() / (f.abs() + y.abs()).max(f64::MIN_POSITIVE))
        .sum();
    sum / measured.len() as f64
}

fn absolute(forecast: &[f64], measured: &[f64]) -> f64 {
    let pairs = forecast.iter().zip(measured);
    pairs.map(|(f, y)| (f - y).abs()).sum::<f64>() / measured.len() as f64
}

/// The mean absolute difference to the same hour of the day before, over the history.
fn scale(past: &[f64]) -> f64 {
    let later = past.iter().skip(FREQUENCY);
    let pairs = past.len().saturating_sub(FREQUENCY).max(1) as f64;
    later
        .zip(past)
        .map(|(now, then)| (now - then).abs())
        .sum::<f64>()
        / pairs
}
