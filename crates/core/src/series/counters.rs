//! From the cumulative counters of PostgreSQL to rates.

use serde::{Deserialize, Serialize};

use super::MICROS;

/// The time between two readings beyond which a rate says nothing about either end: 366 days.
const LONGEST_READING_SECONDS: f64 = 366.0 * 86_400.0;

/// The time between two readings below which a rate is noise of the clock: 1 ms.
const SHORTEST_READING_SECONDS: f64 = 0.001;

/// Rows or bytes per second that no server reaches: a counter was damaged or restored.
const ABSURD_ROWS_PER_SECOND: f64 = 1e12;
const ABSURD_BYTES_PER_SECOND: f64 = 1e15;

/// Cumulative counters of one shard at one moment, as pg_stat gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// When they were read, in microseconds since the Unix epoch.
    pub at: i64,
    /// Rows read since the statistics were reset.
    pub reads: i64,
    /// Rows written since the statistics were reset.
    pub writes: i64,
    /// Blocks touched since the statistics were reset.
    pub blocks: i64,
}

/// Mean rates between two readings of [`Counters`]; finite and never negative.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// The time between the readings, in seconds.
    pub seconds: f64,
    /// Rows read per second.
    pub reads: f64,
    /// Rows written per second.
    pub writes: f64,
    /// Bytes touched per second: blocks × block size.
    pub bytes: f64,
}

/// The rates between two readings, `block_size` in bytes.
///
/// `None` if nothing can be said: a counter went back (statistics were reset, the server crashed, the
/// shard was dropped and made again) or is negative, the time between them is under 1 ms, negative or
/// over 366 days, the block size is not positive, or a rate is beyond what any server does.
pub fn rates(previous: &Counters, current: &Counters, block_size: i64) -> Option<Rates> {
    let seconds = current.at.checked_sub(previous.at)? as f64 / MICROS;
    if !(SHORTEST_READING_SECONDS..=LONGEST_READING_SECONDS).contains(&seconds) || block_size <= 0 {
        return None;
    }
    let per_second = |before: i64, after: i64| -> Option<f64> {
        let counted = before >= 0 && after >= before;
        counted.then(|| (after - before) as f64 / seconds)
    };
    let rates = Rates {
        seconds,
        reads: per_second(previous.reads, current.reads)?,
        writes: per_second(previous.writes, current.writes)?,
        bytes: per_second(previous.blocks, current.blocks)? * block_size as f64,
    };
    let sane = rates.reads <= ABSURD_ROWS_PER_SECOND
        && rates.writes <= ABSURD_ROWS_PER_SECOND
        && rates.bytes <= ABSURD_BYTES_PER_SECOND;
    sane.then_some(rates)
}
