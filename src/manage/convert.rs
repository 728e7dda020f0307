//! Making a sharded table with one shard of a plain table, in the caller's transaction, as the caller, and
//! by metadata alone: the table becomes the shard, and a partitioned table takes its name and its place.
//! PostgreSQL neither reads nor writes a row, since what ATTACH would have to prove is known: the key is
//! NOT NULL, and indexes and foreign keys of the shard are those that the partitioned table asks for.

use crate::error::Result;
use crate::manage::carry::{self, Parts};
use crate::manage::key::Key;
use crate::manage::table::Table;
use crate::manage::{names, references, sequences, verify, views};
use crate::pg::{grants, spi};

/// What became of a plain table.
pub struct Converted {
    /// The partitioned table.
    pub table: Table,
    /// The plain table's rows.
    pub shard: Table,
    /// Whether row-level triggers were moved to the shard.
    pub has_row_triggers: bool,
}

/// Converts a plain table that passed all checks and is locked.
pub fn convert(plain: &Table, key: &Key) -> Result<Converted> {
    let before = verify::Storage::read(plain.oid)?;
    let parts = Parts::read(plain)?;
    let identities = sequences::identities(plain)?;
    let views = views::statements(plain)?;

    let references = references::remove(plain)?;
    carry::execute_all(&parts.removals)?;
    let shard = rename(plain)?;
    let table = create_partitioned(plain, &shard, key)?;
    for identity in &identities {
        identity.move_to(&table, &shard)?;
    }
    carry::execute_all(&parts.settings)?;
    carry::execute_all(&parts.indexes)?;
    attach(&table, &shard)?;
    references::add(&references)?;
    carry::execute_all(&parts.triggers)?;
    carry::execute_all(&parts.comments)?;
    grants::copy(shard.oid, table.oid)?;
    carry::execute_all(&views)?;

    verify::check(shard.oid, &before)?;
    Ok(Converted {
        table,
        shard,
        has_row_triggers: parts.has_row_triggers,
    })
}

/// Gives the plain table and its indexes other names.
fn rename(plain: &Table) -> Result<Table> {
    let name = names::shard(&plain.schema, &plain.name)?;
    spi::execute(&format!(
        "ALTER TABLE {} RENAME TO {}",
        plain.qualified(),
        spi::quote_identifier(&name)
    ))?;
    let shard = Table::read(plain.oid)?;
    let indexes = spi::query(
        "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
          WHERE i.indrelid = $1 ORDER BY i.indexrelid",
        &[shard.oid.into()],
        |row| row.get::<String>(1),
    )?;
    for index in indexes {
        // Renames the constraint too, if it is a constraint's.
        let new_name = names::dependent(&shard.schema, &plain.name, &index, &shard.name)?;
        let old = spi::quote_qualified_identifier(&shard.schema, &index);
        spi::execute(&format!(
            "ALTER INDEX {old} RENAME TO {}",
            spi::quote_identifier(&new_name)
        ))?;
    }
    Ok(shard)
}

/// Creates the partitioned table under the plain table's name, without indexes and partitions.
fn create_partitioned(plain: &Table, shard: &Table, key: &Key) -> Result<Table> {
    let tablespace = plain
        .tablespace
        .as_ref()
        .map(|name| format!(" TABLESPACE {}", spi::quote_identifier(name)));
    spi::execute(&format!(
        "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE
                                  INCLUDING COMPRESSION INCLUDING COMMENTS)
         PARTITION BY RANGE ({}){}",
        plain.qualified(),
        shard.qualified(),
        spi::quote_identifier(&key.column),
        tablespace.unwrap_or_default()
    ))?;
    spi::execute(&format!(
        "ALTER TABLE {} OWNER TO {}",
        plain.qualified(),
        spi::quote_identifier(&plain.owner)
    ))?;
    Table::find(&plain.schema, &plain.name)
}

fn attach(table: &Table, shard: &Table) -> Result<()> {
    spi::execute(&format!(
        "ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM (MINVALUE) TO (MAXVALUE)",
        table.qualified(),
        shard.qualified()
    ))?;
    Ok(())
}
