//! Sequences of identity columns. PostgreSQL drops one with the identity, so that the partitioned table
//! gets a new one of the same name, options, grants and position.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::manage::names;
use crate::manage::table::Table;
use crate::pg::{grants, spi};

/// The identity of one column.
pub struct Identity {
    column: String,
    sequence: pg_sys::Oid,
    schema: String,
    name: String,
    /// `GENERATED … AS IDENTITY (…)`.
    definition: String,
    comment: Option<String>,
}

/// The identities of a table's columns.
pub fn identities(table: &Table) -> Result<Vec<Identity>> {
    spi::query(
        "SELECT a.attname::text, s.oid, n.nspname::text, s.relname::text,
                format('GENERATED %s AS IDENTITY (SEQUENCE NAME %I.%I START WITH %s INCREMENT BY %s MINVALUE %s MAXVALUE %s CACHE %s%s)',
                       CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, n.nspname, s.relname,
                       q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache, CASE WHEN q.seqcycle THEN ' CYCLE' END),
                obj_description(s.oid, 'pg_class')
           FROM pg_attribute a
           JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid
                           AND d.refobjsubid = a.attnum AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
           JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
           JOIN pg_namespace n ON n.oid = s.relnamespace
           JOIN pg_sequence q ON q.seqrelid = s.oid
          WHERE a.attrelid = $1 AND a.attidentity <> '' AND NOT a.attisdropped",
        &[table.oid.into()],
        |row| {
            Ok(Identity {
                column: row.get(1)?,
                sequence: row.get(2)?,
                schema: row.get(3)?,
                name: row.get(4)?,
                definition: row.get(5)?,
                comment: row.optional(6)?,
            })
        },
    )
}

impl Identity {
    /// Moves the identity from the plain table's column, now the shard's, to that of the partitioned table.
    pub fn move_to(&self, table: &Table, shard: &Table) -> Result<()> {
        // Renaming locks the sequence, so that nobody takes a number after its position was read.
        let old_name = names::dependent(&self.schema, &table.name, &self.name, &shard.name)?;
        let old = spi::quote_qualified_identifier(&self.schema, &old_name);
        let new = spi::quote_qualified_identifier(&self.schema, &self.name);
        let column = spi::quote_identifier(&self.column);
        spi::execute(&format!(
            "ALTER SEQUENCE {new} RENAME TO {}",
            spi::quote_identifier(&old_name)
        ))?;
        spi::execute(&format!(
            "ALTER TABLE {} ALTER COLUMN {column} ADD {}",
            table.qualified(),
            self.definition
        ))?;
        spi::execute(&format!(
            "SELECT setval({}::regclass, last_value, is_called) FROM {old}",
            spi::quote_literal(&new)
        ))?;
        grants::copy(self.sequence, sequence_of(&new)?)?;
        if let Some(comment) = &self.comment {
            spi::execute(&format!(
                "COMMENT ON SEQUENCE {new} IS {}",
                spi::quote_literal(comment)
            ))?;
        }
        spi::execute(&format!(
            "ALTER TABLE {} ALTER COLUMN {column} DROP IDENTITY",
            shard.qualified()
        ))?;
        Ok(())
    }
}

fn sequence_of(name: &str) -> Result<pg_sys::Oid> {
    spi::query_value("SELECT $1::regclass::oid", &[name.into()])?
        .ok_or_else(|| Error::Internal(format!("sequence {name} vanished")))
}
