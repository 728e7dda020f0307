//! Queueing: what was asked for is checked, and written to the journal, for one table or for all of a colocation group.

use pgrx::prelude::*;

use crate::catalog::groups;
use crate::catalog::journal::{self, Request};
use crate::catalog::retained::Retained;
use crate::error::{Error, Result};
use crate::migrate::request::Wanted;
use crate::migrate::{blocking, colocated, preflight};
use crate::pg::{on_commit, preload, relation, role};

/// Where a migration that a plan asks for comes from.
#[derive(Default)]
pub struct Origin {
    /// Plan and step.
    pub plan_step: Option<(i64, i32)>,
    /// What the plan predicts.
    pub predicted: Option<serde_json::Value>,
    /// Earliest start, µs since the Unix epoch.
    pub start_at: Option<i64>,
    /// The migration that it takes back.
    pub reverts: Option<i64>,
    /// The old shards of that one, if they are there to be used.
    pub retained: Option<Retained>,
}

/// Checks the migration and writes it to the journal, with the same for all tables of its colocation group; the
/// caller's rights included. Workers are woken when the caller's transaction commits. Returns the number of the
/// migration of the table that was named, which leads.
pub fn with_group(wanted: &Wanted, origin: Origin) -> Result<i64> {
    preload::require("migrating")?;
    let members = hold_group(wanted.table)?;
    let others = role::as_superuser(|| {
        refuse_conflict(wanted)?;
        let others = members.iter().filter(|member| **member != wanted.table);
        others
            .map(|member| colocated::same_for(wanted, *member))
            .collect::<Result<Vec<Wanted>>>()
    })?;
    let start_at = origin.start_at;
    let alike = |other| {
        let origin = Origin {
            start_at,
            ..Origin::default()
        };
        (other, origin)
    };
    together((wanted, origin), others.iter().map(alike).collect())
}

/// The tables of a group, which the caller must own. Nobody else can queue anything for one of them until this
/// transaction ends, so that two cannot take the same shard.
pub fn hold_group(table: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let members = groups::hold_alone(table)?;
    members
        .iter()
        .map(|member| relation::require_owner(member.relation).map(|()| member.relation))
        .collect()
}

/// Queues what is asked for the tables of a group, which the caller holds, as migrations that one mover carries out
/// together. Returns the number of the first one, which leads.
pub fn together(first: (&Wanted, Origin), others: Vec<(&Wanted, Origin)>) -> Result<i64> {
    let is_group = !others.is_empty();
    let id = insert(first.0, first.1, None, is_group)?;
    for (wanted, origin) in others {
        insert(wanted, origin, Some(id), is_group)?;
    }
    Ok(id)
}

/// As [`with_group`], for one table of a group that the caller holds.
pub fn alone(wanted: &Wanted) -> Result<i64> {
    insert(wanted, Origin::default(), None, false)
}

fn insert(wanted: &Wanted, origin: Origin, leader: Option<i64>, is_group: bool) -> Result<i64> {
    let caller = role::current_name()?;
    let id = role::as_superuser(|| {
        refuse_conflict(wanted)?;
        let spec = blocking::decide(&wanted.spec)?;
        if spec.blocking && is_group {
            return Err(blocking::refused_in_group(wanted.table)?);
        }
        preflight::check(wanted.table, &spec)?;
        if spec.blocking {
            notice!("{}", blocking::warning(wanted.table, &spec)?);
        }
        journal::insert(Request {
            kind: wanted.kind,
            relation: wanted.table,
            spec: &spec,
            plan_step: origin.plan_step,
            predicted: origin.predicted,
            start_at: origin.start_at,
            requested_by: caller,
            reverts: origin.reverts,
            retained: origin.retained.as_ref(),
            leader,
        })
    })?;
    on_commit::wake_workers();
    Ok(id)
}

fn refuse_conflict(wanted: &Wanted) -> Result<()> {
    let Some(other) = journal::conflicting(&wanted.spec.source_oids())? else {
        return Ok(());
    };
    Err(Error::InUse {
        what: format!(
            "migration {other} is using a shard of table \"{}\"",
            relation::display_name(wanted.table)?
        ),
        hint: format!(
            "Wait for it with SELECT repart_wait({other}), or cancel it with SELECT repart_cancel({other})."
        ),
    })
}
