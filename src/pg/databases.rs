//! The databases of this cluster, for the launcher, which is connected to none of them: SQL is not
//! possible there, so the shared catalog is scanned directly, as PostgreSQL's own launchers do.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::txn;

/// Databases that accept connections.
pub fn connectable() -> Result<Vec<pg_sys::Oid>> {
    txn::run(|| {
        let mut found = Vec::new();
        // SAFETY: the catalog is opened, scanned and closed inside one transaction, under AccessShareLock;
        // tuples of pg_database have the layout of FormData_pg_database and stay valid until the next one.
        unsafe {
            let catalog =
                pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
            let scan = pg_sys::table_beginscan_catalog(catalog, 0, std::ptr::null_mut());
            loop {
                let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
                if tuple.is_null() {
                    break;
                }
                let database = pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_database;
                if (*database).datallowconn {
                    found.push((*database).oid);
                }
            }
            pg_sys::heap_endscan(scan);
            pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
        }
        Ok(found)
    })
}
