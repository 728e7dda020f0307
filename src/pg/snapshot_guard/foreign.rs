//! The guard of shards on other servers. postgres_fdw opens one transaction there for all that a transaction here does
//! on a server, with one snapshot, *whatever the isolation level here*. A transaction that has used a server before a
//! shard came to be there, through another table, would see none of the shard's rows, or those of an unfinished copy,
//! though its snapshot here is new. It gets 40001.
//!
//! So each transaction remembers the snapshot of the first statement with which it may have used another server. A
//! remote snapshot is not older than that one, and the rows of a shard were committed there before the cutover was
//! here: if the first snapshot sees the cutover, the remote one sees the rows. Not for the statement itself, which has
//! nothing older than its own snapshot. Which cutover a shard had last, the table `repart.cutovers` says ([`standby`]).
//!
//! What a planner asks another server for its estimates (`use_remote_estimate`) is not noticed here: it is refused for
//! nodes.

use std::cell::RefCell;

use pgrx::pg_sys;

use super::{full_id, refuse, standby};
use crate::pg::{preload, raw};

/// The snapshot of the first statement of a transaction that may have used another server.
struct First {
    /// When the transaction began: tells it from others.
    transaction: pg_sys::TimestampTz,
    xmin: u64,
    xmax: u64,
    running: Vec<pg_sys::TransactionId>,
    /// The partitioned tables that were written to, where nothing else was done by which another server may have been
    /// used; `None` once a foreign table was.
    routed: Option<Vec<pg_sys::Oid>>,
}

impl First {
    /// Whether what the transaction did is visible in it.
    fn sees(&self, xid: u64) -> bool {
        let short = pg_sys::TransactionId::from_inner(xid as u32);
        xid < self.xmin || xid < self.xmax && !self.running.contains(&short)
    }
}

thread_local! {
    static FIRST: RefCell<Option<First>> = const { RefCell::new(None) };
}

fn transaction() -> pg_sys::TimestampTz {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

fn is_known() -> bool {
    FIRST.with_borrow(|first| is_current(first.as_ref()))
}

fn is_current(first: Option<&First>) -> bool {
    first.is_some_and(|first| first.transaction == transaction())
}

/// Remembers the snapshot, if it is the first of its kind.
///
/// # Safety
/// It must be valid or null.
unsafe fn remember(snapshot: pg_sys::Snapshot, routed: Option<Vec<pg_sys::Oid>>) {
    // SAFETY: see the contract; the arrays have as many members as the snapshot says.
    unsafe {
        if snapshot.is_null() || (*snapshot).snapshot_type != pg_sys::SnapshotType::SNAPSHOT_MVCC {
            return;
        }
        let list = |ids: *mut pg_sys::TransactionId, count: usize| {
            if ids.is_null() {
                return Vec::new();
            }
            std::slice::from_raw_parts(ids, count).to_vec()
        };
        let mut running = list((*snapshot).xip, (*snapshot).xcnt as usize);
        running.extend(list(
            (*snapshot).subxip,
            usize::try_from((*snapshot).subxcnt).unwrap_or(0),
        ));
        // During recovery running transactions may be missing from a list that has overflowed.
        let is_incomplete = (*snapshot).takenDuringRecovery && (*snapshot).suboverflowed;
        let xmin = full_id((*snapshot).xmin);
        let first = First {
            transaction: transaction(),
            xmin,
            xmax: if is_incomplete {
                xmin
            } else {
                full_id((*snapshot).xmax)
            },
            running,
            routed,
        };
        FIRST.set(Some(first));
    }
}

/// A utility is about to use this table, which may be a foreign one or have foreign partitions; `InvalidOid` for any.
pub fn touch(relation: pg_sys::Oid) {
    if !preload::is_preloaded() {
        return;
    }
    // SAFETY: inside a transaction, as every utility is; a look-up of a relation that need not exist.
    unsafe {
        let kind = if relation == pg_sys::InvalidOid {
            pg_sys::RELKIND_FOREIGN_TABLE
        } else {
            pg_sys::get_rel_relkind(relation) as u8
        };
        match kind {
            pg_sys::RELKIND_FOREIGN_TABLE if is_used() => {}
            pg_sys::RELKIND_FOREIGN_TABLE => use_now(pg_sys::GetLatestSnapshot()),
            pg_sys::RELKIND_PARTITIONED_TABLE => {
                route(&[relation], || pg_sys::GetLatestSnapshot());
            }
            _ => {}
        }
    }
}

/// As [`touch`], unless there is no such table.
pub fn touch_if_there(relation: pg_sys::Oid) {
    if relation != pg_sys::InvalidOid {
        touch(relation);
    }
}

/// Whether a foreign table was used in this transaction.
fn is_used() -> bool {
    is_known() && FIRST.with_borrow(|first| first.as_ref().is_some_and(|f| f.routed.is_none()))
}

/// Rows are about to be written to partitioned tables, and perhaps to foreign partitions of them.
///
/// # Safety
/// The snapshot must be valid or null.
unsafe fn route(tables: &[pg_sys::Oid], snapshot: impl FnOnce() -> pg_sys::Snapshot) {
    if !is_known() {
        // SAFETY: see the contract.
        unsafe { remember(snapshot(), Some(tables.to_vec())) };
        return;
    }
    FIRST.with_borrow_mut(|first| {
        if let Some(routed) = first.as_mut().and_then(|first| first.routed.as_mut()) {
            let new = tables.iter().filter(|table| !routed.contains(table));
            let new: Vec<pg_sys::Oid> = new.copied().collect();
            routed.extend(new);
        }
    });
}

/// A foreign table is about to be used: unless rows were routed to foreign tables before, for the first time.
///
/// # Safety
/// The snapshot must be valid or null.
unsafe fn use_now(snapshot: pg_sys::Snapshot) {
    let routed = FIRST.with_borrow(|first| {
        let first = first.as_ref().filter(|_| is_current(first.as_ref()))?;
        first.routed.clone()
    });
    // SAFETY: see the contract.
    unsafe {
        match routed {
            Some(tables) if tables.iter().any(|table| has_foreign_partition(*table)) => {
                FIRST.with_borrow_mut(|first| {
                    if let Some(first) = first {
                        first.routed = None;
                    }
                });
            }
            _ => remember(snapshot, None),
        }
    }
}

/// Whether a partitioned table has a partition on another server.
///
/// # Safety
/// Inside a transaction.
unsafe fn has_foreign_partition(table: pg_sys::Oid) -> bool {
    // SAFETY: see the contract; the descriptor lives as long as the relation is open.
    unsafe {
        let relation = pg_sys::try_table_open(table, pg_sys::AccessShareLock as i32);
        if relation.is_null() {
            // Dropped since, in a subtransaction that was undone perhaps: nobody knows.
            return true;
        }
        let descriptor = pg_sys::RelationGetPartitionDesc(relation, true);
        let count = usize::try_from((*descriptor).nparts).unwrap_or(0);
        let partitions = if count == 0 {
            Vec::new()
        } else {
            std::slice::from_raw_parts((*descriptor).oids, count).to_vec()
        };
        pg_sys::table_close(relation, pg_sys::NoLock as i32);
        partitions
            .into_iter()
            .any(|one| match pg_sys::get_rel_relkind(one) as u8 {
                pg_sys::RELKIND_FOREIGN_TABLE => true,
                pg_sys::RELKIND_PARTITIONED_TABLE => has_foreign_partition(one),
                _ => false,
            })
    }
}

/// Whether [`look`] has anything to do for a plan: whether it reads foreign tables, or may route rows to some.
///
/// # Safety
/// The plan must be valid.
pub unsafe fn may_concern(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: see the contract; the range table of a plan is a list of range table entries.
    unsafe {
        let routes = writes(plan);
        raw::elements::<pg_sys::RangeTblEntry>((*plan).rtable).any(|entry| {
            is_kind(entry, pg_sys::RELKIND_FOREIGN_TABLE)
                || routes && is_kind(entry, pg_sys::RELKIND_PARTITIONED_TABLE)
        })
    }
}

/// Whether a plan may write rows to where it finds the place for them.
unsafe fn writes(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: a valid plan.
    unsafe {
        (*plan).hasModifyingCTE
            || matches!(
                (*plan).commandType,
                pg_sys::CmdType::CMD_INSERT
                    | pg_sys::CmdType::CMD_UPDATE
                    | pg_sys::CmdType::CMD_MERGE
            )
    }
}

unsafe fn is_kind(entry: *const pg_sys::RangeTblEntry, kind: u8) -> bool {
    // SAFETY: a valid entry.
    unsafe { (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION && (*entry).relkind as u8 == kind }
}

/// Raises 40001 if the statement would read a foreign shard on a remote snapshot that may be older than its cutover.
///
/// # Safety
/// `query` must be a valid query descriptor.
pub unsafe fn look(query: *mut pg_sys::QueryDesc) {
    // SAFETY: see the contract. Workers read what their leader was asked about.
    unsafe {
        if !preload::is_preloaded() || pg_sys::ParallelWorkerNumber >= 0 {
            return;
        }
        let plan = (*query).plannedstmt;
        let of_kind = |kind: u8| {
            raw::elements::<pg_sys::RangeTblEntry>((*plan).rtable)
                .filter(move |entry| is_kind(*entry, kind))
        };
        let mut foreign = of_kind(pg_sys::RELKIND_FOREIGN_TABLE).peekable();
        if foreign.peek().is_none() {
            // Rows may be routed to a foreign partition, which is not in the plan.
            if writes(plan) {
                let partitioned: Vec<pg_sys::Oid> = of_kind(pg_sys::RELKIND_PARTITIONED_TABLE)
                    .map(|entry| (*entry).relid)
                    .collect();
                if !partitioned.is_empty() {
                    route(&partitioned, || (*query).snapshot);
                }
            }
            return;
        }
        if !is_used() {
            use_now((*query).snapshot);
        }
        for entry in foreign {
            let relation = (*entry).relid;
            let Some(xid) = standby::cutover_of(relation) else {
                continue;
            };
            let short = pg_sys::TransactionId::from_inner(xid as u32);
            let sees =
                FIRST.with_borrow(|first| first.as_ref().is_none_or(|first| first.sees(xid)));
            if !sees && !pg_sys::TransactionIdIsCurrentTransactionId(short) {
                refuse(relation);
            }
        }
    }
}
