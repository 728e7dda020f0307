//! The old shards leave the table.

use crate::error::Result;
use crate::migrate::definition;
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::pg::spi;

use super::rename;

/// Takes the sources out of the table, and out of the users' sight; those that a target keeps, out of the table
/// only: the bound of a partition cannot be changed.
pub fn sources(job: &Job) -> Result<()> {
    let parent = crate::pg::relation::name(job.migration.relation)?;
    for (n, source) in job.migration.spec.sources.iter().enumerate() {
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
