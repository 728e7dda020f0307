//! What repart has to know about a relation before it manages it.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::spi;

/// A relation as `pg_class` has it.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its OID.
    pub oid: pg_sys::Oid,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its owner's name.
    pub owner: String,
    /// `pg_class.relkind`.
    pub kind: String,
    /// `pg_class.relpersistence`.
    pub persistence: String,
    /// The table that it is a partition of, as SQL writes it.
    pub partition_of: Option<String>,
    /// The extension that it belongs to.
    pub extension: Option<String>,
    /// Its tablespace; `None` for the database's default.
    pub tablespace: Option<String>,
}

impl Table {
    /// Reads it; an error if it does not exist (any more).
    pub fn read(oid: pg_sys::Oid) -> Result<Self> {
        let found = spi::query(
            "SELECT n.nspname::text, c.relname::text, r.rolname::text, c.relkind::text, c.relpersistence::text,
                    CASE WHEN c.relispartition THEN
                        (SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = c.oid) END,
                    (SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'),
                    t.spcname::text
               FROM pg_class c
               JOIN pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_roles r ON r.oid = c.relowner
               LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
              WHERE c.oid = $1",
            &[oid.into()],
            |row| {
                Ok(Self {
                    oid,
                    schema: row.get(1)?,
                    name: row.get(2)?,
                    owner: row.get(3)?,
                    kind: row.get(4)?,
                    persistence: row.get(5)?,
                    partition_of: row.optional(6)?,
                    extension: row.optional(7)?,
                    tablespace: row.optional(8)?,
                })
            },
        )?;
        found.into_iter().next().ok_or_else(|| Error::Missing {
            what: format!("relation with OID {} does not exist", oid.to_u32()),
            hint: "Give the name of an existing table.".to_owned(),
        })
    }

    /// The relation of that name in the schema.
    pub fn find(schema: &str, name: &str) -> Result<Self> {
        let oid = spi::query_value::<pg_sys::Oid>(
            "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = $1::name AND c.relname = $2::name",
            &[schema.into(), name.into()],
        )?;
        Self::read(oid.ok_or_else(|| Error::Internal(format!("table \"{name}\" vanished")))?)
    }

    /// Its name as SQL writes it.
    pub fn qualified(&self) -> String {
        spi::quote_qualified_identifier(&self.schema, &self.name)
    }

    /// Whether it is a partitioned table.
    pub fn is_partitioned(&self) -> bool {
        self.kind == "p"
    }
}
