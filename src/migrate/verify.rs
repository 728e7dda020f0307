//! Verifying: every row, not a sample, without a lock.
//!
//! Sources and target are compared key range by key range, each in one snapshot, leaving out the keys that are
//! logged and not yet applied there. Ranges are found through an index, and joined by key, row with row; without
//! such an index there is but one range, the whole target, of which two 64-bit sums of row hashes are compared: they
//! do not depend on the order of rows, and need no memory. A range that differs is copied again once; if it differs
//! again, the migration fails.

use std::time::{Duration, Instant};

use crate::catalog::journal::{self, Target};
use crate::error::{Error, Result};
use crate::migrate::job::Job;
use crate::migrate::{capture, copy, definition, flows, names};
use crate::pg::txn::{self, Isolation};
use crate::pg::{background, guc, role, spi};

/// Rows of one range: some tenths of a second.
const RANGE_ROWS: i64 = 50_000;

/// Number of rows and sums of their hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sums {
    rows: i64,
    low: String,
    high: String,
}

/// What a comparison found: numbers of rows, and whether all are equal.
struct Compared {
    source: i64,
    target: i64,
    is_equal: bool,
}

/// One key range of a target.
struct Range {
    lower: Option<String>,
    upper: Option<String>,
}

/// Compares all rows; each range in a transaction of its own, with `between` called after each, with the
/// time it took.
/// `Ok(false)`: a source was truncated meanwhile, so that the log has to be applied first.
pub fn all(job: &Job, mut between: impl FnMut(Duration) -> Result<()>) -> Result<bool> {
    for (n, target) in job.rebuilt_targets() {
        let mut lower = target.lower.clone();
        let row_bytes = txn::run(|| bytes_per_row(job, n))?;
        loop {
            background::check_for_interrupts();
            let begun = Instant::now();
            let upper = txn::run(|| next_boundary(job, n, target, lower.as_deref()))?;
            let range = Range {
                lower,
                upper: upper.clone().or_else(|| target.upper.clone()),
            };
            let Some(rows) = verify_range(job, n, &range)? else {
                return Ok(false);
            };
            between(begun.elapsed())?;
            // Reading as much again as the copy did, it keeps to the same rate.
            let bytes = (rows as f64 * row_bytes) as i64;
            let pause = copy::throttle(bytes, begun.elapsed().as_secs_f64());
            if !pause.is_zero() {
                background::wait(pause);
            }
            match upper {
                Some(key) => lower = Some(key),
                None => break,
            }
        }
    }
    Ok(true)
}

/// The average size of a row in the table itself; its indexes were just built, which counts its rows.
fn bytes_per_row(job: &Job, n: usize) -> Result<f64> {
    let sql = "SELECT pg_catalog.pg_relation_size(oid) / greatest(reltuples, 1)::float8
                 FROM pg_catalog.pg_class WHERE oid = $1::regclass";
    Ok(spi::value(sql, &[job.target_name(n).into()])?.unwrap_or(0.0))
}

/// Returns the number of rows, once they are equal; `None` when a source was truncated.
fn verify_range(job: &Job, n: usize, range: &Range) -> Result<Option<i64>> {
    let mut again = false;
    loop {
        let compared = txn::run_at(Isolation::RepeatableRead, || {
            if capture::truncated(&job.migration)? {
                return Ok(None);
            }
            let first = job.migration.spec.first_source()?;
            Ok(Some(if flows::has_key_index(job, first)? {
                compare_rows(job, n, range)?
            } else {
                compare_sums(job, n, range)?
            }))
        })?;
        let Some(compared) = compared else {
            return Ok(None);
        };
        if compared.is_equal {
            return Ok(Some(compared.target));
        }
        let message = difference(job, range, &compared);
        if again {
            return Err(Error::VerificationFailed(message));
        }
        again = true;
        txn::run(|| {
            journal::event(
                "warning",
                Some(&job.migration),
                &format!("{message}; copying the range again"),
            )
        })?;
        txn::run_at(Isolation::RepeatableRead, || copy_again(job, n, range))?;
    }
}

fn difference(job: &Job, range: &Range, compared: &Compared) -> String {
    let end = |bound: &Option<String>, open: &str| bound.clone().unwrap_or_else(|| open.to_owned());
    format!(
        "rows of table \"{}\" with {} from {} to {} differ after the copy: {} rows in the source, {} in the target",
        job.migration.relation_name,
        job.key.column,
        end(&range.lower, "MINVALUE"),
        end(&range.upper, "MAXVALUE"),
        compared.source,
        compared.target
    )
}

/// The key that ends a range of some [`RANGE_ROWS`] rows from `lower` on; `None` where the rest is short.
fn next_boundary(
    job: &Job,
    n: usize,
    target: &Target,
    lower: Option<&str>,
) -> Result<Option<String>> {
    if !flows::has_key_index(job, job.migration.spec.first_source()?)? {
        // Every range would scan the whole target.
        return Ok(None);
    }
    let upper = target.upper.as_deref();
    flows::next_key(job, &job.target_name(n), lower, upper, RANGE_ROWS)
}

/// By key, row with row: `*<>` compares images, so that values that are merely equal to their type, such as 1.0 and
/// 1.00, do not pass.
fn compare_rows(job: &Job, n: usize, range: &Range) -> Result<Compared> {
    // Both sides come in key order from an index. A hash table of one of them would cost more, and spill.
    guc::set_for_transaction("enable_hashjoin", "off");
    let columns = definition::all_columns(job.first_source()?)?;
    let row = |side: &str| {
        let columns: Vec<String> = columns.iter().map(|c| format!("{side}.{c}")).collect();
        format!("ROW({})::record", columns.join(", "))
    };
    let keys: Vec<String> = job
        .identity
        .iter()
        .map(|column| spi::quote_identifier(&column.name))
        .collect();
    let matches: Vec<String> = keys.iter().map(|k| format!("s.{k} = t.{k}")).collect();
    let first = keys
        .first()
        .ok_or_else(|| Error::Internal("a table without identity".to_owned()))?;
    let columns = columns.join(", ");
    let sql = format!(
        "SELECT count(s.{first}), count(t.{first}), count(*) FILTER (WHERE {} *<> {}) = 0
           FROM ({}) s FULL JOIN ({}) t ON {}",
        row("s"),
        row("t"),
        of_sources(job, &columns, range).join(" UNION ALL "),
        unlogged_rows(job, &columns, &job.target_name(n), range),
        matches.join(" AND "),
    );
    role::as_owner(job.owner, || {
        spi::select_first(&sql, &[], |row| {
            Ok(Compared {
                source: row.get(1)?,
                target: row.get(2)?,
                is_equal: row.get(3)?,
            })
        })
    })?
    .ok_or_else(|| Error::Internal("an aggregate without a row".to_owned()))
}

fn compare_sums(job: &Job, n: usize, range: &Range) -> Result<Compared> {
    let text = format!("{} AS r", row_text(job)?);
    let source = sums(job, &of_sources(job, &text, range).join(" UNION ALL "))?;
    let target = sums(job, &unlogged_rows(job, &text, &job.target_name(n), range))?;
    Ok(Compared {
        source: source.rows,
        target: target.rows,
        is_equal: source == target,
    })
}

/// [`unlogged_rows`] of each source.
fn of_sources(job: &Job, columns: &str, range: &Range) -> Vec<String> {
    job.migration
        .spec
        .sources
        .iter()
        .map(|source| unlogged_rows(job, columns, &source.qualified(), range))
        .collect()
}

/// Rows of the range whose key is not logged.
fn unlogged_rows(job: &Job, columns: &str, table: &str, range: &Range) -> String {
    format!(
        "SELECT {columns} FROM ONLY {table} t WHERE {} AND NOT EXISTS (SELECT FROM {} l WHERE l.op = 'k' AND {})",
        definition::range_condition(&job.key, range.lower.as_deref(), range.upper.as_deref()),
        names::log(job.id()),
        capture::key_matches(&job.identity, "t", "l"),
    )
}

/// A row as text: any type has a text form.
fn row_text(job: &Job) -> Result<String> {
    let columns = definition::all_columns(job.first_source()?)?;
    Ok(format!("ROW({})::text COLLATE \"C\"", columns.join(", ")))
}

/// Sums over a subquery of one column `r`. OFFSET keeps it apart: else each row's text would be made twice.
fn sums(job: &Job, rows: &str) -> Result<Sums> {
    let sql = format!(
        "SELECT count(*), coalesce(sum(hashtextextended(r, 0)), 0)::text, coalesce(sum(hashtextextended(r, 1)), 0)::text
           FROM ({rows} OFFSET 0) x"
    );
    role::as_owner(job.owner, || {
        spi::select_first(&sql, &[], |row| {
            Ok(Sums {
                rows: row.get(1)?,
                low: row.get(2)?,
                high: row.get(3)?,
            })
        })
    })?
    .ok_or_else(|| Error::Internal("an aggregate without a row".to_owned()))
}

fn copy_again(job: &Job, n: usize, range: &Range) -> Result<()> {
    let columns = job.writable_columns()?;
    let condition =
        definition::range_condition(&job.key, range.lower.as_deref(), range.upper.as_deref());
    role::as_owner(job.owner, || {
        spi::execute(&format!(
            "DELETE FROM ONLY {} WHERE {condition}",
            job.target_name(n)
        ))?;
        for source in &job.migration.spec.sources {
            spi::execute(&format!(
                "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM ONLY {} WHERE {condition}",
                job.target_name(n),
                source.qualified()
            ))?;
        }
        Ok(())
    })
}

/// The last look, inside the switch: applies what is left of the log and compares the rows it names.
/// Writers are kept out by the caller's locks; the log itself is dropped later.
pub fn apply_and_compare_last(job: &Job) -> Result<()> {
    if capture::pending(&job.migration)? == 0 {
        return Ok(());
    }
    super::catch_up::apply(job)?;
    let targets: Vec<(usize, String)> = job
        .rebuilt_targets()
        .map(|(n, target)| (n, format!("({})", job.belongs_to(target))))
        .collect();
    if targets.is_empty() {
        return Ok(());
    }
    // Rows of ranges that stay in their table have no copy to be compared with.
    let ranges: Vec<&str> = targets.iter().map(|(_, range)| range.as_str()).collect();
    let ranges = ranges.join(" OR ");
    let keys = capture::logged_keys(&job.migration, &job.identity);
    let columns = row_text(job)?;
    let rows = |table: &str| {
        let matches = capture::key_matches(&job.identity, "t", "l");
        format!("SELECT {columns} AS r FROM {keys} l JOIN ONLY {table} t ON {matches}")
    };
    let sources: Vec<String> = job
        .migration
        .spec
        .sources
        .iter()
        .map(|source| format!("{} WHERE {ranges}", rows(&source.qualified())))
        .collect();
    let targets: Vec<String> = targets
        .iter()
        .map(|(n, _)| rows(&job.target_name(*n)))
        .collect();
    let (source, target) = (
        sums(job, &sources.join(" UNION ALL "))?,
        sums(job, &targets.join(" UNION ALL "))?,
    );
    if source == target {
        return Ok(());
    }
    Err(Error::VerificationFailed(format!(
        "the last changed rows of table \"{}\" differ: {} in the source, {} in the target",
        job.migration.relation_name, source.rows, target.rows
    )))
}

/// Compares all rows of sources and targets at once, where nobody can have written since they were copied. That
/// each row is in the right target, the targets' CHECK constraints say.
pub fn compare_locked(job: &Job) -> Result<()> {
    let rows = row_text(job)?;
    let all = |tables: Vec<String>| {
        let parts: Vec<String> = tables
            .iter()
            .map(|table| format!("SELECT {rows} AS r FROM ONLY {table}"))
            .collect();
        sums(job, &parts.join(" UNION ALL "))
    };
    let sources = &job.migration.spec.sources;
    let source = all(sources.iter().map(|source| source.qualified()).collect())?;
    let target = all(job.targets().map(|(n, _)| job.target_name(n)).collect())?;
    if source == target {
        return Ok(());
    }
    Err(Error::VerificationFailed(format!(
        "the rows of table \"{}\" differ after the copy: {} in the source, {} in the target",
        job.migration.relation_name, source.rows, target.rows
    )))
}
