//! What PostgreSQL counts of a relation in this process, before it publishes it.
//!
//! Scans count their rows and blocks, and changes their rows, in the relation's entry of the statistics that are
//! pending; reading them costs a few loads, and misses nothing that a scan of whatever kind reads. PostgreSQL
//! publishes and forgets them only between transactions, so that within a statement they only grow.

use pgrx::pg_sys;

/// What scans of a table or an index have read.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Scans begun.
    pub scans: i64,
    /// Rows that sequential scans returned; entries that an index returned.
    pub returned: i64,
    /// Rows that were fetched by bitmap scans; through an index.
    pub fetched: i64,
    /// Blocks that were asked for.
    pub blocks: i64,
}

impl Scanned {
    /// What came to it since.
    pub fn since(&self, before: &Self) -> Self {
        // Less than before: they were published in between, and began anew.
        let grown = |now: i64, then: i64| if now >= then { now - then } else { now };
        Self {
            scans: grown(self.scans, before.scans),
            returned: grown(self.returned, before.returned),
            fetched: grown(self.fetched, before.fetched),
            blocks: grown(self.blocks, before.blocks),
        }
    }
}

/// Rows inserted, updated and deleted.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Changed {
    /// All that is pending.
    pub pending: [i64; 3],
    /// The part of it that the running transaction has done and not rolled back.
    pub of_transaction: [i64; 3],
}

#[cfg(feature = "pg15")]
fn counts(status: &pg_sys::PgStat_TableStatus) -> (Scanned, [i64; 3]) {
    let counts = &status.t_counts;
    let scanned = Scanned {
        scans: counts.t_numscans,
        returned: counts.t_tuples_returned,
        fetched: counts.t_tuples_fetched,
        blocks: counts.t_blocks_fetched,
    };
    let changed = [
        counts.t_tuples_inserted,
        counts.t_tuples_updated,
        counts.t_tuples_deleted,
    ];
    (scanned, changed)
}

#[cfg(not(feature = "pg15"))]
fn counts(status: &pg_sys::PgStat_TableStatus) -> (Scanned, [i64; 3]) {
    let counts = &status.counts;
    let scanned = Scanned {
        scans: counts.numscans,
        returned: counts.tuples_returned,
        fetched: counts.tuples_fetched,
        blocks: counts.blocks_fetched,
    };
    let changed = [
        counts.tuples_inserted,
        counts.tuples_updated,
        counts.tuples_deleted,
    ];
    (scanned, changed)
}

/// What scans have read of an open relation.
///
/// # Safety
/// The relation must be open.
#[inline]
pub unsafe fn scanned(relation: pg_sys::Relation) -> Scanned {
    // SAFETY: see the contract; the entry lives as long as the relation points to it.
    unsafe {
        (*relation)
            .pgstat_info
            .as_ref()
            .map_or_else(Scanned::default, |status| counts(status).0)
    }
}

/// What was changed in an open relation.
///
/// # Safety
/// The relation must be open.
#[inline]
pub unsafe fn changed(relation: pg_sys::Relation) -> Changed {
    // SAFETY: see the contract; the chain of the running transaction and its subtransactions ends with null.
    unsafe {
        let Some(status) = (*relation).pgstat_info.as_ref() else {
            return Changed::default();
        };
        let mut of_transaction = [0i64; 3];
        let mut level = status.trans;
        while let Some(changes) = level.as_ref() {
            let rows = [
                changes.tuples_inserted,
                changes.tuples_updated,
                changes.tuples_deleted,
            ];
            for (sum, rows) in of_transaction.iter_mut().zip(rows) {
                *sum = sum.wrapping_add(rows);
            }
            level = changes.upper;
        }
        let mut pending = counts(status).1;
        for (sum, rows) in pending.iter_mut().zip(of_transaction) {
            *sum = sum.wrapping_add(rows);
        }
        Changed {
            pending,
            of_transaction,
        }
    }
}

/// Whether the relation's entry is still to be looked up: until then it reads as if nothing was pending.
///
/// # Safety
/// The relation must be open.
#[inline]
pub unsafe fn is_unknown(relation: pg_sys::Relation) -> bool {
    // SAFETY: see the contract.
    unsafe { (*relation).pgstat_info.is_null() && (*relation).pgstat_enabled }
}

/// Looks the relation's entry up, as its first scan would.
///
/// # Safety
/// The relation must be open.
pub unsafe fn look_up(relation: pg_sys::Relation) {
    // SAFETY: see the contract; what PostgreSQL itself does before it counts.
    unsafe {
        if is_unknown(relation) {
            pg_sys::pgstat_assoc_relation(relation);
        }
    }
}
