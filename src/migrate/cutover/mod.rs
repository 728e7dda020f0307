//! Cutting over: the short transaction that makes the new shards visible and the old ones not.

mod detach;
mod obstacle;
mod order;
mod publish;

use std::time::Instant;

use pgrx::pg_sys;
use repart_core::state::State;

use crate::catalog::{cutovers, groups, journal};
use crate::error::{Error, Result};
use crate::migrate::group_keys::{self, GroupKey};
use crate::migrate::job::Job;
use crate::migrate::{capture, locks, target, verify};
use crate::pg::reference_checks::{self, Pair};
use crate::pg::{guc, lock, relation, snapshot_guard, spi};

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

/// Among several tables, a client who holds one may wait for another that is locked already: PostgreSQL looks for that
/// after so long, and the mover, which looks first, gives way at once instead of when its time is over.
const DEADLOCK_TIMEOUT: &str = "10ms";

/// Brings jobs that belong together into the order in which [`attempt`] locks their tables.
pub fn in_order(jobs: Vec<Job>) -> Result<Vec<Job>> {
    let tables: Vec<pg_sys::Oid> = jobs.iter().map(|job| job.migration.relation).collect();
    let number = |table| tables.iter().position(|other| *other == table);
    let references: Vec<(usize, usize)> = group_keys::among(&tables)?
        .iter()
        .filter_map(|key| Some((number(key.referencing)?, number(key.referenced)?)))
        .collect();
    let mut jobs: Vec<Option<Job>> = jobs.into_iter().map(Some).collect();
    Ok(order::referenced_first(jobs.len(), &references)
        .into_iter()
        .filter_map(|n| jobs.get_mut(n)?.take())
        .collect())
}

/// Tries to switch all of `jobs`, which belong together, if at most `few` captured changes are left. One
/// transaction, which the caller commits; it has changed nothing unless [`Attempt::Switched`]. `hold` is called
/// at its end, for tests.
pub fn attempt(jobs: &[Job], few: i64, hold: impl FnOnce()) -> Result<Attempt> {
    let keys = keys_of(jobs)?;
    let mut relations: Vec<pg_sys::Oid> = jobs.iter().flat_map(Job::public_relations).collect();
    relations.extend(partners(jobs, &keys));
    if let Some(obstacle) = obstacle::find(&relations)? {
        return Ok(Attempt::Waiting(obstacle));
    }
    lock_private(jobs)?;
    let begun = Instant::now();
    lock_public(jobs, &partners(jobs, &keys))?;
    let mut pending = 0;
    for job in jobs {
        pending += capture::pending(&job.migration)?;
    }
    if pending > few {
        return Ok(Attempt::Behind(pending));
    }
    for job in jobs {
        job.require_unchanged()?;
        // Such as a view of a shard, which somebody made meanwhile: the shard could never be dropped.
        for source in &job.migration.spec.sources {
            target::refusals::check(source)?;
        }
        verify::apply_and_compare_last(job)?;
    }
    let changed = switch(jobs, &keys)?;
    for job in jobs {
        journal::transition(&job.migration, State::Cleaning)?;
        journal::set_pause(job.id(), begun.elapsed().as_secs_f64() * 1000.0)?;
    }
    cutovers::record(&changed)?;
    snapshot_guard::record(&changed);
    hold();
    Ok(Attempt::Switched)
}

/// Exchanges sources for targets; returns the relations that older snapshots would see wrongly.
fn switch(jobs: &[Job], keys: &[GroupKey]) -> Result<Vec<pg_sys::Oid>> {
    let targets = jobs.iter().map(target_oids).collect::<Result<Vec<_>>>()?;
    reference_checks::skip(known_to_hold(jobs, &targets, keys), || {
        let mut models = Vec::new();
        for job in jobs {
            for source in job.source_oids() {
                group_keys::take_off(source, keys)?;
            }
            // Read before detaching, which renames them; without what was taken off, which ATTACH makes again.
            models.push(Model::read(job)?);
            detach::sources(job)?;
        }
        for ((job, targets), model) in jobs.iter().zip(&targets).zip(&models) {
            for (n, oid) in targets.iter().enumerate() {
                publish::target(job, n, *oid, model)?;
            }
        }
        Ok(())
    })?;
    let mut changed = Vec::new();
    for (job, targets) in jobs.iter().zip(&targets) {
        inherit_history(job, targets)?;
        changed.extend(targets);
        changed.push(job.migration.relation);
    }
    Ok(changed)
}

/// Foreign keys of the tables of these jobs to tables of their groups. A table that joins a group is cut over alone.
fn keys_of(jobs: &[Job]) -> Result<Vec<GroupKey>> {
    let mut tables = Vec::new();
    for job in jobs {
        tables.push(job.migration.relation);
        tables.extend(groups::members(job.migration.relation)?);
    }
    let mut keys = group_keys::among(&tables)?;
    let is_cut_over = |table| jobs.iter().any(|job| job.migration.relation == table);
    keys.retain(|key| is_cut_over(key.referencing) || is_cut_over(key.referenced));
    Ok(keys)
}

/// Tables at the other end of a foreign key that are not cut over themselves: ATTACH and DETACH lock them too.
fn partners(jobs: &[Job], keys: &[GroupKey]) -> Vec<pg_sys::Oid> {
    let mut partners: Vec<pg_sys::Oid> = keys
        .iter()
        .flat_map(|key| [key.referenced, key.referencing])
        .filter(|table| jobs.iter().all(|job| job.migration.relation != *table))
        .collect();
    partners.sort_by_key(|table| table.to_u32());
    partners.dedup();
    partners
}

/// What PostgreSQL would check at the switch: that nothing references the rows of shards that leave, and that the new
/// shards reference what is there. Both hold when the switch is complete.
fn known_to_hold(jobs: &[Job], targets: &[Vec<pg_sys::Oid>], keys: &[GroupKey]) -> Vec<Pair> {
    let mut known = Vec::new();
    for key in keys {
        for (job, targets) in jobs.iter().zip(targets) {
            if job.migration.relation == key.referencing {
                known.extend(targets.iter().map(|target| (*target, key.referenced)));
            }
            if job.migration.relation == key.referenced {
                let sources = job.source_oids();
                known.extend(sources.into_iter().map(|source| (key.referencing, source)));
            }
        }
    }
    known
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

/// Locks each parent and its sources, parent first, as clients do, and others against writers; gives up after
/// `repart.lock_timeout`.
fn lock_public(jobs: &[Job], others: &[pg_sys::Oid]) -> Result<()> {
    let patience = locks::Patience::begin();
    let deadlock_timeout = lock::deadlock_timeout();
    if jobs.len() + others.len() > 1 {
        guc::set_for_transaction("deadlock_timeout", DEADLOCK_TIMEOUT);
    }
    for job in jobs {
        let parent = relation::name(job.migration.relation)?;
        patience.lock(&parent, "ACCESS EXCLUSIVE")?;
        for source in &job.migration.spec.sources {
            patience.lock(&source.qualified(), "ACCESS EXCLUSIVE")?;
        }
    }
    for other in others {
        patience.lock(&relation::name(*other)?, "SHARE ROW EXCLUSIVE")?;
    }
    let milliseconds = deadlock_timeout.as_millis().to_string();
    guc::set_for_transaction("deadlock_timeout", &milliseconds);
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
