//! Copying whole blocks of a table into others of the same columns, as COPY does: each block is read once, rows are
//! written many at a time, and through a small ring of buffers, so that what clients use stays in memory. Which table
//! a row goes to, a CHECK constraint of each says.

use std::ffi::CStr;
use std::ops::Range;

use pgrx::pg_sys;

use crate::error::{Error, Result};

/// Rows and bytes that are collected before they are written, as in COPY.
const MOST_ROWS: usize = 1_000;
const MOST_BYTES: usize = 65_536;

/// New pages are filled one after the other: those with room are of no interest.
const OPTIONS: i32 = pg_sys::TABLE_INSERT_SKIP_FSM as i32;

/// Copies the rows in these blocks of `source` into the first of `targets` whose CHECK constraint of the given name is
/// true for them; others are left out. Returns the number of rows for each target. No trigger, rule, generation
/// expression or other constraint is evaluated: a target must have none that a row of the source does not satisfy.
pub fn blocks(
    source: pg_sys::Oid,
    blocks: Range<u32>,
    targets: &[pg_sys::Oid],
    constraint: &str,
) -> Result<Vec<i64>> {
    if blocks.is_empty() || targets.is_empty() {
        return Ok(vec![0; targets.len()]);
    }
    // SAFETY: inside a transaction, as all our code is. Everything that is made here belongs to it, so that an SQL
    // error on the way frees it; relations are locked until it ends.
    unsafe {
        let state = pg_sys::CreateExecutorState();
        let context = pg_sys::MakePerTupleExprContext(state);
        let source = pg_sys::table_open(source, pg_sys::AccessShareLock as i32);
        let mut sinks = Vec::with_capacity(targets.len());
        for target in targets {
            sinks.push(Sink::open(*target, source, state, constraint)?);
        }
        scan(source, blocks, context, &mut sinks);
        let mut rows = Vec::with_capacity(sinks.len());
        for mut sink in sinks {
            sink.flush(context);
            rows.push(sink.rows);
            sink.close();
        }
        pg_sys::table_close(source, pg_sys::NoLock as i32);
        pg_sys::FreeExecutorState(state);
        Ok(rows)
    }
}

/// Gives each row of the blocks to its sink. The snapshot is taken here, under the caller's lock: an older one might
/// not see what somebody has rewritten.
unsafe fn scan(
    source: pg_sys::Relation,
    blocks: Range<u32>,
    context: *mut pg_sys::ExprContext,
    sinks: &mut [Sink],
) {
    let (mut first, mut last) = (tid(blocks.start, 0), tid(blocks.end - 1, u16::MAX));
    // SAFETY: the source is open, the ends of the range outlive the scan, and the slot is made for the source.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let slot = pg_sys::table_slot_create(source, std::ptr::null_mut());
        let scan = pg_sys::table_beginscan_tidrange(
            source,
            pg_sys::GetActiveSnapshot(),
            &mut first,
            &mut last,
        );
        while pg_sys::table_scan_getnextslot_tidrange(
            scan,
            pg_sys::ScanDirection::ForwardScanDirection,
            slot,
        ) {
            for sink in &mut *sinks {
                if sink.take(slot, context) {
                    break;
                }
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::PopActiveSnapshot();
    }
}

fn tid(block: u32, offset: u16) -> pg_sys::ItemPointerData {
    pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData {
            bi_hi: (block >> 16) as u16,
            bi_lo: block as u16,
        },
        ip_posid: offset,
    }
}

/// A table that rows are written to.
struct Sink {
    relation: pg_sys::Relation,
    /// Which column of the source is which of its own.
    columns: *mut pg_sys::AttrMap,
    /// A row of the source in its own form.
    row: *mut pg_sys::TupleTableSlot,
    /// The CHECK constraint.
    belongs: *mut pg_sys::ExprState,
    /// Rows that wait, in the first `waiting` of these.
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    waiting: usize,
    bytes: usize,
    bulk: pg_sys::BulkInsertState,
    rows: i64,
}

impl Sink {
    unsafe fn open(
        target: pg_sys::Oid,
        source: pg_sys::Relation,
        state: *mut pg_sys::EState,
        constraint: &str,
    ) -> Result<Self> {
        // SAFETY: the descriptors are those of open relations; the expression is the stored form of one.
        unsafe {
            let relation = pg_sys::table_open(target, pg_sys::RowExclusiveLock as i32);
            let condition = check(relation, constraint).ok_or_else(|| {
                Error::Internal(format!("a target without constraint \"{constraint}\""))
            })?;
            let condition = pg_sys::stringToNode(condition).cast();
            Ok(Self {
                relation,
                columns: columns((*source).rd_att, (*relation).rd_att),
                row: pg_sys::MakeSingleTupleTableSlot(
                    (*relation).rd_att,
                    &raw const pg_sys::TTSOpsVirtual,
                ),
                belongs: pg_sys::ExecPrepareExpr(condition, state),
                slots: Vec::new(),
                waiting: 0,
                bytes: 0,
                bulk: pg_sys::GetBulkInsertState(),
                rows: 0,
            })
        }
    }

    /// Takes a row of the source if it belongs here.
    unsafe fn take(
        &mut self,
        of_source: *mut pg_sys::TupleTableSlot,
        context: *mut pg_sys::ExprContext,
    ) -> bool {
        // SAFETY: all slots are of the form that their relations have. Columns that the source got after the row
        // was written have their values in the mapped row.
        unsafe {
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
            let row = pg_sys::execute_attr_map_slot(self.columns, of_source, self.row);
            (*context).ecxt_scantuple = row;
            let mut is_null = false;
            let belongs =
                pg_sys::ExecEvalExprSwitchContext(self.belongs, context, &mut is_null).value() != 0;
            if is_null || !belongs {
                return false;
            }
            let slot = self.free_slot();
            pg_sys::ExecCopySlot(slot, row);
            let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, true, std::ptr::null_mut());
            self.waiting += 1;
            self.bytes += (*tuple).t_len as usize;
            if self.waiting >= MOST_ROWS || self.bytes >= MOST_BYTES {
                self.flush(context);
            }
            true
        }
    }

    unsafe fn free_slot(&mut self) -> *mut pg_sys::TupleTableSlot {
        if let Some(slot) = self.slots.get(self.waiting) {
            return *slot;
        }
        // SAFETY: a slot for whole tuples of the relation.
        let slot = unsafe {
            pg_sys::MakeSingleTupleTableSlot(
                (*self.relation).rd_att,
                &raw const pg_sys::TTSOpsHeapTuple,
            )
        };
        self.slots.push(slot);
        slot
    }

    /// Writes the rows that wait.
    unsafe fn flush(&mut self, context: *mut pg_sys::ExprContext) {
        pgrx::check_for_interrupts!();
        if self.waiting == 0 {
            return;
        }
        // SAFETY: the first `waiting` slots have rows of the relation. What is allocated on the way goes with the
        // next row.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo((*context).ecxt_per_tuple_memory);
            pg_sys::table_multi_insert(
                self.relation,
                self.slots.as_mut_ptr(),
                self.waiting as i32,
                pg_sys::GetCurrentCommandId(true),
                OPTIONS,
                self.bulk,
            );
            pg_sys::MemoryContextSwitchTo(before);
            for slot in self.slots.iter().take(self.waiting) {
                pg_sys::ExecClearTuple(*slot);
            }
        }
        self.rows += self.waiting as i64;
        (self.waiting, self.bytes) = (0, 0);
    }

    unsafe fn close(self) {
        // SAFETY: each was made in `open` or `free_slot`, and is used no more.
        unsafe {
            pg_sys::FreeBulkInsertState(self.bulk);
            pg_sys::table_finish_bulk_insert(self.relation, OPTIONS);
            pg_sys::ExecDropSingleTupleTableSlot(self.row);
            for slot in self.slots {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        }
    }
}

/// The stored form of a CHECK constraint.
unsafe fn check(relation: pg_sys::Relation, name: &str) -> Option<*const std::ffi::c_char> {
    // SAFETY: the descriptor of an open relation has as many constraints as it says, with names.
    unsafe {
        let constraints = (*(*relation).rd_att).constr;
        if constraints.is_null() || (*constraints).num_check == 0 {
            return None;
        }
        let checks =
            std::slice::from_raw_parts((*constraints).check, usize::from((*constraints).num_check));
        let found = checks
            .iter()
            .find(|check| CStr::from_ptr(check.ccname).to_bytes() == name.as_bytes());
        found.map(|check| check.ccbin.cast_const())
    }
}

/// Which column of one table is which of the other, by name; an error if one is missing.
unsafe fn columns(from: pg_sys::TupleDesc, to: pg_sys::TupleDesc) -> *mut pg_sys::AttrMap {
    // SAFETY: descriptors of open relations.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::build_attrmap_by_name(from, to);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::build_attrmap_by_name(from, to, false);
    }
}
