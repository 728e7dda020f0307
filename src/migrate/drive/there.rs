//! The steps of migrations in which a node has a part.

use repart_core::state::State;

use super::here::prove_default;
use super::way::Way;
use super::{Drive, Next, to};
use crate::catalog::journal::{self, Migration};
use crate::error::Result;
use crate::migrate::away::ends::End;
use crate::migrate::away::verify::{Compared, Comparison};
use crate::migrate::away::{self, prepare};
use crate::migrate::copy::Batch;
use crate::migrate::job::Job;
use crate::migrate::{hold, index, janitor, locks, names};
use crate::pg::background;
use crate::pg::txn;

/// Rows leave this server, or come to it, or are on a node and stay there.
pub(super) struct There;

impl Way for There {
    fn prepare(&self, drive: &mut Drive, migration: &Migration) -> Result<Next> {
        janitor::give_way_to(migration)?;
        drive.links.close();
        txn::run(|| {
            locks::be_polite();
            prepare::begin(migration)
        })?;
        let again = |migration: &Migration| {
            let found = txn::run(|| journal::find(migration.id))?;
            txn::run(|| Job::load(found.unwrap_or_else(|| migration.clone())))
        };
        let job = again(migration)?;
        txn::run(|| {
            locks::be_polite();
            prepare::create(&job, drive.links.of(&job)?)?;
            hold::inside(drive.id, "created");
            Ok(())
        })?;
        let job = again(migration)?;
        txn::run(|| {
            locks::be_polite();
            prepare::start_capture(&job, drive.links.of(&job)?)?;
            journal::transition(&job.migration, State::Copying)?;
            hold::inside(drive.id, "captured");
            Ok(())
        })?;
        Ok(Next::Continue)
    }

    fn batch(&self, drive: &mut Drive, job: &Job) -> Result<Batch> {
        away::copy::batch(job, drive.links.of(job)?, &mut drive.batches)
    }

    fn finish_copy(&self, drive: &mut Drive, job: &Job) -> Result<Next> {
        background::report_active(&format!(
            "building indexes of table \"{}\"",
            job.migration.relation_name
        ));
        txn::run(|| drive.links.of(job).map(|_| ()))?;
        let ends = drive.links.open(job)?;
        if !job.migration.position.deduplicated {
            txn::run_at(txn::Isolation::RepeatableRead, || {
                away::copy::deduplicate(job, ends)?;
                hold::inside(drive.id, "deduplicated");
                Ok(())
            })?;
            return Ok(Next::Continue);
        }
        let built = away::copy::build_next(job, ends, drive.pace.gives_way())?;
        if built {
            hold::inside(drive.id, "indexed");
            drive.watch_backlog(job)?;
            return Ok(Next::Continue);
        }
        prove_default(job)?;
        to(&job.migration, State::CatchingUp)
    }

    fn round(&self, drive: &mut Drive, job: &Job) -> Result<i64> {
        let id = drive.id;
        txn::run(|| drive.links.of(job).map(|_| ()))?;
        let ends = drive.links.open(job)?;
        away::apply::round(job, ends, || hold::inside(id, "applied"))
    }

    fn verify(&self, drive: &mut Drive, job: &Job, group: &[Migration]) -> Result<Next> {
        let mut comparison = txn::run(|| Comparison::begin(job, drive.links.of(job)?))?;
        loop {
            background::check_for_interrupts();
            let begun = std::time::Instant::now();
            match comparison.next(job, drive.links.open(job)?)? {
                Compared::All => break,
                Compared::Truncated => {
                    drive.apply_log(job)?;
                    return Ok(Next::Continue);
                }
                Compared::More(pause) => {
                    let worked = begun.elapsed();
                    if !pause.is_zero() {
                        background::wait(pause);
                    }
                    drive.between_ranges(job, group, worked)?;
                }
            }
        }
        let ends = drive.links.open(job)?;
        let vacuum = format!("VACUUM {}", ends.target_tables.join(", "));
        match &mut ends.target {
            End::There(link) => txn::outside(|| link.ask(&vacuum)).map(|_| ())?,
            End::Here(_) => index::vacuum(job, drive.pace.gives_way())?,
        }
        to(&job.migration, State::CuttingOver)
    }

    fn pending(&self, drive: &mut Drive, job: &Job) -> Result<i64> {
        away::capture::pending(job, drive.links.of(job)?)
    }

    fn tell(&self, migration: &Migration) -> Result<()> {
        away::switch::finish_prepared(migration)?;
        away::clean::after_end(migration)
    }

    fn vacuum_log(&self, drive: &mut Drive, job: &Job) -> Result<()> {
        txn::run(|| drive.links.of(job).map(|_| ()))?;
        let ends = drive.links.open(job)?;
        match &mut ends.source {
            End::There(link) => {
                let vacuum = format!("VACUUM (TRUNCATE off) {}", ends.log);
                txn::outside(|| link.ask(&vacuum)).map(|_| ())
            }
            End::Here(_) => txn::vacuum(&format!("VACUUM (TRUNCATE off) {}", names::log(job.id()))),
        }
    }
}
