//! When each relation was last cut over, `repart.cutovers`: for hot standbys, where nothing else tells.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::spi;

/// Notes that the running transaction cuts these relations over.
pub fn record(relations: &[pg_sys::Oid]) -> Result<()> {
    spi::run(
        "INSERT INTO repart.cutovers (relation, xid)
         SELECT DISTINCT oid, pg_catalog.pg_current_xact_id() FROM pg_catalog.unnest($1::oid[]) oid
         ON CONFLICT (relation) DO UPDATE SET xid = excluded.xid",
        &[relations.to_vec().into()],
    )?;
    Ok(())
}

/// Forgets relations that were dropped.
pub fn forget_dropped() -> Result<()> {
    spi::run(
        "DELETE FROM repart.cutovers x
          WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = x.relation)",
        &[],
    )?;
    Ok(())
}
