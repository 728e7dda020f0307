//! Writing early to the disk what was added to a table.
//!
//! A new page is written to the kernel's cache as soon as the table grows by it, and stays there until the kernel
//! finds it old (30 s by default on Linux). Then it writes everything that grew since at once, and the commits of
//! others wait for the disk meanwhile. `backend_flush_after` concerns only pages that leave the shared buffers.

use pgrx::pg_sys;

/// The length of a table, and of its TOAST table, at a moment.
pub struct Length(Vec<(pg_sys::Oid, u32)>);

impl Length {
    /// Of tables on which the transaction has a lock.
    pub fn of(tables: &[pg_sys::Oid]) -> Self {
        // SAFETY: they are open, and have storage.
        Self::by(tables, |relation| unsafe { blocks(relation) })
    }

    /// As if the tables had been empty: all of them is to be written.
    pub fn none_of(tables: &[pg_sys::Oid]) -> Self {
        Self::by(tables, |_| 0)
    }

    fn by(tables: &[pg_sys::Oid], length: impl Fn(pg_sys::Relation) -> u32) -> Self {
        let mut lengths = Vec::new();
        for table in tables {
            // SAFETY: an OID of a table that is locked until the end of the transaction, and with it its TOAST table.
            unsafe {
                let relation = pg_sys::table_open(*table, pg_sys::NoLock as i32);
                lengths.push((*table, length(relation)));
                let toast = (*(*relation).rd_rel).reltoastrelid;
                pg_sys::table_close(relation, pg_sys::NoLock as i32);
                if toast != pg_sys::InvalidOid {
                    let relation = pg_sys::table_open(toast, pg_sys::AccessShareLock as i32);
                    lengths.push((toast, length(relation)));
                    pg_sys::table_close(relation, pg_sys::NoLock as i32);
                }
            }
        }
        Self(lengths)
    }

    /// Asks the kernel to begin writing what was added since then; it does not wait for that, and what is written
    /// already costs next to nothing.
    pub fn write_back_growth(self) {
        for (table, before) in self.0 {
            // SAFETY: as in `of`; the blocks exist.
            unsafe {
                let relation = pg_sys::table_open(table, pg_sys::NoLock as i32);
                let added = blocks(relation).saturating_sub(before);
                if added > 0 {
                    let file = pg_sys::RelationGetSmgr(relation);
                    pg_sys::smgrwriteback(file, pg_sys::ForkNumber::MAIN_FORKNUM, before, added);
                }
                pg_sys::table_close(relation, pg_sys::NoLock as i32);
            }
        }
    }
}

unsafe fn blocks(relation: pg_sys::Relation) -> u32 {
    // SAFETY: an open table with storage.
    unsafe { pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
}
