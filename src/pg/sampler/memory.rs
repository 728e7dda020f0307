//! The sampler's shared memory: its layout, and how large it is.
//!
//! Its size is fixed when the server starts, by `repart.max_shards`. Everything in it is an atomic: whoever ends
//! at whatever moment leaves numbers that the others can go on with. It begins as zeros; a slot and an area are
//! cleared by whoever takes them, so that pages of slots that nobody takes are never touched.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;
use repart_core::latency;

use super::decay::Clock;
use super::pairs::Pair;
use super::reservoir::Reservoir;
use crate::settings;

/// Sampled keys of a shard, for reads and for writes: enough for 16 buckets.
pub const KEPT_KEYS: usize = 64;

/// Sampled keys of a hot shard: enough for 64 buckets.
pub const KEPT_KEYS_HOT: usize = 512;

/// What concerns all shards.
#[repr(C)]
pub struct Header {
    /// Grows when tables are managed or not any more, or when shards change: what processes know of relations
    /// is then asked anew.
    pub generation: AtomicU64,
    /// Accesses to shards for which there was no slot.
    pub overflow: AtomicU64,
    /// Statements that could not be followed: too many were open in one session.
    pub untracked: AtomicU64,
    /// Sampled keys that were not kept: too long, or stored out of line.
    pub unkept_keys: AtomicU64,
    /// Transactions that used more shards than pairs are made of.
    pub wide: AtomicU64,
    /// When the memory was made, in µs since the PostgreSQL epoch.
    pub started_at: AtomicI64,
    /// Whether any table was ever counted for another server.
    pub hosting: AtomicU64,
    /// By which old heat decays.
    pub clock: Clock,
}

/// What is counted of one shard, since `since`.
#[repr(C, align(64))]
pub struct Slot {
    /// When the shard got the slot, in µs since the PostgreSQL epoch: readings with another one are no successors.
    pub since: AtomicI64,
    /// When a statement last used the shard, likewise.
    pub used_at: AtomicI64,
    /// How often the slot was given away: half of a shard's name in pairs.
    pub tenancy: AtomicU32,
    /// The type of the sampled keys; 0 for none yet.
    pub key_type: AtomicU32,
    /// Statements that wrote nothing to the shard.
    pub statements_read: AtomicU64,
    /// Statements that wrote to the shard.
    pub statements_written: AtomicU64,
    /// Rows that scans read.
    pub rows_read: AtomicU64,
    /// Blocks that scans asked for.
    pub blocks_read: AtomicU64,
    /// Execution time, µs; that of a statement on several shards is divided among them.
    pub busy: AtomicU64,
    /// Rows inserted, updated and deleted.
    pub rows_written: [AtomicU64; 3],
    /// WAL written, bytes; that of a statement on several shards is divided among them.
    pub wal: AtomicU64,
    /// Keys sampled of late; see [`super::decay`].
    pub sampled: AtomicU64,
    /// One more than the number of its area for many keys; 0 for none.
    pub area: AtomicU32,
    /// For a table that is a shard of another server's table (see [`super::hosted`]): one more than the number of its
    /// key column; 0 for others.
    pub hosted_key: AtomicU32,
    /// When somebody last asked for it, in µs since the PostgreSQL epoch.
    pub hosted_at: AtomicI64,
    /// Execution times of statements; see [`latency`].
    pub latency: [AtomicU64; latency::BUCKETS],
    /// Keys that were read.
    pub reads: Reservoir<KEPT_KEYS>,
    /// Keys that were written.
    pub writes: Reservoir<KEPT_KEYS>,
}

/// Room for many keys of one hot shard.
#[repr(C, align(64))]
pub struct Area {
    /// One more than the number of the slot that has it; 0 for none.
    pub owner: AtomicU64,
    /// Keys that were read.
    pub reads: Reservoir<KEPT_KEYS_HOT>,
    /// Keys that were written.
    pub writes: Reservoir<KEPT_KEYS_HOT>,
}

/// All of it.
pub struct Memory {
    /// What concerns all shards.
    pub header: &'static Header,
    /// Which shard has which slot; see [`super::directory`].
    pub names: &'static [AtomicU64],
    /// The slots.
    pub slots: &'static [Slot],
    /// Shards that are used together.
    pub pairs: &'static [Pair],
    /// Room for hot shards.
    pub areas: &'static [Area],
}

/// Where this process finds the memory.
struct Handle(UnsafeCell<Option<Memory>>);

// SAFETY: a backend has one thread; written while the postmaster sets the memory up, and inherited by fork.
unsafe impl Sync for Handle {}

static MEMORY: Handle = Handle(UnsafeCell::new(None));

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// The memory; `None` where the sampler is off or the library not preloaded.
#[inline]
pub fn memory() -> Option<&'static Memory> {
    // SAFETY: see `Handle`.
    unsafe { (*MEMORY.0.get()).as_ref() }
}

/// Asks for the memory; from `_PG_init`, under preload only.
pub fn register() {
    // SAFETY: called once, while the postmaster loads its libraries.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

/// How many there are of each, and where each begins.
struct Layout {
    shards: usize,
    pairs: usize,
    areas: usize,
    names_at: usize,
    pairs_at: usize,
    slots_at: usize,
    areas_at: usize,
    bytes: usize,
}

impl Layout {
    fn new() -> Self {
        let shards = settings::max_shards().max(1);
        let pairs = shards.clamp(256, 16_384).next_power_of_two();
        let areas = (shards / 64).clamp(4, 64);
        let aligned = |at: usize| at.next_multiple_of(64);
        let names_at = aligned(size_of::<Header>());
        let pairs_at = aligned(names_at + shards * size_of::<AtomicU64>());
        let slots_at = aligned(pairs_at + pairs * size_of::<Pair>());
        let areas_at = slots_at + shards * size_of::<Slot>();
        Self {
            shards,
            pairs,
            areas,
            names_at,
            pairs_at,
            slots_at,
            areas_at,
            // PostgreSQL aligns what it hands out to cache lines of 128 bytes.
            bytes: areas_at + areas * size_of::<Area>(),
        }
    }
}

/// Bytes of shared memory that the sampler takes.
pub fn bytes() -> usize {
    memory().map_or(0, |_| Layout::new().bytes)
}

#[pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: the previous hook expects no arguments; space may be asked for here.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            pg_guard_ffi_boundary(|| previous());
        }
        pg_sys::RequestAddinShmemSpace(Layout::new().bytes);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: the previous hook expects no arguments. The memory lives as long as the server, or until all
    // processes that know of it have ended; zeros are valid values of everything in it.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            pg_guard_ffi_boundary(|| previous());
        }
        let layout = Layout::new();
        let mut found = false;
        let start = pg_sys::ShmemInitStruct(c"repart sampler".as_ptr(), layout.bytes, &mut found)
            .cast::<u8>();
        if !found {
            start.write_bytes(0, layout.slots_at);
            for area in 0..layout.areas {
                start
                    .add(layout.areas_at + area * size_of::<Area>())
                    .cast::<u64>()
                    .write(0);
            }
        }
        *MEMORY.0.get() = Some(Memory {
            header: &*start.cast::<Header>(),
            names: std::slice::from_raw_parts(start.add(layout.names_at).cast(), layout.shards),
            slots: std::slice::from_raw_parts(start.add(layout.slots_at).cast(), layout.shards),
            pairs: std::slice::from_raw_parts(start.add(layout.pairs_at).cast(), layout.pairs),
            areas: std::slice::from_raw_parts(start.add(layout.areas_at).cast(), layout.areas),
        });
        if let (false, Some(memory)) = (found, memory()) {
            let now = pg_sys::GetCurrentTimestamp();
            memory.header.started_at.store(now, Ordering::Relaxed);
            memory.header.clock.start(now);
        }
    }
}

impl Slot {
    /// Makes it one of a shard that was never used. (What the shard before it left, or nobody.)
    pub fn clear(&self, now: i64) {
        let tenancy = self.tenancy.load(Ordering::Relaxed).wrapping_add(1);
        clear(self);
        self.tenancy.store(tenancy, Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
        self.used_at.store(now, Ordering::Relaxed);
    }
}

impl Slot {
    /// Forgets the sampled keys.
    pub fn clear_keys(&self) {
        clear(&self.reads);
        clear(&self.writes);
    }
}

impl Area {
    /// Forgets the keys of the shard before.
    pub fn clear(&self) {
        clear(&self.reads);
        clear(&self.writes);
    }
}

/// Sets everything to 0, number by number: others may look at it.
fn clear<T>(value: &T) {
    const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() >= 8) };
    // SAFETY: the types of this file are made of atomics without padding, of a size and alignment that are
    // multiples of 8.
    let numbers = unsafe {
        std::slice::from_raw_parts((&raw const *value).cast::<AtomicU64>(), size_of::<T>() / 8)
    };
    for number in numbers {
        number.store(0, Ordering::Relaxed);
    }
}
