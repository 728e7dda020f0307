//! How the keys of a shard are distributed: where a boundary would halve its rows.
//!
//! PostgreSQL's own statistics of the shard are used where they are fresh; otherwise some pages are read.
//! Either way SQL compares the keys, by the operator and collation of the partition key, and runs as the
//! shard's owner, since it runs the key type's functions.

use pgrx::pg_sys;
use repart_core::heat::{self, Bucket, CommonKey};

use crate::catalog::shards::{Shard, ShardKey};
use crate::error::{Error, Result};
use crate::pg::{guc, relation, role, spi};

/// How many buckets a shard is divided into: a boundary is off by at most half of 1/64 of the rows.
const BUCKETS: usize = 64;

/// Keys that are read from a shard: enough for [`BUCKETS`] of them.
const SAMPLE_ROWS: f64 = 3_000.0;

/// Pages that are read at most, 2.4 MB, and at least where there are as many: keys of one page tend to be
/// alike, so a few pages say little however many rows they hold.
const SAMPLE_PAGES: f64 = 300.0;

/// Statistics count as stale when this share of the rows changed since, or the table grew by as much.
const STALE: f64 = 0.2;

/// How fresh the statistics of a shard are.
struct Freshness {
    /// Rows by the last ANALYZE or VACUUM; `None` for never.
    rows: Option<f64>,
    /// Pages then.
    pages_then: f64,
    /// Pages now.
    pages: f64,
    /// Rows changed since the last ANALYZE.
    changed: f64,
}

impl Freshness {
    fn is_stale(&self) -> bool {
        let Some(rows) = self.rows else { return true };
        self.changed > STALE * rows + 50.0
            || (self.pages - self.pages_then).abs() > STALE * self.pages_then + 8.0
    }
}

/// Equal-depth buckets of a shard's keys; none where it is empty. Load is taken to follow the rows. Of a shard on a node
/// they are known where somebody has analyzed it here: its pages are elsewhere.
pub fn buckets(key: &ShardKey, shard: &Shard) -> Result<Vec<Bucket>> {
    if shard.is_foreign {
        return role::as_owner(relation::owner(shard.oid)?, || {
            guc::with_transmission_modes(|| from_statistics(key, shard))
        });
    }
    let freshness = freshness(shard.oid)?;
    let owner = relation::owner(shard.oid)?;
    role::as_owner(owner, || {
        guc::with_transmission_modes(|| {
            if !freshness.is_stale() {
                let found = from_statistics(key, shard)?;
                if !found.is_empty() {
                    return Ok(found);
                }
            }
            guc::without_counting(|| from_rows(key, shard, &freshness))
        })
    })
}

fn freshness(shard: pg_sys::Oid) -> Result<Freshness> {
    let found = spi::select_first(
        "SELECT nullif(reltuples, -1)::float8, relpages::float8,
                (pg_catalog.pg_relation_size(oid) / pg_catalog.current_setting('block_size')::int8)::float8,
                pg_catalog.pg_stat_get_mod_since_analyze(oid)::float8
           FROM pg_catalog.pg_class WHERE oid = $1",
        &[shard.into()],
        |row| {
            Ok(Freshness {
                rows: row.optional(1)?,
                pages_then: row.get(2)?,
                pages: row.optional(3)?.unwrap_or(0.0),
                changed: row.optional(4)?.unwrap_or(0.0),
            })
        },
    )?;
    found.ok_or_else(|| Error::Internal("a shard vanished".to_owned()))
}

/// From `pg_stats`: the histogram, with the most common keys put in their places.
fn from_statistics(key: &ShardKey, shard: &Shard) -> Result<Vec<Bucket>> {
    let statistics = format!(
        "WITH s AS MATERIALIZED (
             SELECT histogram_bounds::text::{0}[] AS bounds, most_common_vals::text::{0}[] AS common,
                    most_common_freqs AS frequencies
               FROM pg_catalog.pg_stats
              WHERE schemaname = $3 AND tablename = $4 AND attname = $5 AND NOT inherited)",
        key.type_name
    );
    let arguments = [
        shard.lower.clone().into(),
        shard.upper.clone().into(),
        shard.schema.as_str().into(),
        shard.name.as_str().into(),
        key.column.as_str().into(),
    ];
    let bounds = spi::select(
        &format!(
            "{statistics} SELECT pg_catalog.format('%s', u.b) FROM s, unnest(s.bounds) WITH ORDINALITY u (b, n)
              WHERE {} ORDER BY u.n",
            key.inside("u.b")
        ),
        &arguments,
        |row| row.get::<String>(1),
    )?;
    let common = spi::select(
        &format!(
            "{statistics} SELECT pg_catalog.format('%s', u.v), u.f::float8,
                    (SELECT count(*) FROM unnest(s.bounds) b (b) WHERE {} AND {})
               FROM s, unnest(s.common, s.frequencies) u (v, f) WHERE {} ORDER BY {}",
            key.before("b.b", "u.v"),
            key.inside("b.b"),
            key.inside("u.v"),
            key.by("u.v")
        ),
        &arguments,
        |row| {
            let position = usize::try_from(row.get::<i64>(3)?).unwrap_or(0);
            Ok(CommonKey {
                key: row.get(1)?,
                frequency: row.get(2)?,
                position,
            })
        },
    )?;
    Ok(heat::buckets_from_histogram(&bounds, &common, BUCKETS))
}

/// From rows: all of a small shard, some pages of a large one, thinned out to some [`SAMPLE_ROWS`].
fn from_rows(key: &ShardKey, shard: &Shard, freshness: &Freshness) -> Result<Vec<Bucket>> {
    let pages = freshness.pages.max(1.0);
    let percent = (100.0 * SAMPLE_PAGES / pages).min(100.0);
    let table = spi::quote_qualified_identifier(&shard.schema, &shard.name);
    let column = spi::quote_identifier(&key.column);
    let per_page = freshness
        .rows
        .filter(|_| freshness.pages_then > 0.0)
        .map(|rows| rows / freshness.pages_then);
    let expected = per_page.unwrap_or(0.0) * pages.min(SAMPLE_PAGES);
    let keep_each = (expected / SAMPLE_ROWS).floor().max(1.0) as i64;
    let sql = format!(
        "SELECT pg_catalog.format('%s', k.key)
           FROM (SELECT {column} AS key, pg_catalog.row_number() OVER () AS number
                   FROM ONLY {table} TABLESAMPLE SYSTEM ($3) REPEATABLE (0)) k
          WHERE k.number % $4 = 0 AND {} ORDER BY {}",
        key.inside("k.key"),
        key.by("k.key")
    );
    let arguments = [
        shard.lower.clone().into(),
        shard.upper.clone().into(),
        percent.into(),
        keep_each.into(),
    ];
    let keys = spi::query(&sql, &arguments, |row| row.get::<String>(1))?;
    Ok(heat::from_sorted_sample(&keys, BUCKETS))
}
