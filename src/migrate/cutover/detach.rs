//! The old shards leave the table.

use crate::error::Result;
use crate::migrate::definition;
use crate::migrate::inbound;
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::migrate::target::statistics;
use crate::pg::spi;

use super::rename;

/// Takes the sources out of the table, and out of the users' sight.
pub fn sources(job: &Job) -> Result<()> {
    let parent = crate::pg::relation::name(job.migration.relation)?;
    for (n, source) in job.migration.spec.sources.iter().enumerate() {
        // For each one anew: a source that was detached has foreign keys of its own, which may reference the next one.
        inbound::release(source.relation())?;
        spi::execute(&format!(
            "ALTER TABLE {parent} DETACH PARTITION {}",
            source.qualified()
        ))?;
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

/// Takes the foreign keys off the old shards, once the new ones have them: their rows are not to be seen any more,
/// and so must not keep what they reference from being deleted.
pub fn foreign_keys(job: &Job) -> Result<()> {
    for n in 0..job.migration.spec.sources.len() {
        let retired = names::retired(job.id(), n);
        let keys = spi::query(
            "SELECT pg_catalog.quote_ident(conname) FROM pg_catalog.pg_constraint
              WHERE conrelid = pg_catalog.to_regclass($1) AND contype = 'f' AND conparentid = 0",
            &[retired.as_str().into()],
            |row| row.get::<String>(1),
        )?;
        for key in keys {
            spi::execute(&format!("ALTER TABLE {retired} DROP CONSTRAINT {key}"))?;
        }
    }
    Ok(())
}
