//! The old shards leave the table.

use crate::error::Result;
use crate::migrate::definition;
use crate::migrate::inbound;
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::migrate::target::statistics;
use crate::pg::spi;

use super::rename;

/// Takes the sources out of the table, and out of the users' sight; those that a target keeps, out of the table
/// only: the bound of a partition cannot be changed.
pub fn sources(job: &Job) -> Result<()> {
    let parent = crate::pg::relation::name(job.migration.relation)?;
    for (n, source) in job.migration.spec.sources.iter().enumerate() {
        // For each one anew: a source that was detached has foreign keys of its own, which may reference the next one.
        inbound::release(source.relation())?;
        spi::execute(&format!(
            "ALTER TABLE {parent} DETACH PARTITION {}",
            source.qualified()
        ))?;
        if job.is_kept(n) {
            continue;
        }
        for (k, index) in definition::indexes(source.relation())?.iter().enumerate() {
            rename(
                "INDEX",
                &source.schema,
                &index.name,
                &names::private_retired_index(job.id(), n, k),
            )?;
        }
        statistics::retire(job, n, &statistics::read(source.relation())?)?;
        let retired = names::private_retired(job.id(), n);
        rename("TABLE", &source.schema, &source.name, &retired)?;
        let retired = spi::quote_qualified_identifier(&source.schema, &retired);
        spi::execute(&format!(
            "ALTER TABLE {retired} SET SCHEMA {}",
            names::SCHEMA
        ))?;
    }
    Ok(())
}

/// Drops the foreign keys of the sources, once the targets have theirs. Otherwise deletes of what the old shards
/// reference would fail because of rows that nobody sees any more, until they are dropped.
pub fn foreign_keys(job: &Job) -> Result<()> {
    for (n, source) in job.migration.spec.sources.iter().enumerate() {
        if job.is_kept(n) {
            continue;
        }
        let keys: Vec<String> = spi::query(
            "SELECT conname::text FROM pg_catalog.pg_constraint
              WHERE conrelid = $1 AND contype = 'f' AND conparentid = 0",
            &[source.relation().into()],
            |row| row.get(1),
        )?;
        for key in keys {
            spi::execute(&format!(
                "ALTER TABLE {} DROP CONSTRAINT {}",
                names::retired(job.id(), n),
                spi::quote_identifier(key)
            ))?;
        }
    }
    Ok(())
}
