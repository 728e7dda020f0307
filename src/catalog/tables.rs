//! Which tables repart manages: `repart.sharded_tables`, and what is known about their shards.
//!
//! Nobody but superusers may touch the tables in schema `repart`, so that everything here runs as one:
//! callers check the rights of whoever asked first.

use pgrx::pg_sys;

use crate::catalog::groups;
use crate::error::{Error, Result};
use crate::pg::{relation, role, spi};

/// A table that repart manages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardedTable {
    /// The partitioned table.
    pub relation: pg_sys::Oid,
    /// The column it is partitioned by, when it was managed.
    pub shard_key: String,
    /// Whether its unique indexes are on the shards only.
    pub leaf_keys: bool,
    /// The tables with the same number share their boundaries, see [`super::groups`].
    pub colocation_group: Option<i32>,
}

/// The tables that hold what is known of a shard, by its OID.
const HISTORY: [&str; 4] = ["counters", "samples", "forecast_curves", "lineage"];

pub(super) const COLUMNS: &str =
    "t.relation::oid, t.shard_key::text, t.leaf_keys, t.colocation_group";

pub(super) fn read(row: &spi::Row) -> Result<ShardedTable> {
    Ok(ShardedTable {
        relation: row.get(1)?,
        shard_key: row.get(2)?,
        leaf_keys: row.get(3)?,
        colocation_group: row.optional(4)?,
    })
}

/// The managed tables that still exist, by OID.
pub fn all() -> Result<Vec<ShardedTable>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM repart.sharded_tables t JOIN pg_catalog.pg_class c ON c.oid = t.relation
          ORDER BY c.oid"
    );
    role::as_superuser(|| spi::query(&sql, &[], read))
}

/// Whether a table is managed.
pub fn is_managed(table: pg_sys::Oid) -> Result<bool> {
    Ok(find(table)?.is_some())
}

/// A managed table; `None` if it is not managed.
pub fn find(table: pg_sys::Oid) -> Result<Option<ShardedTable>> {
    first(
        &format!("SELECT {COLUMNS} FROM repart.sharded_tables t WHERE t.relation = $1"),
        table,
    )
}

/// A managed table; an error with the remedy if it is not managed.
pub fn require(table: pg_sys::Oid) -> Result<ShardedTable> {
    or_not_managed(find(table)?, table)
}

fn first(sql: &str, table: pg_sys::Oid) -> Result<Option<ShardedTable>> {
    Ok(
        role::as_superuser(|| spi::query(sql, &[table.into()], read))?
            .into_iter()
            .next(),
    )
}

fn or_not_managed(found: Option<ShardedTable>, table: pg_sys::Oid) -> Result<ShardedTable> {
    match found {
        Some(found) => Ok(found),
        None => Err(Error::NotManaged(relation::display_name(table)?)),
    }
}

/// Starts managing a table.
pub fn insert(table: &ShardedTable) -> Result<()> {
    role::as_superuser(|| {
        spi::run(
            "INSERT INTO repart.sharded_tables (relation, shard_key, leaf_keys) VALUES ($1::regclass, $2::name, $3)",
            &[
                table.relation.into(),
                table.shard_key.as_str().into(),
                table.leaf_keys.into(),
            ],
        )
    })?;
    Ok(())
}

/// Notes that a table's unique indexes are on its shards only.
pub fn set_leaf_keys(table: pg_sys::Oid) -> Result<()> {
    role::as_superuser(|| {
        spi::run(
            "UPDATE repart.sharded_tables SET leaf_keys = true WHERE relation = $1",
            &[table.into()],
        )
    })?;
    Ok(())
}

/// Stops managing a table, and forgets what is known about its present shards.
pub fn delete(table: pg_sys::Oid) -> Result<()> {
    role::as_superuser(|| {
        for history in HISTORY {
            let sql = format!(
                "DELETE FROM repart.{history} h USING pg_catalog.pg_inherits i
                  WHERE i.inhparent = $1 AND h.shard = i.inhrelid"
            );
            spi::run(&sql, &[table.into()])?;
        }
        spi::run(
            "DELETE FROM repart.calendar WHERE relation = $1",
            &[table.into()],
        )?;
        spi::run(
            "DELETE FROM repart.sharded_tables WHERE relation = $1",
            &[table.into()],
        )?;
        groups::dissolve_single()
    })
}

/// The unfinished migration of a table with the lowest number, if any.
pub fn unfinished_migration(table: pg_sys::Oid) -> Result<Option<i64>> {
    role::as_superuser(|| {
        spi::query_value(
            "SELECT pg_catalog.min(id) FROM repart.journal
              WHERE relation = $1 AND state NOT IN ('done', 'cancelled', 'failed')",
            &[table.into()],
        )
    })
}

/// Deletes what is left of tables and shards that were dropped; returns the number of tables. The
/// history of a dropped shard is kept while a shard that exists descends from it.
pub fn forget_dropped() -> Result<u64> {
    role::as_superuser(|| {
        for history in HISTORY {
            let sql = format!(
                "WITH RECURSIVE needed AS (
                     SELECT l.shard, l.ancestor FROM repart.lineage l JOIN pg_catalog.pg_class c ON c.oid = l.shard
                     UNION
                     SELECT l.shard, l.ancestor FROM repart.lineage l JOIN needed n ON n.ancestor = l.shard
                 )
                 DELETE FROM repart.{history} h
                  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = h.shard)
                    AND NOT EXISTS (SELECT FROM needed n WHERE n.ancestor = h.shard)"
            );
            spi::run(&sql, &[])?;
        }
        spi::run(
            "DELETE FROM repart.calendar e
              WHERE e.relation IS NOT NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = e.relation)",
            &[],
        )?;
        let tables = spi::run(
            "DELETE FROM repart.sharded_tables t
              WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relation)",
            &[],
        )?;
        groups::dissolve_single()?;
        Ok(tables)
    })
}
