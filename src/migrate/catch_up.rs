//! Catching up, state-based: what the log says is *which* rows changed; how they look now, the source says.
//!
//! Log and rows are read in one snapshot, and everything visible in it is consumed at once, so that after
//! each round the targets equal the sources at that snapshot. Repeating a round is harmless.

use crate::error::Result;
use crate::migrate::capture;
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::pg::{guc, role, spi};

/// Below this many captured changes a nested loop over the indexes is taken whatever the planner, which
/// knows nothing of the log's size, would choose.
const FEW: i64 = 20_000;

/// Applies everything that the transaction's snapshot sees of the log, and empties the log of it; returns
/// the number of entries. To be called in a REPEATABLE READ transaction.
pub fn round(job: &Job) -> Result<i64> {
    let entries = apply(job)?;
    if entries > 0 {
        spi::execute(&format!("DELETE FROM {}", names::log(job.id())))?;
    }
    Ok(entries)
}

/// As [`round`], without emptying the log. Under a lock that keeps writers out, any isolation level will do.
pub fn apply(job: &Job) -> Result<i64> {
    let entries = capture::pending(&job.migration)?;
    if entries == 0 {
        return Ok(0);
    }
    if entries < FEW {
        guc::set_for_transaction("enable_hashjoin", "off");
        guc::set_for_transaction("enable_mergejoin", "off");
    }
    if capture::truncated(&job.migration)? {
        capture::apply_truncations(job)?;
    }
    role::as_owner(job.owner, || replace_rows(job))?;
    Ok(entries)
}

/// Replaces the rows of all logged keys by what the sources have.
fn replace_rows(job: &Job) -> Result<()> {
    let keys = capture::logged_keys(&job.migration, &job.identity);
    for (n, _) in job.rebuilt_targets() {
        let matches = capture::key_matches(&job.identity, "t", "l");
        spi::execute(&format!(
            "DELETE FROM ONLY {} t USING {keys} l WHERE {matches}",
            job.target_name(n)
        ))?;
    }
    let columns = job.writable_columns()?;
    for (n, target) in job.rebuilt_targets() {
        for source in &job.migration.spec.sources {
            spi::execute(&format!(
                "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE
                 SELECT {columns} FROM {keys} l JOIN ONLY {} s ON {} WHERE {}",
                job.target_name(n),
                source.qualified(),
                capture::key_matches(&job.identity, "s", "l"),
                job.belongs_to(target),
            ))?;
        }
    }
    Ok(())
}
