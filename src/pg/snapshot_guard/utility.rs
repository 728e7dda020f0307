//! The part of the guard that utilities need: `COPY table`, which does not go through the executor, and a
//! note that a plan is the utility's own.

use std::cell::Cell;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;

use crate::pg::preload;

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

thread_local! {
    /// When the client sent the utility that has begun and started no plan yet; 0 for none. The time tells
    /// one that ended in an error from the next statement.
    static FRESH: Cell<pg_sys::TimestampTz> = const { Cell::new(0) };
}

/// Whether the plan that starts now is the first of a utility that the client sent; the next one is not.
pub fn take_fresh() -> bool {
    let sent_at = FRESH.take();
    sent_at != 0 && sent_at == statement_time()
}

/// Whether a utility has begun, perhaps long ago, and started no plan yet.
#[inline]
pub fn is_fresh() -> bool {
    FRESH.get() != 0
}

fn statement_time() -> pg_sys::TimestampTz {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetCurrentStatementStartTimestamp() }
}

/// Installs the hook.
pub fn install() {
    // SAFETY: called once, while the postmaster loads its libraries.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments)] // as PostgreSQL declares it
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: PostgreSQL passes a valid statement; the previous hook gets the same arguments. The snapshot
    // that is pushed is popped, or goes with the transaction's abort.
    unsafe {
        let top_level = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL;
        let node = (*statement).utilityStmt;
        FRESH.set(if top_level && runs_a_plan((*node).type_) {
            statement_time()
        } else {
            0
        });
        touch_foreign_tables(node);
        let renewed = (*node).type_ == pg_sys::NodeTag::T_CopyStmt
            && check_copy(node.cast::<pg_sys::CopyStmt>(), top_level);
        if renewed {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        match PREVIOUS {
            Some(previous) => pg_guard_ffi_boundary(|| {
                previous(
                    statement,
                    text,
                    read_only_tree,
                    context,
                    parameters,
                    environment,
                    destination,
                    completion,
                );
            }),
            // pgrx has put a guard around it already; a second one would abort on an error.
            None => pg_sys::standard_ProcessUtility(
                statement,
                text,
                read_only_tree,
                context,
                parameters,
                environment,
                destination,
                completion,
            ),
        }
        FRESH.set(0);
        if renewed {
            pg_sys::PopActiveSnapshot();
        }
    }
}

/// Notes utilities that may open a transaction on another server, without a plan.
///
/// # Safety
/// The node must be valid.
unsafe fn touch_foreign_tables(node: *mut pg_sys::Node) {
    // SAFETY: see the contract. What is not there the utility will complain of.
    unsafe {
        let find = |name: *mut pg_sys::RangeVar| {
            pg_sys::RangeVarGetRelidExtended(
                name,
                pg_sys::NoLock as i32,
                pg_sys::RVROption::RVR_MISSING_OK,
                None,
                std::ptr::null_mut(),
            )
        };
        match (*node).type_ {
            pg_sys::NodeTag::T_CopyStmt => {
                let copy = &*node.cast::<pg_sys::CopyStmt>();
                if copy.is_from && !copy.relation.is_null() {
                    super::foreign::touch_if_there(find(copy.relation));
                }
            }
            pg_sys::NodeTag::T_TruncateStmt => {
                let truncate = &*node.cast::<pg_sys::TruncateStmt>();
                let names = pgrx::PgList::<pg_sys::RangeVar>::from_pg(truncate.relations);
                for name in names.iter_ptr() {
                    super::foreign::touch_if_there(find(name));
                }
            }
            pg_sys::NodeTag::T_VacuumStmt if !(*node.cast::<pg_sys::VacuumStmt>()).is_vacuumcmd => {
                super::foreign::touch(pg_sys::InvalidOid);
            }
            _ => {}
        }
    }
}

/// Utilities that push a snapshot which they took before they locked anything, and start a plan on it.
fn runs_a_plan(tag: pg_sys::NodeTag) -> bool {
    use pg_sys::NodeTag::{
        T_CopyStmt, T_CreateTableAsStmt, T_DeclareCursorStmt, T_ExecuteStmt, T_ExplainStmt,
        T_RefreshMatViewStmt,
    };
    matches!(
        tag,
        T_CopyStmt
            | T_CreateTableAsStmt
            | T_DeclareCursorStmt
            | T_ExecuteStmt
            | T_ExplainStmt
            | T_RefreshMatViewStmt
    )
}

/// Raises 40001 if `COPY table` would read on a snapshot older than the table's cutover; true if it must be
/// given a newer one, which a COPY that the client sent under READ COMMITTED may have.
///
/// # Safety
/// `copy` must be valid.
unsafe fn check_copy(copy: *const pg_sys::CopyStmt, top_level: bool) -> bool {
    // SAFETY: see the contract; the active snapshot is the one that COPY scans on.
    unsafe {
        if (*copy).relation.is_null() || ((*copy).is_from && !super::is_fixed()) {
            return false;
        }
        if !preload::is_preloaded() || !pg_sys::ActiveSnapshotSet() {
            return false;
        }
        let before = pg_sys::GetActiveSnapshot();
        let mode = if (*copy).is_from {
            pg_sys::RowExclusiveLock
        } else {
            pg_sys::AccessShareLock
        };
        // As COPY is about to do itself: a cutover that it waits for is known only afterwards. That there is no
        // such table is for COPY to say.
        let relation = pg_sys::RangeVarGetRelidExtended(
            (*copy).relation,
            mode as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        );
        if relation == pg_sys::InvalidOid
            || !super::may_be_stale(before)
            || !super::is_stale(relation, before)
        {
            return false;
        }
        if top_level && !super::is_fixed() {
            return true;
        }
        super::refuse(relation);
    }
    false
}
