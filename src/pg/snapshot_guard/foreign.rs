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

use pgrx::{PgList, pg_sys};

use super::{full_id, refuse, standby};
use crate::pg::preload;

/// The snapshot of the first statement of a transaction that may have used another server.
struct First {
    /// When the transaction began: tells it from others.
    transaction: pg_sys::TimestampTz,
    xmin: u64,
    xmax: u64,
    running: Vec<pg_sys::TransactionId>,
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
    FIRST.with_borrow(|first| {
        first
            .as_ref()
            .is_some_and(|first| first.transaction == transaction())
    })
}

/// Remembers the snapshot, if it is the first of its kind.
///
/// # Safety
/// It must be valid or null.
unsafe fn remember(snapshot: pg_sys::Snapshot) {
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
        };
        FIRST.set(Some(first));
    }
}

/// A utility is about to write where there may be foreign tables.
pub fn touch() {
    if preload::is_preloaded() && !is_known() {
        // SAFETY: inside a transaction, as every utility is.
        unsafe { remember(pg_sys::GetLatestSnapshot()) }
    }
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
        let writes = (*plan).hasModifyingCTE
            || matches!(
                (*plan).commandType,
                pg_sys::CmdType::CMD_INSERT
                    | pg_sys::CmdType::CMD_UPDATE
                    | pg_sys::CmdType::CMD_MERGE
            );
        let entries = PgList::<pg_sys::RangeTblEntry>::from_pg((*plan).rtable);
        let is_kind = |entry: &*mut pg_sys::RangeTblEntry, kind: u8| {
            (**entry).rtekind == pg_sys::RTEKind::RTE_RELATION && (**entry).relkind as u8 == kind
        };
        let mut foreign = entries
            .iter_ptr()
            .filter(|entry| is_kind(entry, pg_sys::RELKIND_FOREIGN_TABLE))
            .peekable();
        // Rows may be routed to a foreign partition, which is not in the plan.
        let may_route = || {
            writes
                && entries
                    .iter_ptr()
                    .any(|entry| is_kind(&entry, pg_sys::RELKIND_PARTITIONED_TABLE))
        };
        if foreign.peek().is_none() && !may_route() {
            return;
        }
        if !is_known() {
            remember((*query).snapshot);
            return;
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
