//! A migration with what its steps need to know of its table.

use pgrx::pg_sys;

use crate::catalog::journal::{Migration, Target};
use crate::catalog::shards::{self, ShardKey};
use crate::error::{Error, Result};
use crate::migrate::definition::{self, KeyColumn, range_condition};
use crate::migrate::{capture, inbound, names, target};
use crate::pg::{relation, role, spi};

/// A migration and its table.
pub struct Job {
    /// The journal's row.
    pub migration: Migration,
    /// The column that the table is partitioned by.
    pub key: ShardKey,
    /// The columns that identify a row; empty where writers wait instead of being captured.
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
            identity: if migration.spec.blocking {
                Vec::new()
            } else {
                definition::identity_key(first)?
            },
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

    /// What a switch locks, in this order: tables that reference the table, since their clients come from there;
    /// the table, its sources, and the DEFAULT partition, whose bound changes with theirs; what the table
    /// references, on which there are triggers of its foreign keys. LOCK TABLE takes no foreign tables.
    pub fn public_relations(&self) -> Result<Vec<pg_sys::Oid>> {
        let table = self.migration.relation;
        let mut relations = inbound::referencing_tables(table)?;
        relations.push(table);
        relations.extend(spi::query(
            "SELECT i.inhrelid FROM pg_catalog.pg_inherits i
               JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = i.inhparent
               JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind <> 'f'
              WHERE i.inhparent = $1 AND (i.inhrelid = ANY ($2) OR i.inhrelid = p.partdefid)
              ORDER BY i.inhrelid",
            &[table.into(), self.source_oids().into()],
            |row| row.get::<pg_sys::Oid>(1),
        )?);
        let referenced = spi::query(
            "SELECT DISTINCT t.relid::oid FROM pg_catalog.pg_constraint k
               JOIN pg_catalog.pg_class r ON r.oid = k.confrelid,
                    LATERAL (SELECT relid FROM pg_catalog.pg_partition_tree(r.oid) WHERE r.relkind = 'p'
                             UNION SELECT r.oid::regclass) t
               JOIN pg_catalog.pg_class c ON c.oid = t.relid AND c.relkind <> 'f'
              WHERE k.contype = 'f' AND (k.conrelid = $1 OR k.conrelid = ANY ($2)) AND NOT t.relid = ANY ($3)
              ORDER BY 1",
            &[table.into(), self.source_oids().into(), relations.clone().into()],
            |row| row.get::<pg_sys::Oid>(1),
        )?;
        relations.extend(referenced);
        Ok(relations)
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

    /// The hash that must not change while the migration runs.
    pub fn fingerprint(&self) -> Result<String> {
        target::fingerprint(self.migration.relation, &self.source_oids())
    }

    /// Fails if table or sources were changed since the targets were made from them, or if a change of a row
    /// may not have been captured.
    pub fn require_unchanged(&self) -> Result<()> {
        let expected = &self.migration.position;
        let captured = expected.triggers.is_empty()
            || capture::triggers(&self.migration)? == expected.triggers;
        if captured && self.fingerprint()? == expected.fingerprint {
            return Ok(());
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
