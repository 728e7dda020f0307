//! The end of a statement: what it did to which shards is added to their slots.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;
use repart_core::latency;

use super::begin::{self, may_be_shard, name_of};
use super::memory::{Memory, Slot};
use super::pairs;
use super::process::{Frame, Kind, Process, Scan, Share, Touch, process};
use super::statistics;
use super::{clock, inserted, sampling};
use crate::pg::raw;

/// Whether the statement has written to shards of which more must be known first.
///
/// # Safety
/// The statement was set up, and has not ended.
pub unsafe fn must_look_up(memory: &Memory, query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: see the contract.
    unsafe {
        let process = process();
        let writes = process
            .position(query)
            .and_then(|position| process.frames.get(position))
            .is_some_and(|frame| frame.writes);
        if !writes {
            return false;
        }
        process.unknown.clear();
        let generation = memory.header.generation.load(Ordering::Acquire);
        let now = raw::statement_time();
        for (relation, _) in results(query) {
            let oid = (*relation).rd_id.to_u32();
            let known = process.known.get(&oid);
            if !known.is_some_and(|known| begin::is_current(memory, known, oid, generation, now)) {
                process.unknown.push(relation);
            }
        }
        !process.unknown.is_empty()
    }
}

/// The partitions that a statement has opened to write to, and whether rows were routed to them.
unsafe fn results(
    query: *const pg_sys::QueryDesc,
) -> impl Iterator<Item = (pg_sys::Relation, bool)> {
    // SAFETY: the lists hold what they say; their relations stay open until the statement ends.
    unsafe {
        let state = (*query).estate;
        let of = |list: *mut pg_sys::List, routed: bool| {
            raw::elements::<pg_sys::ResultRelInfo>(list)
                .map(move |result| ((*result).ri_RelationDesc, routed))
        };
        of((*state).es_opened_result_relations, false)
            .chain(of((*state).es_tuple_routing_result_relations, true))
            .filter(|(relation, _)| may_be_shard(*relation))
    }
}

/// Counts a statement that ends; returns whether keys of rows that it inserted are to be sampled.
///
/// # Safety
/// The statement was set up, and has not ended; [`must_look_up`] said no, or it was done.
pub unsafe fn count(memory: &Memory, query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: see the contract.
    unsafe {
        let process = process();
        let Some(position) = process.position(query) else {
            return false;
        };
        let mut frame = process.frames.remove(position);
        if frame.writes && frame.running_since != 0 {
            frame.ran = clock().saturating_sub(frame.running_since);
        }
        process.shares.clear();
        for touch in &frame.touches {
            add_scan(process, touch, frame.serial);
        }
        if frame.writes {
            for (relation, routed) in results(query) {
                add_changes(process, relation, frame.serial, routed);
            }
        }
        let wal = pg_sys::pgWalUsage.wal_bytes.wrapping_sub(frame.wal);
        // What a statement inside another one wrote is not written by that one again.
        if let Some(outer) = position
            .checked_sub(1)
            .and_then(|outer| process.frames.get_mut(outer))
        {
            outer.wal_inside = outer.wal_inside.wrapping_add(wal);
        }
        publish(
            memory,
            process,
            &frame,
            wal.saturating_sub(frame.wal_inside),
        );
        if frame.detailed {
            sampling::offer(memory, process, frame.serial);
        }
        process.recycle(frame.touches);
        frame.detailed && process.shares.iter().any(is_insert)
    }
}

/// The share of a shard in the statement, made when it is first asked for.
fn share_of(process: &mut Process, shard: u32, serial: u64) -> Option<&mut Share> {
    let known = process.known.get_mut(&shard)?;
    let Kind::Shard(slot) = known.kind else {
        return None;
    };
    if known.place.0 != serial || known.place.1 >= process.shares.len() {
        known.place = (serial, process.shares.len());
        process.shares.push(Share {
            shard,
            slot,
            relation: std::ptr::null_mut(),
            read: false,
            routed: false,
            rows_read: 0,
            blocks: 0,
            changed: [0; 3],
        });
    }
    process.shares.get_mut(known.place.1)
}

/// Adds what was read of a table or index since it was last looked at. Two scans of one table share its counts:
/// the second finds nothing more.
///
/// # Safety
/// The relation must be open.
pub unsafe fn add_scan(process: &mut Process, touch: &Touch, serial: u64) {
    let Some(known) = process.known.get_mut(&touch.oid) else {
        return;
    };
    // SAFETY: the relation is open until the statement ends; so is the Gather's state.
    let (now, by_workers) = unsafe {
        (
            statistics::scanned(touch.relation),
            touch.workers.as_ref().is_some_and(|launched| *launched > 0),
        )
    };
    let new = now.since(&known.scanned);
    known.scanned = now;
    known.readers = known.readers.saturating_sub(1);
    let Some(share) = share_of(process, touch.shard, serial) else {
        return;
    };
    share.rows_read += match touch.scan {
        _ if touch.oid == touch.shard => new.returned + new.fetched,
        Scan::Index => new.fetched,
        Scan::IndexOnly => new.returned.max(new.fetched),
        Scan::Bitmap | Scan::Table | Scan::Foreign => 0,
    };
    share.blocks += new.blocks;
    share.read |= touch.scan == Scan::Foreign
        || by_workers
        || new.scans > 0
        || new.returned > 0
        || new.fetched > 0;
}

/// Adds what was changed in a shard since it was last looked at in this transaction.
///
/// # Safety
/// The relation must be open.
pub unsafe fn add_changes(
    process: &mut Process,
    relation: pg_sys::Relation,
    serial: u64,
    routed: bool,
) {
    // SAFETY: see the contract.
    let (oid, now) = unsafe { ((*relation).rd_id.to_u32(), statistics::changed(relation)) };
    let transaction = process.transaction;
    let Some(known) = process.known.get_mut(&oid) else {
        return;
    };
    let is_first = known.transaction != transaction;
    let mut new = [0; 3];
    for (index, rows) in new.iter_mut().enumerate() {
        let get = |values: &[i64; 3]| values.get(index).copied().unwrap_or(0);
        let (pending, before) = (get(&now.pending), get(&known.changed));
        // Less than before: TRUNCATE has set it back.
        *rows = if is_first || pending < before {
            get(&now.of_transaction)
        } else {
            pending - before
        };
    }
    known.transaction = transaction;
    known.changed = now.pending;
    if !routed && new == [0; 3] {
        return;
    }
    if let Some(share) = share_of(process, oid, serial) {
        for (sum, rows) in share.changed.iter_mut().zip(new) {
            *sum += rows;
        }
        share.routed |= routed;
        share.relation = relation;
    }
}

/// Adds the shares of a statement to the slots.
pub fn publish(memory: &Memory, process: &mut Process, frame: &Frame, wal: u64) {
    if frame.has_unplaced {
        memory.header.overflow.fetch_add(1, Ordering::Relaxed);
    }
    let now = raw::statement_time();
    // SAFETY: a global of this process.
    let in_worker = unsafe { pg_sys::ParallelWorkerNumber } >= 0;
    let weight =
        |share: &Share| 1 + share.rows_read.max(0) as u64 + share.rows_written().max(0) as u64;
    let used = || process.shares.iter().filter(|share| share.is_use());
    let weights: u64 = used().map(weight).sum();
    let written: u64 = used().map(|share| share.rows_written().max(0) as u64).sum();
    let busy = frame.ran / 1000;
    let mut together = [0u32; pairs::MAX_TOGETHER + 1];
    let mut count = 0;
    for share in used() {
        let place = share.slot as usize;
        let Some(slot) = memory.slots.get(place) else {
            continue;
        };
        if !memory.holds(place, name_of(share.shard)) {
            continue;
        }
        let own_wal = part(wal, share.rows_written().max(0) as u64, written);
        add(slot, share, part(busy, weight(share), weights), own_wal);
        slot.used_at.store(now, Ordering::Relaxed);
        if !in_worker {
            add_statement(slot, share, busy);
            if let Some(entry) = together.get_mut(count) {
                *entry = pairs::name(memory, place);
                count += 1;
            }
        }
    }
    for name in together.iter().take(count) {
        process.note_together(*name);
    }
}

/// A part of a whole.
fn part(whole: u64, of: u64, all: u64) -> u64 {
    if of == all {
        return if all == 0 { 0 } else { whole };
    }
    (u128::from(whole) * u128::from(of) / u128::from(all.max(1))) as u64
}

fn add(slot: &Slot, share: &Share, busy: u64, wal: u64) {
    let add = |sum: &AtomicU64, number: u64| {
        if number > 0 {
            sum.fetch_add(number, Ordering::Relaxed);
        }
    };
    add(&slot.rows_read, share.rows_read.max(0) as u64);
    add(&slot.blocks_read, share.blocks.max(0) as u64);
    for (sum, rows) in slot.rows_written.iter().zip(share.changed) {
        add(sum, rows.max(0) as u64);
    }
    add(&slot.busy, busy);
    add(&slot.wal, wal);
}

fn add_statement(slot: &Slot, share: &Share, micros: u64) {
    let statements = if share.is_write() {
        &slot.statements_written
    } else {
        &slot.statements_read
    };
    statements.fetch_add(1, Ordering::Relaxed);
    if let Some(sum) = slot.latency.get(latency::bucket(micros)) {
        sum.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts what an interrupted statement has read; what it changed is undone.
///
/// # Safety
/// Called while its transaction or subtransaction is being rolled back: its relations are still open, since these
/// callbacks come before what the transaction holds is released.
pub unsafe fn count_interrupted(memory: &Memory, process: &mut Process, depth: i32) {
    process.shares.clear();
    process.serial += 1;
    let serial = process.serial;
    let mut position = 0;
    while let Some(frame) = process.frames.get_mut(position) {
        position += 1;
        if frame.depth < depth {
            continue;
        }
        let mut touches = std::mem::take(&mut frame.touches);
        for touch in &mut touches {
            // The executor's own state may be gone already.
            touch.workers = std::ptr::null();
            // SAFETY: see the contract.
            unsafe { add_scan(process, touch, serial) };
        }
        if let Some(frame) = process.frames.get_mut(position - 1) {
            frame.touches = touches;
            frame.touches.clear();
        }
    }
    for share in process.shares.iter().filter(|share| share.is_use()) {
        let place = share.slot as usize;
        if let Some(slot) = memory.slots.get(place)
            && memory.holds(place, name_of(share.shard))
        {
            add(slot, share, 0, 0);
        }
    }
    process.shares.clear();
}

/// Samples the keys of rows that the statement inserted. It reads a page, which may raise an error.
///
/// # Safety
/// [`count`] was called for the statement just now; its relations are open.
#[pg_guard]
pub unsafe extern "C-unwind" fn sample_inserted() {
    let Some(memory) = super::memory::memory() else {
        return;
    };
    // SAFETY: see the contract.
    unsafe { sample_inserted_now(memory) };
}

/// As [`sample_inserted`], for callers that have a guard themselves.
///
/// # Safety
/// As there.
pub unsafe fn sample_inserted_now(memory: &Memory) {
    // SAFETY: see the contract; the list is taken out while pages are read.
    unsafe {
        let shares = std::mem::take(&mut process().shares);
        for share in shares.iter().filter(|share| is_insert(share)) {
            let column = process().known.get(&share.shard).map(|known| known.key);
            if let Some(column) = column.filter(|column| column.number > 0) {
                let rows = share.changed.first().copied().unwrap_or(0) as u64;
                let keys = inserted::keys(share.relation, &column, rows);
                sampling::offer_inserted(memory, process(), share, &keys, rows);
            }
        }
        process().shares = shares;
    }
}

fn is_insert(share: &Share) -> bool {
    !share.relation.is_null() && share.changed.first().copied().unwrap_or(0) > 0
}
