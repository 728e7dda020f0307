//! `repart_access`, `repart_co_access` and `repart_sampler`: what the access sampler of this server knows. They
//! read shared memory only, so that they work on a hot standby, and for an observer on another node.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use repart_core::latency;

use crate::api::regclass::Regclass;
use crate::error::{Error, Result};
use crate::pg::sampler::read::{self, Counted};
use crate::pg::{preload, time};

/// Fails where the sampler does not run, with what to change.
pub fn require() -> Result<()> {
    preload::require("the access sampler")?;
    if read::is_on() {
        return Ok(());
    }
    Err(Error::Prerequisite {
        what: "the access sampler is off".to_owned(),
        hint: "Set repart.sampler = on in postgresql.conf and restart the server.".to_owned(),
    })
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn at(postgres: i64) -> TimestampWithTimeZone {
    time::to_sql(time::from_postgres(postgres))
}

type Access = (
    Regclass,
    TimestampWithTimeZone,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    f64,
    Option<f64>,
    Option<f64>,
    Vec<i64>,
);

/// What was counted of each shard of this database on this server.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn repart_access() -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(shard, Regclass),
            name!(since, TimestampWithTimeZone),
            name!(statements_read, i64),
            name!(statements_written, i64),
            name!(rows_read, i64),
            name!(rows_inserted, i64),
            name!(rows_updated, i64),
            name!(rows_deleted, i64),
            name!(bytes_read, i64),
            name!(bytes_written, i64),
            name!(busy_ms, f64),
            name!(p50_ms, Option<f64>),
            name!(p99_ms, Option<f64>),
            name!(latency, Vec<i64>),
        ),
    >,
    ErrorReport,
> {
    require()?;
    read::sweep();
    let rows: Vec<Access> = read::counted().into_iter().map(access).collect();
    Ok(TableIterator::new(rows))
}

fn access(counted: Counted) -> Access {
    let [inserted, updated, deleted] = counted.rows_written;
    (
        Regclass(counted.shard),
        at(counted.since),
        number(counted.statements_read),
        number(counted.statements_written),
        number(counted.rows_read),
        number(inserted),
        number(updated),
        number(deleted),
        number(counted.bytes_read),
        number(counted.bytes_written),
        counted.busy as f64 / 1000.0,
        latency::quantile(&counted.latency, 0.5),
        latency::quantile(&counted.latency, 0.99),
        counted.latency.into_iter().map(number).collect(),
    )
}

/// Pairs of shards of this database that the same transactions use on this server, the most frequent first.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn repart_co_access() -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(shard, Regclass),
            name!(other, Regclass),
            name!(transactions, i64),
            name!(rate, f64),
            name!(error, f64),
        ),
    >,
    ErrorReport,
> {
    require()?;
    let mut pairs = read::together();
    pairs.sort_by(|a, b| b.rate.total_cmp(&a.rate));
    let rows: Vec<_> = pairs
        .into_iter()
        .map(|pair| {
            (
                Regclass(pair.one),
                Regclass(pair.other),
                number(pair.transactions),
                pair.rate,
                pair.error,
            )
        })
        .collect();
    Ok(TableIterator::new(rows))
}

/// How the sampler of this server is; no row where it is off.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn repart_sampler() -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(since, TimestampWithTimeZone),
            name!(shards, i32),
            name!(max_shards, i32),
            name!(memory, i64),
            name!(overflow, i64),
            name!(untracked, i64),
            name!(unkept_keys, i64),
            name!(wide_transactions, i64),
        ),
    >,
    ErrorReport,
> {
    read::sweep();
    let small = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let rows: Vec<_> = read::status()
        .into_iter()
        .map(|status| {
            (
                at(status.since),
                small(status.used),
                small(status.capacity),
                number(status.bytes as u64),
                number(status.overflow),
                number(status.untracked),
                number(status.unkept_keys),
                number(status.wide),
            )
        })
        .collect();
    Ok(TableIterator::new(rows))
}
