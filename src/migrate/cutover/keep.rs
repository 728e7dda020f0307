//! Targets that keep a source's table: rows leave it and arrive in it, and its new bound is proven by looks
//! into the index instead of a scan. All of it happens after the sources were detached, under the
//! cutover's locks.

use std::time::Instant;

use repart_core::feedback::Moved;

use super::{publish, rename};
use crate::error::{Error, Result};
use crate::migrate::flows::{self, Overlap, Size};
use crate::migrate::job::{Job, Kept};
use crate::migrate::names;
use crate::pg::{guc, relation, role, spi};

/// Takes the capture triggers off the tables that stay.
pub fn drop_capture(job: &Job) -> Result<()> {
    for kept in job.kept() {
        for trigger in names::capture_triggers(job.id()) {
            spi::execute(&format!(
                "DROP TRIGGER IF EXISTS {trigger} ON {}",
                kept.source.qualified()
            ))?;
        }
    }
    Ok(())
}

/// Leaves the name of a kept table to the new shards for a moment: each has that of the first source in turn, since
/// the definitions that it takes over say so.
pub fn step_aside(job: &Job) -> Result<()> {
    rename_all(job, |name, private| (name, private))
}

/// Takes the name back.
pub fn step_back(job: &Job) -> Result<()> {
    rename_all(job, |name, private| (private, name))
}

fn rename_all(job: &Job, direction: impl Fn(String, String) -> (String, String)) -> Result<()> {
    for kept in job.kept() {
        let private = names::private_target(job.id(), kept.n);
        let (from, to) = direction(kept.source.name.clone(), private);
        rename("TABLE", &kept.source.schema, &from, &to)?;
    }
    Ok(())
}

/// What [`move_rows`] did.
#[derive(Default)]
pub struct Done {
    /// Rows and times.
    pub moved: Moved,
    /// Bytes of the inserted rows.
    pub bytes: f64,
    /// Rows that a target has without a copy: source, target and their number (of those that stayed, an
    /// estimate).
    pub uncopied: Vec<(usize, usize, i64)>,
}

/// Moves the rows: first all that arrive are inserted, then all that leave are deleted, and both must be as
/// many as the other side has. Triggers of the users do not see it, as they see nothing of a copy.
pub fn move_rows(job: &Job) -> Result<Done> {
    let mut done = Done::default();
    if job.kept().next().is_none() {
        return Ok(done);
    }
    let overlaps = flows::overlaps(job)?;
    for overlap in overlaps.iter().filter(|overlap| job.stays(overlap)) {
        let rows = size(job, overlap)?.rows;
        done.uncopied
            .push((overlap.source, overlap.target, rows as i64));
    }
    guc::set_for_transaction("session_replication_role", "replica");
    flows::through_index();
    insert_all(job, &overlaps, &mut done)?;
    delete_all(job, &overlaps, &mut done)?;
    guc::set_for_transaction("session_replication_role", "origin");
    Ok(done)
}

fn insert_all(job: &Job, overlaps: &[Overlap], done: &mut Done) -> Result<()> {
    for overlap in overlaps.iter().filter(|overlap| job.arrives(overlap)) {
        let row_bytes = size(job, overlap)?.row_bytes;
        let begun = Instant::now();
        let rows = insert(job, overlap)?;
        done.moved.insert_seconds += begun.elapsed().as_secs_f64();
        done.moved.inserted += rows as f64;
        done.bytes += rows as f64 * row_bytes;
        done.uncopied.push((overlap.source, overlap.target, rows));
    }
    Ok(())
}

fn delete_all(job: &Job, overlaps: &[Overlap], done: &mut Done) -> Result<()> {
    let begun = Instant::now();
    for overlap in overlaps.iter().filter(|overlap| job.leaves(overlap)) {
        let rows = delete(job, overlap)?;
        let of_flow = |(source, target, _): &&(usize, usize, i64)| {
            (*source, *target) == (overlap.source, overlap.target)
        };
        let arrived = done.uncopied.iter().find(of_flow).map(|(_, _, rows)| *rows);
        require_same(job, overlap, rows, arrived)?;
        done.moved.deleted += rows as f64;
        let stayed = done.uncopied.iter_mut().find(|(source, target, _)| {
            *source == overlap.source && job.stays_at(*source, *target)
        });
        if let Some((_, _, left)) = stayed {
            *left = (*left - rows).max(0);
        }
    }
    for kept in job.kept() {
        require_within(job, &kept)?;
    }
    done.moved.delete_seconds = begun.elapsed().as_secs_f64();
    Ok(())
}

fn size(job: &Job, overlap: &Overlap) -> Result<Size> {
    let source = job.migration.spec.sources.get(overlap.source);
    Size::of(job, source.ok_or_else(vanished)?)
}

fn insert(job: &Job, overlap: &Overlap) -> Result<i64> {
    let into = job.kept().find(|kept| kept.n == overlap.target);
    let (Some(into), Some(from)) = (into, job.migration.spec.sources.get(overlap.source)) else {
        return Err(vanished());
    };
    let columns = job.writable_columns()?;
    let (into, from) = (
        relation::name(into.source.relation())?,
        relation::name(from.relation())?,
    );
    let sql = format!(
        "INSERT INTO {into} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM ONLY {from} WHERE {}",
        overlap.condition(&job.key)
    );
    processed(role::as_owner(job.owner, || spi::execute(&sql))?)
}

fn delete(job: &Job, overlap: &Overlap) -> Result<i64> {
    let source = job.migration.spec.sources.get(overlap.source);
    let table = relation::name(source.ok_or_else(vanished)?.relation())?;
    let sql = format!(
        "DELETE FROM ONLY {table} WHERE {}",
        overlap.condition(&job.key)
    );
    processed(role::as_owner(job.owner, || spi::execute(&sql))?)
}

/// Fails unless as many rows left as are where they went to.
fn require_same(job: &Job, overlap: &Overlap, left: i64, arrived: Option<i64>) -> Result<()> {
    let arrived = match arrived {
        Some(rows) => rows,
        None => {
            let sql = format!(
                "SELECT count(*) FROM ONLY {} WHERE {}",
                job.target_name(overlap.target),
                overlap.condition(&job.key)
            );
            role::as_owner(job.owner, || spi::query_value::<i64>(&sql, &[]))?.unwrap_or(0)
        }
    };
    if arrived == left {
        return Ok(());
    }
    Err(Error::VerificationFailed(format!(
        "{left} rows of table \"{}\" left their shard, but {arrived} are in the new one",
        job.migration.relation_name
    )))
}

/// The proof that ATTACH needs no scan for: at neither end is a row beyond the bound, and none has no key.
fn require_within(job: &Job, kept: &Kept) -> Result<()> {
    let table = relation::name(kept.source.relation())?;
    let mut outside = vec![format!(
        "{} IS NULL",
        spi::quote_identifier(&job.key.column)
    )];
    let (lower, upper) = (kept.target.lower.as_deref(), kept.target.upper.as_deref());
    outside.extend(lower.map(|lower| job.key.bounded(&job.key.less, lower)));
    outside.extend(upper.map(|upper| job.key.bounded(&job.key.at_least, upper)));
    for condition in outside {
        let sql = format!("SELECT EXISTS (SELECT FROM ONLY {table} WHERE {condition})");
        if role::as_owner(job.owner, || spi::query_value::<bool>(&sql, &[]))? != Some(false) {
            return Err(Error::VerificationFailed(format!(
                "shard \"{}\" still has rows with {condition}",
                kept.source.name
            )));
        }
    }
    Ok(())
}

/// Gives the tables their new bounds. That no row violates them is proven, so the constraint that spares
/// ATTACH its scan is declared valid: that is the only catalog row written directly, as for foreign keys.
pub fn attach(job: &Job) -> Result<()> {
    for kept in job.kept() {
        let (oid, table) = (kept.source.relation(), kept.source.qualified());
        spi::execute(&format!(
            "ALTER TABLE {table} ADD CONSTRAINT {} CHECK ({}) NOT VALID",
            names::BOUND_CONSTRAINT,
            job.belongs_to(kept.target)
        ))?;
        // PostgreSQL does not notice this change of a constraint by itself.
        relation::forget_cached(oid);
        spi::run(
            "UPDATE pg_catalog.pg_constraint SET convalidated = true
              WHERE conrelid = $1 AND conname = $2 AND contype = 'c'",
            &[oid.into(), names::BOUND_CONSTRAINT.into()],
        )?;
        publish::attach(job, kept.target, &table)?;
    }
    Ok(())
}

fn processed(rows: u64) -> Result<i64> {
    i64::try_from(rows).map_err(|_| Error::Internal("too many rows".to_owned()))
}

fn vanished() -> Error {
    Error::Internal("a flow without its source or target".to_owned())
}
