//! The history of a shard: its own samples, and before it was made those of the shards it was made of.

use std::collections::{HashMap, HashSet};

use pgrx::pg_sys;
use repart_core::series::{self, Sample};

use crate::catalog::lineage::{self, Link};
use crate::catalog::samples::{self, Stored};
use crate::error::Result;

/// Links of one shard that are less apart than this were made by one migration, µs. (A cutover takes
/// milliseconds, and no shard is migrated twice within a second.)
const ONE_MIGRATION: i64 = 1_000_000;

/// Generations that history is followed through: with any dwell time more are older than the retention.
const GENERATIONS: usize = 64;

/// What is observed and forecast of a shard, per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Rows read.
    Reads,
    /// Rows written.
    Writes,
    /// Bytes accessed.
    Bytes,
    /// Rows read and written: what a plan goes by.
    Load,
}

impl Metric {
    /// Those that users ask for.
    pub const SHOWN: [Metric; 3] = [Metric::Reads, Metric::Writes, Metric::Bytes];
    /// Those that are stored.
    pub const ALL: [Metric; 4] = [Metric::Reads, Metric::Writes, Metric::Bytes, Metric::Load];

    /// Its name in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Bytes => "bytes",
            Self::Load => "load",
        }
    }

    fn samples(self, stored: &Stored) -> Vec<Sample> {
        let value = |(reads, writes): (&f64, &f64)| reads + writes;
        let values: Vec<f64> = match self {
            Self::Reads => stored.reads.clone(),
            Self::Writes => stored.writes.clone(),
            Self::Bytes => stored.bytes.clone(),
            Self::Load => stored.reads.iter().zip(&stored.writes).map(value).collect(),
        };
        let spans = stored.at.iter().zip(&stored.seconds);
        spans
            .zip(values)
            .map(|((at, seconds), value)| Sample {
                at: *at,
                seconds: *seconds,
                value,
            })
            .collect()
    }
}

/// The history of one shard and of all that it was made of.
pub struct History {
    shard: pg_sys::Oid,
    links: Vec<Link>,
    stored: HashMap<pg_sys::Oid, Stored>,
}

impl History {
    /// The samples of one metric, ascending by time.
    pub fn samples(&self, metric: Metric) -> Vec<Sample> {
        self.joined(self.shard, i64::MAX, metric, GENERATIONS)
    }

    /// The samples of a shard up to `until`. What was made before counts as it was then, so that a shard
    /// that kept its table when it was split can be its own ancestor.
    fn joined(
        &self,
        shard: pg_sys::Oid,
        until: i64,
        metric: Metric,
        generations: usize,
    ) -> Vec<Sample> {
        let own = self
            .stored
            .get(&shard)
            .map(|stored| metric.samples(stored))
            .unwrap_or_default();
        let (born_at, parents) = self.birth(shard, until);
        if parents.is_empty() || generations == 0 {
            return own;
        }
        let inherited: Vec<(f64, Vec<Sample>)> = parents
            .iter()
            .map(|link| {
                (
                    link.share,
                    self.joined(link.ancestor, born_at, metric, generations - 1),
                )
            })
            .collect();
        let borrowed: Vec<(f64, &[Sample])> = inherited
            .iter()
            .map(|(share, past)| (*share, past.as_slice()))
            .collect();
        // It kept its table, or a revert brought it back: earlier samples are its own, not imported.
        let was_there_before = self
            .links
            .iter()
            .any(|link| link.ancestor == shard && link.at <= born_at);
        let own_from = match beginning(&own) {
            Some(imported) if !was_there_before => born_at.min(imported),
            _ => born_at,
        };
        series::inherit(&own, &borrowed, own_from)
    }

    /// When the shard was last made before `until`, and of what.
    fn birth(&self, shard: pg_sys::Oid, until: i64) -> (i64, Vec<Link>) {
        let links: Vec<Link> = self
            .links
            .iter()
            .copied()
            .filter(|link| link.shard == shard && link.at < until)
            .collect();
        let born_at = links.iter().map(|link| link.at).max().unwrap_or(i64::MIN);
        let of_birth = |link: &Link| link.at > born_at.saturating_sub(ONE_MIGRATION);
        (born_at, links.into_iter().filter(of_birth).collect())
    }
}

/// When the first sample begins. What a shard has from before it was made was imported for it, and says
/// more than what it would inherit.
fn beginning(samples: &[Sample]) -> Option<i64> {
    let begins = samples
        .iter()
        .map(|sample| sample.at.saturating_sub((sample.seconds * 1e6) as i64));
    begins.min()
}

/// The history of one shard after `since` (µs since the Unix epoch), through all generations.
pub fn history(shard: pg_sys::Oid, since: i64) -> Result<History> {
    let links = lineage::of(&[shard])?;
    of_family(shard, &links, since)
}

/// As [`history`], with the links of (at least) this shard and its ancestors known already.
pub fn of_family(shard: pg_sys::Oid, links: &[Link], since: i64) -> Result<History> {
    let family = family(shard, links);
    let links = links
        .iter()
        .copied()
        .filter(|link| family.contains(&link.shard))
        .collect();
    let members: Vec<pg_sys::Oid> = family.into_iter().collect();
    let stored = samples::of(&members, since)?.into_iter().collect();
    Ok(History {
        shard,
        links,
        stored,
    })
}

/// A shard and its ancestors.
fn family(shard: pg_sys::Oid, links: &[Link]) -> HashSet<pg_sys::Oid> {
    let mut family = HashSet::from([shard]);
    let mut pending = vec![shard];
    while let Some(member) = pending.pop() {
        for link in links.iter().filter(|link| link.shard == member) {
            if family.insert(link.ancestor) {
                pending.push(link.ancestor);
            }
        }
    }
    family
}
