//! Load series: from cumulative counters to rates, from rates to a regular series, and the lineage
//! of a shard that was split or merged.
//!
//! Times are microseconds since the Unix epoch, as `i64`. Rates are per second, never negative.
//! Nothing here panics on odd input: times anywhere in `i64`, values that are not finite, samples
//! out of order or overlapping.

mod counters;
mod lineage;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use counters::{Counters, Rates, rates};
pub use lineage::inherit;

/// The longest series that is built, in steps. A year of 30-second steps; beyond it the memory is
/// not worth the history, and the caller should take a coarser step (see [`natural_step`]).
pub const MAX_STEPS: usize = 1_048_576;

/// Microseconds per second.
const MICROS: f64 = 1_000_000.0;

/// Why samples cannot be made into a series.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SeriesError {
    /// There is no sample with a finite, non-negative value.
    #[error("there are no usable samples")]
    NoSamples,
    /// The step is zero or negative.
    #[error("the step of a series must be positive, not {step} microseconds")]
    BadStep {
        /// The step that was asked for, in microseconds.
        step: i64,
    },
    /// The samples span more than [`MAX_STEPS`] steps.
    #[error("the samples span {steps} steps, more than the {MAX_STEPS} a series may have")]
    TooLong {
        /// The steps that the samples span.
        steps: u128,
    },
    /// The series would start or end outside the range of time.
    #[error("the samples lie outside the range of time")]
    OutOfRange,
}

/// A rate, averaged over the `seconds` before `at`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The end of the interval, in microseconds since the Unix epoch.
    pub at: i64,
    /// The length of the interval in seconds. Zero, negative or not finite: unknown, taken as one step.
    pub seconds: f64,
    /// The mean rate over the interval, per second. Negative or not finite: the sample is ignored.
    pub value: f64,
}

impl Sample {
    /// Whether the value is one that a rate can have.
    fn is_usable(&self) -> bool {
        self.value.is_finite() && self.value >= 0.0
    }

    /// The interval covered, `[from, to)` in microseconds; `unknown` is the length when none is known.
    fn interval(&self, unknown: i64) -> (i128, i128) {
        let to = i128::from(self.at);
        let length = if self.seconds.is_finite() && self.seconds > 0.0 {
            // A float-to-integer cast saturates, and the bound keeps the arithmetic in range.
            ((self.seconds * MICROS).round().clamp(1.0, i64::MAX as f64)) as i128
        } else {
            i128::from(unknown.max(1))
        };
        (to - length, to)
    }
}

/// A regular series: `values[i]` is the mean rate over `[start + i * step, start + (i + 1) * step)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The start of the first step, in microseconds since the Unix epoch.
    pub start: i64,
    /// The length of a step, in microseconds; positive.
    pub step: i64,
    /// One mean rate per step; NaN where nothing was measured.
    pub values: Vec<f64>,
}

impl Series {
    /// Resamples: each step gets the mean of the samples that overlap it, weighted by the overlap, so
    /// that the area under the curve is kept.
    ///
    /// Steps begin at multiples of `step` since the epoch, so that the series of different shards line
    /// up. A step is missing (NaN) where no sample overlaps it, or where the samples cover less than
    /// half of what they cover in the median step: the ragged ends of a history are not measurements.
    ///
    /// # Errors
    /// [`SeriesError`] if there is no usable sample, or the step or the span is out of range.
    pub fn from_samples(samples: &[Sample], step: i64) -> Result<Series, SeriesError> {
        if step <= 0 {
            return Err(SeriesError::BadStep { step });
        }
        let usable: Vec<&Sample> = samples.iter().filter(|s| s.is_usable()).collect();
        let from = usable.iter().map(|s| s.interval(step).0).min();
        let to = usable.iter().map(|s| s.interval(step).1).max();
        let (Some(from), Some(to)) = (from, to) else {
            return Err(SeriesError::NoSamples);
        };
        let width = i128::from(step);
        let first = from.div_euclid(width);
        let last = (to - 1).div_euclid(width);
        let steps = (last - first + 1).unsigned_abs();
        if steps > MAX_STEPS as u128 {
            return Err(SeriesError::TooLong { steps });
        }
        let start = i64::try_from(first * width).map_err(|_| SeriesError::OutOfRange)?;
        i64::try_from((last + 1) * width).map_err(|_| SeriesError::OutOfRange)?;
        let mut bins = vec![Bin::default(); steps as usize];
        for sample in usable {
            spread(sample, first, width, &mut bins);
        }
        Ok(Series {
            start,
            step,
            values: bin_values(&bins),
        }
        .without_missing_ends())
    }

    /// The end of the last step, in microseconds since the Unix epoch: where a forecast begins.
    pub fn end(&self) -> i64 {
        let length = i64::try_from(self.values.len()).unwrap_or(i64::MAX);
        self.start.saturating_add(self.step.saturating_mul(length))
    }

    /// The number of steps, missing ones included.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no steps at all.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The same series with every gap filled: linearly between the values beside it, and at the ends
    /// with the nearest value. Values that are negative or not finite count as missing. A series
    /// without any value is returned with zeros.
    #[must_use]
    pub fn fill_gaps(&self) -> Series {
        let mut values: Vec<f64> = self.values.iter().copied().map(usable_or_nan).collect();
        fill_linearly(&mut values);
        Series {
            values,
            ..self.clone()
        }
    }

    /// Drops the missing steps at both ends, moving `start`; at least one step has a value.
    fn without_missing_ends(mut self) -> Series {
        let keep = |v: &f64| !v.is_nan();
        let first = self.values.iter().position(keep).unwrap_or(0);
        let end = self.values.iter().rposition(keep).map_or(0, |i| i + 1);
        self.values.truncate(end.max(first));
        self.values.drain(..first);
        let shift = i64::try_from(first).unwrap_or(i64::MAX);
        self.start = self.start.saturating_add(self.step.saturating_mul(shift));
        self
    }
}

/// What has fallen into one step so far.
#[derive(Clone, Copy, Default)]
struct Bin {
    /// Microseconds covered.
    covered: f64,
    /// Mean of what covered it.
    mean: f64,
}

/// Adds one sample to every step it overlaps, as a running weighted mean (which cannot overflow).
fn spread(sample: &Sample, first: i128, width: i128, bins: &mut [Bin]) {
    let (from, to) = sample.interval(width as i64);
    let begin = (from.div_euclid(width) - first) as usize;
    let end = ((to - 1).div_euclid(width) - first) as usize;
    for (offset, bin) in bins.iter_mut().enumerate().take(end + 1).skip(begin) {
        let bin_from = (first + offset as i128) * width;
        let overlap = (to.min(bin_from + width) - from.max(bin_from)) as f64;
        bin.covered += overlap;
        bin.mean += (sample.value - bin.mean) * (overlap / bin.covered);
    }
}

/// The values of the steps; NaN where less than half of the usual time is covered.
fn bin_values(bins: &[Bin]) -> Vec<f64> {
    let mut covered: Vec<f64> = bins
        .iter()
        .map(|b| b.covered)
        .filter(|c| *c > 0.0)
        .collect();
    covered.sort_by(f64::total_cmp);
    let usual = covered.get(covered.len() / 2).copied().unwrap_or(0.0);
    bins.iter()
        .map(|bin| {
            let enough = bin.covered > 0.0 && bin.covered >= usual / 2.0;
            if enough { bin.mean.max(0.0) } else { f64::NAN }
        })
        .collect()
}

/// The value itself if it is one that a rate can have, else NaN.
pub(crate) fn usable_or_nan(value: f64) -> f64 {
    if value.is_finite() && value >= 0.0 {
        value
    } else {
        f64::NAN
    }
}

/// Replaces NaN by linear interpolation, at the ends by the nearest value, without any value by 0.
pub(crate) fn fill_linearly(values: &mut [f64]) {
    let mut previous: Option<(usize, f64)> = None;
    for index in 0..values.len() {
        let value = values.get(index).copied().unwrap_or(f64::NAN);
        if value.is_nan() {
            continue;
        }
        let (from, before) = previous.map_or((0, value), |(i, v)| (i + 1, v));
        let gap = (index + 1 - from) as f64;
        for (k, slot) in values.iter_mut().take(index).skip(from).enumerate() {
            let weight = (k + 1) as f64 / gap;
            *slot = before * (1.0 - weight) + value * weight;
        }
        previous = Some((index, value));
    }
    let (from, value) = previous.map_or((0, 0.0), |(i, v)| (i + 1, v));
    for slot in values.iter_mut().skip(from) {
        *slot = value;
    }
}

/// The step that suits the samples, in microseconds: the median time between them, snapped to a round
/// unit of time when within 0.5 % of it (a sampler that wakes every 60.01 s means every minute), then
/// coarsened to the smallest integer multiple at which the samples span at most `max_points` steps.
///
/// `None` with fewer than two different times, with `max_points` = 0, or if the step does not fit `i64`.
pub fn natural_step(samples: &[Sample], max_points: usize) -> Option<i64> {
    let mut times: Vec<i128> = samples
        .iter()
        .filter(|s| s.is_usable())
        .map(|s| i128::from(s.at))
        .collect();
    times.sort_unstable();
    times.dedup();
    let span = times.last()? - times.first()?;
    let mut spacings: Vec<i128> = times
        .iter()
        .skip(1)
        .zip(&times)
        .map(|(later, earlier)| later - earlier)
        .collect();
    spacings.sort_unstable();
    let median = snap(*spacings.get(spacings.len() / 2)?);
    let points = i128::try_from(max_points).ok().filter(|p| *p > 0)?;
    // The first sample covers one step before its own time.
    let multiple = (span + median + median * points - 1) / (median * points);
    i64::try_from(median * multiple.max(1)).ok()
}

/// Rounds to the largest unit of time that is within 0.5 %.
fn snap(micros: i128) -> i128 {
    const UNITS: [i128; 7] = [
        86_400_000_000,
        3_600_000_000,
        60_000_000,
        1_000_000,
        100_000,
        10_000,
        1_000,
    ];
    UNITS
        .iter()
        .map(|unit| (micros + unit / 2) / unit * unit)
        .find(|rounded| *rounded > 0 && (rounded - micros).abs() * 200 <= micros)
        .unwrap_or(micros)
}
