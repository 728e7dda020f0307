//! The start of a statement: which shards it may use, and what was counted of them before.

use std::sync::atomic::Ordering;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::classify::{self, Answer};
use super::directory;
use super::memory::Memory;
use super::process::{KNOWN_FOR, KeyColumn, Kind, Known, Process, Touch, process};
use super::walk::{self, Found};
use super::{hosted, statistics};
use crate::pg::raw;
use crate::settings;

/// Whether a relation can be a shard: a partition, here or on another server, or a table that another server has
/// named as its shard.
///
/// # Safety
/// The relation must be open.
pub unsafe fn may_be_shard(relation: pg_sys::Relation) -> bool {
    // SAFETY: see the contract.
    unsafe {
        let class = (*relation).rd_rel;
        let kind = (*class).relkind as u8;
        if (*class).relispartition {
            return kind == pg_sys::RELKIND_RELATION || kind == pg_sys::RELKIND_FOREIGN_TABLE;
        }
        kind == pg_sys::RELKIND_RELATION && hosted::is_hosted((*relation).rd_id.to_u32())
    }
}

/// Whether the rows of a relation are on another server.
///
/// # Safety
/// The relation must be open.
pub unsafe fn is_foreign(relation: pg_sys::Relation) -> bool {
    // SAFETY: see the contract.
    unsafe { (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_FOREIGN_TABLE }
}

/// Notes what the statement may use. Returns whether something must be looked up before it goes on.
///
/// # Safety
/// `query` was set up by the executor just now.
pub unsafe fn note(memory: &Memory, query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: see the contract; no other reference to the process's knowledge is held.
    unsafe {
        let process = process();
        let writes = (*query).operation != pg_sys::CmdType::CMD_SELECT
            || (*(*query).plannedstmt).hasModifyingCTE;
        if !(writes && changes_partitions(query) || reads_partitions(query)) {
            return false;
        }
        let depth = raw::nest_level();
        if !process.push(query, depth, writes, pg_sys::pgWalUsage.wal_bytes) {
            memory.header.untracked.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let generation = memory.header.generation.load(Ordering::Acquire);
        let now = raw::statement_time();
        process.unknown.clear();
        let mut touches = process
            .frames
            .last_mut()
            .map(|frame| std::mem::take(&mut frame.touches))
            .unwrap_or_default();
        walk::scans(query, &mut |found| touch(&found, &mut touches));
        for touch in &touches {
            let is_known = process
                .known
                .get(&touch.shard)
                .is_some_and(|known| is_current(memory, known, touch.shard, generation, now));
            if !is_known || statistics::is_unknown(touch.relation) {
                process.unknown.push(touch.relation);
            }
        }
        if let Some(frame) = process.frames.last_mut() {
            frame.touches = touches;
        }
        !process.unknown.is_empty()
    }
}

/// Whether what is known of a relation can be relied upon.
pub fn is_current(memory: &Memory, known: &Known, oid: u32, generation: u64, now: i64) -> bool {
    known.generation == generation
        && now.wrapping_sub(known.asked_at) < KNOWN_FOR
        && match known.kind {
            Kind::Shard(slot) => memory.holds(slot as usize, name_of(oid)),
            _ => true,
        }
}

/// The name under which a relation of this database has its slot.
pub fn name_of(oid: u32) -> u64 {
    // SAFETY: a global of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    directory::name(database.to_u32(), oid)
}

/// Whether any table that the statement changes is a partition, or has partitions.
unsafe fn changes_partitions(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: the list holds what it says; its relations are open.
    unsafe {
        let opened = (*(*query).estate).es_opened_result_relations;
        raw::elements::<pg_sys::ResultRelInfo>(opened).any(|result| {
            let relation = (*result).ri_RelationDesc;
            may_be_shard(relation)
                || (*(*relation).rd_rel).relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE
        })
    }
}

/// Whether any open table of the statement is a partition.
unsafe fn reads_partitions(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: the array has so many entries, null where a table was not opened.
    unsafe {
        let state = (*query).estate;
        let relations = (*state).es_relations;
        (0..(*state).es_range_table_size as usize).any(|position| {
            let relation = *relations.add(position);
            !relation.is_null() && may_be_shard(relation)
        })
    }
}

/// Adds what a scan reads of partitions.
unsafe fn touch_one(
    relation: pg_sys::Relation,
    shard: pg_sys::Oid,
    found: &Found,
    touches: &mut Vec<Touch>,
) {
    touches.push(Touch {
        relation,
        // SAFETY: an open relation.
        oid: unsafe { (*relation).rd_id }.to_u32(),
        shard: shard.to_u32(),
        scan: found.scan,
        workers: found.workers,
    });
}

fn touch(found: &Found, touches: &mut Vec<Touch>) {
    // SAFETY: what a scan has opened stays open until the statement ends; rd_index is set for indexes.
    unsafe {
        if !found.table.is_null() {
            if !may_be_shard(found.table) {
                return;
            }
            touch_one(found.table, (*found.table).rd_id, found, touches);
        }
        if !found.index.is_null() {
            let of_table = (*(*found.index).rd_index).indrelid;
            touch_one(found.index, of_table, found, touches);
        }
    }
}

/// Looks up what [`note`] found to be unknown. It may raise an error, such as that of a cancelled statement.
///
/// # Safety
/// Inside a transaction; the relations noted as unknown are open.
#[pg_guard]
pub unsafe extern "C-unwind" fn look_up() {
    let Some(memory) = super::memory::memory() else {
        return;
    };
    // SAFETY: see the contract. The list is taken out, since what is called may start statements of its own.
    unsafe {
        let unknown = std::mem::take(&mut process().unknown);
        for relation in unknown.iter().copied() {
            statistics::look_up(relation);
            let index = (*relation).rd_index;
            let shard = if index.is_null() {
                (*relation).rd_id
            } else {
                (*index).indrelid
            };
            learn(memory, shard);
        }
        let own = process();
        own.unknown = unknown;
        own.unknown.clear();
    }
}

/// Finds out what a relation is, if that is not known.
///
/// # Safety
/// Inside a transaction; the caller holds a lock on the relation.
pub unsafe fn learn(memory: &Memory, shard: pg_sys::Oid) {
    // SAFETY: see the contract; no reference to the process's knowledge is held while catalogs are read.
    unsafe {
        let oid = shard.to_u32();
        let generation = memory.header.generation.load(Ordering::Acquire);
        let now = raw::statement_time();
        let before = process().known.get(&oid).copied();
        if before.is_some_and(|known| is_current(memory, &known, oid, generation, now)) {
            return;
        }
        let (kind, key) = match classify::classify(shard) {
            Answer::No => (Kind::Other, KeyColumn::default()),
            Answer::Shard(key) => (place(memory, oid, now), key),
            Answer::NotNow => return,
        };
        let known = Known::new(kind, now, generation, key);
        let known = before.map_or(known, |before| Known {
            kind,
            key,
            asked_at: now,
            generation,
            ..before
        });
        process().known.insert(oid, known);
    }
}

fn place(memory: &Memory, oid: u32, now: i64) -> Kind {
    memory
        .find_or_take(name_of(oid), now)
        .map_or(Kind::Unplaced, |slot| Kind::Shard(slot as u32))
}

/// Remembers what was counted so far, now that all shards are known.
///
/// # Safety
/// [`note`] was called for the same statement just now, and [`look_up`] where it asked for that.
pub unsafe fn remember(memory: &Memory, query: *const pg_sys::QueryDesc) {
    // SAFETY: see the contract.
    unsafe {
        let process = process();
        let Some(position) = process.position(query) else {
            return;
        };
        let Some(frame) = process.frames.get_mut(position) else {
            return;
        };
        let (writes, serial) = (frame.writes, frame.serial);
        let mut touches = std::mem::take(&mut frame.touches);
        let mut has_unplaced = false;
        touches.retain(|touch| {
            let kind = process.known.get(&touch.shard).map(|known| known.kind);
            has_unplaced |= kind == Some(Kind::Unplaced);
            matches!(kind, Some(Kind::Shard(_)))
        });
        for touch in &touches {
            begin_reading(process, touch);
        }
        let detailed =
            (writes || !touches.is_empty()) && process.is_next_detailed(settings::sample_rate());
        if detailed && !touches.is_empty() {
            let column = |oid: u32| process.known.get(&oid).map(|known| known.key);
            process.watch.begin(query, serial, column);
        }
        if let Some(frame) = process.frames.get_mut(position) {
            frame.touches = touches;
            frame.has_unplaced = has_unplaced;
            frame.detailed = detailed;
        }
        if detailed {
            memory.header.clock.follow_setting(raw::statement_time());
        }
    }
}

unsafe fn begin_reading(process: &mut Process, touch: &Touch) {
    let known = process
        .known
        .entry(touch.oid)
        .or_insert_with(|| Known::new(Kind::Index, 0, 0, KeyColumn::default()));
    if known.readers == 0 {
        // SAFETY: a relation that the statement has opened.
        known.scanned = unsafe { statistics::scanned(touch.relation) };
    }
    known.readers += 1;
}
