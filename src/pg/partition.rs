//! The order of partitions, as PostgreSQL itself keeps it.

use pgrx::pg_sys;

use crate::error::Result;

/// The partitions of a table in ascending order of their bounds; a DEFAULT partition comes last.
pub fn bound_order(table: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    // SAFETY: the relation is opened under a lock that is kept to the end of the transaction; the
    // descriptor belongs to its cache entry and is copied out before it is closed.
    let order = unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as i32);
        let descriptor = pg_sys::RelationGetPartitionDesc(relation, true);
        let count = usize::try_from((*descriptor).nparts).unwrap_or(0);
        let order = if count == 0 {
            Vec::new()
        } else {
            std::slice::from_raw_parts((*descriptor).oids, count).to_vec()
        };
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        order
    };
    Ok(order)
}
