//! Logical replication: what would break it is refused, see `migrate::publications`.

use crate::error::Result;
use crate::manage::table::Table;
use crate::migrate::publications;

/// A table that is partitioned already stays published as it is.
pub fn check_partitioned(table: &Table) -> Result<()> {
    publications::check(table.oid, &table.name)?;
    publications::refuse_shards(table.oid, &table.name)
}

/// A plain table becomes a shard, which is not what its subscribers know.
pub fn check_plain(table: &Table) -> Result<()> {
    publications::refuse_any(table.oid, &table.name)
}
