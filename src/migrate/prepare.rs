//! Preparing: targets with everything that the sources have, and change capture.

use crate::catalog::journal::{self, Migration, Position};
use crate::error::Result;
use crate::migrate::job::Job;
use crate::migrate::{capture, choice, clean, names, preflight, target};
use crate::pg::spi;

/// Creates the private objects: targets, log and trigger function. Nothing of it locks the sources for
/// longer than a reader would. What an earlier attempt left is dropped first.
pub fn create(migration: Migration) -> Result<()> {
    clean::drop_private(migration.id, clean::How::Thoroughly)?;
    preflight::check(migration.relation, &migration.spec)?;
    let mut job = Job::load(migration)?;
    let parts = choice::decide(&mut job)?;
    choose_names(&mut job.migration)?;
    let owner = create_targets(&job)?;
    capture::create(&job, &owner)?;
    let position = Position {
        fingerprint: job.definition()?.fingerprint,
        parts,
        ..Position::default()
    };
    journal::restart_copy(&job.migration, &position)
}

/// For a migration that captures nothing: checks, and names; the rest is made in the transaction of the switch.
pub fn begin_blocking(mut migration: Migration) -> Result<()> {
    clean::drop_private(migration.id, clean::How::Thoroughly)?;
    preflight::check(migration.relation, &migration.spec)?;
    choose_names(&mut migration)?;
    journal::restart_copy(&migration, &Position::default())
}

/// Creates the targets; returns the name of their owner.
pub fn create_targets(job: &Job) -> Result<String> {
    let owner = spi::value::<String>(
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = $1",
        &[job.owner.into()],
    )?
    .unwrap_or_default();
    for (n, wanted) in job.rebuilt_targets() {
        target::create::create(job, n, wanted, &owner)?;
    }
    Ok(owner)
}

/// Fixes the names of the targets, so that an existing relation of another migration's making is not in
/// the way: numbers of migrations begin anew when the extension is created anew.
pub fn choose_names(migration: &mut Migration) -> Result<()> {
    let Some(schema) = migration
        .spec
        .sources
        .first()
        .map(|source| source.schema.clone())
    else {
        return Ok(());
    };
    let (table, id) = (migration.relation_name.clone(), migration.id);
    let sources: Vec<String> = migration
        .spec
        .sources
        .iter()
        .filter(|source| source.schema == schema)
        .map(|source| source.name.clone())
        .collect();
    for (n, target) in migration.spec.targets.iter_mut().enumerate() {
        // A name that a revert or a move asked for may be somebody else's by now.
        let keeps = match &target.name {
            Some(name) => sources.contains(name) || !is_taken(&schema, name)?,
            None => false,
        };
        if !keeps {
            target.name = Some(free_name(&schema, &table, id, n)?);
        }
    }
    journal::set_spec(migration)
}

/// The name of a target that nobody has.
pub fn free_name(schema: &str, table: &str, id: i64, target: usize) -> Result<String> {
    let mut attempt = 0;
    loop {
        let name = names::public_target(table, id, target, attempt);
        if !is_taken(schema, &name)? {
            return Ok(name);
        }
        attempt += 1;
    }
}

fn is_taken(schema: &str, name: &str) -> Result<bool> {
    let taken = spi::value::<bool>(
        "SELECT pg_catalog.to_regclass(pg_catalog.format('%I.%I', $1, $2)) IS NOT NULL",
        &[schema.into(), name.into()],
    )?;
    Ok(taken.unwrap_or(false))
}

/// Starts change capture; short locks on the sources only.
pub fn start_capture(migration: Migration) -> Result<()> {
    let job = Job::load(migration)?;
    capture::start(&job)?;
    // Nobody can have changed the definition unnoticed: the triggers' locks are held.
    job.require_unchanged()?;
    let position = Position {
        triggers: capture::triggers(&job.migration)?,
        ..job.migration.position.clone()
    };
    journal::restart_copy(&job.migration, &position)
}
