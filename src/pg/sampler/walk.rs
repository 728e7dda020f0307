//! The scans of a statement: a walk through what the executor has set up to run.
//!
//! Partitions that were pruned when it was set up are not there at all.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag;

use super::process::Scan;
use crate::pg::raw::elements;

/// A scan of a table or an index.
pub struct Found {
    /// The table; null for an index that a bitmap scan uses.
    pub table: pg_sys::Relation,
    /// The index; null for none.
    pub index: pg_sys::Relation,
    /// How the rows are counted.
    pub scan: Scan,
    /// The node, where it returns rows of the table or the index.
    pub node: *mut pg_sys::PlanState,
    /// How many workers the Gather above it has launched; null for none.
    pub workers: *const i32,
}

/// Calls `visit` for every scan of a statement, also those of its subplans.
///
/// # Safety
/// The executor must have set the statement up, and not ended it.
pub unsafe fn scans(query: *const pg_sys::QueryDesc, visit: &mut dyn FnMut(Found)) {
    // SAFETY: see the contract; the lists of the executor hold what they say.
    unsafe {
        walk((*query).planstate, std::ptr::null(), visit);
        let subplans = (*(*query).estate).es_subplanstates;
        for subplan in elements::<pg_sys::PlanState>(subplans) {
            walk(subplan, std::ptr::null(), visit);
        }
    }
}

unsafe fn walk(node: *mut pg_sys::PlanState, workers: *const i32, visit: &mut dyn FnMut(Found)) {
    if node.is_null() {
        return;
    }
    // SAFETY: a node has the type that its tag says; children are nodes or null.
    unsafe {
        let mut workers = workers;
        match (*node).type_ {
            NodeTag::T_GatherState => {
                workers = &raw const (*node.cast::<pg_sys::GatherState>()).nworkers_launched;
            }
            NodeTag::T_GatherMergeState => {
                workers = &raw const (*node.cast::<pg_sys::GatherMergeState>()).nworkers_launched;
            }
            NodeTag::T_AppendState => {
                let append = node.cast::<pg_sys::AppendState>();
                walk_all((*append).appendplans, (*append).as_nplans, workers, visit);
            }
            NodeTag::T_MergeAppendState => {
                let append = node.cast::<pg_sys::MergeAppendState>();
                walk_all((*append).mergeplans, (*append).ms_nplans, workers, visit);
            }
            NodeTag::T_BitmapAndState => {
                let bitmap = node.cast::<pg_sys::BitmapAndState>();
                walk_all((*bitmap).bitmapplans, (*bitmap).nplans, workers, visit);
            }
            NodeTag::T_BitmapOrState => {
                let bitmap = node.cast::<pg_sys::BitmapOrState>();
                walk_all((*bitmap).bitmapplans, (*bitmap).nplans, workers, visit);
            }
            NodeTag::T_SubqueryScanState => {
                walk(
                    (*node.cast::<pg_sys::SubqueryScanState>()).subplan,
                    workers,
                    visit,
                );
            }
            NodeTag::T_CustomScanState => {
                let children = (*node.cast::<pg_sys::CustomScanState>()).custom_ps;
                for child in elements::<pg_sys::PlanState>(children) {
                    walk(child, workers, visit);
                }
            }
            _ => report(node, workers, visit),
        }
        walk((*node).lefttree, workers, visit);
        walk((*node).righttree, workers, visit);
    }
}

unsafe fn walk_all(
    children: *mut *mut pg_sys::PlanState,
    count: i32,
    workers: *const i32,
    visit: &mut dyn FnMut(Found),
) {
    for position in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the array has so many children.
        unsafe { walk(*children.add(position), workers, visit) };
    }
}

/// Visits the node if it is a scan of a table or an index.
unsafe fn report(node: *mut pg_sys::PlanState, workers: *const i32, visit: &mut dyn FnMut(Found)) {
    let none = std::ptr::null_mut();
    // SAFETY: as in `walk`.
    unsafe {
        let (index, scan) = match (*node).type_ {
            NodeTag::T_SeqScanState
            | NodeTag::T_SampleScanState
            | NodeTag::T_TidScanState
            | NodeTag::T_TidRangeScanState
            | NodeTag::T_BitmapHeapScanState => (none, Scan::Table),
            // One that joins several tables there has none.
            NodeTag::T_ForeignScanState => (none, Scan::Foreign),
            NodeTag::T_IndexScanState => {
                let index = (*node.cast::<pg_sys::IndexScanState>()).iss_RelationDesc;
                (index, Scan::Index)
            }
            NodeTag::T_IndexOnlyScanState => {
                let index = (*node.cast::<pg_sys::IndexOnlyScanState>()).ioss_RelationDesc;
                (index, Scan::IndexOnly)
            }
            NodeTag::T_BitmapIndexScanState => {
                let index = (*node.cast::<pg_sys::BitmapIndexScanState>()).biss_RelationDesc;
                visit(Found {
                    table: none,
                    index,
                    scan: Scan::Bitmap,
                    node: std::ptr::null_mut(),
                    workers,
                });
                return;
            }
            _ => return,
        };
        visit(Found {
            table: (*node.cast::<pg_sys::ScanState>()).ss_currentRelation,
            index,
            scan,
            node,
            workers,
        });
    }
}
