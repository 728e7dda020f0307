//! The old-snapshot guard. Rows that a migration moved were written after an older snapshot was taken,
//! so that a statement on that snapshot would see the moved shards as *empty*: a wrong answer. It gets
//! `serialization_failure` (40001) instead, which applications at that isolation level retry.
//!
//! The hooks cost one atomic read per statement while no cutover is recent.
//!
//! What reads a table on a snapshot, and where it is caught:
//! - Everything that is planned goes through `ExecutorStart`, with the sharded table in its range table even
//!   where all moved shards are pruned: SELECT, INSERT, UPDATE, DELETE, MERGE; cursors (at DECLARE: one that
//!   was opened before the cutover holds locks for which the cutover waits; one WITH HOLD has its rows by
//!   then), EXECUTE, EXPLAIN ANALYZE, CREATE TABLE AS, REFRESH MATERIALIZED VIEW, `COPY (query) TO`,
//!   functions in any language, rules, views, CTEs, and parallel workers, whose leader was asked before them.
//!   INSERT reads nothing, but PostgreSQL's SERIALIZABLE loses the predicate locks on shards that are gone:
//!   only an error for all that is older than the cutover keeps it serializable.
//! - `COPY table TO` scans the table itself, on the active snapshot; it is what `pg_dump` and the initial copy
//!   of a subscription use. `ProcessUtility` catches it, and `COPY table FROM` for the reason of INSERT.
//! - Foreign key checks use the newest snapshot. Under REPEATABLE READ PostgreSQL compares what a cascading
//!   change finds with the transaction's own snapshot, and raises 40001 by itself.
//! - CREATE INDEX, CLUSTER, VACUUM and ANALYZE see every version of a row (`SnapshotAny`); ALTER TABLE
//!   (rewrites, constraints, ATTACH) takes the newest snapshot. They need no guard. Nor does a unique index,
//!   whose check sees also what is not committed.
//!
//! A statement under READ COMMITTED takes its snapshot after its locks, so that it is newer than a cutover for
//! which it waited. Utilities do not: EXECUTE, `COPY (query)` and others have theirs before they look for a
//! table at all. They have read nothing by then, and get a newer one instead of an error ([`renew`]).
//!
//! Shards on other servers have snapshots there, too ([`foreign`]).
//!
//! On a hot standby shared memory knows nothing; there the replicated list of cutovers is asked ([`standby`]).

mod foreign;
mod recent;
mod standby;
mod utility;

use pgrx::prelude::*;
use pgrx::{PgList, pg_sys};

use crate::pg::{preload, raw, shared};
pub use recent::Cutovers;

/// Notes that the running transaction cuts these relations over. To be called while it holds ACCESS
/// EXCLUSIVE locks on them, before it commits; harmless if it aborts.
pub fn record(relations: &[pg_sys::Oid]) {
    // SAFETY: assigns an id to the running transaction if it has none.
    let xid = unsafe { pg_sys::GetCurrentFullTransactionId() }.value;
    // SAFETY: a global of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    shared::cutovers(|cutovers| {
        for relation in relations {
            cutovers.record(database, *relation, xid);
        }
    });
}

/// Forgets cutovers that every running snapshot sees. Called by the launcher now and then.
pub fn forget_old() {
    if shared::newest_cutover() == 0 {
        return;
    }
    // SAFETY: reads shared state under its own lock; no relation means the horizon of all databases.
    let oldest = unsafe {
        full_id(pg_sys::GetOldestNonRemovableTransactionId(
            std::ptr::null_mut(),
        ))
    };
    shared::cutovers(|cutovers| cutovers.forget_before(oldest));
}

/// Widens a running or recent transaction id: it lies within 2^31 of the next one.
fn full_id(xid: pg_sys::TransactionId) -> u64 {
    // SAFETY: reads shared state under its own lock.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
    let behind = (next as u32).wrapping_sub(xid.into_inner());
    next.saturating_sub(u64::from(behind))
}

static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;

/// Installs the hooks; from `_PG_init`, under preload only.
pub fn install() {
    // SAFETY: called once, while the postmaster loads its libraries.
    unsafe {
        PREVIOUS = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
    }
    utility::install();
}

/// An error of PostgreSQL passes through it as through C: it holds nothing that would have to be dropped.
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: PostgreSQL passes a valid query descriptor; the previous hook gets the same arguments.
    unsafe {
        // EXPLAIN without ANALYZE reads nothing.
        if flags as u32 & pg_sys::EXEC_FLAG_EXPLAIN_ONLY == 0 && must_look(query) {
            look(query);
        }
        match PREVIOUS {
            Some(previous) => previous(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
        }
    }
}

/// Whether there is anything to look at: for most statements there is not, and they are spared the guard that pgrx puts
/// around what may raise an error.
///
/// # Safety
/// `query` must be a valid query descriptor.
#[inline]
unsafe fn must_look(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: see the contract.
    unsafe {
        let snapshot = (*query).snapshot;
        utility::is_fresh()
            || shared::newest_cutover() != 0
            || !snapshot.is_null() && (*snapshot).takenDuringRecovery
            || foreign::may_concern((*query).plannedstmt)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn look(query: *mut pg_sys::QueryDesc) {
    // SAFETY: a valid query descriptor.
    unsafe {
        check(query);
        foreign::look(query);
    }
}

/// Raises 40001 if the statement would read a relation on a snapshot older than its cutover.
///
/// # Safety
/// `query` must be a valid query descriptor.
unsafe fn check(query: *mut pg_sys::QueryDesc) {
    // Only the first plan that a utility starts is its own; what that plan calls has begun by then.
    let of_utility = utility::take_fresh();
    // SAFETY: see the contract.
    unsafe {
        let snapshot = (*query).snapshot;
        if !may_be_stale(snapshot) {
            return;
        }
        let Some(relation) = stale_relation((*query).plannedstmt, snapshot) else {
            return;
        };
        if of_utility && renew(query) {
            return;
        }
        refuse(relation);
    }
}

/// Whether any cutover can be newer than the snapshot: all that most statements are asked.
///
/// # Safety
/// `snapshot` must be valid or null.
unsafe fn may_be_stale(snapshot: pg_sys::Snapshot) -> bool {
    if !preload::is_preloaded() {
        return false;
    }
    // SAFETY: see the contract; only MVCC snapshots have a horizon.
    unsafe {
        if snapshot.is_null() || (*snapshot).snapshot_type != pg_sys::SnapshotType::SNAPSHOT_MVCC {
            return false;
        }
        let newest = shared::newest_cutover();
        (*snapshot).takenDuringRecovery || newest != 0 && full_id((*snapshot).xmin) <= newest
    }
}

/// The first relation of the plan whose cutover the snapshot does not see.
///
/// # Safety
/// Both pointers must be valid.
unsafe fn stale_relation(
    plan: *mut pg_sys::PlannedStmt,
    snapshot: pg_sys::Snapshot,
) -> Option<pg_sys::Oid> {
    // SAFETY: the range table of a planned statement is a list of range table entries.
    unsafe {
        let entries = PgList::<pg_sys::RangeTblEntry>::from_pg((*plan).rtable);
        entries
            .iter_ptr()
            .filter(|entry| (**entry).rtekind == pg_sys::RTEKind::RTE_RELATION)
            .map(|entry| (*entry).relid)
            .find(|relation| is_stale(*relation, snapshot))
    }
}

/// Whether the snapshot does not see the relation's last cutover. The caller holds a lock on the relation.
///
/// # Safety
/// The snapshot must be valid.
unsafe fn is_stale(relation: pg_sys::Oid, snapshot: pg_sys::Snapshot) -> bool {
    // SAFETY: a global of this process; see the contract.
    unsafe {
        let database = pg_sys::MyDatabaseId;
        let cutover = shared::cutovers_of(|cutovers| cutovers.of(database, relation));
        if cutover != 0 && predates(snapshot, cutover) {
            return true;
        }
        (*snapshot).takenDuringRecovery
            && standby::cutover_of(relation).is_some_and(|xid| predates(snapshot, xid))
    }
}

/// Whether the snapshot was taken before the transaction committed.
///
/// # Safety
/// The snapshot must be valid.
unsafe fn predates(snapshot: pg_sys::Snapshot, xid: u64) -> bool {
    // SAFETY: see the contract. Ids older than the horizon are visible; the rest PostgreSQL decides.
    unsafe {
        if xid < full_id((*snapshot).xmin) {
            return false;
        }
        let short = pg_sys::TransactionId::from_inner(xid as u32);
        // Our own transaction's changes are visible to itself.
        !pg_sys::TransactionIdIsCurrentTransactionId(short)
            && pg_sys::XidInMVCCSnapshot(short, snapshot)
    }
}

/// Gives a statement that a utility is about to start, and that has read nothing yet, a new snapshot, where
/// the isolation level allows that. The utility has pushed the old one for this statement alone.
///
/// # Safety
/// `query` must be a valid query descriptor that was not started.
unsafe fn renew(query: *mut pg_sys::QueryDesc) -> bool {
    // SAFETY: see the contract. The descriptor owns one registration of its snapshot, which is exchanged; the
    // utility pops whatever is on top once the statement has ended.
    unsafe {
        if is_fixed() || pg_sys::GetActiveSnapshot() != (*query).snapshot {
            return false;
        }
        pg_sys::PopActiveSnapshot();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let old = (*query).snapshot;
        (*query).snapshot = pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot());
        pg_sys::UnregisterSnapshot(old);
    }
    true
}

/// Whether all statements of the transaction share one snapshot.
fn is_fixed() -> bool {
    // SAFETY: a global of this process.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

fn refuse(relation: pg_sys::Oid) {
    let table = name_of(relation);
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        format!("could not serialize access to table \"{table}\" because its shards were changed"),
        "The snapshot of this statement is older than the change. Retry the transaction."
    );
}

fn name_of(relation: pg_sys::Oid) -> String {
    // SAFETY: returns a palloc'd copy, or null where the relation is gone.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            return relation.to_u32().to_string();
        }
        std::ffi::CStr::from_ptr(name)
            .to_string_lossy()
            .into_owned()
    }
}
