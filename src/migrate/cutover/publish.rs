//! The new shards become visible: name, place, constraints, and the partition bound.

use pgrx::pg_sys;

use crate::catalog::journal::Target;
use crate::error::{Error, Result};
use crate::migrate::definition::{self, Index};
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::pg::spi;

use super::rename;

/// Gives a target its public name and place, and attaches it.
pub fn target(job: &Job, n: usize, oid: pg_sys::Oid, indexes: &[Index]) -> Result<()> {
    let (Some(source), Some(target)) = (
        job.migration.spec.sources.first(),
        job.migration.spec.targets.get(n),
    ) else {
        return Ok(());
    };
    let public = target
        .name
        .clone()
        .ok_or_else(|| Error::Internal("a target without a name".to_owned()))?;
    let schema = &source.schema;
    spi::execute(&format!(
        "ALTER TABLE {} SET SCHEMA {}",
        job.target_name(n),
        spi::quote_identifier(schema)
    ))?;
    rename(
        "TABLE",
        schema,
        &names::private_target(job.id(), n),
        &public,
    )?;
    for (k, index) in indexes.iter().enumerate() {
        let name = names::public_index(&source.name, &index.name, &public, k);
        rename(
            "INDEX",
            schema,
            &names::private_index(job.id(), n, k),
            &name,
        )?;
    }
    let table = spi::quote_qualified_identifier(schema, &public);
    adopt_foreign_keys(source.relation(), &table, oid)?;
    attach(job, target, &table)
}

/// Attaches a table and drops the constraint that spared it a scan.
pub fn attach(job: &Job, target: &Target, table: &str) -> Result<()> {
    let bound = |bound: &Option<String>, open: &str| {
        bound.as_ref().map_or(open.to_owned(), spi::quote_literal)
    };
    let parent = crate::pg::relation::name(job.migration.relation)?;
    spi::execute(&format!(
        "ALTER TABLE {parent} ATTACH PARTITION {table} FOR VALUES FROM ({}) TO ({})",
        bound(&target.lower, "MINVALUE"),
        bound(&target.upper, "MAXVALUE")
    ))?;
    spi::execute(&format!(
        "ALTER TABLE {table} DROP CONSTRAINT {}",
        names::BOUND_CONSTRAINT
    ))?;
    Ok(())
}

/// Foreign keys cannot be put on a target before: they would make deletes of referenced rows fail while
/// the target lags. Its rows equal the sources', which satisfied them, so no scan is needed to prove it.
fn adopt_foreign_keys(source: pg_sys::Oid, table: &str, target: pg_sys::Oid) -> Result<()> {
    for (name, definition) in definition::foreign_keys(source)? {
        spi::execute(&format!(
            "ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID"
        ))?;
    }
    spi::run(
        "UPDATE pg_catalog.pg_constraint SET convalidated = true
          WHERE conrelid = $1 AND contype = 'f' AND NOT convalidated",
        &[target.into()],
    )?;
    Ok(())
}
