//! Which shard has which slot: a hash table with linear probing that is changed by compare-and-exchange alone.
//!
//! A name is the database's and the relation's OID. Names that are gone leave a mark behind which the search goes
//! on. When two sessions give one shard a slot at the same time, the later slot in the order of the search goes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::memory::Memory;

/// Nobody's, and never was anybody's: here a search ends.
const FREE: u64 = 0;
/// Was somebody's.
const LEFT: u64 = 1;
/// Is being cleared for somebody. If that process ends there, the slot is lost, and only it.
const TAKEN: u64 = 2;

/// The name of a relation of a database.
pub fn name(database: u32, relation: u32) -> u64 {
    (u64::from(database) << 32) | u64::from(relation)
}

/// Database and relation of a slot's name; `None` where it has none.
pub fn owner(name: u64) -> Option<(u32, u32)> {
    (name > TAKEN).then_some(((name >> 32) as u32, name as u32))
}

impl Memory {
    /// The slot of a name.
    pub fn find(&self, name: u64) -> Option<usize> {
        self.search(name).find_map(|(slot, held)| match held {
            held if held == name => Some(Some(slot)),
            FREE => Some(None),
            _ => None,
        })?
    }

    /// The slot of a name, which gets one if it has none; `None` if there is none left.
    pub fn find_or_take(&self, name: u64, now: i64) -> Option<usize> {
        if let Some(slot) = self.find(name) {
            return Some(slot);
        }
        let slot = self.take(name, now)?;
        let mut kept = slot;
        for (other, held) in self.search(name) {
            if held == FREE {
                break;
            }
            if held == name && other != slot {
                // The first in the order of the search stays, whoever took it.
                let later = if kept == slot && self.is_before(name, other, slot) {
                    std::mem::replace(&mut kept, other)
                } else {
                    other
                };
                self.leave(later, name);
            }
        }
        Some(kept)
    }

    fn take(&self, name: u64, now: i64) -> Option<usize> {
        let free = |held: u64| held == FREE || held == LEFT;
        for (slot, held) in self.search(name).filter(|(_, held)| free(*held)) {
            let Some(place) = self.names.get(slot) else {
                continue;
            };
            if place
                .compare_exchange(held, TAKEN, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                if let Some(slot) = self.slots.get(slot) {
                    slot.clear(now);
                }
                place.store(name, Ordering::Release);
                return Some(slot);
            }
        }
        None
    }

    /// Takes a slot away from its shard. Whoever is counting there at this moment notices at its next statement.
    pub fn leave(&self, slot: usize, name: u64) -> bool {
        self.names.get(slot).is_some_and(|place| {
            place
                .compare_exchange(name, LEFT, Ordering::Release, Ordering::Relaxed)
                .is_ok()
        })
    }

    /// Whether the slot is still that of the name.
    #[inline]
    pub fn holds(&self, slot: usize, name: u64) -> bool {
        self.names
            .get(slot)
            .is_some_and(|place| place.load(Ordering::Acquire) == name)
    }

    /// All slots that have a name, with it.
    pub fn used(&self) -> impl Iterator<Item = (usize, u64)> {
        let name = |place: &AtomicU64| place.load(Ordering::Acquire);
        self.names
            .iter()
            .map(name)
            .enumerate()
            .filter(|(_, name)| *name > TAKEN)
    }

    /// Slots with what they hold, in the order in which a name is looked for.
    fn search(&self, name: u64) -> impl Iterator<Item = (usize, u64)> {
        let start = self.start(name);
        (start..self.names.len()).chain(0..start).map(|slot| {
            let held = self
                .names
                .get(slot)
                .map_or(FREE, |place| place.load(Ordering::Acquire));
            (slot, held)
        })
    }

    fn is_before(&self, name: u64, one: usize, other: usize) -> bool {
        let (start, count) = (self.start(name), self.names.len());
        let distance = |slot: usize| (slot + count - start) % count;
        distance(one) < distance(other)
    }

    fn start(&self, name: u64) -> usize {
        // Fibonacci hashing: neighbouring OIDs land far apart.
        let hash = name.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((u128::from(hash) * self.names.len() as u128) >> 64) as usize
    }
}
