//! Moving unique indexes from a sharded table to its shards, so that it can have shards on other servers: PostgreSQL
//! gives no partitioned table with a unique index a foreign partition. By metadata alone: each shard keeps the index
//! that it has, made independent as DETACH PARTITION would; then the table's own, which has no rows, is dropped.
//!
//! A key stays unique in the whole table: it contains the shard key, and the ranges of shards do not overlap.

use pgrx::{notice, pg_sys};

use crate::catalog::tables;
use crate::error::{Error, Result};
use crate::manage::table::Table;
use crate::pg::{constraint, lock, role, spi};

/// A unique index of a partitioned table.
struct Key {
    /// Its name, as SQL writes it after the schema's.
    index: String,
    /// The constraint that it carries.
    constraint: Option<String>,
    /// The indexes of partitions that belong to it, and their constraints (invalid for none).
    parts: Vec<(pg_sys::Oid, pg_sys::Oid)>,
    is_valid: bool,
}

const KEYS: &str = "
SELECT format('%I.%I', n.nspname, x.relname), k.conname::text, i.indisvalid,
       ARRAY(SELECT h.inhrelid FROM pg_inherits h WHERE h.inhparent = i.indexrelid ORDER BY h.inhrelid),
       ARRAY(SELECT coalesce((SELECT c.oid FROM pg_constraint c
                               WHERE c.conindid = h.inhrelid AND c.contype IN ('p', 'u', 'x') AND c.conparentid <> 0), 0)
               FROM pg_inherits h WHERE h.inhparent = i.indexrelid ORDER BY h.inhrelid)
  FROM pg_index i
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = x.relnamespace
  LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
 WHERE i.indrelid = $1 AND (i.indisunique OR i.indisexclusion)
 ORDER BY i.indexrelid";

fn keys(table: &Table) -> Result<Vec<Key>> {
    spi::query(KEYS, &[table.oid.into()], |row| {
        let indexes: Vec<pg_sys::Oid> = row.get(4)?;
        let constraints: Vec<pg_sys::Oid> = row.get(5)?;
        Ok(Key {
            index: row.get(1)?,
            constraint: row.optional(2)?,
            is_valid: row.get(3)?,
            parts: indexes.into_iter().zip(constraints).collect(),
        })
    })
}

/// Moves the keys of a managed table to its shards; one that has none is only marked.
pub fn move_down(table: &Table) -> Result<()> {
    // As the switch of a migration does: the table first, then its partitions.
    lock::access_exclusive(table.oid);
    let partitions = spi::query(
        "SELECT inhrelid FROM pg_inherits WHERE inhparent = $1 ORDER BY inhrelid",
        &[table.oid.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )?;
    partitions.iter().copied().for_each(lock::access_exclusive);
    refuse_unfinished(table)?;
    refuse_references(table)?;
    let keys = keys(table)?;
    for key in &keys {
        require_whole(table, key, partitions.len())?;
    }
    for key in &keys {
        for (index, carried) in &key.parts {
            constraint::take_index_from_partition(*index, *carried);
        }
        spi::execute(&match &key.constraint {
            Some(name) => format!(
                "ALTER TABLE ONLY {} DROP CONSTRAINT {}",
                table.qualified(),
                spi::quote_identifier(name)
            ),
            None => format!("DROP INDEX {}", key.index),
        })?;
    }
    require_moved(&keys)?;
    tables::set_leaf_keys(table.oid)?;
    if !keys.is_empty() {
        let names: Vec<&str> = keys.iter().map(|key| key.index.as_str()).collect();
        notice!(
            "unique indexes of table \"{}\" are on its shards now ({}): INSERT ... ON CONFLICT with columns, and foreign keys of other tables, cannot use them any more",
            table.name,
            names.join(", ")
        );
    }
    Ok(())
}

fn refuse_unfinished(table: &Table) -> Result<()> {
    let Some(migration) = tables::unfinished_migration(table.oid)? else {
        return Ok(());
    };
    Err(Error::InUse {
        what: format!(
            "migration {migration} of table \"{}\" is not finished",
            table.name
        ),
        hint: format!("Wait for it with SELECT repart_wait({migration})."),
    })
}

/// A foreign key needs a unique index of the table that it points at.
fn refuse_references(table: &Table) -> Result<()> {
    let references = spi::query(
        "SELECT pg_describe_object('pg_constraint'::regclass, oid, 0) FROM pg_constraint
          WHERE confrelid = $1 AND contype = 'f' AND conparentid = 0 ORDER BY 1",
        &[table.oid.into()],
        |row| row.get::<String>(1),
    )?;
    if references.is_empty() {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "unique indexes of table \"{}\" cannot move to its shards: foreign keys point at it",
            table.name
        ),
        detail: format!("Concerned: {}.", references.join(", ")),
        hint:
            "Drop these foreign keys, or leave leaf_keys out: then all shards stay on this server."
                .to_owned(),
    })
}

/// An index that not every partition has would be missing there afterwards.
fn require_whole(table: &Table, key: &Key, partitions: usize) -> Result<()> {
    if key.is_valid && key.parts.len() == partitions {
        return Ok(());
    }
    Err(Error::Prerequisite {
        what: format!(
            "index {} of table \"{}\" is not valid: {} of {partitions} partitions have it",
            key.index,
            table.name,
            key.parts.len()
        ),
        hint: "Create it on the other partitions, and attach it with ALTER INDEX ... ATTACH PARTITION, or drop it.".to_owned(),
    })
}

/// Fails, which undoes everything, unless the shards have valid indexes of their own.
fn require_moved(keys: &[Key]) -> Result<()> {
    let parts = keys.iter().flat_map(|key| &key.parts);
    let indexes: Vec<pg_sys::Oid> = parts.map(|(index, _)| *index).collect();
    let count = indexes.len();
    let independent = role::as_superuser(|| {
        spi::query_value::<i64>(
            "SELECT count(*) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
              WHERE i.indexrelid = ANY ($1) AND i.indisvalid AND NOT x.relispartition
                AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = i.indexrelid)
                AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.conrelid = i.indrelid
                                   AND (c.conparentid <> 0 OR c.coninhcount <> 0 OR NOT c.conislocal))",
            &[indexes.into()],
        )
    })?;
    if usize::try_from(independent.unwrap_or(-1)) == Ok(count) {
        return Ok(());
    }
    Err(Error::Internal(
        "unique indexes did not become the shards' own".to_owned(),
    ))
}

/// Names of the unique indexes that keep a table's shards on this server.
pub fn obstacles(table: pg_sys::Oid) -> Result<Vec<String>> {
    spi::query(
        "SELECT pg_catalog.format('%I', x.relname) FROM pg_catalog.pg_index i
           JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
          WHERE i.indrelid = $1 AND (i.indisunique OR i.indisexclusion) ORDER BY i.indexrelid",
        &[table.into()],
        |row| row.get(1),
    )
}
