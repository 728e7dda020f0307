//! Functions that watch, pause, stop and take back migrations.

use std::time::{Duration, Instant};

use pgrx::prelude::*;
use repart_core::state::State;

use crate::api::migrate::announce;
use crate::api::regclass;
use crate::catalog::control;
use crate::catalog::journal::{self, Migration};
use crate::error::{Error, Result, SqlResult};
use crate::migrate::revert;
use crate::pg::{background, on_commit, preload, relation, role, time, txn};
use crate::worker::mover;

/// How often `repart_wait` looks.
const LOOK: Duration = Duration::from_millis(20);

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

/// Pauses a migration, or all migrations of this database, those that are queued later included.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_pause(migration: default!(Option<i64>, "NULL")) -> SqlResult<()> {
    preload::require("migrating")?;
    let caller = role::current_name()?;
    let Some(id) = migration else {
        regclass::require_superuser("repart_pause() for all migrations")?;
        control::pause_all(&caller)?;
        return Ok(());
    };
    require_group_rights(id)?;
    if !role::as_superuser(|| control::pause(id, &caller))? {
        return Err(too_late(id, "paused")?.into());
    }
    Ok(())
}

/// Lets a paused migration go on, or all of them.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_resume(migration: default!(Option<i64>, "NULL")) -> SqlResult<()> {
    preload::require("migrating")?;
    match migration {
        None => {
            regclass::require_superuser("repart_resume() for all migrations")?;
            control::resume_all()?;
        }
        Some(id) => resume(id)?,
    }
    on_commit::wake_workers();
    Ok(())
}

fn resume(id: i64) -> Result<()> {
    require_group_rights(id)?;
    if let Some(by) = role::as_superuser(control::paused_all_by)? {
        return Err(Error::Prerequisite {
            what: format!("all migrations of this database were paused by {by}"),
            hint: "A superuser can let them go on with SELECT repart_resume().".to_owned(),
        });
    }
    if role::as_superuser(|| control::resume(id))? {
        return Ok(());
    }
    Err(too_late(id, "resumed")?)
}

/// Asks a migration to stop; what it made is dropped.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_cancel(migration: Option<i64>) -> SqlResult<()> {
    let id = migration.ok_or(Error::NullArgument("migration"))?;
    preload::require("migrating")?;
    let group = require_group_rights(id)?;
    let states = role::as_superuser(|| control::request_cancel(id))?;
    if states.is_empty() {
        return Err(too_late(id, "cancelled")?.into());
    }
    // No mover has begun: nothing has to be dropped.
    if states.iter().all(|state| *state == State::Queued) {
        role::as_superuser(|| {
            group
                .iter()
                .try_for_each(|member| journal::transition(&find(member.id)?, State::Cancelled))
        })?;
    }
    let leader = group.first().map_or(id, |leader| leader.id);
    on_commit::interrupt(mover::process_of(leader));
    on_commit::wake_workers();
    Ok(())
}

/// Queues the migration that takes a finished one back; returns its number.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_revert(migration: Option<i64>) -> SqlResult<i64> {
    let id = migration.ok_or(Error::NullArgument("migration"))?;
    preload::require("migrating")?;
    let (reverse, wanted) = revert::queue(&require_group_rights(id)?)?;
    announce(reverse, &wanted)?;
    Ok(reverse)
}

/// Why a migration that has switched or ended takes no more orders.
fn too_late(id: i64, done: &str) -> Result<Error> {
    let migration = txn::with_latest_snapshot(|| role::as_superuser(|| find(id)))?;
    Ok(Error::Prerequisite {
        what: format!("migration {id} is {} and cannot be {done}", migration.state),
        hint: match migration.state {
            State::Done => format!("Take it back with SELECT repart_revert({id})."),
            State::Cleaning => format!(
                "It has switched. Wait for it with SELECT repart_wait({id}), then take it back with SELECT repart_revert({id})."
            ),
            _ => "See SELECT * FROM repart.migrations.".to_owned(),
        },
    })
}

/// The owner of the table, or whoever could be if it is gone.
fn require_rights(migration: &Migration) -> Result<()> {
    match relation::require_owner(migration.relation) {
        Err(Error::Missing { .. }) => regclass::require_superuser("a migration of a dropped table"),
        checked => checked,
    }
}

/// The migration and those that it is carried out with, the one that leads first; fails unless the caller may
/// decide on all of them.
fn require_group_rights(id: i64) -> Result<Vec<Migration>> {
    let group = role::as_superuser(|| journal::with_followers(find_leader(id)?.id))?;
    group.iter().try_for_each(require_rights)?;
    Ok(group)
}

fn find(id: i64) -> Result<Migration> {
    journal::find(id)?.ok_or_else(|| Error::Missing {
        what: format!("migration {id} does not exist"),
        hint: "See SELECT * FROM repart.migrations.".to_owned(),
    })
}

/// The migration itself, or the one that it is carried out with: they end alike, and that one last.
fn find_leader(id: i64) -> Result<Migration> {
    let migration = find(id)?;
    migration.leader.map_or(Ok(migration), find)
}
