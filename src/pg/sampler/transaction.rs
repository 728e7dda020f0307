//! The end of transactions: which shards were used together, and what errors have left behind.

use std::sync::atomic::Ordering;

use pgrx::pg_sys;

use super::memory::memory;
use super::pairs::{self, MAX_TOGETHER};
use super::process::process;
use super::{finish, quietly};
use crate::pg::raw;

/// Registers the callbacks; once per server.
pub fn register() {
    // SAFETY: the callbacks stay for the life of the process, and of those that it forks.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction), std::ptr::null_mut());
    }
}

unsafe extern "C-unwind" fn at_transaction(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_COMMIT | pg_sys::XactEvent::XACT_EVENT_PREPARE => {
            quietly(|| end(true));
        }
        pg_sys::XactEvent::XACT_EVENT_ABORT => {
            quietly(|| interrupted(0));
            quietly(|| end(false));
        }
        pg_sys::XactEvent::XACT_EVENT_PARALLEL_COMMIT => quietly(|| end(false)),
        pg_sys::XactEvent::XACT_EVENT_PARALLEL_ABORT => {
            quietly(|| interrupted(0));
            quietly(|| end(false));
        }
        _ => {}
    }
}

unsafe extern "C-unwind" fn at_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut std::ffi::c_void,
) {
    // The subtransaction that ends is still the current one.
    let depth = raw::nest_level();
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => quietly(|| interrupted(depth)),
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => quietly(|| hand_over(depth)),
        _ => {}
    }
}

/// Statements of a subtransaction that committed, which are open cursors, go to the one around it.
fn hand_over(depth: i32) {
    // SAFETY: no other reference to the process's knowledge is held in a callback.
    let process = unsafe { process() };
    for frame in process
        .frames
        .iter_mut()
        .filter(|frame| frame.depth >= depth)
    {
        frame.depth = depth - 1;
    }
}

/// Counts and forgets the statements that were interrupted by an error, down to a depth of subtransactions.
fn interrupted(depth: i32) {
    // SAFETY: as above; a callback comes before the relations are closed.
    unsafe {
        let process = process();
        if !process.frames.iter().any(|frame| frame.depth >= depth) {
            return;
        }
        if let Some(memory) = memory() {
            finish::count_interrupted(memory, process, depth);
        }
        let ended: Vec<u64> = process
            .frames
            .iter()
            .filter(|frame| frame.depth >= depth)
            .map(|frame| frame.serial)
            .collect();
        for serial in ended {
            process.watch.end(serial);
        }
        process.drop_frames(depth);
    }
}

fn end(committed: bool) {
    // SAFETY: as above.
    unsafe {
        let process = process();
        process.transaction += 1;
        let count = std::mem::take(&mut process.together_count);
        if !process.frames.is_empty() {
            process.drop_frames(0);
            process.watch.clear();
        }
        let Some(memory) = memory().filter(|_| committed && count > 1) else {
            return;
        };
        match process.together.get(..count) {
            Some(shards) => {
                let now = raw::statement_time();
                memory.header.clock.follow_setting(now);
                pairs::note(memory, shards, memory.header.clock.read(now));
            }
            None => {
                debug_assert!(count > MAX_TOGETHER);
                memory.header.wide.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
