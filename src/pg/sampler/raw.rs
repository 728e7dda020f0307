//! Functions of PostgreSQL that raise no error, or whose errors may pass through: without the guards that pgrx puts
//! around each, which cost more than the functions themselves.

use std::ffi::c_int;

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    pub fn standard_ExecutorEnd(query: *mut pg_sys::QueryDesc);
    pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    #[cfg(not(feature = "pg18"))]
    pub fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        execute_once: bool,
    );
    #[cfg(feature = "pg18")]
    pub fn standard_ExecutorRun(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
    );
    pub fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attribute: c_int);
    // These two only read a variable of the process.
    fn GetCurrentStatementStartTimestamp() -> pg_sys::TimestampTz;
    fn GetCurrentTransactionNestLevel() -> c_int;
}

/// When the client sent the running statement, in µs since the PostgreSQL epoch.
#[inline]
pub fn statement_time() -> i64 {
    // SAFETY: reads a variable of this process.
    unsafe { GetCurrentStatementStartTimestamp() }
}

/// How deep in subtransactions the process is; 1 is none.
#[inline]
pub fn nest_level() -> i32 {
    // SAFETY: reads a variable of this process.
    unsafe { GetCurrentTransactionNestLevel() }
}
