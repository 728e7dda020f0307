//! What this server does for another one, whose shard a table here is: `repart_count_shard` is what the access sampler
//! counts, `repart_write_back` has the disk keep up with a copy.

use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::api::regclass::{Regclass, required};
use crate::error::{Error, Result, SqlResult};
use crate::observe::heat;
use crate::pg::sampler::{hosted, read};
use crate::pg::writeback::Length;
use crate::pg::{lock, relation, time};

type Row = (
    TimestampWithTimeZone,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    Vec<i64>,
    Option<JsonB>,
);

/// Counts a table as a shard with the given key column from now on, for two days after the last call; returns what was
/// counted so far, and on request the keys that were sampled. No row where the sampler does not run, or has no room.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn repart_count_shard(
    shard: Option<Regclass>,
    key: Option<&str>,
    with_keys: default!(Option<bool>, "false"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(since, TimestampWithTimeZone),
            name!(statements_read, i64),
            name!(statements_written, i64),
            name!(rows_read, i64),
            name!(rows_written, i64),
            name!(bytes, i64),
            name!(busy_us, i64),
            name!(latency, Vec<i64>),
            name!(keys, Option<JsonB>),
        ),
    >,
    ErrorReport,
> {
    let shard = required(shard, "shard")?;
    let key = key.ok_or(Error::NullArgument("key"))?;
    let row = count(shard, key, with_keys.unwrap_or(false))?;
    Ok(TableIterator::new(row))
}

fn count(shard: pg_sys::Oid, key: &str, with_keys: bool) -> Result<Option<Row>> {
    if !hosted::host(shard, key) {
        return Ok(None);
    }
    let Some(counted) = read::counted_one(shard) else {
        return Ok(None);
    };
    let keys = if with_keys {
        Some(JsonB(serde_json::to_value(heat::sampled(shard)?)?))
    } else {
        None
    };
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Ok(Some((
        time::to_sql(time::from_postgres(counted.since)),
        number(counted.statements_read),
        number(counted.statements_written),
        number(counted.rows_read),
        number(counted.rows_written.iter().sum()),
        number(counted.bytes_read.saturating_add(counted.bytes_written)),
        number(counted.busy),
        counted.latency.into_iter().map(number).collect(),
        keys,
    )))
}

/// Asks the kernel to begin writing a table to the disk, and does not wait for it: for a mover of another server, after
/// each batch that it copied.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn repart_write_back(shard: Option<Regclass>) -> SqlResult<()> {
    let shard = required(shard, "shard")?;
    lock::access_share(shard);
    relation::require_owner(shard)?;
    if !relation::is_stored_table(shard)? {
        Err(Error::WrongObject {
            what: format!(
                "\"{}\" is not a table that is stored here",
                relation::display_name(shard)?
            ),
            hint: "Name a shard that is stored on this server.".to_owned(),
        })?;
    }
    Length::none_of(&[shard]).write_back_growth();
    Ok(())
}
