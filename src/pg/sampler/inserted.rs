//! The keys of rows that were inserted just now, read from the page to which the last one went.
//!
//! No hook sees the rows of INSERT, COPY, MERGE or ON CONFLICT one by one, but all of them leave their rows in the
//! block that PostgreSQL remembers as the place for the next one, which is in memory. Where there were more rows
//! than fit on a page, the last ones stand for all.

use pgrx::pg_sys;

use super::keys::key_of;
use super::process::KeyColumn;
use super::reservoir::Key;

/// Keys that one statement gives of one shard at most.
const MOST: usize = 8;

/// Bytes of a page before its line pointers (storage/bufpage.h).
const PAGE_HEADER: usize = 24;
/// Where `pd_lower` is.
const PD_LOWER: usize = 12;
/// State of a line pointer that points at a row.
const LP_NORMAL: u32 = 1;

/// Keys of the last rows, at most `rows`, that this transaction has put into a shard.
///
/// # Safety
/// The relation must be open, and the column its own.
pub unsafe fn keys(relation: pg_sys::Relation, column: &KeyColumn, rows: u64) -> Vec<Key> {
    // SAFETY: see the contract. The page is pinned and locked while it is read; nothing that is called meanwhile
    // runs code of users. Only a page that is in memory already is looked at.
    unsafe {
        let Some(buffer) = last_page(relation) else {
            return Vec::new();
        };
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
        let page = pg_sys::BufferBlocks
            .add((buffer - 1) as usize * pg_sys::BLCKSZ as usize)
            .cast::<u8>();
        let wanted = usize::try_from(rows).unwrap_or(MOST).min(MOST);
        let keys = keys_on(page, relation, column, wanted);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
        pg_sys::ReleaseBuffer(buffer);
        keys
    }
}

/// The page, pinned; `None` if it is not known, or not in memory.
unsafe fn last_page(relation: pg_sys::Relation) -> Option<pg_sys::Buffer> {
    // SAFETY: see the caller.
    unsafe {
        // Other access methods have pages of their own.
        if (*(*relation).rd_rel).relam != pg_sys::HEAP_TABLE_AM_OID {
            return None;
        }
        let storage = (*relation).rd_smgr.as_ref()?;
        let block = storage.smgr_targblock;
        if block == pg_sys::InvalidBlockNumber {
            return None;
        }
        let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
        let recent = pg_sys::PrefetchBuffer(relation, fork, block).recent_buffer;
        #[cfg(feature = "pg15")]
        let locator = (*relation).rd_node;
        #[cfg(not(feature = "pg15"))]
        let locator = (*relation).rd_locator;
        (recent > 0 && pg_sys::ReadRecentBuffer(locator, fork, block, recent)).then_some(recent)
    }
}

unsafe fn keys_on(
    page: *const u8,
    relation: pg_sys::Relation,
    column: &KeyColumn,
    wanted: usize,
) -> Vec<Key> {
    let mut keys = Vec::with_capacity(wanted);
    // SAFETY: the page is one of a table, whose line pointers point at rows inside it.
    unsafe {
        let lower = usize::from(page.add(PD_LOWER).cast::<u16>().read());
        let count = lower.saturating_sub(PAGE_HEADER) / 4;
        for line in (0..count.min(pg_sys::BLCKSZ as usize / 4)).rev() {
            if keys.len() >= wanted {
                break;
            }
            let pointer = page.add(PAGE_HEADER + line * 4).cast::<u32>().read();
            let (offset, state, length) = (pointer & 0x7FFF, (pointer >> 15) & 3, pointer >> 17);
            if state != LP_NORMAL {
                continue;
            }
            let header = page
                .add(offset as usize)
                .cast::<pg_sys::HeapTupleHeaderData>();
            let inserter = (*header).t_choice.t_heap.t_xmin;
            if !pg_sys::TransactionIdIsCurrentTransactionId(inserter) {
                continue;
            }
            let mut tuple = pg_sys::HeapTupleData {
                t_len: length,
                t_data: header.cast_mut(),
                ..Default::default()
            };
            let Ok(number) = usize::try_from(column.number) else {
                break;
            };
            let value = std::num::NonZeroUsize::new(number).and_then(|number| {
                pgrx::htup::heap_getattr_raw(&raw mut tuple, number, (*relation).rd_att)
            });
            keys.extend(value.and_then(|value| key_of(value, column)));
        }
    }
    keys.reverse();
    keys
}
