//! Functions that queue, watch and stop migrations.

use std::time::{Duration, Instant};

use pgrx::VariadicArray;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use repart_core::state::State;

use crate::api::regclass::{self, Regclass};
use crate::catalog::journal::{self, Migration};
use crate::catalog::{groups, plans};
use crate::error::{Error, Result, SqlResult};
use crate::migrate::apply;
use crate::migrate::request::{self, Origin, Wanted};
use crate::pg::{background, on_commit, preload, relation, role, time, txn};
use crate::worker::mover;

/// How often `repart_wait` looks.
const LOOK: Duration = Duration::from_millis(20);

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
    let id = request::queue(wanted, Origin::default())?;
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
    Ok(id)
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

/// Waits until a migration has ended, or the timeout is over; returns its state then.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_wait(
    migration: Option<i64>,
    timeout: default!(Option<pgrx::datum::Interval>, "NULL"),
) -> SqlResult<String> {
    let id = migration.ok_or(Error::NullArgument("migration"))?;
    let deadline = timeout.map(|timeout| {
        let micros = u64::try_from(time::span_from_sql(&timeout)).unwrap_or(0);
        Instant::now() + Duration::from_micros(micros)
    });
    loop {
        let migration = txn::with_latest_snapshot(|| role::as_superuser(|| find_leader(id)))?;
        require_visible(&migration)?;
        if migration.state.is_final() || deadline.is_some_and(|deadline| Instant::now() >= deadline)
        {
            return Ok(migration.state.to_string());
        }
        background::pause(LOOK);
    }
}

/// A migration queued by the waiting transaction itself cannot begin before that commits.
fn require_visible(migration: &Migration) -> Result<()> {
    if !migration.is_uncommitted {
        return Ok(());
    }
    Err(Error::Prerequisite {
        what: format!(
            "migration {} was queued by this transaction and begins when it commits",
            migration.id
        ),
        hint: "Commit first, then wait.".to_owned(),
    })
}

/// Asks a migration to stop; what it made is dropped.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_cancel(migration: Option<i64>) -> SqlResult<()> {
    let id = migration.ok_or(Error::NullArgument("migration"))?;
    preload::require("migrating")?;
    let group = role::as_superuser(|| journal::with_followers(find_leader(id)?.id))?;
    group.iter().try_for_each(require_rights)?;
    let migration = group.first().ok_or_else(|| missing(id))?;
    if !migration.state.is_before_switch() || migration.state.is_final() {
        return Err(Error::Prerequisite {
            what: format!(
                "migration {id} is {} and cannot be cancelled",
                migration.state
            ),
            hint: "See SELECT * FROM repart.migrations.".to_owned(),
        }
        .into());
    }
    role::as_superuser(|| match migration.state {
        // No mover has begun: nothing has to be dropped.
        State::Queued => group
            .iter()
            .try_for_each(|member| journal::transition(member, State::Cancelled)),
        _ => journal::request_cancel(migration.id),
    })?;
    on_commit::interrupt(mover::process_of(migration.id));
    on_commit::wake_workers();
    Ok(())
}

/// The owner of the table, or whoever could be if it is gone.
fn require_rights(migration: &Migration) -> Result<()> {
    match relation::require_owner(migration.relation) {
        Err(Error::Missing { .. }) => regclass::require_superuser("a migration of a dropped table"),
        checked => checked,
    }
}

fn find(id: i64) -> Result<Migration> {
    journal::find(id)?.ok_or_else(|| missing(id))
}

/// The migration itself, or the one that it is carried out with: they end alike, and that one last.
fn find_leader(id: i64) -> Result<Migration> {
    let migration = find(id)?;
    migration.leader.map_or(Ok(migration), find)
}

fn missing(id: i64) -> Error {
    Error::Missing {
        what: format!("migration {id} does not exist"),
        hint: "See SELECT * FROM repart.migrations.".to_owned(),
    }
}
