//! Foreign keys that are known to hold need not be checked: while the tables of a colocation group are cut over,
//! PostgreSQL would join a whole table with another at each ATTACH and DETACH. (`RI_Initial_Check` and
//! `RI_PartitionRemove_Check` of ri_triggers.c, which look for rows that violate a constraint. Neither can be
//! answered from an index in time: the planner does not carry the bound of the one side over to the other.)
//!
//! Both are queries of a fixed form, `SELECT fk.… FROM … fk JOIN … pk …`, which succeed if they find no row. In the
//! mover, and only while [`skip`] runs, those over the given tables are planned as if they ended in `AND false`.

use std::cell::RefCell;
use std::ffi::CStr;

use pgrx::prelude::*;
use pgrx::{PgList, pg_sys};

use crate::error::Result;

/// A referencing table or partition, and the referenced one.
pub type Pair = (pg_sys::Oid, pg_sys::Oid);

thread_local! {
    static KNOWN: RefCell<Vec<Pair>> = const { RefCell::new(Vec::new()) };
}

static mut PREVIOUS: pg_sys::planner_hook_type = None;

/// Runs `body`; meanwhile the foreign keys between these pairs of relations are not checked when partitions come
/// and go. The caller knows that they hold. They are enforced for every change of a row as ever.
pub fn skip<T>(known: Vec<Pair>, body: impl FnOnce() -> Result<T>) -> Result<T> {
    if known.is_empty() {
        return body();
    }
    install();
    KNOWN.set(known);
    // Also when an SQL error unwinds.
    let _restore = Forget;
    body()
}

struct Forget;

impl Drop for Forget {
    fn drop(&mut self) {
        KNOWN.set(Vec::new());
    }
}

/// Only in processes that need it, and once.
fn install() {
    thread_local! {
        static INSTALLED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    if !INSTALLED.replace(true) {
        // SAFETY: PostgreSQL has one thread, and no query is being planned now: the hook is read at the beginning
        // of planning. The library is never unloaded.
        unsafe {
            PREVIOUS = pg_sys::planner_hook;
            pg_sys::planner_hook = Some(plan);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const std::ffi::c_char,
    cursor_options: i32,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: PostgreSQL passes a valid query, which the planner may change; what follows gets the same arguments.
    unsafe {
        if is_known_check(query) {
            empty(query);
        }
        match PREVIOUS {
            Some(previous) => pg_sys::ffi::pg_guard_ffi_boundary(|| {
                previous(query, text, cursor_options, parameters)
            }),
            // pgrx has put a guard around it already.
            None => pg_sys::standard_planner(query, text, cursor_options, parameters),
        }
    }
}

/// Whether it is a check of a foreign key between a known pair: a join of two relations that it calls `fk` and `pk`.
///
/// # Safety
/// `query` must be a valid query.
unsafe fn is_known_check(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the range table of a query is a list of range table entries, and a name in it a C string.
    unsafe {
        if (*query).commandType != pg_sys::CmdType::CMD_SELECT {
            return false;
        }
        let entries = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable);
        let named = |wanted: &CStr| {
            let mut found = entries.iter_ptr().filter(|entry| {
                let entry = &**entry;
                entry.rtekind == pg_sys::RTEKind::RTE_RELATION
                    && !entry.alias.is_null()
                    && CStr::from_ptr((*entry.alias).aliasname) == wanted
            });
            found.next().map(|entry| (*entry).relid)
        };
        match (named(c"fk"), named(c"pk")) {
            (Some(referencing), Some(referenced)) => {
                KNOWN.with_borrow(|known| known.contains(&(referencing, referenced)))
            }
            _ => false,
        }
    }
}

/// Makes a query return no row without looking at a table.
///
/// # Safety
/// `query` must be a valid query, about to be planned.
unsafe fn empty(query: *mut pg_sys::Query) {
    // SAFETY: the lists are of the kinds that the parser puts there; new nodes are allocated by PostgreSQL in the
    // context in which the query is planned.
    unsafe {
        let from = (*query).jointree;
        (*from).fromlist = std::ptr::null_mut();
        (*from).quals = pg_sys::makeBoolConst(false, false);
        // The planner goes by this list when it looks for outer joins.
        for entry in PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr() {
            (*entry).jointype = pg_sys::JoinType::JOIN_INNER;
        }
        // Nothing may refer to the tables that are not read.
        for entry in PgList::<pg_sys::TargetEntry>::from_pg((*query).targetList).iter_ptr() {
            let expression = (*entry).expr.cast::<pg_sys::Node>();
            let null = pg_sys::makeNullConst(
                pg_sys::exprType(expression),
                pg_sys::exprTypmod(expression),
                pg_sys::exprCollation(expression),
            );
            (*entry).expr = null.cast();
        }
    }
}
