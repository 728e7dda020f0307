//! Which rows go where: the key ranges that sources and targets have in common, and how many rows are in
//! them.

use crate::catalog::bounds::Bound;
use crate::catalog::journal::{Kind, Source, Spec};
use crate::catalog::shards::ShardKey;
use crate::error::{Error, Result};
use crate::migrate::definition::range_condition;
use crate::migrate::job::Job;
use crate::pg::{guc, relation, role, spi};

/// The keys that a source and a target have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Ordinal of the source.
    pub source: usize,
    /// Ordinal of the target.
    pub target: usize,
    /// The lowest key; `None` for MINVALUE.
    pub lower: Bound,
    /// The first key above; `None` for MAXVALUE.
    pub upper: Bound,
}

impl Overlap {
    /// The condition that a key lies in it.
    pub fn condition(&self, key: &ShardKey) -> String {
        range_condition(key, self.lower.as_deref(), self.upper.as_deref())
    }
}

/// Every pair of source and target that have keys in common, ascending.
pub fn overlaps(job: &Job) -> Result<Vec<Overlap>> {
    let spec = &job.migration.spec;
    let ranks = role::as_owner(job.owner, || ranks(&job.key, spec))?;
    let low = |bound: &Bound| rank(&ranks, bound, i64::MIN);
    let high = |bound: &Bound| rank(&ranks, bound, i64::MAX);
    let mut found = Vec::new();
    for (s, source) in spec.sources.iter().enumerate() {
        for (t, target) in spec.targets.iter().enumerate() {
            let from_target = low(&target.lower)? > low(&source.lower)?;
            let to_target = high(&target.upper)? < high(&source.upper)?;
            let lower = if from_target {
                &target.lower
            } else {
                &source.lower
            };
            let upper = if to_target {
                &target.upper
            } else {
                &source.upper
            };
            if low(lower)? < high(upper)? {
                found.push(Overlap {
                    source: s,
                    target: t,
                    lower: lower.clone(),
                    upper: upper.clone(),
                });
            }
        }
    }
    Ok(found)
}

/// Every bound with its rank in the key's order; PostgreSQL compares them.
fn ranks(key: &ShardKey, spec: &Spec) -> Result<Vec<(String, i64)>> {
    let of_sources = spec.sources.iter().flat_map(|s| [&s.lower, &s.upper]);
    let of_targets = spec.targets.iter().flat_map(|t| [&t.lower, &t.upper]);
    let bounds: Vec<String> = of_sources.chain(of_targets).flatten().cloned().collect();
    let value = format!("b::{}", key.type_name);
    let sql = format!(
        "SELECT b, pg_catalog.rank() OVER (ORDER BY {}) FROM unnest($1::text[]) b",
        key.by(&value)
    );
    spi::select(&sql, &[bounds.into()], |row| Ok((row.get(1)?, row.get(2)?)))
}

fn rank(ranks: &[(String, i64)], bound: &Bound, open: i64) -> Result<i64> {
    let Some(bound) = bound else { return Ok(open) };
    ranks
        .iter()
        .find(|(literal, _)| literal == bound)
        .map(|(_, rank)| *rank)
        .ok_or_else(|| Error::Internal(format!("bound {bound} has no rank")))
}

/// How many rows of a source lie in a range, counted through the index: at most `most`.
pub fn count(job: &Job, table: &str, condition: &str, most: i64) -> Result<i64> {
    through_index();
    let sql = format!(
        "SELECT count(*) FROM (SELECT FROM ONLY {table} WHERE {condition} LIMIT {}) x",
        most.max(0)
    );
    Ok(role::as_owner(job.owner, || spi::query_value(&sql, &[]))?.unwrap_or(0))
}

/// How many rows the planner takes a condition to be true for: an estimate from the statistics and the size.
pub fn estimate(job: &Job, table: &str, condition: &str) -> Result<f64> {
    let sql = format!("EXPLAIN (FORMAT JSON) SELECT FROM ONLY {table} WHERE {condition}");
    let plan = role::as_owner(job.owner, || spi::query_value::<pgrx::Json>(&sql, &[]))?;
    let rows = plan
        .as_ref()
        .and_then(|plan| plan.0.pointer("/0/Plan/Plan Rows")?.as_f64());
    rows.ok_or_else(|| Error::Internal("a plan without a number of rows".to_owned()))
}

/// How large a source is.
pub struct Size {
    /// Rows, an estimate; at least 1.
    pub rows: f64,
    /// Bytes of one in the table itself.
    pub row_bytes: f64,
}

impl Size {
    /// Of a source, wherever it is now.
    pub fn of(job: &Job, source: &Source) -> Result<Self> {
        let rows = estimate(job, &relation::name(source.relation())?, "true")?.max(1.0);
        let bytes = spi::query_value::<i64>(
            "SELECT pg_catalog.pg_relation_size($1::oid)",
            &[source.relation().into()],
        )?;
        let row_bytes = bytes.unwrap_or(0) as f64 / rows;
        Ok(Self { rows, row_bytes })
    }
}

/// A key above `lower` (or above everything) that some `rows` rows are below, in the range that the condition
/// describes; `None` where the rest is shorter. Always greater than `lower`, however many rows share a key, so
/// that whoever goes from one to the next gets on.
pub fn next_key(
    job: &Job,
    table: &str,
    lower: Option<&str>,
    upper: Option<&str>,
    rows: i64,
) -> Result<Bound> {
    let column = spi::quote_identifier(&job.key.column);
    let mut condition = range_condition(&job.key, None, upper);
    if let Some(lower) = lower {
        let lower = format!("{}::{}", spi::quote_literal(lower), job.key.type_name);
        condition += &format!(" AND {}", job.key.before(&lower, &column));
    }
    let sql = format!(
        "SELECT k::text FROM (SELECT {column} AS k FROM ONLY {table} WHERE {condition}
                               ORDER BY {} OFFSET {rows} LIMIT 1) x",
        job.key.by(&column)
    );
    // Step by step along the index: a sort would read all that is left, for each step.
    let stepwise = ["enable_sort", "enable_seqscan", "enable_bitmapscan"].map(|way| (way, "off"));
    role::as_owner(job.owner, || {
        guc::with_settings(&stepwise, || spi::value::<String>(&sql, &[]))
    })
}

/// From here to the end of the transaction, an index is used wherever one can be.
pub fn through_index() {
    guc::set_for_transaction("enable_seqscan", "off");
}

/// Whether there is an index through which a range of keys is found: led by the shard key, in its order.
pub fn has_key_index(job: &Job, source: &Source) -> Result<bool> {
    let found = spi::value::<bool>(
        "SELECT EXISTS (
             SELECT FROM pg_catalog.pg_index i
               JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
               JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = 'btree'
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
               JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0]
               JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = $3
               JOIN pg_catalog.pg_opclass k ON k.oid = p.partclass[0] AND k.opcfamily = o.opcfamily
              WHERE i.indrelid = $1 AND i.indisvalid AND i.indisready AND i.indpred IS NULL AND a.attname = $2
                AND i.indcollation[0] = p.partcollation[0] AND a.attcollation = p.partcollation[0])",
        &[
            source.relation().into(),
            job.key.column.as_str().into(),
            job.migration.relation.into(),
        ],
    )?;
    Ok(found.unwrap_or(false))
}

/// Whether the migration may keep tables at all: one that changes the place of a shard must write it anew.
pub fn may_keep(job: &Job) -> bool {
    job.migration.kind != Kind::Move
}
