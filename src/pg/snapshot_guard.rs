//! The old-snapshot guard. Rows that a migration moved were written after an older snapshot was taken,
//! so that a statement on that snapshot would see the moved shards as *empty*: a wrong answer. It gets
//! `serialization_failure` (40001) instead, which applications at that isolation level retry.
//!
//! The hook costs one atomic read per statement while no cutover is recent.

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;
use pgrx::{PgList, pg_sys};

use crate::pg::{preload, shared};

/// Relations whose cutover may be newer than some running transaction's snapshot.
const MAX_CUTOVERS: usize = 2048;

/// One relation that was cut over.
#[derive(Clone, Copy)]
struct Cutover {
    database: pg_sys::Oid,
    relation: pg_sys::Oid,
    /// Full transaction id of the cutover; 0 in a free slot.
    xid: u64,
}

/// The cutovers that some snapshot may predate. When there are too many, the newest of those that do
/// not fit counts for every relation: an error too many, never a wrong answer.
#[derive(Clone, Copy)]
pub struct Cutovers {
    entries: [Cutover; MAX_CUTOVERS],
    overflow: u64,
}

impl Cutovers {
    /// No cutover.
    pub const EMPTY: Self = Self {
        entries: [Cutover {
            database: pg_sys::InvalidOid,
            relation: pg_sys::InvalidOid,
            xid: 0,
        }; MAX_CUTOVERS],
        overflow: 0,
    };

    /// The newest cutover's transaction id, 0 for none.
    pub fn newest(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| entry.xid)
            .max()
            .unwrap_or(0)
            .max(self.overflow)
    }

    fn record(&mut self, database: pg_sys::Oid, relation: pg_sys::Oid, xid: u64) {
        let same = |entry: &&mut Cutover| {
            entry.xid != 0 && entry.database == database && entry.relation == relation
        };
        if let Some(entry) = self.entries.iter_mut().find(same) {
            // An aborted attempt may have left its id: the newer one is the stricter one.
            entry.xid = entry.xid.max(xid);
            return;
        }
        match self.entries.iter_mut().find(|entry| entry.xid == 0) {
            Some(free) => {
                *free = Cutover {
                    database,
                    relation,
                    xid,
                }
            }
            None => self.overflow = self.overflow.max(xid),
        }
    }

    fn forget_before(&mut self, oldest: u64) {
        for entry in &mut self.entries {
            if entry.xid < oldest {
                entry.xid = 0;
            }
        }
        if self.overflow < oldest {
            self.overflow = 0;
        }
    }

    /// The newest cutover of a relation.
    fn of(&self, database: pg_sys::Oid, relation: pg_sys::Oid) -> u64 {
        self.entries
            .iter()
            .filter(|entry| {
                entry.xid != 0 && entry.database == database && entry.relation == relation
            })
            .map(|entry| entry.xid)
            .max()
            .unwrap_or(0)
            .max(self.overflow)
    }
}

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

/// Installs the hook; from `_PG_init`, under preload only.
pub fn install() {
    // SAFETY: called once, while the postmaster loads its libraries.
    unsafe {
        PREVIOUS = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    // SAFETY: PostgreSQL passes a valid query descriptor; the previous hook gets the same arguments.
    unsafe {
        check(query);
        match PREVIOUS {
            Some(previous) => pg_guard_ffi_boundary(|| previous(query, flags)),
            // pgrx has put a guard around it already; a second one would abort on an error.
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
    }
}

/// Raises 40001 if the statement would read a relation on a snapshot older than its cutover.
///
/// # Safety
/// `query` must be a valid query descriptor.
unsafe fn check(query: *mut pg_sys::QueryDesc) {
    if !preload::is_preloaded() {
        return;
    }
    let newest = shared::newest_cutover();
    if newest == 0 {
        return;
    }
    // SAFETY: see the contract; a snapshot may be missing, and only MVCC snapshots have a horizon.
    let stale = unsafe {
        let snapshot = (*query).snapshot;
        if snapshot.is_null() || (*snapshot).snapshot_type != pg_sys::SnapshotType::SNAPSHOT_MVCC {
            return;
        }
        if full_id((*snapshot).xmin) > newest {
            return;
        }
        stale_relation((*query).plannedstmt, snapshot)
    };
    if let Some(relation) = stale {
        let table = name_of(relation);
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            format!(
                "could not serialize access to table \"{table}\" because its shards were changed"
            ),
            "The snapshot of this statement is older than the change. Retry the transaction."
        );
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
        let database = pg_sys::MyDatabaseId;
        let entries = PgList::<pg_sys::RangeTblEntry>::from_pg((*plan).rtable);
        entries
            .iter_ptr()
            .filter(|entry| (**entry).rtekind == pg_sys::RTEKind::RTE_RELATION)
            .map(|entry| (*entry).relid)
            .find(|relation| {
                let cutover = shared::cutovers_of(|cutovers| cutovers.of(database, *relation));
                cutover != 0 && predates(snapshot, cutover)
            })
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
