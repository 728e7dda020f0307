//! Catching up, state-based, as `migrate::catch_up` says: the log says *which* rows changed, the source how they look
//! now, both in one snapshot; the target is committed *before* the log is emptied of it, so that a crash in between
//! repeats a round, which is harmless.

use crate::error::Result;
use crate::migrate::away::capture;
use crate::migrate::away::ends::{Ends, key_name};
use crate::migrate::definition::{self, range_condition};
use crate::migrate::job::Job;
use crate::pg::{spi, txn};

/// Below this many captured changes a nested loop over the indexes is taken whatever the planner, which knows nothing of
/// the number of keys, would choose.
const FEW: i64 = 20_000;

/// Applies everything that is captured, and empties the log of it; returns the number of entries. Outside of a
/// transaction.
pub fn round(job: &Job, ends: &mut Ends, hold: impl FnOnce()) -> Result<i64> {
    let entries = txn::run_at(txn::Isolation::RepeatableRead, || {
        ends.begin_snapshots()?;
        let entries = apply(job, ends)?;
        ends.target.commit()?;
        if !ends.source.is_there() && entries > 0 {
            spi::execute(&format!("DELETE FROM {}", ends.log))?;
        }
        hold();
        Ok(entries)
    })?;
    if ends.source.is_there() {
        txn::run(|| {
            if entries > 0 {
                ends.source.run(&format!("DELETE FROM {}", ends.log))?;
            }
            ends.source.commit()
        })?;
    }
    ends.keep_keys();
    Ok(entries)
}

/// As [`round`], without committing anything or emptying the log.
pub fn apply(job: &Job, ends: &mut Ends) -> Result<i64> {
    let entries = capture::pending(job, ends)?;
    if entries == 0 {
        return Ok(0);
    }
    if entries < FEW {
        for end in [&mut ends.source, &mut ends.target] {
            end.set_local("enable_hashjoin", "off")?;
            end.set_local("enable_mergejoin", "off")?;
        }
    }
    empty_truncated(job, ends)?;
    let query = capture::logged_keys(job, ends);
    let keys = ends.send_keys(job, &query)?;
    delete_keys(job, ends, &keys)?;
    let columns = definition::writable_columns(job.migration.relation)?;
    let columns: Vec<String> = columns.iter().map(|column| format!("s.{column}")).collect();
    let names = job.column_names()?;
    // Rows that do not leave their node are found by the keys that were sent to the other session.
    let logged = if ends.is_inside {
        keys
    } else {
        format!("({query})")
    };
    for (n, target) in job.targets() {
        for source in ends.source_tables.clone() {
            let query = format!(
                "SELECT {} FROM {logged} l JOIN ONLY {source} s ON {} WHERE {}",
                columns.join(", "),
                matches(job, "s", "l"),
                job.belongs_to(target)
            );
            ends.send_rows(n, &names, &query)?;
        }
    }
    Ok(entries)
}

/// Deletes from the targets what they have of truncated sources.
pub fn empty_truncated(job: &Job, ends: &mut Ends) -> Result<()> {
    let sources = job.migration.spec.sources.iter();
    for (source, table) in sources.zip(ends.source_tables.clone()) {
        if !capture::is_truncated(ends, Some(&table))? {
            continue;
        }
        let range = range_condition(&job.key, source.lower.as_deref(), source.upper.as_deref());
        for target in &ends.target_tables {
            ends.target
                .run(&format!("DELETE FROM ONLY {target} WHERE {range}"))?;
        }
    }
    Ok(())
}

/// Deletes the rows of all keys in a table of keys.
pub fn delete_keys(job: &Job, ends: &mut Ends, keys: &str) -> Result<()> {
    for target in &ends.target_tables {
        ends.target.run(&format!(
            "DELETE FROM ONLY {target} t USING {keys} l WHERE {}",
            matches(job, "t", "l")
        ))?;
    }
    Ok(())
}

/// The condition that a row of `table` has the key of `entry`.
pub fn matches(job: &Job, table: &str, entry: &str) -> String {
    let columns = job.identity.iter().enumerate();
    let conditions: Vec<String> = columns
        .map(|(n, column)| {
            let column = spi::quote_identifier(&column.name);
            format!("{table}.{column} = {entry}.{}", key_name(n))
        })
        .collect();
    conditions.join(" AND ")
}
