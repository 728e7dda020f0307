//! `COPY table`, which does not go through the executor.

use std::time::Instant;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;

use super::begin::{learn, may_be_shard};
use super::memory::memory;
use super::process::{Frame, Kind, Scan, Touch, process};
use super::{finish, hosted, statistics};
use crate::settings;

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

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
    // SAFETY: PostgreSQL passes a valid statement; the previous hook gets the same arguments.
    unsafe {
        let node = (*statement).utilityStmt;
        let copy = ((*node).type_ == pg_sys::NodeTag::T_CopyStmt && pg_sys::pgstat_track_counts)
            .then(|| Copy::begin(&*node.cast::<pg_sys::CopyStmt>()))
            .flatten();
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
        if let Some(copy) = copy {
            copy.end();
        }
    }
}

/// A COPY of a table.
struct Copy {
    table: pg_sys::Oid,
    is_from: bool,
    begun: Instant,
    wal: u64,
    /// What was read of the table before.
    before: statistics::Scanned,
}

impl Copy {
    /// `None` if it is not one of a table that could have, or be, a shard.
    unsafe fn begin(copy: &pg_sys::CopyStmt) -> Option<Self> {
        memory()?;
        if copy.relation.is_null() {
            return None;
        }
        let lock = if copy.is_from {
            pg_sys::RowExclusiveLock
        } else {
            pg_sys::AccessShareLock
        };
        // SAFETY: as COPY is about to do itself. That there is no such table is for COPY to say.
        unsafe {
            let table = pg_sys::RangeVarGetRelidExtended(
                copy.relation,
                lock as i32,
                pg_sys::RVROption::RVR_MISSING_OK,
                None,
                std::ptr::null_mut(),
            );
            if table == pg_sys::InvalidOid {
                return None;
            }
            let may_have_shards = pg_sys::get_rel_relkind(table) as u8
                == pg_sys::RELKIND_PARTITIONED_TABLE
                || pg_sys::get_rel_relispartition(table)
                || hosted::is_hosted(table.to_u32());
            if !may_have_shards {
                return None;
            }
            let relation = pg_sys::relation_open(table, pg_sys::NoLock as i32);
            statistics::look_up(relation);
            let before = statistics::scanned(relation);
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            Some(Self {
                table,
                is_from: copy.is_from,
                begun: Instant::now(),
                wal: pg_sys::pgWalUsage.wal_bytes,
                before,
            })
        }
    }

    /// Counts it, if its transaction is still the same and in order.
    unsafe fn end(self) {
        let Some(memory) = memory() else { return };
        // SAFETY: COPY has kept its locks; what is opened here is closed, or goes with the transaction's abort. No
        // two references to the process's knowledge are held at a time.
        unsafe {
            let relations = self.open_shards();
            for relation in &relations {
                learn(memory, (**relation).rd_id);
            }
            let process = process();
            process.serial += 1;
            let frame = self.frame(
                process.serial,
                process.is_next_detailed(settings::sample_rate()),
            );
            process.shares.clear();
            for relation in &relations {
                self.count_shard(*relation, frame.serial);
            }
            let wal = pg_sys::pgWalUsage.wal_bytes.wrapping_sub(frame.wal);
            finish::publish(memory, super::process::process(), &frame, wal);
            if frame.detailed {
                finish::sample_inserted_now(memory);
            }
            for relation in relations {
                pg_sys::relation_close(relation, pg_sys::AccessShareLock as i32);
            }
        }
    }

    fn frame(&self, serial: u64, detailed: bool) -> Frame {
        Frame {
            query: std::ptr::null(),
            depth: 0,
            writes: self.is_from,
            has_unplaced: false,
            detailed,
            touches: Vec::new(),
            running_since: 0,
            ran: u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX),
            wal: self.wal,
            wal_inside: 0,
            serial,
        }
    }

    unsafe fn count_shard(&self, relation: pg_sys::Relation, serial: u64) {
        // SAFETY: an open relation.
        unsafe {
            let process = process();
            let oid = (*relation).rd_id.to_u32();
            if self.is_from {
                finish::add_changes(process, relation, serial, false);
                return;
            }
            if let Some(known) = process.known.get_mut(&oid)
                && matches!(known.kind, Kind::Shard(_))
            {
                known.scanned = self.before;
                known.readers += 1;
                let touch = Touch {
                    relation,
                    oid,
                    shard: oid,
                    scan: Scan::Table,
                    workers: std::ptr::null(),
                };
                finish::add_scan(process, &touch, serial);
            }
        }
    }

    /// The shards that this process has used of late, open and locked once more.
    unsafe fn open_shards(&self) -> Vec<pg_sys::Relation> {
        // SAFETY: the table is locked; its partitions that were written to are, too.
        unsafe {
            let relation = pg_sys::try_relation_open(self.table, pg_sys::NoLock as i32);
            if relation.is_null() {
                return Vec::new();
            }
            if may_be_shard(relation) {
                pg_sys::LockRelationOid(self.table, pg_sys::AccessShareLock as i32);
                statistics::look_up(relation);
                return vec![relation];
            }
            let mut open = Vec::new();
            let partitions = pg_sys::RelationGetPartitionDesc(relation, true);
            for position in 0..usize::try_from((*partitions).nparts).unwrap_or(0) {
                let shard = *(*partitions).oids.add(position);
                if pg_sys::find_tabstat_entry(shard).is_null() {
                    continue;
                }
                // Those that COPY wrote to are locked already; others are not waited for.
                if !pg_sys::ConditionalLockRelationOid(shard, pg_sys::AccessShareLock as i32) {
                    continue;
                }
                let open_shard = pg_sys::try_relation_open(shard, pg_sys::NoLock as i32);
                if open_shard.is_null() {
                    pg_sys::UnlockRelationOid(shard, pg_sys::AccessShareLock as i32);
                } else {
                    statistics::look_up(open_shard);
                    open.push(open_shard);
                }
            }
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            open
        }
    }
}
