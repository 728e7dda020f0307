//! Locks on relations by OID. They are waited for as long as `lock_timeout` says and kept to the end of
//! the transaction.

use std::time::Duration;

use pgrx::pg_sys;

/// After how long a wait PostgreSQL looks for a deadlock, and ends one who waits.
pub fn deadlock_timeout() -> Duration {
    // SAFETY: a setting of this process, in ms and positive.
    Duration::from_millis(u64::from(unsafe { pg_sys::DeadlockTimeout }.unsigned_abs()))
}

/// Nobody else reads or writes the relation.
pub fn access_exclusive(relation: pg_sys::Oid) {
    lock(relation, pg_sys::AccessExclusiveLock);
}

/// Nobody else changes the relation's definition; reads and writes go on.
pub fn share_update_exclusive(relation: pg_sys::Oid) {
    lock(relation, pg_sys::ShareUpdateExclusiveLock);
}

/// The relation stays; everybody else does with it what they like.
pub fn access_share(relation: pg_sys::Oid) {
    lock(relation, pg_sys::AccessShareLock);
}

/// Locks a foreign table, which LOCK TABLE does not.
pub fn foreign(relation: pg_sys::Oid, mode: &str) {
    match mode {
        "ACCESS EXCLUSIVE" => access_exclusive(relation),
        _ => share_update_exclusive(relation),
    }
}

fn lock(relation: pg_sys::Oid, mode: u32) {
    // SAFETY: inside a transaction, as all our code is; the OID need not exist: callers look afterwards.
    unsafe { pg_sys::LockRelationOid(relation, mode as i32) }
}
