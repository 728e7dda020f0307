//! What every worker process needs: signals, waiting, what it shows of itself, starting and waking others.

use std::ffi::{CStr, CString};
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder};
use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::guc;

unsafe extern "C-unwind" {
    // pgrx wraps this function in a guard, which does not type-check as a signal handler.
    fn die(signal: i32);
    // pgrx has no binding of it; `bool PostmasterIsAliveInternal(void)` in all supported versions.
    fn PostmasterIsAliveInternal() -> bool;
}

#[cfg(not(feature = "pg18"))]
use pg_sys::pqsignal as install_handler;
#[cfg(feature = "pg18")]
use pg_sys::pqsignal_be as install_handler;

/// Handles signals as a backend does: SIGTERM ends even a running statement at once, SIGHUP reloads.
///
/// A reload that was asked for while this process was being started reached it before there was a
/// handler, so that one is due in any case.
pub fn attach_signals() {
    // SAFETY: the handlers are PostgreSQL's own; installed before signals are unblocked.
    unsafe {
        install_handler(pg_sys::SIGTERM as i32, Some(die));
        install_handler(pg_sys::SIGHUP as i32, Some(config_reload));
        pg_sys::ConfigReloadPending = 1;
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

unsafe extern "C-unwind" fn config_reload(signal: i32) {
    // SAFETY: PostgreSQL's own handler: sets a flag and the latch.
    unsafe { pg_sys::SignalHandlerForConfigReload(signal) }
}

/// Connects this worker to a database as superuser; to none (shared catalogs only) if it is invalid.
pub fn connect(database: pg_sys::Oid) {
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database), None);
    guc::reload_if_asked();
}

/// Waits for the latch or the timeout, then reloads the configuration if asked to.
/// Ends the process when the server stops.
pub fn wait(timeout: Duration) {
    pause(timeout);
    guc::reload_if_asked();
}

/// Waits for the latch or the timeout, without touching the configuration.
pub fn pause(timeout: Duration) {
    let milliseconds = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: the latch of this process; interrupts are served right after.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_for_interrupts();
}

/// Forgets that somebody woke this process: whoever waited looks at everything now.
pub fn reset_latch() {
    // SAFETY: the latch of this process.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) }
}

/// Wakes this process itself, so that its next wait ends at once: for who was woken while it waited for something else.
pub fn wake_myself() {
    // SAFETY: the latch of this process.
    unsafe { pg_sys::SetLatch(pg_sys::MyLatch) }
}

/// Ends the statement or process here if somebody asked for it. Outside of a transaction there is no
/// statement to cancel, and a request for that is dropped, as it is in an idle session.
pub fn check_for_interrupts() {
    // SAFETY: flags of this process, which its signal handlers set.
    unsafe {
        if !pg_sys::IsTransactionState() {
            pg_sys::QueryCancelPending = 0;
        }
    }
    pg_sys::check_for_interrupts!();
}

/// Ends the process if the postmaster is gone, as waiting does: one that is busy would not notice, and a new
/// postmaster cannot start while anybody still uses the old one's memory.
pub fn end_without_postmaster() {
    // SAFETY: asks the kernel; outside of a transaction there is nothing to roll back.
    unsafe {
        if !PostmasterIsAliveInternal() {
            pg_sys::proc_exit(1);
        }
    }
}

/// What `pg_stat_activity.application_name` shows.
pub fn report_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // SAFETY: PostgreSQL copies the string.
        unsafe { pg_sys::pgstat_report_appname(name.as_ptr()) }
    }
}

/// What `pg_stat_activity.query` shows, with state `active`.
pub fn report_active(what: &str) {
    report(pg_sys::BackendState::STATE_RUNNING, what);
}

/// As [`report_active`], with state `idle`.
pub fn report_idle(what: &str) {
    report(pg_sys::BackendState::STATE_IDLE, what);
}

fn report(state: pg_sys::BackendState::Type, what: &str) {
    if let Ok(what) = CString::new(what) {
        // SAFETY: PostgreSQL copies the string.
        unsafe { pg_sys::pgstat_report_activity(state, what.as_ptr()) }
    }
}

/// The current time in µs since the PostgreSQL epoch.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// This process.
pub fn my_pid() -> i32 {
    // SAFETY: a global of this process.
    unsafe { pg_sys::MyProcPid }
}

/// The database this process is connected to.
pub fn my_database() -> pg_sys::Oid {
    // SAFETY: a global of this process.
    unsafe { pg_sys::MyDatabaseId }
}

/// Whether a process of this cluster with this id runs.
pub fn is_running(pid: i32) -> bool {
    // SAFETY: looks the process up under a lock of its own; only the null test uses the pointer.
    pid != 0 && unsafe { !pg_sys::BackendPidGetProc(pid).is_null() }
}

/// Sets the latch of a process of this cluster; `false` if there is none.
pub fn wake(pid: i32) -> bool {
    if pid == 0 {
        return false;
    }
    // SAFETY: the entry is in shared memory and stays mapped; a latch set for a successor is harmless.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if process.is_null() {
            return false;
        }
        pg_sys::SetLatch(&raw mut (*process).procLatch);
    }
    true
}

/// Cancels the running statement of a process of this cluster, as `pg_cancel_backend` does.
pub fn cancel_statement(pid: i32) {
    if is_running(pid) {
        // SAFETY: a signal to a process of this cluster; it handles SIGINT as any backend does.
        unsafe { libc::kill(pid, libc::SIGINT) };
    }
}

/// The text that this worker was started with.
pub fn my_argument() -> String {
    // SAFETY: PostgreSQL sets the entry before it calls a worker; the text ends with NUL (see `start`).
    unsafe {
        CStr::from_ptr((*pg_sys::MyBgworkerEntry).bgw_extra.as_ptr())
            .to_string_lossy()
            .into_owned()
    }
}

/// Starts a dynamic worker of ours, that is never restarted by the postmaster: whoever started it decides.
pub fn start(kind: &str, function: &str, argument: &str) -> Result<()> {
    if argument.len() > 127 || kind.len() > 95 {
        return Err(Error::Internal(format!(
            "worker argument \"{argument}\" is too long"
        )));
    }
    BackgroundWorkerBuilder::new(kind)
        .set_type(kind)
        .set_library("repart")
        .set_function(function)
        .set_extra(argument)
        .set_notify_pid(my_pid())
        .enable_spi_access()
        .load_dynamic()
        .map(|_| ())
        .map_err(|_| Error::Prerequisite {
            what: format!("could not start a {kind}: no free worker process"),
            hint: "Raise max_worker_processes in postgresql.conf and restart the server."
                .to_owned(),
        })
}
