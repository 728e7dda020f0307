//! What PostgreSQL counts of the shards on nodes: the same as `catalog::samples` reads here, asked there by the names
//! that postgres_fdw uses. The counters are kept in memory: after a restart of the watcher, the first answer is only
//! remembered.

use std::collections::BTreeMap;

use pgrx::pg_sys;
use repart_core::series::{self, Counters};

use crate::catalog::nodes::Placed;
use crate::catalog::samples::NewSample;
use crate::pg::libpq::Answer;
use crate::pg::spi;

/// Counters of shards, and their sizes where they are known, by the foreign tables' OIDs.
pub type Counted = BTreeMap<u32, (Counters, Option<i64>)>;

/// Asks for the counters of tables, by their place in the list. One that is not there, or is no table, is left out; the
/// size is NULL while reading it would wait for a lock.
pub fn question(placed: &[Placed]) -> String {
    let names: Vec<String> = placed
        .iter()
        .enumerate()
        .map(|(n, placed)| {
            let (schema, table) = (
                spi::quote_literal(&placed.schema),
                spi::quote_literal(&placed.table),
            );
            format!("({n}, {schema}, {table})")
        })
        .collect();
    format!(
        "WITH s AS MATERIALIZED (
             SELECT v.n, c.oid, c.reltoastrelid FROM (VALUES {}) v (n, nspname, relname)
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
                CASE WHEN s.oid NOT IN (SELECT oid FROM locked) THEN pg_catalog.pg_total_relation_size(s.oid) END
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
                                      FROM pg_catalog.pg_index i WHERE i.indrelid = s.reltoastrelid) END AS blocks) t",
        names.join(", ")
    )
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
            counted.insert(place.shard.to_u32(), (now, answer.get(row, 4)));
        }
    }
    counted
}

/// The load of shards, summed over the servers that serve them.
#[derive(Default)]
pub struct Load {
    /// Of primaries.
    samples: BTreeMap<u32, NewSample>,
    /// Rows and bytes that replicas read per second.
    replicas: BTreeMap<u32, (f64, f64)>,
}

impl Load {
    /// Adds what a server counted since it was last asked.
    pub fn add(&mut self, now: &Counted, before: &Counted, is_replica: bool) {
        for (shard, (counters, size)) in now {
            let previous = before.get(shard).map(|(counters, _)| counters);
            let block_size = i64::from(pg_sys::BLCKSZ);
            let Some(rates) =
                previous.and_then(|previous| series::rates(previous, counters, block_size))
            else {
                continue;
            };
            if is_replica {
                let sum = self.replicas.entry(*shard).or_default();
                sum.0 += rates.reads;
                sum.1 += rates.bytes;
            } else {
                let sample = NewSample {
                    shard: pg_sys::Oid::from(*shard),
                    at: counters.at,
                    seconds: rates.seconds,
                    reads: rates.reads,
                    writes: rates.writes,
                    bytes: rates.bytes,
                    size: *size,
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
        self.samples.into_values().collect()
    }
}
