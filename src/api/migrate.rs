//! Functions that queue migrations.

use pgrx::VariadicArray;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::api::regclass::{self, Regclass};
use crate::catalog::{groups, plans};
use crate::error::{Error, Result, SqlResult};
use crate::migrate::apply;
use crate::migrate::queue::{self, Origin};
use crate::migrate::request::{self, Wanted};
use crate::pg::{preload, relation, role};

/// Queues the split of a shard at the given keys; returns the migration's number.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_split(shard: Option<Regclass>, at: VariadicArray<&str>) -> SqlResult<i64> {
    let shard = regclass::required(shard, "shard")?;
    let at: Vec<String> = at
        .iter()
        .map(|key| key.map(str::to_owned).ok_or(Error::NullArgument("at")))
        .collect::<Result<Vec<_>>>()?;
    Ok(queue(&request::split(shard, &at)?)?)
}

/// Queues the merge of adjacent shards; returns the migration's number.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_merge(shards: VariadicArray<Regclass>) -> SqlResult<i64> {
    let shards: Vec<pg_sys::Oid> = shards
        .iter()
        .map(|shard| regclass::required(shard, "shards"))
        .collect::<Result<Vec<_>>>()?;
    Ok(queue(&request::merge(&shards)?)?)
}

/// Queues the move of the boundary between two neighbours; returns the migration's number.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_shift(
    lower_shard: Option<Regclass>,
    upper_shard: Option<Regclass>,
    boundary: Option<&str>,
) -> SqlResult<i64> {
    let lower = regclass::required(lower_shard, "lower_shard")?;
    let upper = regclass::required(upper_shard, "upper_shard")?;
    let boundary = boundary.ok_or(Error::NullArgument("boundary"))?;
    Ok(queue(&request::shift(lower, upper, boundary)?)?)
}

/// Queues the move of a shard to another tablespace; returns the migration's number.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_move(
    shard: Option<Regclass>,
    node: default!(Option<&str>, "NULL"),
    tablespace: default!(Option<&str>, "NULL"),
) -> SqlResult<i64> {
    let shard = regclass::required(shard, "shard")?;
    Ok(queue(&request::relocate(shard, node, tablespace)?)?)
}

fn queue(wanted: &Wanted) -> Result<i64> {
    let id = queue::with_group(wanted, Origin::default())?;
    announce(id, wanted)?;
    Ok(id)
}

/// Says what was queued, and where to watch it.
pub fn announce(id: i64, wanted: &Wanted) -> Result<()> {
    let table = relation::display_name(wanted.table)?;
    let others = role::as_superuser(|| groups::members(wanted.table))?.len() - 1;
    let colocated = match others {
        0 => String::new(),
        1 => " and 1 colocated table".to_owned(),
        _ => format!(" and {others} colocated tables"),
    };
    notice!(
        "migration {id} is queued: {} of table \"{table}\"{colocated}; watch it with SELECT * FROM repart.migrations WHERE id = {id}",
        wanted.kind.as_str()
    );
    Ok(())
}

/// Queues the steps of a stored plan, of the latest one if none is given; returns the migrations' numbers.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_apply(
    plan_id: default!(Option<i64>, "NULL"),
) -> std::result::Result<SetOfIterator<'static, i64>, ErrorReport> {
    preload::require("migrating")?;
    let plan = match plan_id {
        Some(plan) => plan,
        None => role::as_superuser(plans::latest)?.ok_or_else(|| Error::Missing {
            what: "there is no plan".to_owned(),
            hint: "Make one with SELECT * FROM repart_plan().".to_owned(),
        })?,
    };
    let queued = apply::plan_or_fail(plan)?;
    notice!(
        "plan {plan}: {} migrations are queued; watch them with SELECT * FROM repart.migrations",
        queued.len()
    );
    Ok(SetOfIterator::new(queued))
}

/// Samples, forecasts, plans and applies the plan, for one table or all; returns the plan's number.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_run(relation: default!(Option<Regclass>, "NULL")) -> SqlResult<i64> {
    preload::require("migrating")?;
    let table = relation.map(Regclass::oid);
    match table {
        Some(table) => relation::require_owner(table)?,
        None => regclass::require_superuser("repart_run() for all tables")?,
    }
    let plan = role::as_superuser(|| {
        crate::observe::sample()?;
        crate::decide::plan::make_plan(table)
    })?;
    apply::plan_or_fail(plan)?;
    Ok(plan)
}
