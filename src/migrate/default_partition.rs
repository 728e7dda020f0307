//! A DEFAULT partition with rows. ATTACH would scan it under an exclusive lock for rows of the new shard, unless a
//! constraint proves that there are none. There are none: they would violate the bound that the DEFAULT partition
//! has now. So a CHECK that says so is validated while clients work, and dropped in the switch.

use pgrx::pg_sys;

use crate::error::Result;
use crate::migrate::definition::range_condition;
use crate::migrate::job::Job;
use crate::migrate::{locks, names};
use crate::pg::{relation, role, spi};

/// Adds or validates the proof, if there is a DEFAULT partition that lacks it; `false` when nothing is left to be
/// done. One transaction each. Also right before a switch: somebody may have attached another one meanwhile.
pub fn prove_next(job: &Job) -> Result<bool> {
    let Some((oid, table)) = find(job.migration.relation)? else {
        return Ok(false);
    };
    let name = names::default_constraint(job.id());
    let is_valid = spi::query_value::<bool>(
        "SELECT convalidated FROM pg_catalog.pg_constraint
          WHERE conrelid = $1 AND conname = $2::name AND contype = 'c'",
        &[oid.into(), name.as_str().into()],
    )?;
    match is_valid {
        Some(true) => return Ok(false),
        Some(false) => {
            locks::outlast_autovacuum();
            let validate = format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name}");
            role::as_owner(relation::owner(oid)?, || spi::execute(&validate))?;
        }
        None => {
            locks::be_polite();
            spi::execute(&format!(
                "ALTER TABLE {table} ADD CONSTRAINT {name} CHECK (NOT ({})) NOT VALID",
                whole_range(job)
            ))?;
        }
    }
    Ok(true)
}

/// The range of all targets together.
fn whole_range(job: &Job) -> String {
    let targets = &job.migration.spec.targets;
    let lower = targets.first().and_then(|target| target.lower.as_deref());
    let upper = targets.last().and_then(|target| target.upper.as_deref());
    range_condition(&job.key, lower, upper)
}

/// The DEFAULT partition, unless it is a foreign table, whose rows ATTACH does not look at.
fn find(table: pg_sys::Oid) -> Result<Option<(pg_sys::Oid, String)>> {
    spi::select_first(
        "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname)
           FROM pg_catalog.pg_partitioned_table p
           JOIN pg_catalog.pg_class c ON c.oid = p.partdefid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE p.partrelid = $1 AND c.relkind <> 'f'",
        &[table.into()],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// Drops the proof. It is looked up by its name, which contains the migration's number: the DEFAULT partition may
/// have been detached or renamed meanwhile.
pub fn drop_proof(id: i64) -> Result<()> {
    let drops = spi::query_kept(
        "SELECT pg_catalog.format('ALTER TABLE %I.%I DROP CONSTRAINT %I', n.nspname, r.relname, c.conname)
           FROM pg_catalog.pg_constraint c
           JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
          WHERE c.conname = $1::name AND c.contype = 'c' AND c.coninhcount = 0",
        &[names::default_constraint(id).as_str().into()],
        |row| row.get::<String>(1),
    )?;
    for drop in drops {
        spi::execute(&drop)?;
    }
    Ok(())
}
