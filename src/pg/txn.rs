//! Transactions of workers. `BackgroundWorker::transaction` commits whatever its closure returns and
//! ends the process on an SQL error; this wrapper rolls back on both, and on a panic, and reports.

use std::ffi::CString;
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_sys};

use crate::error::{Error, Result};

/// The isolation level of a worker's transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// All statements see one snapshot: what catch-up and verification need.
    RepeatableRead,
}

/// Runs `body` in a transaction of its own: commits on `Ok`, rolls back on `Err`, SQL error or panic.
pub fn run<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    run_at(Isolation::ReadCommitted, body)
}

/// As [`run`], at the given isolation level.
pub fn run_at<T>(isolation: Isolation, body: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: workers call this outside of a transaction only; the level is set before the first snapshot.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::XactIsoLevel = match isolation {
            Isolation::ReadCommitted => pg_sys::XACT_READ_COMMITTED as i32,
            Isolation::RepeatableRead => pg_sys::XACT_REPEATABLE_READ as i32,
        };
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    let outcome = caught(|| {
        let value = body()?;
        // SAFETY: ends what was begun above; nothing else was pushed, since SPI pops its own snapshots.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(value)
    });
    if outcome.is_err() {
        // SAFETY: valid in any transaction state; it also releases locks, snapshots and memory.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    // SAFETY: outside of a transaction, as it asks.
    unsafe { pg_sys::pgstat_report_stat(true) };
    outcome
}

/// Runs `body`, which talks to other servers, without a transaction: no snapshot keeps VACUUM from its work meanwhile.
pub fn outside<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let outcome = caught(body);
    if outcome.is_err() {
        // SAFETY: valid in any transaction state.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    outcome
}

/// Runs a `VACUUM` command, which manages transactions of its own and so cannot go through SPI.
pub fn vacuum(command: &str) -> Result<()> {
    let command =
        CString::new(command).map_err(|_| Error::Internal("a command contains NUL".to_owned()))?;
    flush_log();
    // SAFETY: outside of a transaction, as `run_at`. The context outlives the transactions that VACUUM
    // begins and ends; it is what PortalContext is in a session, and is deleted below.
    let context = unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"repart vacuum".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        pg_sys::PortalContext = context;
        context
    };
    let outcome = caught(|| {
        // SAFETY: the command is a single VACUUM; the parse tree is made in the context above. VACUUM
        // returns inside a transaction that it began.
        unsafe {
            let caller = pg_sys::MemoryContextSwitchTo(context);
            let statements = pgrx::PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(
                command.as_ptr(),
                pg_sys::RawParseMode::RAW_PARSE_DEFAULT,
            ));
            let parse_state = pg_sys::make_parsestate(std::ptr::null_mut());
            pg_sys::MemoryContextSwitchTo(caller);
            if let Some(statement) = statements.get_ptr(0) {
                pg_sys::ExecVacuum(parse_state, (*statement).stmt.cast(), true);
            }
            pg_sys::CommitTransactionCommand();
        }
        Ok(())
    });
    // SAFETY: as in `run_at`; nothing refers to the context any more.
    unsafe {
        if outcome.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        pg_sys::PortalContext = std::ptr::null_mut();
        pg_sys::MemoryContextDelete(context);
        pg_sys::pgstat_report_stat(true);
    }
    outcome
}

/// Makes the commits so far durable, whatever `synchronous_commit` was for them. A row does not count as visible to everybody while a commit near its own, with
/// `synchronous_commit = off` or of a transaction without changes, has not reached the disk: VACUUM would leave its
/// page out of the visibility map, and nobody would come back to it soon.
pub fn flush_log() {
    // SAFETY: both only look at and write shared state of the log, under its own locks.
    unsafe { pg_sys::XLogFlush(pg_sys::GetXLogInsertRecPtr()) }
}

/// Runs `body` in a subtransaction of the running transaction: on an error everything it did is undone, locks
/// included, and the transaction can go on.
pub fn attempt<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: inside a transaction; context and owner of the caller are restored below, as PL/pgSQL does.
    let (context, owner) = unsafe {
        let saved = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(saved.0);
        saved
    };
    let outcome = caught(body);
    // SAFETY: ends the subtransaction begun above.
    unsafe {
        if outcome.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome
}

/// Turns SQL errors and panics of `body` into an [`Error`]. The transaction must be ended afterwards.
fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    PgTryBuilder::new(AssertUnwindSafe(body))
        .catch_others(|cause| Err(from_caught(cause)))
        .catch_rust_panic(|cause| Err(from_caught(cause)))
        .execute()
}

fn from_caught(cause: CaughtError) -> Error {
    match cause {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic {
            ereport: report, ..
        } => Error::Sql {
            code: report.sql_error_code(),
            message: report.message().to_owned(),
            detail: report.detail().map(ToOwned::to_owned),
            hint: report.hint().map(ToOwned::to_owned),
        },
    }
}

/// Runs `body` with the newest snapshot, whatever the isolation level of the caller's statement:
/// for functions that wait for what others commit.
pub fn with_latest_snapshot<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: pushed and popped in pairs; on an SQL error the transaction's abort pops it.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let outcome = body();
    // SAFETY: see above.
    unsafe { pg_sys::PopActiveSnapshot() };
    outcome
}
