//! Carrying out what a plan says: each step becomes a migration.

use pgrx::{PgLogLevel, PgSqlErrorCode, pg_sys};
use repart_core::plan::{Action, Step};

use crate::catalog::{journal, plans};
use crate::error::{Error, Result};
use crate::migrate::queue::{self, Origin};
use crate::migrate::request::{self, Wanted};
use crate::pg::{role, txn};

/// Queues the steps of a stored plan that were not queued before. One whose shards another migration is using stays
/// open, with a warning, for a later call; another one that cannot be queued is an error. Checks that the caller owns
/// the tables.
pub fn plan_or_fail(plan: i64) -> Result<Vec<i64>> {
    let mut queued = Vec::new();
    for (number, step) in open_steps(plan)? {
        match txn::attempt(|| apply(plan, number, &step)) {
            Ok(id) => queued.extend(id),
            Err(Error::InUse { what, hint }) => pgrx::ereport!(
                PgLogLevel::WARNING,
                PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
                format!("step {number} of plan {plan} was not queued: {what}"),
                format!("{hint} Then SELECT repart_apply({plan}) again.")
            ),
            Err(error) => return Err(error),
        }
    }
    Ok(queued)
}

/// As [`plan_or_fail`], for workers, outside of a transaction: each step has one of its own, and one that
/// cannot be queued becomes an event while the others go on.
pub fn plan_isolated(plan: i64) -> Result<()> {
    for (number, step) in txn::run(|| open_steps(plan))? {
        if let Err(error) = txn::run(|| apply(plan, number, &step)) {
            let message = format!("step {number} of plan {plan} was not queued: {error}");
            txn::run(|| journal::event("warning", None, &message))?;
        }
    }
    Ok(())
}

fn open_steps(plan: i64) -> Result<Vec<(i32, Step)>> {
    let steps = role::as_superuser(|| plans::open_steps(plan))?;
    if !steps.is_empty() || role::as_superuser(|| plans::exists(plan))? {
        return Ok(steps);
    }
    Err(Error::Missing {
        what: format!("plan {plan} does not exist"),
        hint: "Make one with SELECT * FROM repart_plan().".to_owned(),
    })
}

fn apply(plan: i64, number: i32, step: &Step) -> Result<Option<i64>> {
    let Some(wanted) = wanted(step)? else {
        return Ok(None);
    };
    let origin = Origin {
        plan_step: Some((plan, number)),
        predicted: Some(serde_json::json!({
            "duration": step.duration,
            "rate": if step.duration > 0.0 { Some(step.bytes / step.duration) } else { None },
            "pause_ms": step.pause * 1000.0,
            "load_before": step.load_before,
            "load_after": step.load_after,
        })),
        start_at: Some(step.planned_start),
        ..Origin::default()
    };
    let id = queue::with_group(&wanted, origin)?;
    role::as_superuser(|| plans::set_migration(plan, number, id))?;
    Ok(Some(id))
}

/// The migration that a step asks for; `None` for a row that only explains.
fn wanted(step: &Step) -> Result<Option<Wanted>> {
    let sources: Vec<pg_sys::Oid> = step
        .sources
        .iter()
        .map(|oid| pg_sys::Oid::from(*oid))
        .collect();
    let boundary = step
        .boundaries
        .first()
        .map(String::as_str)
        .unwrap_or_default();
    match (step.action, sources.as_slice()) {
        (Action::None | Action::Prewarm, _) => Ok(None),
        (Action::Split, [shard]) => request::split(*shard, &step.boundaries).map(Some),
        (Action::Merge, shards) => request::merge(shards).map(Some),
        (Action::Move, [shard]) => request::planned_move(*shard, &step.target).map(Some),
        (Action::Shift, [lower, upper]) => request::shift(*lower, *upper, boundary).map(Some),
        (action, shards) => Err(Error::Internal(format!(
            "step {action} with {} shards",
            shards.len()
        ))),
    }
}
