//! What the sampler has counted, for SQL.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use super::memory::{Memory, Slot, memory};
use super::{classify, directory, memory as layout, pairs, sampling};

pub use super::memory::KEPT_KEYS;

/// A slot that nobody has used for so long is free once its relation is no shard any more, µs.
const GONE_FOR: i64 = 10_000_000;

/// What was counted of one shard since `since`.
#[derive(Clone, Debug)]
pub struct Counted {
    /// The shard.
    pub shard: pg_sys::Oid,
    /// When counting began, µs since the PostgreSQL epoch.
    pub since: i64,
    /// Statements that only read it.
    pub statements_read: u64,
    /// Statements that wrote to it.
    pub statements_written: u64,
    /// Rows that scans read.
    pub rows_read: u64,
    /// Rows inserted, updated and deleted.
    pub rows_written: [u64; 3],
    /// Bytes of the blocks that scans asked for.
    pub bytes_read: u64,
    /// Bytes of WAL.
    pub bytes_written: u64,
    /// Execution time, µs.
    pub busy: u64,
    /// Execution times of statements; see `repart_core::latency`.
    pub latency: Vec<u64>,
}

/// Two shards that transactions use together.
#[derive(Clone, Copy, Debug)]
pub struct Together {
    /// The one.
    pub one: pg_sys::Oid,
    /// The other.
    pub other: pg_sys::Oid,
    /// Transactions that used both, since the pair is followed.
    pub transactions: u64,
    /// Transactions per second, of late.
    pub rate: f64,
    /// By how much the rate may be too high.
    pub error: f64,
}

/// A sampled key.
#[derive(Clone, Debug)]
pub struct SampledKey {
    /// The type whose value it is.
    pub type_oid: u32,
    /// The key, as PostgreSQL stores it; of a long text the beginning.
    pub bytes: Vec<u8>,
    /// Whether it was written, not read.
    pub is_write: bool,
    /// Rows per second, of late, that it stands for.
    pub rate: f64,
    /// Its place in the order in which keys were sampled.
    pub sequence: u32,
}

/// How the sampler itself is.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Shards that can be counted.
    pub capacity: usize,
    /// Slots that are used, in all databases.
    pub used: usize,
    /// Bytes of shared memory.
    pub bytes: usize,
    /// Statements on shards for which there was no slot.
    pub overflow: u64,
    /// Statements that could not be followed.
    pub untracked: u64,
    /// Sampled keys that were not kept.
    pub unkept_keys: u64,
    /// Transactions that used too many shards to make pairs of.
    pub wide: u64,
    /// When the memory was made, µs since the PostgreSQL epoch.
    pub since: i64,
}

/// Whether this server counts.
pub fn is_on() -> bool {
    memory().is_some()
}

/// What was counted of the shards of this database.
pub fn counted() -> Vec<Counted> {
    own_slots()
        .map(|(_, shard, slot)| counted_of(shard, slot))
        .collect()
}

/// What was counted of one shard of this database.
pub fn counted_one(shard: pg_sys::Oid) -> Option<Counted> {
    let memory = memory()?;
    let slot = memory
        .slots
        .get(memory.find(super::begin::name_of(shard.to_u32()))?)?;
    Some(counted_of(shard, slot))
}

fn counted_of(shard: pg_sys::Oid, slot: &Slot) -> Counted {
    let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
    Counted {
        shard,
        since: slot.since.load(Ordering::Relaxed),
        statements_read: get(&slot.statements_read),
        statements_written: get(&slot.statements_written),
        rows_read: get(&slot.rows_read),
        rows_written: std::array::from_fn(|kind| slot.rows_written.get(kind).map_or(0, get)),
        bytes_read: get(&slot.blocks_read).saturating_mul(u64::from(pg_sys::BLCKSZ)),
        bytes_written: get(&slot.wal),
        busy: get(&slot.busy),
        latency: slot.latency.iter().map(get).collect(),
    }
}

/// The slots of this database's shards.
fn own_slots() -> impl Iterator<Item = (usize, pg_sys::Oid, &'static Slot)> {
    // SAFETY: a global of this process.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    memory().into_iter().flat_map(move |memory| {
        memory.used().filter_map(move |(place, name)| {
            let (of_database, relation) = directory::owner(name)?;
            let slot = memory.slots.get(place)?;
            (of_database == database).then(|| (place, pg_sys::Oid::from(relation), slot))
        })
    })
}

fn oid_in(memory: &Memory, place: usize, database: u32) -> Option<pg_sys::Oid> {
    let name = memory.names.get(place)?.load(Ordering::Acquire);
    let (of_database, relation) = directory::owner(name)?;
    (of_database == database).then(|| pg_sys::Oid::from(relation))
}

/// The pairs of shards of this database.
pub fn together() -> Vec<Together> {
    // SAFETY: a global of this process, and the clock.
    let (database, now) = unsafe { (pg_sys::MyDatabaseId.to_u32(), pg_sys::GetCurrentTimestamp()) };
    let Some(memory) = memory() else {
        return Vec::new();
    };
    pairs::seen(memory, now)
        .into_iter()
        .filter_map(|pair| {
            Some(Together {
                one: oid_in(memory, pair.one, database)?,
                other: oid_in(memory, pair.other, database)?,
                transactions: pair.count,
                rate: pair.rate,
                error: pair.error,
            })
        })
        .collect()
}

/// The sampled keys of a shard of this database.
pub fn keys(shard: pg_sys::Oid) -> Vec<SampledKey> {
    let Some(memory) = memory() else {
        return Vec::new();
    };
    let Some((place, _, slot)) = own_slots().find(|(_, oid, _)| *oid == shard) else {
        return Vec::new();
    };
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    let reached = memory.header.clock.read(now);
    let seconds = memory.header.clock.seconds();
    let type_oid = slot.key_type.load(Ordering::Relaxed);
    let (mut reads, mut writes) = (slot.reads.kept(reached), slot.writes.kept(reached));
    if let Some(area) = sampling::area_of(memory, slot, place) {
        reads = area.reads.kept(reached);
        writes = area.writes.kept(reached);
    }
    let sampled = |is_write: bool| {
        move |kept: super::reservoir::Kept| SampledKey {
            type_oid,
            bytes: kept.key.bytes().to_vec(),
            is_write,
            rate: kept.weight / seconds,
            sequence: kept.sequence,
        }
    };
    let reads = reads.into_iter().map(sampled(false));
    reads.chain(writes.into_iter().map(sampled(true))).collect()
}

/// How the sampler is; `None` where it is off.
pub fn status() -> Option<Status> {
    let memory = memory()?;
    let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let header = memory.header;
    Some(Status {
        capacity: memory.slots.len(),
        used: memory.used().count(),
        bytes: layout::bytes(),
        overflow: get(&header.overflow),
        untracked: get(&header.untracked),
        unkept_keys: get(&header.unkept_keys),
        wide: get(&header.wide),
        since: header.started_at.load(Ordering::Relaxed),
    })
}

/// Frees the slots of relations of this database that are no shards any more, and of databases that are gone.
pub fn sweep() {
    let Some(memory) = memory() else { return };
    // SAFETY: look-ups in the catalogs, and the clock; inside a transaction.
    let (database, now, managed) = unsafe {
        (
            pg_sys::MyDatabaseId.to_u32(),
            pg_sys::GetCurrentTimestamp(),
            classify::managed(None),
        )
    };
    // While somebody changes what is managed, nothing is taken away.
    let Some(managed) = managed else { return };
    let unused = |place: usize| {
        memory.slots.get(place).is_some_and(|slot| {
            // A shard that another transaction has made and not committed is not visible here, but it is used.
            now.saturating_sub(slot.used_at.load(Ordering::Relaxed)) > GONE_FOR
                && !super::hosted::is_wanted(slot, now)
        })
    };
    let is_shard = |relation: u32| {
        // SAFETY: as above.
        let parent = unsafe { classify::parent(pg_sys::Oid::from(relation)) };
        parent.is_some_and(|parent| managed.contains(&parent))
    };
    for (place, name) in memory.used().filter(|(place, _)| unused(*place)) {
        let gone = directory::owner(name).is_some_and(|(of_database, relation)| {
            if of_database == database {
                !is_shard(relation)
            } else {
                !database_exists(of_database)
            }
        });
        if gone {
            memory.leave(place, name);
        }
    }
}

fn database_exists(database: u32) -> bool {
    let cache = pg_sys::SysCacheIdentifier::DATABASEOID as i32;
    let none = pg_sys::Datum::from(0usize);
    // SAFETY: a look-up in a catalog; inside a transaction.
    unsafe {
        pg_sys::SearchSysCacheExists(cache, pg_sys::Oid::from(database).into(), none, none, none)
    }
}
