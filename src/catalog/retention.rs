//! Deleting what is older than `repart.retention` from the tables that only grow, and the order of it.

use crate::catalog::{lineage, nodes, outcomes, plans, samples};
use crate::error::Result;
use crate::pg::{spi, time};

/// Deletes a bounded number of rows that are older than `before` (µs since the Unix epoch) from each table;
/// returns how many were deleted and whether a table may have more.
pub fn purge(before: i64, limit: i64) -> Result<(u64, bool)> {
    let deleted = [
        samples::purge(before, limit)?,
        nodes::purge(before, limit)?,
        lineage::purge(before, limit)?,
        plans::purge(before, limit)?,
        outcomes::purge(before, limit)?,
        purge_events(before, limit)?,
        purge_journal(before, limit)?,
    ];
    // Plans are deleted whole, so that a little less than the limit can mean that more are left.
    let full = u64::try_from(limit - limit / 10).unwrap_or(u64::MAX);
    Ok((
        deleted.iter().sum(),
        deleted.iter().any(|count| *count >= full),
    ))
}

fn purge_events(before: i64, limit: i64) -> Result<u64> {
    spi::run(
        "DELETE FROM repart.events
          WHERE ctid = ANY (ARRAY(SELECT ctid FROM repart.events WHERE at < $1 ORDER BY at LIMIT $2))",
        &[time::to_sql(before).into(), limit.into()],
    )
}

/// Only finished migrations have a `finished_at`; the others are what recovery needs.
fn purge_journal(before: i64, limit: i64) -> Result<u64> {
    spi::run(
        "DELETE FROM repart.journal
          WHERE id IN (SELECT id FROM repart.journal
                        WHERE finished_at < $1 AND state IN ('done', 'cancelled', 'failed') AND retained_until IS NULL
                        ORDER BY finished_at LIMIT $2)",
        &[time::to_sql(before).into(), limit.into()],
    )
}
