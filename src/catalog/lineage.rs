//! Where the history of shards comes from, `repart.lineage`. The migration writes it at its cutover.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{spi, time};

/// One shard was made of (a part of) another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// The shard that was made.
    pub shard: pg_sys::Oid,
    /// What it was made of. A target that kept its source's table is made of itself.
    pub ancestor: pg_sys::Oid,
    /// The share of the ancestor's load that it took over, 0..1.
    pub share: f64,
    /// When, µs since the Unix epoch.
    pub at: i64,
}

/// All links from these shards to their ancestors, through all generations.
pub fn of(shards: &[pg_sys::Oid]) -> Result<Vec<Link>> {
    spi::query(
        "WITH RECURSIVE family (shard) AS (
             SELECT unnest($1::oid[])
             UNION
             SELECT l.ancestor FROM family f JOIN repart.lineage l ON l.shard = f.shard)
         SELECT l.shard, l.ancestor, l.share, l.at
           FROM repart.lineage l JOIN family f ON f.shard = l.shard
          ORDER BY l.at, l.shard, l.ancestor",
        &[shards.to_vec().into()],
        |row| {
            Ok(Link {
                shard: row.get(1)?,
                ancestor: row.get(2)?,
                share: row.get(3)?,
                at: time::from_sql(row.get::<TimestampWithTimeZone>(4)?),
            })
        },
    )
}

/// Deletes the links made before `before`, since the inherited samples are older still and gone, and
/// those of shards that neither exist nor have descendants.
pub fn purge(before: i64, limit: i64) -> Result<u64> {
    spi::run(
        "DELETE FROM repart.lineage
          WHERE ctid = ANY (ARRAY(
                SELECT l.ctid FROM repart.lineage l
                 WHERE l.at < $1
                    OR (NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = l.shard)
                        AND NOT EXISTS (SELECT FROM repart.lineage d WHERE d.ancestor = l.shard))
                 LIMIT $2))",
        &[time::to_sql(before).into(), limit.into()],
    )
}
