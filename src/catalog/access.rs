//! What the access sampler had counted at the last sample: `repart.access_counters`.

use std::collections::HashMap;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{spi, time};

/// What the sampler had counted of a shard at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessCounters {
    /// The time, µs since the Unix epoch.
    pub at: i64,
    /// When it began to count, µs since the Unix epoch: numbers with another beginning are no successors.
    pub since: i64,
    /// Statements that only read the shard.
    pub statements_read: i64,
    /// Statements that wrote to it.
    pub statements_written: i64,
    /// Rows read.
    pub rows_read: i64,
    /// Rows written.
    pub rows_written: i64,
    /// Bytes read and written.
    pub bytes: i64,
    /// Execution time, µs.
    pub busy: i64,
    /// Histogram of execution times; see `repart_core::latency`.
    pub latency: Vec<i64>,
}

/// What is stored, by shard.
pub fn stored() -> Result<HashMap<pg_sys::Oid, AccessCounters>> {
    let rows = spi::query(
        "SELECT shard, at, since, statements_read, statements_written, rows_read, rows_written, bytes, busy, latency
           FROM repart.access_counters",
        &[],
        |row| {
            let time = |column| row.get::<TimestampWithTimeZone>(column).map(time::from_sql);
            let counters = AccessCounters {
                at: time(2)?,
                since: time(3)?,
                statements_read: row.get(4)?,
                statements_written: row.get(5)?,
                rows_read: row.get(6)?,
                rows_written: row.get(7)?,
                bytes: row.get(8)?,
                busy: row.get(9)?,
                latency: row.get(10)?,
            };
            Ok((row.get::<pg_sys::Oid>(1)?, counters))
        },
    )?;
    Ok(rows.into_iter().collect())
}

/// Remembers what was counted, to make rates of at the next sample.
pub fn store(counted: &[(pg_sys::Oid, AccessCounters)]) -> Result<()> {
    if counted.is_empty() {
        return Ok(());
    }
    let column = |value: fn(&AccessCounters) -> i64| {
        let values = counted.iter().map(|(_, counters)| value(counters));
        values.collect::<Vec<i64>>()
    };
    let times = |value: fn(&AccessCounters) -> i64| {
        let values = counted
            .iter()
            .map(|(_, counters)| time::to_sql(value(counters)));
        values.collect::<Vec<TimestampWithTimeZone>>()
    };
    let shards: Vec<pg_sys::Oid> = counted.iter().map(|(shard, _)| *shard).collect();
    let latencies: Vec<String> = counted
        .iter()
        .map(|(_, counters)| literal(&counters.latency))
        .collect();
    spi::run(
        "INSERT INTO repart.access_counters AS c
         SELECT u.shard, u.at, u.since, u.statements_read, u.statements_written, u.rows_read, u.rows_written,
                u.bytes, u.busy, u.latency::int8[]
           FROM unnest($1::oid[], $2::timestamptz[], $3::timestamptz[], $4::int8[], $5::int8[], $6::int8[],
                       $7::int8[], $8::int8[], $9::int8[], $10::text[])
                u (shard, at, since, statements_read, statements_written, rows_read, rows_written, bytes, busy, latency)
         ON CONFLICT (shard) DO UPDATE
            SET at = excluded.at, since = excluded.since, statements_read = excluded.statements_read,
                statements_written = excluded.statements_written, rows_read = excluded.rows_read,
                rows_written = excluded.rows_written, bytes = excluded.bytes, busy = excluded.busy,
                latency = excluded.latency
          WHERE c.at < excluded.at",
        &[
            shards.into(),
            times(|counters| counters.at).into(),
            times(|counters| counters.since).into(),
            column(|counters| counters.statements_read).into(),
            column(|counters| counters.statements_written).into(),
            column(|counters| counters.rows_read).into(),
            column(|counters| counters.rows_written).into(),
            column(|counters| counters.bytes).into(),
            column(|counters| counters.busy).into(),
            latencies.into(),
        ],
    )?;
    Ok(())
}

/// An array as SQL writes it: unnest takes no arrays of arrays of rows.
fn literal(numbers: &[i64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}
