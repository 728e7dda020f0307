//! The steps that need nothing but the journal.

use repart_core::feedback::Moved;
use repart_core::state::State;

use super::{Next, to, watch_backlog};
use crate::catalog::journal::{self, Migration};
use crate::catalog::outcomes::{self, NewOutcome};
use crate::error::Result;
use crate::migrate::job::Job;
use crate::migrate::{
    away, blocking, clean, copy, default_partition, hold, index, janitor, locks, prepare, retain,
};
use crate::pg::background;
use crate::pg::txn;

/// Makes the private objects, and starts change capture.
pub fn prepare(migration: Migration) -> Result<Next> {
    janitor::give_way_to(&migration)?;
    if migration.spec.blocking {
        return prepare_blocking(&migration);
    }
    if migration.position.retained {
        txn::run(|| {
            locks::be_polite();
            retain::adopt(&migration)
        })?;
        return Ok(Next::Continue);
    }
    txn::run(|| {
        locks::be_polite();
        prepare::create(migration.clone())?;
        hold::inside(migration.id, "created");
        Ok(())
    })?;
    let refreshed = txn::run(|| journal::find(migration.id))?.unwrap_or(migration);
    txn::run(|| {
        locks::be_polite();
        prepare::start_capture(refreshed.clone())?;
        let (rows, bytes) = copy::totals(&Job::load(refreshed.clone())?)?;
        journal::set_totals(refreshed.id, rows, bytes)?;
        journal::transition(&refreshed, State::Copying)?;
        hold::inside(refreshed.id, "captured");
        Ok(())
    })?;
    Ok(Next::Continue)
}

fn prepare_blocking(migration: &Migration) -> Result<Next> {
    txn::run(|| {
        locks::be_polite();
        prepare::begin_blocking(migration.clone())?;
        let (rows, bytes) = copy::totals(&Job::load(migration.clone())?)?;
        journal::set_totals(migration.id, rows, bytes)?;
        journal::transition(migration, State::CuttingOver)
    })?;
    Ok(Next::Continue)
}

/// What comes after the rows: their last duplicates go, indexes and proofs are made, one transaction each.
pub fn finish_copy(job: &Job, gives_way: bool) -> Result<Next> {
    background::report_active(&format!(
        "building indexes of table \"{}\"",
        job.migration.relation_name
    ));
    if !job.migration.position.deduplicated {
        txn::run(|| index::deduplicate(job))?;
        return Ok(Next::Continue);
    }
    let built = txn::run(|| {
        let built = index::build_next(job, gives_way)?;
        if built {
            hold::inside(job.id(), "indexed");
        }
        Ok(built)
    })?;
    if built {
        txn::run(|| watch_backlog(&job.migration))?;
        return Ok(Next::Continue);
    }
    prove_default(job)?;
    to(&job.migration, State::CatchingUp)
}

/// Spares the switch a scan of the DEFAULT partition.
pub fn prove_default(job: &Job) -> Result<()> {
    while txn::run(|| default_partition::prove_next(job))? {}
    Ok(())
}

/// Drops the old shards; with the last of a group, notes what the migration cost, in one transaction.
pub fn finish(migration: &Migration, group: &[Migration]) -> Result<Next> {
    if migration.spec.blocking {
        blocking::vacuum(migration)?;
    }
    if migration.spec.is_away() {
        away::switch::finish_prepared(migration)?;
        away::clean::after_end(migration)?;
    }
    txn::run(|| {
        // Dropping a table with foreign keys locks the tables that they reference.
        locks::be_polite();
        if migration.leader.is_none() {
            record_outcome(migration, group)?;
        }
        clean::finish(migration)?;
        hold::inside(migration.leader.unwrap_or(migration.id), "cleaned");
        Ok(())
    })?;
    Ok(Next::Continue)
}

/// Of a group as one: it was planned as one.
fn record_outcome(leader: &Migration, group: &[Migration]) -> Result<()> {
    let sources: Vec<_> = group
        .iter()
        .flat_map(|member| member.spec.source_oids())
        .collect();
    let number = |key: &str| {
        let predicted = leader.predicted.as_ref();
        predicted.and_then(|predicted| predicted.get(key)?.as_f64())
    };
    outcomes::record(&NewOutcome {
        migration: leader.id,
        kind: leader.kind.as_str().to_owned(),
        relation: leader.relation,
        relation_name: leader.relation_name.clone(),
        rows: group.iter().map(|member| member.rows_done).sum(),
        bytes: group.iter().map(|member| member.bytes_done).sum(),
        copy_seconds: group.iter().map(|member| member.copy_seconds).sum(),
        duration: leader.running_seconds,
        pause_ms: leader.pause_ms.unwrap_or(0.0),
        predicted: leader.predicted.clone(),
        load_before: number("load_before"),
        moved: moved(group),
        shards: journal::descendants(&sources)?,
    })
}

/// What was moved inside the cutover, in all tables.
fn moved(group: &[Migration]) -> Moved {
    let mut sum = Moved::default();
    for member in group {
        sum += member.position.moved;
    }
    sum
}
