//! The steps of migrations on this server.

use repart_core::state::State;

use super::way::Way;
use super::{Drive, Next, to};
use crate::catalog::journal::{self, Migration};
use crate::error::Result;
use crate::migrate::copy::{self, Batch};
use crate::migrate::job::Job;
use crate::migrate::{
    capture, catch_up, default_partition, hold, index, janitor, locks, names, prepare, retain,
    verify,
};
use crate::pg::background;
use crate::pg::txn::{self, Isolation};

/// Nothing leaves this server.
pub(super) struct Here;

impl Way for Here {
    fn prepare(&self, _drive: &mut Drive, migration: &Migration) -> Result<Next> {
        janitor::give_way_to(migration)?;
        if migration.spec.blocking {
            return prepare_blocking(migration);
        }
        if migration.position.retained {
            txn::run(|| {
                locks::be_polite();
                retain::adopt(migration)
            })?;
            return Ok(Next::Continue);
        }
        txn::run(|| {
            locks::be_polite();
            prepare::create(migration.clone())?;
            hold::inside(migration.id, "created");
            Ok(())
        })?;
        let refreshed =
            txn::run(|| journal::find(migration.id))?.unwrap_or_else(|| migration.clone());
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

    fn batch(&self, drive: &mut Drive, job: &Job) -> Result<Batch> {
        copy::batch(job, &mut drive.batches)
    }

    fn finish_copy(&self, drive: &mut Drive, job: &Job) -> Result<Next> {
        let gives_way = drive.pace.gives_way();
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
            drive.watch_backlog(job)?;
            return Ok(Next::Continue);
        }
        prove_default(job)?;
        to(&job.migration, State::CatchingUp)
    }

    fn round(&self, drive: &mut Drive, job: &Job) -> Result<i64> {
        txn::run_at(Isolation::RepeatableRead, || {
            let applied = catch_up::round(job)?;
            hold::inside(drive.id, "applied");
            Ok(applied)
        })
    }

    fn pending(&self, _drive: &mut Drive, job: &Job) -> Result<i64> {
        capture::pending(&job.migration)
    }

    fn vacuum_log(&self, _drive: &mut Drive, job: &Job) -> Result<()> {
        txn::vacuum(&format!("VACUUM (TRUNCATE off) {}", names::log(job.id())))
    }

    fn verify(&self, drive: &mut Drive, job: &Job, group: &[Migration]) -> Result<Next> {
        let complete = verify::all(job, |worked| drive.between_ranges(job, group, worked))?;
        if !complete {
            drive.apply_log(job)?;
            return Ok(Next::Continue);
        }
        index::vacuum(job, drive.pace.gives_way())?;
        to(&job.migration, State::CuttingOver)
    }

    fn tell(&self, _migration: &Migration) -> Result<()> {
        Ok(())
    }
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

/// Spares the switch a scan of the DEFAULT partition.
pub fn prove_default(job: &Job) -> Result<()> {
    while txn::run(|| default_partition::prove_next(job))? {}
    Ok(())
}
