//! Tables here that are shards of a table of another server, its coordinator: ordinary tables, which nobody manages
//! here. They are counted as shards are once that server asks for them, and for as long as it goes on asking. That is
//! known in shared memory only, so that it works on a hot standby, and a table that nobody asks for any more is forgotten.

use std::ffi::CString;
use std::sync::atomic::Ordering;

use pgrx::pg_sys;

use super::begin::name_of;
use super::memory::{Slot, memory};

/// A table is counted for so long after it was asked for, µs: twice the longest `repart.sample_interval`.
const WANTED_FOR: i64 = 2 * 86_400_000_000;

/// Begins, or goes on, to count a table as a shard with a key column of this name; `false` if it is no ordinary table, or
/// there is no room for it.
pub fn host(relation: pg_sys::Oid, key: &str) -> bool {
    let Ok(key) = CString::new(key) else {
        return false;
    };
    // SAFETY: look-ups in the catalogs; inside a transaction, as all SQL functions are.
    let (kind, key) = unsafe {
        (
            pg_sys::get_rel_relkind(relation) as u8,
            pg_sys::get_attnum(relation, key.as_ptr()),
        )
    };
    kind == pg_sys::RELKIND_RELATION && host_column(relation, key.max(0))
}

fn host_column(relation: pg_sys::Oid, key: i16) -> bool {
    let Some(memory) = memory() else {
        return false;
    };
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    let Some(slot) = memory
        .find_or_take(name_of(relation.to_u32()), now)
        .and_then(|place| memory.slots.get(place))
    else {
        return false;
    };
    let key = u32::from(key.unsigned_abs()) + 1;
    slot.hosted_at.store(now, Ordering::Relaxed);
    if slot.hosted_key.swap(key, Ordering::Release) != key {
        memory.header.hosting.store(1, Ordering::Release);
        // What processes know of the table is that it is no shard.
        super::forget_relations();
    }
    true
}

/// Whether a table is counted for another server.
#[inline]
pub fn is_hosted(relation: u32) -> bool {
    let hosting = memory().is_some_and(|memory| memory.header.hosting.load(Ordering::Relaxed) != 0);
    hosting && key_of(relation).is_some()
}

/// The number of the key column of a table that is counted for another server.
pub fn key_of(relation: u32) -> Option<i16> {
    let memory = memory()?;
    let slot = memory.slots.get(memory.find(name_of(relation))?)?;
    let key = slot.hosted_key.load(Ordering::Acquire).checked_sub(1)?;
    i16::try_from(key).ok()
}

/// Whether a slot's table was asked for of late.
pub fn is_wanted(slot: &Slot, now: i64) -> bool {
    slot.hosted_key.load(Ordering::Relaxed) != 0
        && now.saturating_sub(slot.hosted_at.load(Ordering::Relaxed)) < WANTED_FOR
}
