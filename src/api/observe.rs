//! `repart_sample` and `repart_import_samples`.

use pgrx::notice;
use pgrx::prelude::*;

use crate::api::regclass::{Regclass, required};
use crate::catalog::{samples, shards, tables};
use crate::error::{Error, Result, SqlResult};
use crate::observe;
use crate::pg::jsonb::JsonText;
use crate::pg::{relation, role};

/// Takes a sample of the load of every shard of every managed table now; returns how many shards were
/// read. PostgreSQL counts what a session did at most once per second, and at the end of its
/// transaction: two samples shorter apart see little.
#[pg_extern(parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn repart_sample() -> SqlResult<i32> {
    let count = role::as_superuser(observe::sample)?;
    Ok(i32::try_from(count).unwrap_or(i32::MAX))
}

/// Adds load of a shard that something else has recorded; returns how many samples were stored.
#[pg_extern(parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn repart_import_samples(shard: Option<Regclass>, samples: Option<JsonText>) -> SqlResult<i32> {
    Ok(import(required(shard, "shard")?, samples)?)
}

fn import(shard: pg_sys::Oid, json: Option<JsonText>) -> Result<i32> {
    let json = json.ok_or(Error::NullArgument("samples"))?;
    let (table, found) = shards::find(shard)?;
    relation::require_owner(table)?;
    tables::require(table)?;
    if found.is_default {
        return Err(Error::WrongObject {
            what: format!("\"{}\" is a DEFAULT partition, not a shard", found.name),
            hint: "See SELECT * FROM repart.shards.".to_owned(),
        });
    }
    let new = observe::import::read(shard, &json.parse()?)?;
    let oldest = observe::oldest();
    let old = new.iter().filter(|sample| sample.at < oldest).count();
    if old > 0 {
        notice!("{old} samples are older than repart.retention and will be deleted");
    }
    let count = role::as_superuser(|| samples::insert(&new))?;
    Ok(i32::try_from(count).unwrap_or(i32::MAX))
}
