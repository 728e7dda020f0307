//! Observed load: `repart.counters` and `repart.samples`, and the statistics of PostgreSQL they come from.
//!
//! Reads are rows read by scans of a shard and of its indexes, writes are rows inserted, updated and
//! deleted, and blocks are those of the table, its indexes and its TOAST table that were asked for,
//! whether they were cached or not.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use repart_core::series::Counters;

use crate::catalog::nodes;
use crate::error::Result;
use crate::pg::{spi, time};

/// What PostgreSQL's statistics say about a shard now, beside its previous sample.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The shard.
    pub shard: pg_sys::Oid,
    /// Its counters now.
    pub now: Counters,
    /// Its counters at the previous sample, if it was sampled before.
    pub previous: Option<Counters>,
    /// Its size with indexes and TOAST; `None` while somebody holds or awaits a lock that reading the
    /// size would queue behind.
    pub size: Option<i64>,
}

/// One observation: rates per second over the `seconds` before `at`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NewSample {
    /// The shard.
    pub shard: pg_sys::Oid,
    /// End of the observed span, µs since the Unix epoch.
    pub at: i64,
    /// Length of the observed span; above 0.
    pub seconds: f64,
    /// Rows read per second.
    pub reads: f64,
    /// Rows written per second.
    pub writes: f64,
    /// Bytes accessed per second.
    pub bytes: f64,
    /// Size of the shard, if known.
    pub size: Option<i64>,
    /// What only the access sampler knows.
    pub access: Option<AccessRates>,
}

/// What the access sampler says of a span.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AccessRates {
    /// Statements per second that only read the shard.
    pub statements_read: f64,
    /// Statements per second that wrote to it.
    pub statements_written: f64,
    /// Milliseconds of execution per second.
    pub busy_ms: f64,
    /// Median execution time, ms; `None` without statements.
    pub p50_ms: Option<f64>,
    /// 99 % quantile of the execution time, ms.
    pub p99_ms: Option<f64>,
}

/// The stored observations of one shard, ascending by time; all lists are of one length.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Ends of the observed spans, µs since the Unix epoch.
    pub at: Vec<i64>,
    /// Lengths of the observed spans in seconds.
    pub seconds: Vec<f64>,
    /// Rows read per second.
    pub reads: Vec<f64>,
    /// Rows written per second.
    pub writes: Vec<f64>,
    /// Bytes accessed per second.
    pub bytes: Vec<f64>,
}

/// Reads the statistics of all local shards of all managed tables.
///
/// Rows read are those of sequential scans plus, for the indexes, the larger of the rows that were
/// fetched through them and the entries that they returned: an index-only scan fetches nothing, a bitmap
/// scan counts its rows at the table.
const READINGS: &str = "
WITH shard AS MATERIALIZED (
    SELECT c.oid, c.reltoastrelid
      FROM repart.sharded_tables t
      JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = t.relation
      JOIN pg_catalog.pg_inherits i ON i.inhparent = p.partrelid
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
     WHERE c.relkind = 'r' AND c.oid <> p.partdefid
), locked AS MATERIALIZED (
    SELECT coalesce(x.indrelid, l.relation) AS oid
      FROM pg_catalog.pg_locks l
      LEFT JOIN pg_catalog.pg_index x ON x.indexrelid = l.relation
     WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
       AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
       AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
)
SELECT s.oid,
       pg_catalog.pg_stat_get_tuples_returned(s.oid)
           + greatest(pg_catalog.pg_stat_get_tuples_fetched(s.oid) + x.fetched, x.returned),
       pg_catalog.pg_stat_get_tuples_inserted(s.oid) + pg_catalog.pg_stat_get_tuples_updated(s.oid)
           + pg_catalog.pg_stat_get_tuples_deleted(s.oid),
       pg_catalog.pg_stat_get_blocks_fetched(s.oid) + x.blocks + t.blocks,
       CASE WHEN s.oid NOT IN (SELECT oid FROM locked WHERE oid IS NOT NULL)
            THEN pg_catalog.pg_total_relation_size(s.oid) END,
       c.at, c.reads, c.writes, c.blocks
  FROM shard s
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(pg_catalog.pg_stat_get_tuples_fetched(i.indexrelid)), 0)::int8 AS fetched,
              coalesce(sum(pg_catalog.pg_stat_get_tuples_returned(i.indexrelid)), 0)::int8 AS returned,
              coalesce(sum(pg_catalog.pg_stat_get_blocks_fetched(i.indexrelid)), 0)::int8 AS blocks
         FROM pg_catalog.pg_index i WHERE i.indrelid = s.oid) x
 CROSS JOIN LATERAL (
       SELECT CASE WHEN s.reltoastrelid = 0 THEN 0
                   ELSE pg_catalog.pg_stat_get_blocks_fetched(s.reltoastrelid)
                        + (SELECT coalesce(sum(pg_catalog.pg_stat_get_blocks_fetched(i.indexrelid)), 0)::int8
                             FROM pg_catalog.pg_index i WHERE i.indrelid = s.reltoastrelid) END AS blocks) t
  LEFT JOIN repart.counters c ON c.shard = s.oid
 ORDER BY s.oid";

/// What the statistics say about every local shard of every managed table now. A shard that is dropped
/// meanwhile is left out.
pub fn readings() -> Result<Vec<Reading>> {
    // Otherwise all samples of one transaction would see the first one's values.
    spi::execute("SELECT pg_catalog.pg_stat_clear_snapshot()")?;
    let at = time::clock();
    spi::query(READINGS, &[], |row| read(row, at))
}

fn read(row: &spi::Row, at: i64) -> Result<Reading> {
    let previous = match row.optional::<TimestampWithTimeZone>(6)? {
        Some(at) => Some(Counters {
            at: time::from_sql(at),
            reads: row.get(7)?,
            writes: row.get(8)?,
            blocks: row.get(9)?,
        }),
        None => None,
    };
    Ok(Reading {
        shard: row.get(1)?,
        now: Counters {
            at,
            reads: row.get(2)?,
            writes: row.get(3)?,
            blocks: row.get(4)?,
        },
        size: row.optional(5)?,
        previous,
    })
}

/// Remembers the counters, to make rates of at the next sample.
pub fn store_counters(readings: &[Reading]) -> Result<()> {
    let column = |value: fn(&Counters) -> i64| {
        readings
            .iter()
            .map(|reading| value(&reading.now))
            .collect::<Vec<i64>>()
    };
    spi::run(
        "INSERT INTO repart.counters AS c (shard, at, reads, writes, blocks)
         SELECT * FROM unnest($1::oid[], $2::timestamptz[], $3::int8[], $4::int8[], $5::int8[])
         ON CONFLICT (shard) DO UPDATE
            SET at = excluded.at, reads = excluded.reads, writes = excluded.writes, blocks = excluded.blocks
          WHERE c.at < excluded.at",
        &[
            readings.iter().map(|reading| reading.shard).collect::<Vec<_>>().into(),
            readings.iter().map(|reading| time::to_sql(reading.now.at)).collect::<Vec<_>>().into(),
            column(|counters| counters.reads).into(),
            column(|counters| counters.writes).into(),
            column(|counters| counters.blocks).into(),
        ],
    )?;
    Ok(())
}

/// Adds observations; one of the same shard and time is replaced.
pub fn insert(samples: &[NewSample]) -> Result<u64> {
    let column = |value: fn(&NewSample) -> f64| samples.iter().map(value).collect::<Vec<f64>>();
    let access = |value: fn(&AccessRates) -> Option<f64>| {
        let of = |sample: &NewSample| sample.access.as_ref().and_then(value);
        samples.iter().map(of).collect::<Vec<Option<f64>>>()
    };
    spi::run(
        "INSERT INTO repart.samples AS s (shard, at, seconds, reads, writes, bytes, size, statements_read,
                                           statements_written, busy_ms, p50_ms, p99_ms)
         SELECT * FROM unnest($1::oid[], $2::timestamptz[], $3::float8[], $4::float8[], $5::float8[],
                              $6::float8[], $7::int8[], $8::float8[], $9::float8[], $10::float8[],
                              $11::float8[], $12::float8[])
         ON CONFLICT (shard, at) DO UPDATE
            SET seconds = excluded.seconds, reads = excluded.reads, writes = excluded.writes,
                bytes = excluded.bytes, size = coalesce(excluded.size, s.size),
                statements_read = excluded.statements_read, statements_written = excluded.statements_written,
                busy_ms = excluded.busy_ms, p50_ms = excluded.p50_ms, p99_ms = excluded.p99_ms",
        &[
            samples.iter().map(|sample| sample.shard).collect::<Vec<_>>().into(),
            samples.iter().map(|sample| time::to_sql(sample.at)).collect::<Vec<_>>().into(),
            column(|sample| sample.seconds).into(),
            column(|sample| sample.reads).into(),
            column(|sample| sample.writes).into(),
            column(|sample| sample.bytes).into(),
            samples.iter().map(|sample| sample.size).collect::<Vec<_>>().into(),
            access(|access| Some(access.statements_read)).into(),
            access(|access| Some(access.statements_written)).into(),
            access(|access| Some(access.busy_ms)).into(),
            access(|access| access.p50_ms).into(),
            access(|access| access.p99_ms).into(),
        ],
    )
}

/// The observations of each of these shards after `since`. Shards without any are left out.
pub fn of(shards: &[pg_sys::Oid], since: i64) -> Result<Vec<(pg_sys::Oid, Stored)>> {
    spi::query(
        "SELECT shard, array_agg(at), array_agg(seconds), array_agg(reads), array_agg(writes), array_agg(bytes)
           FROM (SELECT * FROM repart.samples WHERE shard = ANY ($1) AND at > $2 ORDER BY shard, at) s
          GROUP BY shard",
        &[shards.to_vec().into(), time::to_sql(since).into()],
        |row| {
            let at = row.get::<Vec<TimestampWithTimeZone>>(2)?.into_iter().map(time::from_sql).collect();
            let stored = Stored {
                at,
                seconds: row.get(3)?,
                reads: row.get(4)?,
                writes: row.get(5)?,
                bytes: row.get(6)?,
            };
            Ok((row.get(1)?, stored))
        },
    )
}

/// A shard, its last known size in bytes, and what a row of its load took, ms.
pub type SizeAndCost = (pg_sys::Oid, Option<i64>, Option<f64>);

/// What is known of how shards were used lately: the last size, and what a row of the load took, ms. Shards without
/// samples since then are left out.
///
/// The median of the samples, so that times in which statements waited for each other say little.
pub fn sizes_and_costs(shards: &[pg_sys::Oid], since: i64) -> Result<Vec<SizeAndCost>> {
    spi::query(
        "SELECT shard, (array_agg(size ORDER BY at DESC) FILTER (WHERE size IS NOT NULL))[1],
                percentile_cont(0.5) WITHIN GROUP (ORDER BY busy_ms / (reads + writes))
                    FILTER (WHERE busy_ms > 0 AND reads + writes > 0)
           FROM repart.samples WHERE shard = ANY ($1) AND at > $2 GROUP BY shard",
        &[shards.to_vec().into(), time::to_sql(since).into()],
        |row| Ok((row.get(1)?, row.optional(2)?, row.optional(3)?)),
    )
}

/// Deletes at most `limit` observations that are older than `before`.
pub fn purge(before: i64, limit: i64) -> Result<u64> {
    spi::run(
        "DELETE FROM repart.samples
          WHERE ctid = ANY (ARRAY(SELECT ctid FROM repart.samples WHERE at < $1 ORDER BY at LIMIT $2))",
        &[time::to_sql(before).into(), limit.into()],
    )
}

/// Deletes the counters and forecasts of shards that no longer exist. Their samples stay until they are
/// old: descendants may have inherited them.
pub fn forget_gone_shards() -> Result<u64> {
    let counters = spi::execute(
        "DELETE FROM repart.counters t
          WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.shard)",
    )?;
    spi::execute(
        "DELETE FROM repart.access_counters t
          WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.shard)",
    )?;
    let forecasts = spi::execute(
        "DELETE FROM repart.forecast_curves t
          WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.shard)",
    )?;
    nodes::forget_gone_keys()?;
    Ok(counters + forecasts)
}

/// Forgets the counters of shards whose statistics will not be read for a while: a rate over that time would
/// be none.
pub fn forget_counters(shards: &[pg_sys::Oid]) -> Result<()> {
    for table in ["repart.counters", "repart.access_counters"] {
        spi::run(
            &format!("DELETE FROM {table} WHERE shard = ANY ($1)"),
            &[shards.to_vec().into()],
        )?;
    }
    Ok(())
}
