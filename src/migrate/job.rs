//! A migration with what its steps need to know of its table.

use pgrx::pg_sys;

use crate::catalog::journal::{Migration, Source, Target};
use crate::catalog::shards::{self, ShardKey};
use crate::error::{Error, Result};
use crate::migrate::definition::{self, KeyColumn, range_condition};
use crate::migrate::flows::Overlap;
use crate::migrate::target::{self, Definition};
use crate::migrate::{capture, names, obstacle};
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

/// A target that keeps the table of a source.
pub struct Kept<'a> {
    /// Ordinal of the target.
    pub n: usize,
    /// The target.
    pub target: &'a Target,
    /// The source.
    pub source: &'a Source,
}

impl Job {
    /// Reads what the catalogs say about the migration's table.
    pub fn load(migration: Migration) -> Result<Self> {
        let first = migration.spec.first_source()?.relation();
        Ok(Self {
            key: shards::key(migration.relation)?,
            identity: if migration.spec.blocking {
                Vec::new()
            } else if migration.spec.first_source()?.remote.is_some() {
                migration.position.identity.clone()
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

    /// The targets that are made anew, with their ordinals.
    pub fn rebuilt_targets(&self) -> impl Iterator<Item = (usize, &Target)> {
        self.targets().filter(|(_, target)| target.keeps.is_none())
    }

    /// The targets that keep the table of a source.
    pub fn kept(&self) -> impl Iterator<Item = Kept<'_>> {
        self.targets().filter_map(|(n, target)| {
            let source = self.migration.spec.sources.get(target.keeps?)?;
            Some(Kept { n, target, source })
        })
    }

    /// Whether a target keeps the table of the source.
    pub fn is_kept(&self, source: usize) -> bool {
        self.targets()
            .any(|(_, target)| target.keeps == Some(source))
    }

    /// Whether the rows of a source in the target's range stay where they are.
    pub fn stays(&self, overlap: &Overlap) -> bool {
        self.stays_at(overlap.source, overlap.target)
    }

    /// As [`Job::stays`], of ordinals.
    pub fn stays_at(&self, source: usize, target: usize) -> bool {
        self.keeps(target) == Some(source)
    }

    /// Whether they have to be deleted from a kept table inside the cutover.
    pub fn leaves(&self, overlap: &Overlap) -> bool {
        self.is_kept(overlap.source) && !self.stays(overlap)
    }

    /// Whether they have to be inserted into a kept table inside the cutover.
    pub fn arrives(&self, overlap: &Overlap) -> bool {
        self.keeps(overlap.target).is_some() && !self.stays(overlap)
    }

    fn keeps(&self, target: usize) -> Option<usize> {
        self.migration.spec.targets.get(target)?.keeps
    }

    /// The relations of the sources.
    pub fn source_oids(&self) -> Vec<pg_sys::Oid> {
        self.migration.spec.source_oids()
    }

    /// What a switch locks, in this order; see [`obstacle::concerned`].
    pub fn public_relations(&self) -> Result<Vec<pg_sys::Oid>> {
        obstacle::concerned(&self.migration)
    }

    /// The source from which definitions are taken.
    pub fn first_source(&self) -> Result<pg_sys::Oid> {
        Ok(self.migration.spec.first_source()?.relation())
    }

    /// The condition that a key belongs to a target.
    pub fn belongs_to(&self, target: &Target) -> String {
        range_condition(&self.key, target.lower.as_deref(), target.upper.as_deref())
    }

    /// Columns that a copy writes, as SQL lists them.
    pub fn writable_columns(&self) -> Result<String> {
        Ok(definition::writable_columns(self.first_source()?)?.join(", "))
    }

    /// Names of the columns that a copy writes.
    pub fn column_names(&self) -> Result<Vec<String>> {
        definition::writable_names(self.migration.relation)
    }

    /// Whether a node has a part in the migration.
    pub fn is_away(&self) -> bool {
        self.migration.spec.is_away()
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

    /// A target that is made anew, as SQL writes it, while it is private.
    pub fn target_name(&self, target: usize) -> String {
        names::target(self.id(), target)
    }

    /// Empties all targets that are made anew.
    pub fn truncate_targets(&self) -> Result<()> {
        let tables: Vec<String> = self
            .rebuilt_targets()
            .map(|(n, _)| self.target_name(n))
            .collect();
        if tables.is_empty() {
            return Ok(());
        }
        let statement = format!("TRUNCATE ONLY {}", tables.join(", "));
        // It evaluates parts of index expressions.
        role::as_owner(self.owner, || spi::execute(&statement))?;
        Ok(())
    }
}
