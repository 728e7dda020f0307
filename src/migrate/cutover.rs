//! Cutting over: the short transaction that makes the new shards visible and the old ones not.

use std::time::Instant;

use pgrx::pg_sys;

use crate::catalog::journal::{self, Target};
use crate::error::{Error, Result};
use crate::migrate::definition::Index;
use crate::migrate::job::Job;
use crate::migrate::state::State;
use crate::migrate::{capture, definition, locks, names, verify};
use crate::pg::{guc, snapshot_guard, spi};

/// A transaction that has been open for this long is waited for without asking for a lock.
const LONG_TRANSACTION: &str = "500 ms";

/// What one attempt came to.
pub enum Attempt {
    /// Committed by the caller next: the new shards are visible.
    Switched,
    /// More changes were captured meanwhile than may be applied under the lock: this many.
    Behind(i64),
    /// Somebody's transaction is in the way; a lock now would make others queue.
    Waiting(String),
}

/// Whether somebody is in the way, without any lock: a transaction that has long held locks on the table
/// or the sources.
pub fn obstacle(job: &Job) -> Result<Option<String>> {
    let mut relations = job.source_oids();
    relations.push(job.migration.relation);
    spi::select_first(
        &format!(
            "SELECT pg_catalog.format('waits for process %s%s, whose transaction has been open for %s s', a.pid,
                        ' (' || nullif(a.application_name, '') || ')',
                        pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::numeric, 1))
               FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
              WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1)
                AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                AND a.pid <> pg_catalog.pg_backend_pid()
                AND a.xact_start < pg_catalog.clock_timestamp() - interval '{LONG_TRANSACTION}'
              ORDER BY a.xact_start LIMIT 1"
        ),
        &[relations.into()],
        |row| row.get(1),
    )
}

/// A prepared transaction that holds a lock on the table, which only its owner can end.
pub fn prepared_obstacle(job: &Job) -> Result<Option<String>> {
    let mut relations = job.source_oids();
    relations.push(job.migration.relation);
    spi::select_first(
        "SELECT pg_catalog.format('waits for prepared transaction \"%s\"', p.gid)
           FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_prepared_xacts p
                ON l.virtualtransaction = '-1/' || p.transaction::text
          WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1) LIMIT 1",
        &[relations.into()],
        |row| row.get(1),
    )
}

/// Tries to switch, if at most `few` captured changes are left. One transaction, which the caller commits;
/// it has changed nothing unless [`Attempt::Switched`]. `hold` is called at its end, for tests.
pub fn attempt(job: &Job, few: i64, hold: impl FnOnce()) -> Result<Attempt> {
    if let Some(obstacle) =
        obstacle(job)?.map_or_else(|| prepared_obstacle(job), |found| Ok(Some(found)))?
    {
        return Ok(Attempt::Waiting(obstacle));
    }
    lock_private(job)?;
    let begun = Instant::now();
    lock_public(job)?;
    let pending = capture::pending(&job.migration)?;
    if pending > few {
        return Ok(Attempt::Behind(pending));
    }
    job.require_unchanged()?;
    verify::apply_and_compare_last(job)?;
    let targets = target_oids(job)?;
    // Read before detaching, which renames them.
    let indexes = definition::indexes(job.first_source()?)?;
    detach(job)?;
    for (n, oid) in targets.iter().enumerate() {
        publish(job, n, *oid, &indexes)?;
    }
    inherit_history(job, &targets)?;
    journal::transition(&job.migration, State::Cleaning)?;
    journal::set_pause(job.id(), begun.elapsed().as_secs_f64() * 1000.0)?;
    let mut changed = targets;
    changed.push(job.migration.relation);
    snapshot_guard::record(&changed);
    hold();
    Ok(Attempt::Switched)
}

/// Locks the targets first: only autovacuum can be in the way there, and clients need not wait for it.
fn lock_private(job: &Job) -> Result<()> {
    guc::set_for_transaction("lock_timeout", "5s");
    for (n, _) in job.targets() {
        locks::lock(&job.target_name(n), "ACCESS EXCLUSIVE")?;
    }
    Ok(())
}

/// Locks parent and sources, parent first, as clients do; gives up after `repart.lock_timeout`.
fn lock_public(job: &Job) -> Result<()> {
    locks::be_polite();
    let parent = crate::pg::relation::name(job.migration.relation)?;
    locks::lock(&parent, "ACCESS EXCLUSIVE")?;
    for source in &job.migration.spec.sources {
        locks::lock(&source.qualified(), "ACCESS EXCLUSIVE")?;
    }
    Ok(())
}

fn target_oids(job: &Job) -> Result<Vec<pg_sys::Oid>> {
    job.targets()
        .map(|(n, _)| {
            spi::value::<pg_sys::Oid>("SELECT $1::regclass::oid", &[job.target_name(n).into()])?
                .ok_or_else(|| Error::Internal("a target vanished".to_owned()))
        })
        .collect()
}

/// Takes the sources out of the table, and out of the users' sight.
fn detach(job: &Job) -> Result<()> {
    let parent = crate::pg::relation::name(job.migration.relation)?;
    for (n, source) in job.migration.spec.sources.iter().enumerate() {
        spi::execute(&format!(
            "ALTER TABLE {parent} DETACH PARTITION {}",
            source.qualified()
        ))?;
        for (k, index) in definition::indexes(source.relation())?.iter().enumerate() {
            rename(
                "INDEX",
                &source.schema,
                &index.name,
                &names::private_retired_index(job.id(), n, k),
            )?;
        }
        let retired = names::private_retired(job.id(), n);
        rename("TABLE", &source.schema, &source.name, &retired)?;
        let retired = spi::quote_qualified_identifier(&source.schema, &retired);
        spi::execute(&format!(
            "ALTER TABLE {retired} SET SCHEMA {}",
            names::SCHEMA
        ))?;
    }
    Ok(())
}

/// Gives a target its public name and place, and attaches it.
fn publish(job: &Job, n: usize, oid: pg_sys::Oid, indexes: &[Index]) -> Result<()> {
    let (Some(source), Some(target)) = (
        job.migration.spec.sources.first(),
        job.migration.spec.targets.get(n),
    ) else {
        return Ok(());
    };
    let public = target
        .name
        .clone()
        .ok_or_else(|| Error::Internal("a target without a name".to_owned()))?;
    let schema = &source.schema;
    spi::execute(&format!(
        "ALTER TABLE {} SET SCHEMA {}",
        job.target_name(n),
        spi::quote_identifier(schema)
    ))?;
    rename(
        "TABLE",
        schema,
        &names::private_target(job.id(), n),
        &public,
    )?;
    for (k, index) in indexes.iter().enumerate() {
        let name = names::public_index(&source.name, &index.name, &public, k);
        rename(
            "INDEX",
            schema,
            &names::private_index(job.id(), n, k),
            &name,
        )?;
    }
    let table = spi::quote_qualified_identifier(schema, &public);
    adopt_foreign_keys(source.relation(), &table, oid)?;
    attach(job, target, &table)
}

/// PostgreSQL refuses to give an object the name that it has.
fn rename(kind: &str, schema: &str, from: &str, to: &str) -> Result<()> {
    if from != to {
        let object = spi::quote_qualified_identifier(schema, from);
        spi::execute(&format!(
            "ALTER {kind} {object} RENAME TO {}",
            spi::quote_identifier(to)
        ))?;
    }
    Ok(())
}

fn attach(job: &Job, target: &Target, table: &str) -> Result<()> {
    let bound = |bound: &Option<String>, open: &str| {
        bound.as_ref().map_or(open.to_owned(), spi::quote_literal)
    };
    let parent = crate::pg::relation::name(job.migration.relation)?;
    spi::execute(&format!(
        "ALTER TABLE {parent} ATTACH PARTITION {table} FOR VALUES FROM ({}) TO ({})",
        bound(&target.lower, "MINVALUE"),
        bound(&target.upper, "MAXVALUE")
    ))?;
    spi::execute(&format!(
        "ALTER TABLE {table} DROP CONSTRAINT {}",
        names::BOUND_CONSTRAINT
    ))?;
    Ok(())
}

/// Foreign keys cannot be put on a target before: they would make deletes of referenced rows fail while
/// the target lags. Its rows equal the sources', which satisfied them, so no scan is needed to prove it.
fn adopt_foreign_keys(source: pg_sys::Oid, table: &str, target: pg_sys::Oid) -> Result<()> {
    for (name, definition) in definition::foreign_keys(source)? {
        spi::execute(&format!(
            "ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID"
        ))?;
    }
    spi::run(
        "UPDATE pg_catalog.pg_constraint SET convalidated = true
          WHERE conrelid = $1 AND contype = 'f' AND NOT convalidated",
        &[target.into()],
    )?;
    Ok(())
}

/// The new shards inherit the history of the old ones, by the share of their rows.
fn inherit_history(job: &Job, targets: &[pg_sys::Oid]) -> Result<()> {
    for (n, target) in targets.iter().enumerate() {
        for (s, source) in job.migration.spec.sources.iter().enumerate() {
            let share = job.migration.position.share(s, n);
            if share > 0.0 {
                journal::insert_lineage(*target, source.relation(), share)?;
            }
        }
    }
    Ok(())
}
