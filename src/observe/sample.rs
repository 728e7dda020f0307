//! A sample of the load of every shard.

use pgrx::pg_sys;
use repart_core::series;

use crate::catalog::samples::{self, NewSample, Reading};
use crate::error::Result;

/// Samples every local shard of every managed table; returns how many were read.
///
/// The first sample of a shard only remembers its counters. Where they went back since (statistics were
/// reset, the server crashed) the span becomes a gap. What repart's own copying reads is not counted: the
/// mover switches `track_counts` off.
///
/// Sessions report what they did at the end of a transaction, and at most once per second: a transaction
/// that takes minutes appears as one peak at its end, and samples less than a second apart see nothing.
/// What a forecast is made of is averaged over longer steps, so that this is not smoothed here.
pub fn sample() -> Result<usize> {
    let readings = samples::readings()?;
    let new: Vec<NewSample> = readings.iter().filter_map(rates).collect();
    samples::insert(&new)?;
    samples::store_counters(&readings)?;
    Ok(readings.len())
}

fn rates(reading: &Reading) -> Option<NewSample> {
    let rates = series::rates(&reading.previous?, &reading.now, i64::from(pg_sys::BLCKSZ))?;
    Some(NewSample {
        shard: reading.shard,
        at: reading.now.at,
        seconds: rates.seconds,
        reads: rates.reads,
        writes: rates.writes,
        bytes: rates.bytes,
        size: reading.size,
    })
}
