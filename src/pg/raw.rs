//! For hooks through which every statement goes: functions of PostgreSQL that raise no error, or whose errors may pass
//! through, without the guards that pgrx puts around each, which cost more than the functions themselves.

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

/// The elements of a list of pointers, which may be null.
///
/// # Safety
/// The list must be one of pointers to `T`, and stay as it is.
pub unsafe fn elements<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: see the contract; null is the empty list.
    let (cells, length) = unsafe {
        list.as_ref().map_or((std::ptr::null_mut(), 0), |list| {
            (list.elements, list.length)
        })
    };
    (0..usize::try_from(length).unwrap_or(0)).map(move |position| {
        // SAFETY: the position is below the list's length.
        unsafe { (*cells.add(position)).ptr_value.cast::<T>() }
    })
}
