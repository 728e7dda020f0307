//! `repart_heat`: where inside each shard the load falls.

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::api::regclass::{Regclass, require_owner_or_monitor};
use crate::api::sampler;
use crate::catalog::shards::{self, Shard};
use crate::catalog::tables;
use crate::decide::table::shards_of;
use crate::error::Result;
use crate::observe::heat::{self, Heat};
use crate::pg::role;

type Row = (
    Regclass,
    Regclass,
    i32,
    String,
    String,
    f64,
    f64,
    f64,
    bool,
    Option<String>,
    f64,
    f64,
    i32,
);

/// Where inside each shard the load falls: buckets with their rows read and written per second, of late. For one
/// managed table, or all; shards of which nothing is known are left out.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn repart_heat(
    relation: default!(Option<Regclass>, "NULL"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(relation, Regclass),
            name!(shard, Regclass),
            name!(bucket, i32),
            name!(key_from, String),
            name!(key_to, String),
            name!(reads, f64),
            name!(writes, f64),
            name!(share, f64),
            name!(single_key, bool),
            name!(popular_key, Option<String>),
            name!(popular_share, f64),
            name!(append, f64),
            name!(samples, i32),
        ),
    >,
    ErrorReport,
> {
    sampler::require()?;
    if let Some(Regclass(table)) = relation {
        require_owner_or_monitor(table)?;
        tables::require(table)?;
    }
    let rows = role::as_superuser(|| match relation {
        Some(Regclass(table)) => of_table(table),
        None => {
            let mut rows = Vec::new();
            for table in tables::all()? {
                rows.extend(of_table(table.relation)?);
            }
            Ok(rows)
        }
    })?;
    Ok(TableIterator::new(rows))
}

fn of_table(table: pg_sys::Oid) -> Result<Vec<Row>> {
    let key = shards::key(table)?;
    let mut rows = Vec::new();
    for shard in shards_of(table)? {
        if let Some(heat) = heat::of(&key, &shard, &[])? {
            rows.extend(of_shard(table, &shard, &heat));
        }
    }
    Ok(rows)
}

fn of_shard(table: pg_sys::Oid, shard: &Shard, heat: &Heat) -> Vec<Row> {
    let buckets = heat.buckets();
    let (popular, popular_share) = heat
        .popular()
        .map_or((None, 0.0), |(key, share)| (Some(key.to_owned()), share));
    let uppers = buckets.iter().skip(1).map(|bucket| bucket.lower.clone());
    let uppers = uppers.chain(std::iter::once(shard.upper.clone()));
    let or = |bound: Option<String>, open: &str| bound.unwrap_or_else(|| open.to_owned());
    buckets
        .iter()
        .zip(uppers)
        .enumerate()
        .map(|(number, (bucket, upper))| {
            let lower = if number == 0 {
                shard.lower.clone()
            } else {
                bucket.lower.clone()
            };
            (
                Regclass(table),
                Regclass(shard.oid),
                number as i32 + 1,
                or(lower, "MINVALUE"),
                or(upper, "MAXVALUE"),
                bucket.reads * heat.reads,
                bucket.writes * heat.writes,
                bucket.share,
                bucket.single_key,
                popular.clone(),
                popular_share,
                heat.append,
                i32::try_from(heat.samples).unwrap_or(i32::MAX),
            )
        })
        .collect()
}
