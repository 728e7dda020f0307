//! Beginning and ceasing to manage a table.
//!
//! Everything here runs as the caller, with `search_path = pg_catalog, pg_temp` (see `api::manage`), so
//! that catalogs need no prefix, and everything that PostgreSQL prints here is qualified.

mod carry;
mod checks;
mod colocate;
mod convert;
mod key;
pub mod leaf_keys;
mod names;
mod publications;
mod references;
mod refusals;
mod sequences;
mod table;
mod verify;
mod views;

use pgrx::{notice, pg_sys};

use crate::catalog::tables::{self, ShardedTable};
use crate::catalog::{groups, retained, routes};
use crate::error::{Error, Result};
use crate::manage::table::Table;
use crate::pg::{guc, lock, on_commit, relation, role, spi};
use crate::settings;

/// Manages a table, partitioning it first if it is plain, and puts it into the colocation group of another one, if
/// that is given; returns the number of its shards. With `leaf_keys`, its unique indexes move to its shards, also if it
/// is managed already.
pub fn manage(
    relation: pg_sys::Oid,
    shard_key: Option<&str>,
    colocate_with: Option<pg_sys::Oid>,
    leaf_keys: bool,
) -> Result<i32> {
    checks::require_read_committed()?;
    relation::require_owner(relation)?;
    checks::require_table(&Table::read(relation)?)?;
    let timeout = format!("{}ms", settings::lock_timeout().as_millis());
    // Nobody queues behind a lock that we wait for; the partitioned table has no tablespace but its own.
    let settings = [
        ("lock_timeout", timeout.as_str()),
        ("default_tablespace", ""),
    ];
    let shards = guc::with_settings(&settings, || {
        let table = locked(relation)?;
        let Some(other) = colocate_with else {
            let is_known = leaf_keys && is_without_leaf_keys(&table)?;
            let (table, shards) = if is_known {
                let shards = count_shards(&table)?;
                (table, shards)
            } else {
                start(&table, shard_key)?
            };
            if leaf_keys {
                leaf_keys::move_down(&table)?;
            }
            return Ok(shards);
        };
        colocate::check(&table, other)?;
        if tables::find(table.oid)?.is_some() {
            if leaf_keys && is_without_leaf_keys(&table)? {
                leaf_keys::move_down(&table)?;
            }
            return colocate::join(&table, other);
        }
        let (table, _) = start(&table, shard_key)?;
        if leaf_keys {
            leaf_keys::move_down(&table)?;
        }
        colocate::join(&table, other)
    })?;
    on_commit::wake_workers();
    Ok(shards)
}

/// Whether a table is managed, with its unique indexes still on the table itself.
fn is_without_leaf_keys(table: &Table) -> Result<bool> {
    Ok(tables::find(table.oid)?.is_some_and(|table| !table.leaf_keys))
}

/// Manages a table that is locked; returns the sharded table with the number of its shards.
fn start(table: &Table, shard_key: Option<&str>) -> Result<(Table, i32)> {
    if tables::find(table.oid)?.is_some() {
        return Err(Error::AlreadyManaged(table.name.clone()));
    }
    refusals::check_any(table)?;
    if table.is_partitioned() {
        Ok((table.clone(), register(table, shard_key)?))
    } else {
        Ok((convert_and_register(table, shard_key)?, 1))
    }
}

/// Locks the table against changes of its definition, and reads it under the lock.
fn locked(relation: pg_sys::Oid) -> Result<Table> {
    if Table::read(relation)?.is_partitioned() {
        lock::share_update_exclusive(relation);
    } else {
        lock::access_exclusive(relation);
    }
    let table = Table::read(relation)?;
    relation::require_owner(relation)?;
    checks::require_table(&table)?;
    Ok(table)
}

/// Manages a table that is partitioned already: nothing about it changes.
fn register(table: &Table, shard_key: Option<&str>) -> Result<i32> {
    let key = key::of_partitioned(table, shard_key)?;
    refusals::check_partitioned(table)?;
    publications::check_partitioned(table)?;
    insert(table, &key)?;
    let shards = count_shards(table)?;
    let plural = if shards == 1 { "" } else { "s" };
    notice!(
        "table \"{}\" is now managed: {shards} shard{plural}, key \"{key}\"",
        table.name
    );
    Ok(shards)
}

/// Makes a sharded table with one shard of a plain table, and manages it.
fn convert_and_register(plain: &Table, shard_key: Option<&str>) -> Result<Table> {
    let key = key::choose(plain, shard_key)?;
    references::check_plain(plain)?;
    publications::check_plain(plain)?;
    refusals::check_plain(plain, &key)?;
    let converted = convert::convert(plain, &key)?;
    insert(&converted.table, &key.column)?;
    let (name, shard) = (&converted.table.name, &converted.shard.name);
    notice!(
        "table \"{name}\" is now managed: 1 shard (\"{shard}\"), key \"{}\"",
        key.column
    );
    if converted.has_row_triggers {
        notice!("row-level triggers of table \"{name}\" now see the shard's name in TG_TABLE_NAME");
    }
    Ok(converted.table)
}

fn insert(table: &Table, key: &str) -> Result<()> {
    tables::insert(&ShardedTable {
        relation: table.oid,
        shard_key: key.to_owned(),
        leaf_keys: false,
        colocation_group: None,
    })
}

/// The partitions of a table, without DEFAULT.
fn count_shards(table: &Table) -> Result<i32> {
    let shards = spi::query_value::<i32>(
        "SELECT count(*)::int FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
          WHERE i.inhparent = $1 AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'",
        &[table.oid.into()],
    )?;
    Ok(shards.unwrap_or(0))
}

/// What is read here must be as it is now.
pub fn require_read_committed() -> Result<()> {
    checks::require_read_committed()
}

/// Stops managing a table. Its partitions stay as they are.
pub fn unmanage(relation: pg_sys::Oid) -> Result<()> {
    relation::require_owner(relation)?;
    if let Some(copy) = role::as_superuser(|| routes::of(&[relation]))?.first() {
        return Err(Error::InUse {
            what: format!(
                "table \"{}\" has a routing copy on node \"{}\"",
                relation::display_name(relation)?,
                copy.node
            ),
            hint: format!(
                "Drop it first with SELECT repart_drop_routing_copy({}, {}): nobody would switch it any more.",
                spi::quote_literal(relation::name(relation)?),
                spi::quote_literal(&copy.node)
            ),
        });
    }
    groups::hold_alone(relation)?;
    if let Some(migration) = tables::unfinished_migration(relation)? {
        return Err(Error::InUse {
            what: format!(
                "migration {migration} of table \"{}\" is not finished",
                relation::display_name(relation)?
            ),
            hint: format!(
                "Wait for it with SELECT repart_wait({migration}), or stop it with SELECT repart_cancel({migration})."
            ),
        });
    }
    tables::delete(relation)?;
    role::as_superuser(|| retained::expire(relation))?;
    on_commit::wake_workers();
    Ok(())
}
