//! The access sampler: how every shard is used, counted by hooks of the executor in shared memory.
//!
//! Where the library is preloaded and `repart.sampler` is on. It needs neither tables nor workers, so that it also
//! counts on a hot standby. With the setting off no hook is installed.
//!
//! What is counted where:
//! - [`begin`]: at the start of a statement, the shards that it may use are noted, with what PostgreSQL's own
//!   statistics of this process say of them ([`statistics`]); the difference at the end ([`finish`]) is exact, for
//!   every kind of scan and change, and costs next to nothing. (Instrumenting the executor's nodes would cost each
//!   row, and would not see what triggers and foreign keys do.)
//! - Parallel workers do the same for themselves; the statement is counted by their leader alone.
//! - The time is that of ExecutorRun, and of ExecutorFinish for what changes rows, as in pg_stat_statements.
//! - [`copy`]: `COPY table`, which does not go through the executor.
//! - One statement in `repart.sample_rate` is detailed: [`keys`] watches its scans, [`inserted`] looks at the rows that
//!   it inserted, and [`sampling`] offers their keys to the [`reservoir`]s.
//! - [`transaction`]: which shards were used together ([`pairs`]).
//! - [`hosted`]: tables that are shards of another server's tables are counted here when that server asks for them.
//!   Over there only that they are used is noted, for the pairs.
//!
//! **Errors.** Nothing here raises one into a statement, but for what PostgreSQL itself would raise there: the first
//! look at a relation reads catalogs, in which a cancelled statement notices that it is. Functions of hooks through
//! which an error of PostgreSQL may pass hold nothing that would have to be dropped, so that it can pass as it does
//! through C; what is ours around them catches panics and gives up for that statement.

mod begin;
mod classify;
mod copy;
mod decay;
mod directory;
mod finish;
pub mod hosted;
mod inserted;
mod keys;
mod memory;
mod pairs;
mod process;
pub mod read;
mod reservoir;
mod sampling;
mod statistics;
pub mod text;
mod transaction;
mod walk;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use pgrx::pg_sys;

use crate::pg::raw;
use memory::memory;
use process::process;

static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS_RUN: pg_sys::ExecutorRun_hook_type = None;
static mut PREVIOUS_END: pg_sys::ExecutorEnd_hook_type = None;

/// Installs the hooks and asks for the memory; from `_PG_init`, under preload only.
pub fn install() {
    memory::register();
    transaction::register();
    // SAFETY: called once, while the postmaster loads its libraries.
    unsafe {
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        PREVIOUS_RUN = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(executor_run);
        PREVIOUS_END = pg_sys::ExecutorEnd_hook;
        pg_sys::ExecutorEnd_hook = Some(executor_end);
    }
    copy::install();
}

/// Makes all processes ask anew which tables are managed, and what their shards are.
pub fn forget_relations() {
    if let Some(memory) = memory() {
        memory.header.generation.fetch_add(1, Ordering::Release);
    }
}

/// Runs code of ours between PostgreSQL's. A panic, which would be a mistake, ends that code and nothing else.
fn quietly<T: Default>(body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_default()
}

/// A clock, ns.
#[inline]
fn clock() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes to a variable of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: std::ffi::c_int) {
    // SAFETY: PostgreSQL passes a valid query descriptor; the previous hook gets the same arguments.
    unsafe {
        match PREVIOUS_START {
            Some(previous) => previous(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
        }
        if flags as u32 & pg_sys::EXEC_FLAG_EXPLAIN_ONLY != 0 || !pg_sys::pgstat_track_counts {
            return;
        }
        let Some(memory) = memory() else { return };
        if quietly(|| begin::note(memory, query)) {
            begin::look_up();
        }
        quietly(|| begin::remember(memory, query));
    }
}

/// Notes that a statement begins to run; returns whether it is followed.
#[inline]
unsafe fn begin_run(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: no other reference to the process's knowledge is held in a hook.
    unsafe {
        let process = process();
        let Some(position) = process.position(query) else {
            return false;
        };
        match process.frames.get_mut(position) {
            Some(frame) => {
                if !frame.writes || frame.running_since == 0 {
                    frame.running_since = clock();
                }
                !frame.writes
            }
            None => false,
        }
    }
}

/// Notes that a statement that only reads has run; one that writes is looked at when it ends, after its triggers.
#[inline]
unsafe fn end_run(query: *const pg_sys::QueryDesc) {
    // SAFETY: as above.
    unsafe {
        let process = process();
        if let Some(position) = process.position(query)
            && let Some(frame) = process.frames.get_mut(position)
        {
            frame.ran += clock().saturating_sub(frame.running_since);
        }
    }
}

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    execute_once: bool,
) {
    // SAFETY: as in `executor_start`.
    unsafe {
        let followed = quietly(|| begin_run(query));
        match PREVIOUS_RUN {
            Some(previous) => previous(query, direction, count, execute_once),
            None => raw::standard_ExecutorRun(query, direction, count, execute_once),
        }
        if followed {
            quietly(|| end_run(query));
        }
    }
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: as in `executor_start`.
    unsafe {
        let followed = quietly(|| begin_run(query));
        match PREVIOUS_RUN {
            Some(previous) => previous(query, direction, count),
            None => raw::standard_ExecutorRun(query, direction, count),
        }
        if followed {
            quietly(|| end_run(query));
        }
    }
}

unsafe extern "C-unwind" fn executor_end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as in `executor_start`.
    unsafe {
        if let Some(memory) = memory()
            && !process().frames.is_empty()
        {
            if quietly(|| finish::must_look_up(memory, query)) {
                begin::look_up();
            }
            if quietly(|| finish::count(memory, query)) {
                finish::sample_inserted();
            }
        }
        match PREVIOUS_END {
            Some(previous) => previous(query),
            None => raw::standard_ExecutorEnd(query),
        }
    }
}
