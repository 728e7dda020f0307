//! Verifying: every row, without a lock, by sums that each end computes of its own rows, so that no row goes over the
//! network for it. The sums do not depend on the order of rows; keys that are logged and not yet applied are left out
//! on both sides.

use crate::catalog::bounds::Bound;
use crate::catalog::journal::{self, Target};
use crate::error::{Error, Result};
use crate::migrate::away::apply;
use crate::migrate::away::capture;
use crate::migrate::away::ends::{End, Ends};
use crate::migrate::copy;
use crate::migrate::definition::{self, range_condition};
use crate::migrate::job::Job;
use crate::pg::txn::{self, Isolation};
use crate::pg::{guc, spi};
use std::time::{Duration, Instant};

/// Rows of one range: some tenths of a second.
const RANGE_ROWS: i64 = 50_000;

/// Number of rows and two sums of 64-bit hashes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sums {
    rows: String,
    low: String,
    high: String,
}

/// How far the comparison is.
pub struct Comparison {
    /// The target that is compared.
    target: usize,
    lower: Bound,
    row_bytes: f64,
    is_indexed: bool,
}

/// What comparing one range came to.
pub enum Compared {
    /// There is more; before that, wait this long to keep to `repart.max_copy_rate`.
    More(Duration),
    /// All rows are equal.
    All,
    /// The source was truncated, so that the log has to be applied first.
    Truncated,
}

impl Comparison {
    /// Begins with the lowest keys. Inside a transaction.
    pub fn begin(job: &Job, ends: &mut Ends) -> Result<Self> {
        let (rows, bytes) = super::copy::totals(ends)?;
        Ok(Self {
            target: 0,
            lower: target(job, 0)?.lower.clone(),
            row_bytes: bytes as f64 / rows.max(1) as f64,
            is_indexed: has_key_index(job, ends)?,
        })
    }

    /// Compares the next range. Outside of a transaction.
    pub fn next(&mut self, job: &Job, ends: &mut Ends) -> Result<Compared> {
        let begun = Instant::now();
        let mut again = false;
        let (upper, rows) = loop {
            let upper = txn::run(|| self.next_boundary(job, ends))?;
            let end = match &upper {
                Some(key) => Some(key.clone()),
                None => target(job, self.target)?.upper.clone(),
            };
            let range = range_condition(&job.key, self.lower.as_deref(), end.as_deref());
            let Some((source, target)) = compare(job, ends, self.target, &range)? else {
                return Ok(Compared::Truncated);
            };
            if source == target {
                break (upper, source.rows.parse::<f64>().unwrap_or(0.0));
            }
            let message = difference(job, &range, &source, &target);
            if again {
                return Err(Error::VerificationFailed(message));
            }
            again = true;
            txn::run(|| {
                let message = format!("{message}; copying the range again");
                journal::event("warning", Some(&job.migration), &message)
            })?;
            copy_again(job, ends, self.target, &range)?;
        };
        let bytes = (rows * self.row_bytes) as i64;
        let pause = copy::throttle(bytes, begun.elapsed().as_secs_f64());
        self.lower = match upper {
            Some(key) => Some(key),
            None => {
                self.target += 1;
                if self.target >= job.migration.spec.targets.len() {
                    return Ok(Compared::All);
                }
                target(job, self.target)?.lower.clone()
            }
        };
        Ok(Compared::More(pause))
    }

    /// The key that ends a range of some [`RANGE_ROWS`] rows; `None` where the rest is short.
    fn next_boundary(&self, job: &Job, ends: &mut Ends) -> Result<Bound> {
        if !self.is_indexed {
            // Every range would read the whole table.
            return Ok(None);
        }
        let column = spi::quote_identifier(&job.key.column);
        let upper = target(job, self.target)?.upper.clone();
        let mut condition = range_condition(&job.key, None, upper.as_deref());
        if let Some(lower) = &self.lower {
            let lower = format!("{}::{}", spi::quote_literal(lower), job.key.type_name);
            condition += &format!(" AND {}", job.key.before(&lower, &column));
        }
        let table = ends.target_tables.get(self.target).cloned();
        ends.target.begin()?;
        // Step by step along the index: a sort would read all that is left, for each step.
        for way in ["enable_sort", "enable_seqscan", "enable_bitmapscan"] {
            ends.target.set_local(way, "off")?;
        }
        let rows = ends.target.texts(
            &format!(
                "SELECT k::text FROM (SELECT {column} AS k FROM ONLY {} WHERE {condition}
                                       ORDER BY {} OFFSET {RANGE_ROWS} LIMIT 1) x",
                table.unwrap_or_default(),
                job.key.by(&column)
            ),
            1,
        )?;
        ends.target.commit()?;
        Ok(rows
            .into_iter()
            .next()
            .and_then(|mut row| row.pop().flatten()))
    }
}

fn target(job: &Job, n: usize) -> Result<&Target> {
    let target = job.migration.spec.targets.get(n);
    target.ok_or_else(|| Error::Internal("a target that is not there".to_owned()))
}

fn difference(job: &Job, range: &str, source: &Sums, target: &Sums) -> String {
    format!(
        "rows of table \"{}\" with {range} differ after the copy: {} rows in the source, {} in the target",
        job.migration.relation_name, source.rows, target.rows
    )
}

/// Whether there is an index led by the shard key.
fn has_key_index(job: &Job, ends: &mut Ends) -> Result<bool> {
    let sql = format!(
        "SELECT EXISTS (
             SELECT FROM pg_index i
               JOIN pg_class x ON x.oid = i.indexrelid
               JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = {}
              WHERE i.indrelid = {}::regclass AND i.indisvalid AND i.indpred IS NULL
                AND i.indcollation[0] = a.attcollation)::text",
        spi::quote_literal(&job.key.column),
        spi::quote_literal(ends.target_tables.first().cloned().unwrap_or_default())
    );
    Ok(ends.target.row(&sql, 1)?.pop().flatten().as_deref() == Some("true"))
}

/// The sums of a target's range at both ends, in one snapshot each, which differ by what is logged only. `None`:
/// truncated.
fn compare(job: &Job, ends: &mut Ends, n: usize, range: &str) -> Result<Option<(Sums, Sums)>> {
    let sums = txn::run_at(Isolation::RepeatableRead, || {
        ends.begin_snapshots()?;
        let sums = if capture::is_truncated(ends, None)? {
            None
        } else {
            let query = capture::logged_keys(job, ends);
            let keys = ends.send_keys(job, &query)?;
            let text = row_text(job)?;
            let of = |table: &String, logged: &str| {
                format!(
                    "SELECT {text} AS r FROM ONLY {table} t WHERE {range} AND NOT EXISTS (SELECT FROM {logged} l WHERE {})",
                    apply::matches(job, "t", "l")
                )
            };
            let logged = format!("(SELECT * FROM {} WHERE op = 'k')", ends.log);
            let here: Vec<String> = ends
                .source_tables
                .iter()
                .map(|table| of(table, &logged))
                .collect();
            let there = ends.target_tables.get(n).map(|table| of(table, &keys));
            Some((
                sums(&mut ends.source, &here.join(" UNION ALL "))?,
                sums(&mut ends.target, &there.unwrap_or_default())?,
            ))
        };
        ends.target.commit()?;
        ends.source.commit()?;
        Ok(sums)
    })?;
    ends.keep_keys();
    Ok(sums)
}

/// A row as text: any type has a text form.
fn row_text(job: &Job) -> Result<String> {
    let columns = definition::all_columns(job.migration.relation)?;
    Ok(format!("ROW({})::text COLLATE \"C\"", columns.join(", ")))
}

/// Sums over a subquery of one column `r`. OFFSET keeps it apart: else each row's text would be made twice.
fn sums(end: &mut End, rows: &str) -> Result<Sums> {
    let sql = format!(
        "SELECT count(*)::text, coalesce(sum(hashtextextended(r, 0)), 0)::text,
                coalesce(sum(hashtextextended(r, 1)), 0)::text FROM ({rows} OFFSET 0) x"
    );
    let row = guc::with_settings(&[("lc_monetary", "C")], || end.row(&sql, 3))?;
    let mut values = row.into_iter().map(Option::unwrap_or_default);
    let mut next = || values.next().unwrap_or_default();
    Ok(Sums {
        rows: next(),
        low: next(),
        high: next(),
    })
}

/// Replaces the rows of a target's range by what the sources have. What is logged meanwhile, the log brings.
fn copy_again(job: &Job, ends: &mut Ends, n: usize, range: &str) -> Result<()> {
    txn::run_at(Isolation::RepeatableRead, || {
        ends.begin_snapshots()?;
        if let Some(table) = ends.target_tables.get(n) {
            ends.target
                .run(&format!("DELETE FROM ONLY {table} WHERE {range}"))?;
        }
        let columns = definition::writable_columns(job.migration.relation)?.join(", ");
        let names = job.column_names()?;
        for source in ends.source_tables.clone() {
            let query = format!("SELECT {columns} FROM ONLY {source} WHERE {range}");
            ends.send_rows(n, &names, &query)?;
        }
        ends.target.commit()?;
        ends.source.commit()
    })
}

/// The last look, inside the switch: applies what is left of the log, compares the rows that it names, and commits on
/// the node, where nobody sees it before the switch is committed. Writers are kept out by the caller.
pub fn apply_and_compare_last(job: &Job, ends: &mut Ends) -> Result<()> {
    ends.target.begin()?;
    if apply::apply(job, ends)? > 0 {
        let keys = format!("pg_temp.repart_keys_{}", job.id());
        let text = row_text(job)?;
        let of = |tables: &[String], keys: &str| {
            let of_each: Vec<String> = tables
                .iter()
                .map(|table| {
                    format!(
                        "SELECT {text} AS r FROM {keys} l JOIN ONLY {table} t ON {}",
                        apply::matches(job, "t", "l")
                    )
                })
                .collect();
            of_each.join(" UNION ALL ")
        };
        let logged = format!("({})", capture::logged_keys(job, ends));
        let (here, there) = (
            of(&ends.source_tables, &logged),
            of(&ends.target_tables, &keys),
        );
        let (source, target) = (
            sums(&mut ends.source, &here)?,
            sums(&mut ends.target, &there)?,
        );
        if source != target {
            return Err(Error::VerificationFailed(format!(
                "the last changed rows of table \"{}\" differ: {} in the source, {} in the target",
                job.migration.relation_name, source.rows, target.rows
            )));
        }
    }
    ends.target.commit()
}
