//! Foreign keys of other tables that reference a sharded table.
//!
//! PostgreSQL keeps such a constraint once for the table and once for each of its partitions, with two triggers
//! there. DETACH takes the partition's part away, but first joins all its rows with the referencing table, and
//! refuses if any is referenced: it cannot know that the same rows come back in the partitions that are attached
//! next. A switch does know: it compared all rows, and its locks keep everybody out. So it takes the part away as
//! DETACH would, without the look at the rows; ATTACH makes it anew for the new shards. The constraint itself is
//! never touched: it stays valid, and enforced for every row that somebody can reach.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{constraint, spi};

/// The tables with foreign keys that reference a table, without itself.
pub fn referencing_tables(table: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    spi::query_kept(
        "SELECT DISTINCT conrelid FROM pg_catalog.pg_constraint
          WHERE confrelid = $1 AND contype = 'f' AND conparentid = 0 AND conrelid <> $1 ORDER BY conrelid",
        &[table.into()],
        |row| row.get(1),
    )
}

/// Takes a shard's part of these constraints away. Its lock, and those of the referencing tables, must be held.
pub fn release(shard: pg_sys::Oid) -> Result<()> {
    let parts = spi::query(
        "SELECT oid FROM pg_catalog.pg_constraint
          WHERE confrelid = $1 AND contype = 'f' AND conparentid <> 0 ORDER BY oid",
        &[shard.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )?;
    for part in parts {
        constraint::take_from_partition(part);
    }
    Ok(())
}
