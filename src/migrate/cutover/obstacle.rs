//! Who is in the way of a switch, found out without asking for a lock: a lock request makes others queue.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::spi;

/// A transaction that has been open for this long is waited for without asking for a lock.
const LONG_TRANSACTION: &str = "500 ms";

/// What is in the way of locking these relations, as a reason to show; `None` if nothing is known to be.
pub fn find(relations: &[pg_sys::Oid]) -> Result<Option<String>> {
    match long_transaction(relations)? {
        Some(found) => Ok(Some(found)),
        None => prepared_transaction(relations),
    }
}

/// A transaction that has long held locks on one of the relations. Not an autovacuum, which PostgreSQL cancels
/// for whoever waits for it.
fn long_transaction(relations: &[pg_sys::Oid]) -> Result<Option<String>> {
    spi::select_first(
        &format!(
            "SELECT pg_catalog.format('waits for process %s%s, whose transaction has been open for %s s', a.pid,
                        ' (' || nullif(a.application_name, '') || ')',
                        pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::numeric, 1))
               FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
              WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1)
                AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type <> 'autovacuum worker'
                AND a.xact_start < pg_catalog.clock_timestamp() - interval '{LONG_TRANSACTION}'
              ORDER BY a.xact_start LIMIT 1"
        ),
        &[relations.to_vec().into()],
        |row| row.get(1),
    )
}

/// A prepared transaction that holds a lock on one of the relations, which only its owner can end.
fn prepared_transaction(relations: &[pg_sys::Oid]) -> Result<Option<String>> {
    spi::select_first(
        // A prepared transaction keeps the virtual transaction id of the session it came from, until a restart;
        // its locks have no process.
        "SELECT pg_catalog.format('waits for prepared transaction \"%s\"', p.gid)
           FROM pg_catalog.pg_locks l
           JOIN pg_catalog.pg_locks x ON x.virtualtransaction = l.virtualtransaction AND x.pid IS NULL
                                     AND x.locktype = 'transactionid'
           JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
          WHERE l.locktype = 'relation' AND l.granted AND l.pid IS NULL AND l.relation = ANY ($1)
            AND p.database = pg_catalog.current_database() LIMIT 1",
        &[relations.to_vec().into()],
        |row| row.get(1),
    )
}
