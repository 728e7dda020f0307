//! Shards that are used by the same transactions: the most frequent pairs, in a sketch of fixed size.
//!
//! Space-Saving (Metwally and others 2005) over sets of eight entries, with decaying counts: a pair that is not
//! there takes the place of the rarest one of its set and inherits its count, so that a frequent pair is never
//! missed, and a count is too high by at most what it inherited.

use std::sync::atomic::{AtomicU64, Ordering};

use super::decay;
use super::memory::Memory;

/// Shards of one transaction that pairs are made of; one that uses more says little about any two of them.
pub const MAX_TOGETHER: usize = 8;

/// Entries among which a pair may be.
const SET: usize = 8;

/// Bits of the number of a slot in the name of a shard; the others are its tenancy.
const SLOT_BITS: u32 = 20;

/// One pair.
#[repr(C)]
pub struct Pair {
    /// The names of both; 0 for none.
    name: AtomicU64,
    /// Transactions that used both, since it is here.
    count: AtomicU64,
    /// The same of late; see [`decay`].
    recent: AtomicU64,
    /// What `recent` began with, taken over from another pair.
    inherited: AtomicU64,
}

/// A pair, as a reader sees it.
pub struct Seen {
    /// The slot of the one.
    pub one: usize,
    /// The slot of the other.
    pub other: usize,
    /// Transactions that used both.
    pub count: u64,
    /// Transactions per second that use both.
    pub rate: f64,
    /// By how much the rate may be too high.
    pub error: f64,
}

/// The name of the shard that has a slot now.
pub fn name(memory: &Memory, slot: usize) -> u32 {
    let tenancy = memory
        .slots
        .get(slot)
        .map_or(0, |slot| slot.tenancy.load(Ordering::Relaxed));
    (tenancy << SLOT_BITS) | slot as u32
}

/// Notes that a transaction has used these shards.
pub fn note(memory: &Memory, shards: &[u32], reached: f64) {
    for (index, one) in shards.iter().enumerate() {
        for other in shards.iter().skip(index + 1) {
            count(memory, (*one).min(*other), (*one).max(*other), reached);
        }
    }
}

fn count(memory: &Memory, one: u32, other: u32, reached: f64) {
    let name = (u64::from(one) << 32) | u64::from(other);
    let Some(set) = set_of(memory, name) else {
        return;
    };
    let held = |pair: &&Pair| pair.name.load(Ordering::Acquire) == name;
    if let Some(pair) = set.iter().find(held) {
        pair.count.fetch_add(1, Ordering::Relaxed);
        decay::add(&pair.recent, 1.0, reached);
        return;
    }
    // Bits of positive numbers have their order.
    let Some(rarest) = set
        .iter()
        .min_by_key(|pair| pair.recent.load(Ordering::Relaxed))
    else {
        return;
    };
    let old = rarest.name.load(Ordering::Relaxed);
    if rarest
        .name
        .compare_exchange(old, name, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
    {
        let inherited = rarest.recent.load(Ordering::Relaxed);
        rarest.inherited.store(inherited, Ordering::Relaxed);
        rarest.count.store(1, Ordering::Relaxed);
        decay::add(&rarest.recent, 1.0, reached);
    }
}

fn set_of(memory: &Memory, name: u64) -> Option<&[Pair]> {
    let sets = memory.pairs.len() / SET;
    let hash = name.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let set = ((u128::from(hash) * sets as u128) >> 64) as usize;
    memory.pairs.get(set * SET..(set + 1) * SET)
}

/// All pairs of shards that still have their slots.
pub fn seen(memory: &Memory, now: i64) -> Vec<Seen> {
    let reached = memory.header.clock.read(now);
    let seconds = memory.header.clock.seconds();
    let slot = |shard: u32| {
        let slot = (shard & ((1 << SLOT_BITS) - 1)) as usize;
        (slot < memory.slots.len() && name(memory, slot) == shard).then_some(slot)
    };
    memory
        .pairs
        .iter()
        .filter_map(|pair| {
            let name = pair.name.load(Ordering::Acquire);
            if name == 0 {
                return None;
            }
            let rate =
                |sum: &AtomicU64| decay::value(sum.load(Ordering::Relaxed), reached) / seconds;
            Some(Seen {
                one: slot((name >> 32) as u32)?,
                other: slot(name as u32)?,
                count: pair.count.load(Ordering::Relaxed),
                rate: rate(&pair.recent),
                error: rate(&pair.inherited),
            })
        })
        .collect()
}
