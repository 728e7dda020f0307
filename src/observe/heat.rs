//! Where inside a shard the load falls, by the keys that the access sampler has seen.

use pgrx::pg_sys;
use repart_core::heat::access::{self, Access};
use repart_core::heat::{Bucket, access::HeatBucket};
use serde::{Deserialize, Serialize};

use crate::catalog::heat::{self, Next};
use crate::catalog::nodes;
use crate::catalog::shards::{Shard, ShardKey};
use crate::error::Result;
use crate::pg::sampler::read::{self, SampledKey};
use crate::pg::sampler::text;
use crate::pg::{guc, relation, role};

/// Buckets of a shard, and of a hot one, of which more keys are kept.
const BUCKETS: usize = 16;
const BUCKETS_HOT: usize = 64;

/// More samples than these has only a hot shard.
const NOT_HOT: usize = 2 * read::KEPT_KEYS;

/// PostgreSQL's own objects have lower OIDs (access/transam.h).
const FIRST_OF_USERS: u32 = 16_384;

/// Where the load of one shard falls.
pub struct Heat {
    accesses: Vec<Access>,
    /// Sampled keys that it was made of.
    pub samples: usize,
    /// Rows read per second, of late.
    pub reads: f64,
    /// Rows written per second, of late.
    pub writes: f64,
    /// Whether rows are written in the order of their keys; see [`access::direction`].
    pub append: f64,
}

impl Heat {
    /// The key that is used most, and its share of the load.
    pub fn popular(&self) -> Option<(&str, f64)> {
        access::popular(&self.accesses)
    }

    /// The buckets, by load alone: 16, of a hot shard 64.
    pub fn buckets(&self) -> Vec<HeatBucket> {
        let target = if self.samples > NOT_HOT {
            BUCKETS_HOT
        } else {
            BUCKETS
        };
        access::buckets(&[], &self.accesses, target)
    }

    /// The buckets for a plan, with edges by load and by rows; `rows` are those that [`of`] was given. `None` if
    /// there are too few samples to say more than the rows do.
    pub fn for_plan(&self, rows: &[Bucket]) -> Option<Vec<Bucket>> {
        (self.samples >= access::ENOUGH)
            .then(|| access::for_plan(rows, &self.accesses, BUCKETS_HOT))
    }
}

/// One sampled key, as text: what one server tells another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sampled {
    /// The key, as its type writes it.
    key: String,
    /// The type's OID.
    type_oid: u32,
    /// Whether it was written, not read.
    write: bool,
    /// Rows per second, of late, that it stands for.
    rate: f64,
    /// Its place in the order in which keys were sampled.
    sequence: u32,
}

/// The keys of a table that this server has sampled.
pub fn sampled(shard: pg_sys::Oid) -> Result<Vec<Sampled>> {
    let sampled = read::keys(shard);
    if sampled.is_empty() {
        return Ok(Vec::new());
    }
    let texts = texts(shard, &sampled)?;
    let together = sampled.iter().zip(texts);
    Ok(together
        .map(|(one, key)| Sampled {
            key,
            type_oid: one.type_oid,
            write: one.is_write,
            rate: one.rate,
            sequence: one.sequence,
        })
        .collect())
}

/// Where the load of a shard falls; `None` if nothing is known of it. `rows` are buckets of its rows, or none. Of a shard
/// on a node, that is what the node and its replicas told when they were last asked; of one here, replicas of this server
/// tell too.
pub fn of(key: &ShardKey, shard: &Shard, rows: &[Bucket]) -> Result<Option<Heat>> {
    let mut sampled = if shard.is_foreign {
        Vec::new()
    } else {
        sampled(shard.oid)?
    };
    sampled.extend(told(shard.oid)?);
    let own = key.type_oid.to_u32();
    let is_of_type = |type_oid: u32| {
        // Types that users made have another number on each server.
        let elsewhere = shard.is_foreign && own >= FIRST_OF_USERS && type_oid >= FIRST_OF_USERS;
        type_oid == own || elsewhere
    };
    sampled.retain(|sampled| is_of_type(sampled.type_oid));
    if sampled.is_empty() {
        return Ok(None);
    }
    let texts: Vec<String> = sampled.iter().map(|one| one.key.clone()).collect();
    let edges: Vec<String> = rows
        .iter()
        .filter_map(|bucket| bucket.upper.clone())
        .collect();
    let order = heat::order(key, shard, &texts, &edges)?;
    Ok(Some(combine(&sampled, &order)))
}

/// The keys that nodes have told of a shard, those of its primary and of replicas together.
fn told(shard: pg_sys::Oid) -> Result<Vec<Sampled>> {
    let mut all = Vec::new();
    for keys in nodes::keys(shard)? {
        let keys: Vec<Sampled> = serde_json::from_value(keys)?;
        all.extend(keys);
    }
    Ok(all)
}

/// The keys as text. Runs the type's output function, and so as the shard's owner.
fn texts(shard: pg_sys::Oid, sampled: &[SampledKey]) -> Result<Vec<String>> {
    role::as_owner(relation::owner(shard)?, || {
        guc::with_transmission_modes(|| {
            Ok(sampled
                .iter()
                .map(|sampled| text::of(sampled.type_oid, &sampled.bytes))
                .collect())
        })
    })
}

fn combine(sampled: &[Sampled], order: &[Next]) -> Heat {
    let mut accesses: Vec<Access> = Vec::new();
    let mut edges = 0;
    // Of written keys: when each was sampled, and its place in the order.
    let mut written: Vec<(u32, usize)> = Vec::new();
    for next in order {
        match next {
            Next::Edge => edges += 1,
            Next::Key(number) => {
                let Some(one) = sampled.get(*number) else {
                    continue;
                };
                add(&mut accesses, edges, one);
                if one.write {
                    written.push((one.sequence, accesses.len()));
                }
            }
        }
    }
    written.sort_unstable();
    let ranks: Vec<usize> = written.into_iter().map(|(_, rank)| rank).collect();
    Heat {
        samples: accesses.iter().map(|access| access.samples).sum(),
        reads: accesses.iter().map(|access| access.reads).sum(),
        writes: accesses.iter().map(|access| access.writes).sum(),
        append: access::direction(&ranks),
        accesses,
    }
}

/// Adds a sampled key to those before it in the order.
fn add(accesses: &mut Vec<Access>, position: usize, sampled: &Sampled) {
    if accesses.last().is_none_or(|last| last.key != sampled.key) {
        accesses.push(Access {
            key: sampled.key.clone(),
            position,
            ..Access::default()
        });
    }
    if let Some(access) = accesses.last_mut() {
        access.samples += 1;
        if sampled.write {
            access.writes += sampled.rate;
        } else {
            access.reads += sampled.rate;
        }
    }
}
