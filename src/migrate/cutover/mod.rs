//! Cutting over: the short transaction that makes the new shards visible and the old ones not.

mod detach;
mod obstacle;
mod publish;

use std::time::Instant;

use pgrx::pg_sys;
use repart_core::state::State;

use crate::catalog::{cutovers, journal};
use crate::error::{Error, Result};
use crate::migrate::job::Job;
use crate::migrate::{capture, locks, target, verify};
use crate::pg::{guc, relation, snapshot_guard, spi};

use publish::Model;

/// What one attempt came to.
pub enum Attempt {
    /// Committed by the caller next: the new shards are visible.
    Switched,
    /// More changes were captured meanwhile than may be applied under the lock: this many.
    Behind(i64),
    /// Somebody's transaction is in the way; a lock now would make others queue.
    Waiting(String),
}

/// Tries to switch all of `jobs`, which belong together, if at most `few` captured changes are left. One
/// transaction, which the caller commits; it has changed nothing unless [`Attempt::Switched`]. `hold` is called
/// at its end, for tests.
pub fn attempt(jobs: &[Job], few: i64, hold: impl FnOnce()) -> Result<Attempt> {
    let relations: Vec<pg_sys::Oid> = jobs.iter().flat_map(Job::public_relations).collect();
    if let Some(obstacle) = obstacle::find(&relations)? {
        return Ok(Attempt::Waiting(obstacle));
    }
    lock_private(jobs)?;
    // Under the lock, the plans for it are there already.
    for job in jobs {
        read_model(job)?;
    }
    let begun = Instant::now();
    lock_public(jobs)?;
    let mut pending = 0;
    for job in jobs {
        pending += capture::pending(&job.migration)?;
    }
    if pending > few {
        return Ok(Attempt::Behind(pending));
    }
    let mut models = Vec::new();
    for job in jobs {
        models.push(read_model(job)?);
        verify::apply_and_compare_last(job)?;
    }
    let changed = switch(jobs, &models)?;
    for job in jobs {
        journal::transition(&job.migration, State::Cleaning)?;
        journal::set_pause(job.id(), begun.elapsed().as_secs_f64() * 1000.0)?;
    }
    cutovers::record(&changed)?;
    snapshot_guard::record(&changed);
    hold();
    Ok(Attempt::Switched)
}

/// What the targets of a job take over; fails if anything of it, or what hangs on the sources, is not as it was.
fn read_model(job: &Job) -> Result<Model> {
    let model = Model::read(job)?;
    // Such as a view of a shard, which somebody made meanwhile: the shard could never be dropped.
    for source in &job.migration.spec.sources {
        target::refusals::check(source)?;
    }
    Ok(model)
}

/// Exchanges sources for targets; returns the relations that older snapshots would see wrongly.
fn switch(jobs: &[Job], models: &[Model]) -> Result<Vec<pg_sys::Oid>> {
    let mut changed = Vec::new();
    for (job, model) in jobs.iter().zip(models) {
        let targets = target_oids(job)?;
        detach::sources(job)?;
        for (n, oid) in targets.iter().enumerate() {
            publish::target(job, n, *oid, model)?;
        }
        inherit_history(job, &targets)?;
        changed.extend(targets);
        changed.push(job.migration.relation);
    }
    Ok(changed)
}

/// Locks the targets first: only autovacuum can be in the way there, and clients need not wait for it.
fn lock_private(jobs: &[Job]) -> Result<()> {
    guc::set_for_transaction("lock_timeout", "5s");
    for job in jobs {
        for (n, _) in job.targets() {
            locks::lock(&job.target_name(n), "ACCESS EXCLUSIVE")?;
        }
    }
    Ok(())
}

/// Locks each parent and its sources, parent first, as clients do; gives up after `repart.lock_timeout`.
fn lock_public(jobs: &[Job]) -> Result<()> {
    let patience = locks::Patience::begin();
    for job in jobs {
        let parent = relation::name(job.migration.relation)?;
        patience.lock(&parent, "ACCESS EXCLUSIVE")?;
        for source in &job.migration.spec.sources {
            patience.lock(&source.qualified(), "ACCESS EXCLUSIVE")?;
        }
    }
    locks::be_polite();
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
