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
    for (shard, counters) in counted {
        spi::run(
            "INSERT INTO repart.access_counters AS c
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (shard) DO UPDATE
                SET at = excluded.at, since = excluded.since, statements_read = excluded.statements_read,
                    statements_written = excluded.statements_written, rows_read = excluded.rows_read,
                    rows_written = excluded.rows_written, bytes = excluded.bytes, busy = excluded.busy,
                    latency = excluded.latency
              WHERE c.at < excluded.at",
            &[
                (*shard).into(),
                time::to_sql(counters.at).into(),
                time::to_sql(counters.since).into(),
                counters.statements_read.into(),
                counters.statements_written.into(),
                counters.rows_read.into(),
                counters.rows_written.into(),
                counters.bytes.into(),
                counters.busy.into(),
                counters.latency.clone().into(),
            ],
        )?;
    }
    Ok(())
}
