//! The new shards become visible: name, place, what could not be there before, and the partition bound.

use pgrx::pg_sys;

use crate::catalog::journal::Target;
use crate::error::{Error, Result};
use crate::migrate::definition::{self, Index};
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::migrate::target::statistics::{self, Statistics};
use crate::migrate::target::{self, Definition, Part, Phase, constraints, rights};
use crate::pg::{relation, role, spi};

use super::rename;

/// What a target takes over from the first source inside the switch.
pub struct Model {
    parts: Vec<Part>,
    valid_foreign_keys: Vec<String>,
    indexes: Vec<Index>,
    statistics: Vec<Statistics>,
}

impl Model {
    /// Reads it, while the sources are as users know them.
    pub fn read(job: &Job, definition: Definition) -> Result<Self> {
        let source = job.first_source()?;
        Ok(Self {
            parts: definition.parts,
            valid_foreign_keys: constraints::valid_foreign_keys(source)?,
            indexes: definition::indexes(source)?,
            statistics: statistics::read(source)?,
        })
    }
}

/// Gives a target its public name and place, and attaches it. For a moment it bears the name of the first source,
/// which is free now: so the definitions of triggers, rules and policies, which name their table, can be carried
/// out as PostgreSQL prints them.
pub fn target(job: &Job, n: usize, oid: pg_sys::Oid, model: &Model) -> Result<()> {
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
    take_place(job, n, schema, &source.name)?;
    for statement in target::statements(&model.parts, Phase::Switch) {
        spi::execute(statement)?;
    }
    if !model.valid_foreign_keys.is_empty() {
        constraints::declare_valid(oid, &model.valid_foreign_keys)?;
    }
    attach(job, target, &source.qualified())?;
    for statement in target::statements(&model.parts, Phase::Attached) {
        spi::execute(statement)?;
    }
    rename("TABLE", schema, &source.name, &public)?;
    for (k, index) in model.indexes.iter().enumerate() {
        let name = names::public_dependent(&source.name, &index.name, &public, k, "idx");
        rename(
            "INDEX",
            schema,
            &names::private_index(job.id(), n, k),
            &name,
        )?;
    }
    statistics::publish(job, n, &source.name, &public, &model.statistics)
}

/// Moves a target to the users' schema, under the name of a source.
fn take_place(job: &Job, n: usize, schema: &str, name: &str) -> Result<()> {
    spi::execute(&format!(
        "ALTER TABLE {} SET SCHEMA {}",
        job.target_name(n),
        spi::quote_identifier(schema)
    ))?;
    rename("TABLE", schema, &names::private_target(job.id(), n), name)
}

/// Attaches a table and drops the constraint that spared it a scan.
pub fn attach(job: &Job, target: &Target, table: &str) -> Result<()> {
    let bound = |bound: &Option<String>, open: &str| {
        bound.as_ref().map_or(open.to_owned(), spi::quote_literal)
    };
    let parent = relation::name(job.migration.relation)?;
    let statement = format!(
        "ALTER TABLE {parent} ATTACH PARTITION {table} FOR VALUES FROM ({}) TO ({})",
        bound(&target.lower, "MINVALUE"),
        bound(&target.upper, "MAXVALUE")
    );
    // Looking for proofs and for equal indexes, PostgreSQL evaluates parts of CHECK constraints and of indexes.
    let role = rights::attaching_role(job.migration.relation, job.owner)?;
    role::as_owner(role, || spi::execute(&statement))?;
    spi::execute(&format!(
        "ALTER TABLE {table} DROP CONSTRAINT {}",
        names::BOUND_CONSTRAINT
    ))?;
    Ok(())
}
