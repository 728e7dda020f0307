//! A migration with what its steps need to know of its table.

use pgrx::pg_sys;

use crate::catalog::journal::{Migration, Target};
use crate::catalog::shards::{self, ShardKey};
use crate::error::{Error, Result};
use crate::migrate::definition::{self, KeyColumn, range_condition};
use crate::migrate::target::{self, Definition};
use crate::migrate::{capture, names};
use crate::pg::{relation, role, spi};

/// A migration and its table.
pub struct Job {
    /// The journal's row.
    pub migration: Migration,
    /// The column that the table is partitioned by.
    pub key: ShardKey,
    /// The columns that identify a row.
    pub identity: Vec<KeyColumn>,
    /// The sources' owner, as whom rows are read and written.
    pub owner: pg_sys::Oid,
}

impl Job {
    /// Reads what the catalogs say about the migration's table.
    pub fn load(migration: Migration) -> Result<Self> {
        let first = first_source(&migration)?;
        Ok(Self {
            key: shards::key(migration.relation)?,
            identity: definition::identity_key(first)?,
            owner: relation::owner(first)?,
            migration,
        })
    }

    /// The migration's number.
    pub fn id(&self) -> i64 {
        self.migration.id
    }

    /// The targets with their ordinals.
    pub fn targets(&self) -> impl Iterator<Item = (usize, &Target)> {
        self.migration.spec.targets.iter().enumerate()
    }

    /// The relations of the sources.
    pub fn source_oids(&self) -> Vec<pg_sys::Oid> {
        self.migration
            .spec
            .sources
            .iter()
            .map(|source| source.relation())
            .collect()
    }

    /// The table and its sources: what others know of and may have locked.
    pub fn public_relations(&self) -> Vec<pg_sys::Oid> {
        let mut relations = self.source_oids();
        relations.push(self.migration.relation);
        relations
    }

    /// The source from which definitions are taken.
    pub fn first_source(&self) -> Result<pg_sys::Oid> {
        first_source(&self.migration)
    }

    /// The condition that a key belongs to a target.
    pub fn belongs_to(&self, target: &Target) -> String {
        range_condition(&self.key, target.lower.as_deref(), target.upper.as_deref())
    }

    /// Columns that a copy writes, as SQL lists them.
    pub fn writable_columns(&self) -> Result<String> {
        Ok(definition::writable_columns(self.first_source()?)?.join(", "))
    }

    /// What the targets are made from, as it is now.
    pub fn definition(&self) -> Result<Definition> {
        target::definition(self.migration.relation, &self.source_oids())
    }

    /// Fails if table or sources were changed since the targets were made from them, or if a change of a row
    /// may not have been captured.
    pub fn require_unchanged(&self) -> Result<Definition> {
        let expected = &self.migration.position;
        let captured = expected.triggers.is_empty()
            || capture::triggers(&self.migration)? == expected.triggers;
        let definition = self.definition()?;
        if captured && definition.fingerprint == expected.fingerprint {
            return Ok(definition);
        }
        Err(Error::DefinitionChanged(
            self.migration.relation_name.clone(),
        ))
    }

    /// `target` as SQL writes it.
    pub fn target_name(&self, target: usize) -> String {
        names::target(self.id(), target)
    }

    /// Empties all targets.
    pub fn truncate_targets(&self) -> Result<()> {
        let tables: Vec<String> = self.targets().map(|(n, _)| self.target_name(n)).collect();
        let statement = format!("TRUNCATE ONLY {}", tables.join(", "));
        // It evaluates parts of index expressions.
        role::as_owner(self.owner, || spi::execute(&statement))?;
        Ok(())
    }
}

fn first_source(migration: &Migration) -> Result<pg_sys::Oid> {
    migration
        .spec
        .sources
        .first()
        .map(|source| source.relation())
        .ok_or_else(|| Error::Internal("a migration without sources".to_owned()))
}
