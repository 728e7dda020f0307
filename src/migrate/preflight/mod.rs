//! Preflight: everything that would fail later fails now, with the remedy. Asked when a migration is
//! queued, and again when it begins.

mod source;
pub mod space;

use pgrx::pg_sys;

use crate::catalog::journal::Spec;
use crate::catalog::shards;
use crate::error::{Error, Result};
use crate::migrate::job::Job;
use crate::migrate::{away, publications, routing, target};
use crate::pg::relation;

/// Checks what is to be done to a table.
pub fn check(table: pg_sys::Oid, spec: &Spec) -> Result<()> {
    if spec.is_away() {
        away::preflight::require_possible(table, spec)?;
    }
    routing::check(table, spec)?;
    check_here(table, spec)
}

/// As [`check`], without what routing copies must be asked for: their own sessions have them locked.
pub fn check_here(table: pg_sys::Oid, spec: &Spec) -> Result<()> {
    let name = relation::display_name(table)?;
    let current = shards::of(table)?;
    publications::check(table, &name)?;
    let mut owners = Vec::new();
    for source in &spec.sources {
        let found = current.iter().find(|shard| shard.oid == source.relation());
        let unchanged = found.is_some_and(|shard| {
            shard.schema == source.schema
                && shard.name == source.name
                && shard.lower == source.lower
                && shard.upper == source.upper
        });
        if !unchanged {
            return Err(Error::Missing {
                what: format!(
                    "shard \"{}\" of table \"{name}\" no longer exists, or was changed",
                    source.name
                ),
                hint: "See SELECT * FROM repart.shards.".to_owned(),
            });
        }
        source::check(source, spec.blocking)?;
        owners.push(relation::owner(source.relation())?);
    }
    owners.dedup();
    if owners.len() > 1 {
        return Err(Error::Unsupported {
            what: format!("the shards of table \"{name}\" have different owners"),
            detail: String::new(),
            hint: "Give them one owner with ALTER TABLE … OWNER TO.".to_owned(),
        });
    }
    target::agreement::check(&spec.sources)?;
    if let Some(owner) = owners.first() {
        target::rights::check(table, *owner)?;
    }
    if spec.is_away() {
        return away::preflight::check(table, spec);
    }
    for target in &spec.targets {
        target
            .tablespace
            .as_deref()
            .map_or(Ok(()), space::require_tablespace)?;
    }
    space::require_space(spec)
}

/// What may have been made since: asked again inside the switch, under its locks.
pub fn check_again(job: &Job) -> Result<()> {
    let migration = &job.migration;
    publications::check(migration.relation, &migration.relation_name)?;
    for kept in job.kept() {
        publications::refuse_moves(kept.source.relation(), &kept.source.name)?;
    }
    migration
        .spec
        .sources
        .iter()
        .try_for_each(target::refusals::check)
}
