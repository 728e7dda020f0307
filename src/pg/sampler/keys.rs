//! By which keys the rows of a detailed statement were read: the scans of shards are watched while they run.
//!
//! Whatever the scan, by index or not, with whatever conditions, as the inner side of a join or under a worker: the
//! key is taken from the rows that it returns. So a range scan counts over its range as the rows lie in it. Rows
//! that a filter rejects, and look-ups that find nothing, leave no key.

use pgrx::pg_sys;
use pgrx::varlena;

use super::begin::{is_foreign, may_be_shard};
use super::process::{KeyColumn, Scan, process};
use super::reservoir::{KEY_BYTES, Key};
use super::walk;
use crate::pg::raw;

/// Keys that one scan of one statement gives at most, each for as many rows.
const KEPT: usize = 8;

/// Scans that can be watched at the same time.
const MAX_NODES: usize = 64;

/// A slot without a row (executor/tuptable.h).
const SLOT_IS_EMPTY: u16 = 1 << 1;

/// A scan that is watched.
struct Node {
    node: *const pg_sys::PlanState,
    slot: *mut pg_sys::TupleTableSlot,
    /// The statement's number.
    serial: u64,
    shard: u32,
    column: KeyColumn,
    /// The key's column in the slot: that of the table, or of the index.
    number: i16,
    rows: u64,
    kept: [Key; KEPT],
    count: usize,
}

/// The scans that are watched now.
pub struct Watch {
    nodes: Vec<Node>,
    last: usize,
    random: u64,
    /// Keys that could not be kept, since somebody asked.
    pub unkept: u64,
}

/// Keys of one scan.
pub struct Keys {
    /// The keys, at most [`KEPT`].
    keys: [Key; KEPT],
    count: usize,
    /// Rows that they stand for, together.
    pub rows: u64,
}

impl Keys {
    /// The keys.
    pub fn as_slice(&self) -> &[Key] {
        self.keys.get(..self.count).unwrap_or_default()
    }
}

impl Watch {
    /// Watches nothing.
    pub fn new() -> Self {
        Self {
            nodes: Vec::with_capacity(MAX_NODES),
            last: 0,
            random: 0x9E37_79B9_7F4A_7C15,
            unkept: 0,
        }
    }

    /// Watches the scans of a statement that was set up just now. `column` says what the key of a shard is.
    pub fn begin(
        &mut self,
        query: *const pg_sys::QueryDesc,
        serial: u64,
        column: impl Fn(u32) -> Option<KeyColumn>,
    ) {
        // SAFETY: as the caller says, the statement was set up and not ended.
        unsafe {
            walk::scans(query, &mut |found| {
                if found.node.is_null()
                    || found.table.is_null()
                    || !may_be_shard(found.table)
                    // The server that has its rows looks at their keys.
                    || is_foreign(found.table)
                    || self.nodes.len() >= MAX_NODES
                    // With EXPLAIN ANALYZE the executor puts its own function there.
                    || !(*found.node).instrument.is_null()
                {
                    return;
                }
                let shard = (*found.table).rd_id.to_u32();
                let Some(column) = column(shard).filter(|column| column.number > 0) else {
                    return;
                };
                let number = if found.scan == Scan::IndexOnly {
                    column_of_index(found.index, column.number)
                } else {
                    Some(column.number)
                };
                let Some(number) = number else { return };
                (*found.node).ExecProcNode = Some(watched);
                self.nodes.push(Node {
                    node: found.node,
                    slot: (*found.node.cast::<pg_sys::ScanState>()).ss_ScanTupleSlot,
                    serial,
                    shard,
                    column,
                    number,
                    rows: 0,
                    kept: [Key::EMPTY; KEPT],
                    count: 0,
                });
            });
        }
    }

    /// Notes that a node returned a row.
    unsafe fn note(&mut self, node: *const pg_sys::PlanState) {
        let is_it = |held: &Node| held.node == node;
        if !self.nodes.get(self.last).is_some_and(is_it) {
            match self.nodes.iter().rposition(is_it) {
                Some(position) => self.last = position,
                None => return,
            }
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let random = self.random;
        let Some(watched) = self.nodes.get_mut(self.last) else {
            return;
        };
        watched.rows += 1;
        // A uniform sample of all rows (Vitter's algorithm R).
        let place = if watched.count < KEPT {
            watched.count
        } else {
            ((u128::from(random) * u128::from(watched.rows)) >> 64) as usize
        };
        if place >= KEPT {
            return;
        }
        // SAFETY: the slot is that of the node, which returned a row just now.
        match unsafe { key_in(watched.slot, watched.number, &watched.column) } {
            Some(key) => {
                if let Some(kept) = watched.kept.get_mut(place) {
                    *kept = key;
                    watched.count = watched.count.max(place + 1);
                }
            }
            None => self.unkept += 1,
        }
    }

    /// The keys that a statement has read a shard by.
    pub fn keys(&self, serial: u64, shard: u32) -> impl Iterator<Item = Keys> {
        self.nodes
            .iter()
            .filter(move |node| node.serial == serial && node.shard == shard && node.count > 0)
            .map(|node| Keys {
                keys: node.kept,
                count: node.count,
                rows: node.rows,
            })
    }

    /// Forgets the scans of a statement, which may be gone.
    pub fn end(&mut self, serial: u64) {
        self.nodes.retain(|node| node.serial != serial);
        self.last = 0;
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.last = 0;
    }
}

/// Stands in for the function of a scan; the executor keeps that one beside it.
unsafe extern "C-unwind" fn watched(node: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the executor calls it with the node it was set for. An error passes through this function, which
    // holds nothing that would have to be dropped.
    unsafe {
        let Some(real) = (*node).ExecProcNodeReal else {
            return std::ptr::null_mut();
        };
        let slot = real(node);
        if !slot.is_null() && (*slot).tts_flags & SLOT_IS_EMPTY == 0 {
            process().watch.note(node);
        }
        slot
    }
}

unsafe fn column_of_index(index: pg_sys::Relation, number: i16) -> Option<i16> {
    // SAFETY: an open index, whose vector has as many numbers as it has columns.
    unsafe {
        let definition = (*index).rd_index;
        let columns = (&raw const (*definition).indkey.values).cast::<i16>();
        (0..(*definition).indnatts)
            .find(|position| columns.add(*position as usize).read_unaligned() == number)
            .map(|position| position + 1)
    }
}

/// The key in a slot that has a row; `None` if it cannot be kept, as NULL.
unsafe fn key_in(
    slot: *mut pg_sys::TupleTableSlot,
    number: i16,
    column: &KeyColumn,
) -> Option<Key> {
    // SAFETY: see the callers; values up to `tts_nvalid` are there.
    unsafe {
        if (*slot).tts_flags & SLOT_IS_EMPTY != 0 {
            return None;
        }
        if (*slot).tts_nvalid < number {
            raw::slot_getsomeattrs_int(slot, i32::from(number));
        }
        let position = usize::try_from(number - 1).ok()?;
        if *(*slot).tts_isnull.add(position) {
            return None;
        }
        key_of(*(*slot).tts_values.add(position), column)
    }
}

/// A value as it is kept; `None` if it cannot be.
///
/// # Safety
/// The value must be one of the column's type.
pub unsafe fn key_of(value: pg_sys::Datum, column: &KeyColumn) -> Option<Key> {
    if column.by_value {
        return Key::whole(&(value.value() as u64).to_le_bytes());
    }
    // SAFETY: a value by reference is a pointer to so many bytes, or to a varlena.
    unsafe {
        if column.length > 0 {
            let length = column.length as usize;
            if length > KEY_BYTES {
                return None;
            }
            return Key::whole(std::slice::from_raw_parts(value.cast_mut_ptr(), length));
        }
        let varlena = value.cast_mut_ptr::<pg_sys::varlena>();
        if varlena::varatt_is_1b_e(varlena) || varlena::varatt_is_4b_c(varlena) {
            return None;
        }
        let bytes = varlena::varlena_to_byte_slice(varlena);
        if column.is_text {
            Some(Key::text(bytes))
        } else {
            Key::whole(bytes)
        }
    }
}
