//! Cutting over: the short transaction that makes the new shards visible and the old ones not.

mod blocking;
mod detach;
mod keep;
mod publish;

pub use blocking::{Progress, Waiting, attempt_blocking};

use std::time::Instant;

use pgrx::pg_sys;
use repart_core::state::State;

use crate::catalog::journal::{self, Position};
use crate::catalog::{control, cutovers};
use crate::error::Result;
use crate::migrate::away::{self, Links};
use crate::migrate::job::Job;
use crate::migrate::{
    capture, default_partition, hold, locks, obstacle, preflight, retain, routing, verify,
};
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

/// Tries to switch all of `jobs`, which belong together, if at most `few` captured changes are left before the locks
/// are asked for, and not many more after. One transaction, which the caller commits; it has changed nothing unless
/// [`Attempt::Switched`]. `hold` is called at its end, for tests.
pub fn attempt(jobs: &[Job], few: i64, links: &mut Links, hold: impl FnOnce()) -> Result<Attempt> {
    let relations = public_relations(jobs)?;
    if let Some(obstacle) = obstacle::find(&relations)? {
        return Ok(Attempt::Waiting(obstacle));
    }
    let waiting = pending(jobs, links)?;
    if waiting > few {
        return Ok(Attempt::Behind(waiting));
    }
    lock_private(jobs)?;
    lock_out_maintenance(&relations)?;
    // Under the lock, the plans for it are there already.
    for job in jobs {
        read_model(job)?;
    }
    for job in jobs {
        control::require_wanted(job.id())?;
    }
    for job in jobs.iter().filter(|job| job.is_away()) {
        away::switch::require_ready(job, links.of(job)?)?;
    }
    if let Some(reason) = routing::switch::begin(jobs, links)? {
        return Ok(Attempt::Waiting(reason));
    }
    let begun = Instant::now();
    // Before anything here: their clients hold them while they wait for what is here.
    let leader = jobs
        .first()
        .map(|job| job.migration.leader.unwrap_or(job.id()));
    let leader = leader.unwrap_or_default();
    links.copies.lock(leader, Some(routing::switch::alone()))?;
    lock_public(&relations)?;
    for job in jobs.iter().filter(|job| job.is_away()) {
        let ends = links.open(job)?;
        away::switch::hurry(ends);
        away::switch::lock_out(ends)?;
        hold::inside(job.id(), "locked");
    }
    for job in jobs {
        let wanted = job.public_relations()?;
        if wanted.iter().any(|relation| !relations.contains(relation)) {
            return Ok(Attempt::Waiting(
                "waits: a foreign key or a partition was added just now".to_owned(),
            ));
        }
    }
    let pending = pending(jobs, links)?;
    if pending > 2 * few {
        return Ok(Attempt::Behind(pending));
    }
    let mut models = Vec::new();
    for job in jobs {
        models.push(read_model(job)?);
        if job.is_away() {
            away::verify::apply_and_compare_last(job, links.open(job)?)?;
        } else {
            verify::apply_and_compare_last(job)?;
        }
    }
    let changed = switch(jobs, &models)?;
    for job in jobs {
        journal::transition(&job.migration, State::Cleaning)?;
        journal::set_pause(job.id(), begun.elapsed().as_secs_f64() * 1000.0)?;
    }
    record(&changed)?;
    for job in jobs.iter().filter(|job| job.is_away()) {
        away::switch::hand_over(job, links.open(job)?)?;
    }
    links.copies.prepare(leader)?;
    hold();
    Ok(Attempt::Switched)
}

/// Captured changes that wait, in all logs.
fn pending(jobs: &[Job], links: &mut Links) -> Result<i64> {
    let mut sum = 0;
    for job in jobs {
        sum += if job.is_away() {
            away::capture::pending(job, links.of(job)?)?
        } else {
            capture::pending(&job.migration)?
        };
    }
    Ok(sum)
}

/// What the switch locks, each once.
fn public_relations(jobs: &[Job]) -> Result<Vec<pg_sys::Oid>> {
    let mut relations: Vec<pg_sys::Oid> = Vec::new();
    for job in jobs {
        for relation in job.public_relations()? {
            if !relations.contains(&relation) {
                relations.push(relation);
            }
        }
    }
    Ok(relations)
}

/// What the targets of a job take over; fails if anything of it, or what hangs on the sources, is not as it was.
fn read_model(job: &Job) -> Result<Model> {
    let model = Model::read(job)?;
    preflight::check_again(job)?;
    Ok(model)
}

/// Exchanges sources for targets; returns the relations that older snapshots would see wrongly.
fn switch(jobs: &[Job], models: &[Model]) -> Result<Vec<pg_sys::Oid>> {
    let mut changed = Vec::new();
    let mut made = Vec::new();
    for (job, model) in jobs.iter().zip(models) {
        let targets = target_oids(job)?;
        keep::drop_capture(job)?;
        detach::sources(job)?;
        let done = keep::move_rows(job)?;
        keep::step_aside(job)?;
        for (n, oid) in targets.iter().enumerate() {
            if job.is_away() {
                away::switch::publish(job, n, *oid)?;
            } else if job.kept().all(|kept| kept.n != n) {
                publish::target(job, n, *oid, model)?;
            }
        }
        keep::step_back(job)?;
        keep::attach(job)?;
        detach::foreign_keys(job)?;
        let position = note_moved(job, done)?;
        inherit_history(job, &position, &targets)?;
        changed.extend(&targets);
        changed.push(job.migration.relation);
        made.push((job, targets));
    }
    // Last: the definitions that must not change from here on are complete now.
    for (job, targets) in made {
        retain::keep(job, &targets)?;
    }
    for job in jobs {
        default_partition::drop_proof(job.id())?;
    }
    Ok(changed)
}

/// Notes, for this server's guard and for those of standbys, which relations older snapshots would see wrongly.
fn record(changed: &[pg_sys::Oid]) -> Result<()> {
    cutovers::record(changed)?;
    snapshot_guard::record(changed);
    Ok(())
}

/// Locks the targets first: only autovacuum can be in the way there, and clients need not wait for it.
fn lock_private(jobs: &[Job]) -> Result<()> {
    guc::set_for_transaction("lock_timeout", "5s");
    for job in jobs {
        for (n, _) in job.rebuilt_targets() {
            let target = relation::find(&job.target_name(n))?;
            locks::lock_all(&[target], "ACCESS EXCLUSIVE")?;
        }
    }
    Ok(())
}

/// Keeps VACUUM and other maintenance off, which would hold up the locks that clients wait for.
fn lock_out_maintenance(relations: &[pg_sys::Oid]) -> Result<()> {
    locks::outlast_autovacuum();
    locks::lock_all(relations, "SHARE UPDATE EXCLUSIVE")
}

/// Locks everything that a switch changes, in the order of [`Job::public_relations`]; gives up after
/// `repart.lock_timeout`.
fn lock_public(relations: &[pg_sys::Oid]) -> Result<()> {
    let patience = locks::Patience::begin();
    for table in relations {
        patience.lock(*table, "ACCESS EXCLUSIVE")?;
    }
    locks::be_polite();
    Ok(())
}

fn target_oids(job: &Job) -> Result<Vec<pg_sys::Oid>> {
    job.targets()
        .map(|(n, _)| {
            if let Some(kept) = job.kept().find(|kept| kept.n == n) {
                return Ok(kept.source.relation());
            }
            relation::find(&job.target_name(n))
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

/// Notes what moving rows took, and the rows that were not copied ahead, for the shares of history.
fn note_moved(job: &Job, done: keep::Done) -> Result<Position> {
    let mut position = job.migration.position.clone();
    if job.kept().next().is_none() {
        return Ok(position);
    }
    for (source, target, rows) in done.uncopied {
        position.note(source, target, rows);
    }
    position.moved = done.moved;
    let (rows, bytes) = (done.moved.inserted as i64, done.bytes as i64);
    journal::advance(&job.migration, &position, rows, bytes, 0.0)?;
    Ok(position)
}

/// The new shards inherit the history of the old ones, by the share of their rows.
fn inherit_history(job: &Job, position: &Position, targets: &[pg_sys::Oid]) -> Result<()> {
    for (n, target) in targets.iter().enumerate() {
        for (s, source) in job.migration.spec.sources.iter().enumerate() {
            let share = position.share(s, n);
            if share > 0.0 {
                journal::insert_lineage(*target, source.relation(), share)?;
            }
        }
    }
    Ok(())
}
