//! A sample of the load of every shard.

use std::collections::HashMap;

use pgrx::pg_sys;
use repart_core::latency;
use repart_core::series::{self, Counters, Rates};

use crate::catalog::access::{self, AccessCounters};
use crate::catalog::replica_reads::{self, Served, Statements};
use crate::catalog::samples::{self, AccessRates, NewSample, Reading};
use crate::error::Result;
use crate::pg::sampler::read::{self, Counted};
use crate::pg::time;

/// Samples every local shard of every managed table; returns how many were read. What replicas of this server have
/// served since the last sample is added.
///
/// The first sample of a shard only remembers its counters. Where they went back since (statistics were
/// reset, the server crashed) the span becomes a gap. What repart's own copying reads is not counted: the
/// mover switches `track_counts` off.
///
/// Rows and bytes are those that the access sampler has counted, where it has counted the whole span; else those of
/// PostgreSQL's statistics. Sessions report these at the end of a transaction, and at most once per second: there, a
/// transaction that takes minutes appears as one peak at its end, and samples less than a second apart see nothing.
/// The sampler counts each statement when it ends. What a forecast is made of is averaged over longer steps, so that
/// this is not smoothed here.
pub fn sample() -> Result<usize> {
    let readings = samples::readings()?;
    let counted = counted(&readings);
    let place: HashMap<pg_sys::Oid, &AccessCounters> = counted
        .iter()
        .map(|(shard, counters)| (*shard, counters))
        .collect();
    let before = if counted.is_empty() {
        HashMap::new()
    } else {
        access::stored()?
    };
    let served = replica_reads::take()?;
    let new: Vec<NewSample> = readings
        .iter()
        .filter_map(|reading| {
            let now = place.get(&reading.shard).copied();
            let served = served.get(&reading.shard);
            rates(reading, now.zip(before.get(&reading.shard)), served)
        })
        .collect();
    samples::insert(&new)?;
    samples::store_counters(&readings)?;
    access::store(&counted)?;
    read::sweep();
    Ok(readings.len())
}

/// What the access sampler has counted of these shards.
fn counted(readings: &[Reading]) -> Vec<(pg_sys::Oid, AccessCounters)> {
    let at: HashMap<pg_sys::Oid, i64> = readings
        .iter()
        .map(|reading| (reading.shard, reading.now.at))
        .collect();
    read::counted()
        .into_iter()
        .filter_map(|counted| {
            let at = *at.get(&counted.shard)?;
            Some((counted.shard, counters(&counted, at)))
        })
        .collect()
}

fn counters(counted: &Counted, at: i64) -> AccessCounters {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    AccessCounters {
        at,
        since: time::from_postgres(counted.since),
        statements_read: number(counted.statements_read),
        statements_written: number(counted.statements_written),
        rows_read: number(counted.rows_read),
        rows_written: number(counted.rows_written.iter().sum()),
        bytes: number(counted.bytes_read.saturating_add(counted.bytes_written)),
        busy: number(counted.busy),
        latency: counted.latency.iter().copied().map(number).collect(),
    }
}

fn rates(
    reading: &Reading,
    accesses: Option<(&AccessCounters, &AccessCounters)>,
    served: Option<&Served>,
) -> Option<NewSample> {
    let by_statistics = series::rates(&reading.previous?, &reading.now, i64::from(pg_sys::BLCKSZ));
    let by_sampler = accesses.and_then(|(now, before)| access_rates(now, before));
    let (mut rates, access) = match by_sampler {
        Some(mut accessed) => {
            if let Some(statements) = served.and_then(|served| served.statements.as_ref()) {
                accessed.add_served(statements);
            }
            (accessed.rows, Some(accessed.rates()))
        }
        None => (by_statistics?, None),
    };
    if let Some(served) = served {
        rates.reads += served.rows / rates.seconds;
        rates.bytes += served.bytes / rates.seconds;
    }
    Some(NewSample {
        shard: reading.shard,
        at: reading.now.at,
        seconds: rates.seconds,
        reads: rates.reads,
        writes: rates.writes,
        bytes: rates.bytes,
        size: reading.size,
        access,
    })
}

/// What the sampler of one server counted between two readings, per second; that of several servers can be added up.
#[derive(Clone, Debug)]
pub struct Accessed {
    /// Rows and bytes.
    pub rows: Rates,
    statements_read: f64,
    statements_written: f64,
    busy_ms: f64,
    /// Execution times of the statements in between; see `repart_core::latency`.
    times: Vec<u64>,
}

impl Accessed {
    /// Adds the statements of another server; rows are the caller's.
    pub fn add_statements(&mut self, other: &Self) {
        self.statements_read += other.statements_read;
        self.statements_written += other.statements_written;
        self.busy_ms += other.busy_ms;
        for (sum, count) in self.times.iter_mut().zip(&other.times) {
            *sum = sum.saturating_add(*count);
        }
    }

    /// Adds what a replica counted since the last sample.
    fn add_served(&mut self, served: &Statements) {
        self.statements_read += served.number / self.rows.seconds;
        self.busy_ms += served.busy_ms / self.rows.seconds;
        for (sum, count) in self.times.iter_mut().zip(&served.times) {
            *sum = sum.saturating_add(*count);
        }
    }

    /// The statements that were counted; on a replica these only read.
    pub fn statements(&self) -> Statements {
        Statements {
            number: (self.statements_read + self.statements_written) * self.rows.seconds,
            busy_ms: self.busy_ms * self.rows.seconds,
            times: self.times.clone(),
        }
    }

    /// As they are stored.
    pub fn rates(&self) -> AccessRates {
        AccessRates {
            statements_read: self.statements_read,
            statements_written: self.statements_written,
            busy_ms: self.busy_ms,
            p50_ms: latency::quantile(&self.times, 0.5),
            p99_ms: latency::quantile(&self.times, 0.99),
        }
    }
}

/// The rates between two readings of the sampler; `None` if it did not count all the time in between.
pub fn access_rates(now: &AccessCounters, before: &AccessCounters) -> Option<Accessed> {
    if now.since != before.since {
        return None;
    }
    let counters = |access: &AccessCounters| Counters {
        at: access.at,
        reads: access.rows_read,
        writes: access.rows_written,
        blocks: access.bytes,
    };
    let rows = series::rates(&counters(before), &counters(now), 1)?;
    let seconds = rows.seconds;
    let rate = |value: fn(&AccessCounters) -> i64| {
        value(now).saturating_sub(value(before)).max(0) as f64 / seconds
    };
    let unsigned =
        |counts: &[i64]| -> Vec<u64> { counts.iter().map(|count| count.unsigned_abs()).collect() };
    Some(Accessed {
        statements_read: rate(|counters| counters.statements_read),
        statements_written: rate(|counters| counters.statements_written),
        busy_ms: rate(|counters| counters.busy) / 1000.0,
        times: latency::since(&unsigned(&now.latency), &unsigned(&before.latency)),
        rows,
    })
}
