//! What is counted of the shards on nodes: by PostgreSQL, the same as `catalog::samples` reads here, and where repart is
//! installed by its access sampler; asked there by the names that postgres_fdw uses. The counters are kept in memory:
//! after a restart of the watcher, the first answer is only remembered.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use repart_core::series::{self, Counters, Rates};

use crate::catalog::access::AccessCounters;
use crate::catalog::nodes::Placed;
use crate::catalog::replica_reads::Served;
use crate::catalog::samples::NewSample;
use crate::observe::{self, Accessed};
use crate::pg::libpq::Answer;
use crate::pg::spi;

/// What a server has counted of shards, by the foreign tables' OIDs.
pub type Counted = BTreeMap<u32, Count>;

/// What a server has counted of one shard.
pub struct Count {
    /// By PostgreSQL.
    statistics: Counters,
    /// Bytes, where that is known.
    size: Option<i64>,
    /// By the access sampler, where it runs.
    sampler: Option<AccessCounters>,
    /// The keys that it has sampled, as JSON, where that was asked.
    pub keys: Option<String>,
}

/// How the access sampler of a server is asked.
#[derive(Clone, Copy)]
pub struct Sampler<'s> {
    /// The function `repart_count_shard` there, as SQL writes it.
    pub function: &'s str,
    /// Whether to ask for keys too.
    pub with_keys: bool,
}

/// Asks for the counters of tables, by their place in the list. One that is not there, or is no table, is left out; the
/// size is NULL while reading it would wait for a lock.
pub fn question(placed: &[Placed], sampler: Option<Sampler>) -> String {
    let names: Vec<String> = placed
        .iter()
        .enumerate()
        .map(|(n, placed)| {
            let (schema, table) = (
                spi::quote_literal(&placed.schema),
                spi::quote_literal(&placed.table),
            );
            let key = spi::quote_literal(&placed.key);
            format!("({n}, {schema}, {table}, {key})")
        })
        .collect();
    let (counted, source) = sampler.map_or_else(
        || ("", String::new()),
        |sampler| {
            (
                COUNTED,
                format!(
                    " LEFT JOIN LATERAL {}(s.oid, s.key, {}) h ON true",
                    sampler.function, sampler.with_keys
                ),
            )
        },
    );
    format!(
        "WITH s AS MATERIALIZED (
             SELECT v.n, v.key, c.oid, c.reltoastrelid FROM (VALUES {}) v (n, nspname, relname, key)
               JOIN pg_catalog.pg_namespace m ON m.nspname = v.nspname
               JOIN pg_catalog.pg_class c ON c.relnamespace = m.oid AND c.relname = v.relname AND c.relkind = 'r'
         ), locked AS MATERIALIZED (
             SELECT coalesce(x.indrelid, l.relation) AS oid
               FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_index x ON x.indexrelid = l.relation
              WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.relation IS NOT NULL
         )
         SELECT s.n,
                pg_catalog.pg_stat_get_tuples_returned(s.oid)
                    + greatest(pg_catalog.pg_stat_get_tuples_fetched(s.oid) + x.fetched, x.returned),
                pg_catalog.pg_stat_get_tuples_inserted(s.oid) + pg_catalog.pg_stat_get_tuples_updated(s.oid)
                    + pg_catalog.pg_stat_get_tuples_deleted(s.oid),
                pg_catalog.pg_stat_get_blocks_fetched(s.oid) + x.blocks + t.blocks,
                CASE WHEN s.oid NOT IN (SELECT oid FROM locked) THEN pg_catalog.pg_total_relation_size(s.oid) END{counted}
           FROM s
          CROSS JOIN LATERAL (
                SELECT coalesce(sum(pg_catalog.pg_stat_get_tuples_fetched(i.indexrelid)), 0)::int8 AS fetched,
                       coalesce(sum(pg_catalog.pg_stat_get_tuples_returned(i.indexrelid)), 0)::int8 AS returned,
                       coalesce(sum(pg_catalog.pg_stat_get_blocks_fetched(i.indexrelid)), 0)::int8 AS blocks
                  FROM pg_catalog.pg_index i WHERE i.indrelid = s.oid) x
          CROSS JOIN LATERAL (
                SELECT CASE WHEN s.reltoastrelid = 0 THEN 0
                            ELSE pg_catalog.pg_stat_get_blocks_fetched(s.reltoastrelid)
                                 + (SELECT coalesce(sum(pg_catalog.pg_stat_get_blocks_fetched(i.indexrelid)), 0)::int8
                                      FROM pg_catalog.pg_index i WHERE i.indrelid = s.reltoastrelid) END AS blocks) t{source}",
        names.join(", ")
    )
}

/// Columns of what the access sampler has counted, after those of PostgreSQL's statistics.
const COUNTED: &str = ",
                (extract(epoch FROM h.since) * 1000000)::int8, h.statements_read, h.statements_written, h.rows_read,
                h.rows_written, h.bytes, h.busy_us, h.latency, h.keys";

/// What the access sampler of a node answered in a row; `None` where it does not run.
fn sampled(answer: &Answer, row: usize, at: i64) -> Option<AccessCounters> {
    let number = |column: usize| answer.get::<i64>(row, column);
    let latency = answer.get::<String>(row, 12)?;
    let latency = latency.trim_matches(['{', '}']).split(',');
    Some(AccessCounters {
        at,
        since: number(5)?,
        statements_read: number(6)?,
        statements_written: number(7)?,
        rows_read: number(8)?,
        rows_written: number(9)?,
        bytes: number(10)?,
        busy: number(11)?,
        latency: latency.map(|count| count.parse().unwrap_or(0)).collect(),
    })
}

/// What a node answered, at `at` by the clock here.
pub fn read(placed: &[Placed], answer: &Answer, at: i64) -> Counted {
    let mut counted = Counted::new();
    for row in 0..answer.len() {
        let place = answer.get::<usize>(row, 0).and_then(|n| placed.get(n));
        let counters = [1, 2, 3].map(|column| answer.get::<i64>(row, column));
        if let (Some(place), [Some(reads), Some(writes), Some(blocks)]) = (place, counters) {
            let now = Counters {
                at,
                reads,
                writes,
                blocks,
            };
            let count = Count {
                statistics: now,
                size: answer.get(row, 4),
                sampler: sampled(answer, row, at),
                keys: answer.get(row, 13),
            };
            counted.insert(place.shard.to_u32(), count);
        }
    }
    counted
}

impl Count {
    /// What was counted since an earlier answer; `None` where nothing can be said of that.
    fn since(&self, before: &Self) -> Option<(Rates, Option<Accessed>)> {
        let block_size = i64::from(pg_sys::BLCKSZ);
        let by_statistics = series::rates(&before.statistics, &self.statistics, block_size);
        let both = self.sampler.as_ref().zip(before.sampler.as_ref());
        let accessed = both.and_then(|(now, before)| observe::access_rates(now, before));
        let rows = accessed.as_ref().map(|accessed| accessed.rows);
        Some((rows.or(by_statistics)?, accessed))
    }
}

/// What a replica of this server has served since it was last asked.
pub fn served(now: &Counted, before: &Counted) -> Vec<(pg_sys::Oid, Served)> {
    let of_shard = |(shard, count): (&u32, &Count)| {
        let (rates, accessed) = count.since(before.get(shard)?)?;
        let served = Served {
            rows: rates.reads * rates.seconds,
            bytes: rates.bytes * rates.seconds,
            statements: accessed.map(|accessed| accessed.statements()),
        };
        Some((pg_sys::Oid::from(*shard), served))
    };
    now.iter().filter_map(of_shard).collect()
}

/// The load of shards, summed over the servers that serve them.
#[derive(Default)]
pub struct Load {
    /// Of primaries.
    samples: BTreeMap<u32, NewSample>,
    /// Rows and bytes that replicas read per second.
    replicas: BTreeMap<u32, (f64, f64)>,
    /// What the samplers of all of them counted.
    accessed: BTreeMap<u32, Accessed>,
}

impl Load {
    /// Adds what a server counted since it was last asked.
    pub fn add(&mut self, now: &Counted, before: &Counted, is_replica: bool) {
        for (shard, count) in now {
            let Some(previous) = before.get(shard) else {
                continue;
            };
            let Some((rates, accessed)) = count.since(previous) else {
                continue;
            };
            if let Some(accessed) = accessed {
                match self.accessed.get_mut(shard) {
                    Some(sum) => sum.add_statements(&accessed),
                    None => {
                        self.accessed.insert(*shard, accessed);
                    }
                }
            }
            if is_replica {
                let sum = self.replicas.entry(*shard).or_default();
                sum.0 += rates.reads;
                sum.1 += rates.bytes;
            } else {
                let sample = NewSample {
                    shard: pg_sys::Oid::from(*shard),
                    at: count.statistics.at,
                    seconds: rates.seconds,
                    reads: rates.reads,
                    writes: rates.writes,
                    bytes: rates.bytes,
                    size: count.size,
                    access: None,
                };
                self.samples.insert(*shard, sample);
            }
        }
    }

    /// One sample of each shard whose primary answered.
    pub fn samples(mut self) -> Vec<NewSample> {
        for (shard, (reads, bytes)) in self.replicas {
            if let Some(sample) = self.samples.get_mut(&shard) {
                sample.reads += reads;
                sample.bytes += bytes;
            }
        }
        for (shard, accessed) in self.accessed {
            if let Some(sample) = self.samples.get_mut(&shard) {
                sample.access = Some(accessed.rates());
            }
        }
        self.samples.into_values().collect()
    }
}
