//! Sampled keys of a detailed statement on their way to the reservoirs of their shards.

use std::sync::atomic::Ordering;

use super::begin::name_of;
use super::decay;
use super::memory::{Area, Memory, Slot};
use super::process::{Process, Share};
use super::reservoir::Key;
use crate::pg::raw;
use crate::settings;

/// Keys sampled within some half-lives that make a shard a hot one.
const HOT: f64 = 96.0;

/// A hot shard gives its area up to one that has so many times as many samples.
const HOTTER: f64 = 2.0;

/// Whether rows were read or written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// Offers the keys by which a statement has read its shards. Rows that it updated or deleted it has read first.
pub fn offer(memory: &Memory, process: &mut Process, serial: u64) {
    let shares = std::mem::take(&mut process.shares);
    for share in &shares {
        let rewritten: i64 = share.changed.iter().skip(1).sum();
        let offers: Vec<_> = process.watch.keys(serial, share.shard).collect();
        let all: u64 = offers.iter().map(|keys| keys.rows).sum();
        for keys in &offers {
            let each = keys.rows as f64 / keys.as_slice().len().max(1) as f64;
            put_all(memory, process, share, keys.as_slice(), each, Access::Read);
            if rewritten > 0 {
                let written = each * rewritten as f64 / all.max(1) as f64;
                put_all(
                    memory,
                    process,
                    share,
                    keys.as_slice(),
                    written,
                    Access::Write,
                );
            }
        }
    }
    process.shares = shares;
    process.watch.end(serial);
    let unkept = std::mem::take(&mut process.watch.unkept);
    if unkept > 0 {
        memory
            .header
            .unkept_keys
            .fetch_add(unkept, Ordering::Relaxed);
    }
}

/// Offers keys of rows that a statement has inserted, `rows` in all.
pub fn offer_inserted(
    memory: &Memory,
    process: &mut Process,
    share: &Share,
    keys: &[Key],
    rows: u64,
) {
    let each = rows as f64 / keys.len().max(1) as f64;
    put_all(memory, process, share, keys, each, Access::Write);
}

fn put_all(
    memory: &Memory,
    process: &mut Process,
    share: &Share,
    keys: &[Key],
    each: f64,
    access: Access,
) {
    let place = share.slot as usize;
    let type_oid = process
        .known
        .get(&share.shard)
        .map_or(0, |known| known.key.type_oid);
    let Some(slot) = memory.slots.get(place) else {
        return;
    };
    if keys.is_empty() || type_oid == 0 || !memory.holds(place, name_of(share.shard)) {
        return;
    }
    set_type(memory, slot, place, type_oid);
    let now = raw::statement_time();
    let reached = memory.header.clock.read(now);
    let area = area_of(memory, slot, place);
    // The statement stands for those whose keys were not looked at.
    let weight = each * f64::from(settings::sample_rate());
    for key in keys {
        let chance = process.chance();
        match access {
            Access::Read => slot.reads.offer(key, weight, reached, chance),
            Access::Write => slot.writes.offer(key, weight, reached, chance),
        }
        match (area, access) {
            (Some(area), Access::Read) => area.reads.offer(key, weight, reached, chance),
            (Some(area), Access::Write) => area.writes.offer(key, weight, reached, chance),
            (None, _) => {}
        }
    }
    decay::add(&slot.sampled, keys.len() as f64, reached);
    if area.is_none() && process.random().is_multiple_of(16) {
        try_to_get_area(memory, slot, place, reached);
    }
}

/// Forgets the keys of another type, which the column had before.
fn set_type(memory: &Memory, slot: &Slot, place: usize, type_oid: u32) {
    let before = slot.key_type.swap(type_oid, Ordering::Relaxed);
    if before != 0 && before != type_oid {
        slot.clear_keys();
        if let Some(area) = area_of(memory, slot, place) {
            area.clear();
        }
    }
}

/// The area of a hot shard.
pub fn area_of<'a>(memory: &'a Memory, slot: &Slot, place: usize) -> Option<&'a Area> {
    let number = slot.area.load(Ordering::Relaxed).checked_sub(1)?;
    memory
        .areas
        .get(number as usize)
        .filter(|area| area.owner.load(Ordering::Acquire) == place as u64 + 1)
}

/// Takes a free area for a hot shard, or that of a much cooler one.
fn try_to_get_area(memory: &Memory, slot: &Slot, place: usize, reached: f64) {
    let of_late = |slot: &Slot| decay::value(slot.sampled.load(Ordering::Relaxed), reached);
    let own = of_late(slot);
    if own < HOT {
        return;
    }
    let heat = |area: &Area| match area.owner.load(Ordering::Acquire) {
        0 => (0, 0.0),
        owner => {
            let holder = memory.slots.get(owner as usize - 1);
            (owner, holder.map_or(0.0, of_late))
        }
    };
    let coolest = memory
        .areas
        .iter()
        .enumerate()
        .map(|(number, area)| (number, area, heat(area)))
        .min_by(|a, b| a.2.1.total_cmp(&b.2.1));
    let Some((number, area, (owner, its))) = coolest else {
        return;
    };
    if owner != 0 && its * HOTTER > own {
        return;
    }
    let taken =
        area.owner
            .compare_exchange(owner, place as u64 + 1, Ordering::AcqRel, Ordering::Relaxed);
    if taken.is_ok() {
        area.clear();
        area.reads.adopt(&slot.reads);
        area.writes.adopt(&slot.writes);
        slot.area.store(number as u32 + 1, Ordering::Release);
    }
}
