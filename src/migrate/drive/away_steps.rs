//! The steps of migrations in which a node has a part.

use repart_core::state::State;

use super::{Drive, Next, steps, to};
use crate::catalog::journal::{self, Migration};
use crate::error::Result;
use crate::migrate::away::ends::End;
use crate::migrate::away::verify::{Compared, Comparison};
use crate::migrate::away::{self, prepare};
use crate::migrate::job::Job;
use crate::migrate::{hold, index, janitor, locks, names};
use crate::pg::background;
use crate::pg::txn;

impl Drive {
    /// Makes the private objects at both ends, and starts change capture.
    pub(super) fn prepare_away(&mut self, migration: &Migration) -> Result<Next> {
        janitor::give_way_to(migration)?;
        self.links.close();
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
            prepare::create(&job, self.links.of(&job)?)?;
            hold::inside(self.id, "created");
            Ok(())
        })?;
        let job = again(migration)?;
        txn::run(|| {
            locks::be_polite();
            prepare::start_capture(&job, self.links.of(&job)?)?;
            journal::transition(&job.migration, State::Copying)?;
            hold::inside(self.id, "captured");
            Ok(())
        })?;
        Ok(Next::Continue)
    }

    /// What comes after the rows.
    pub(super) fn finish_copy_away(&mut self, job: &Job) -> Result<Next> {
        background::report_active(&format!(
            "building indexes of table \"{}\"",
            job.migration.relation_name
        ));
        txn::run(|| self.links.of(job).map(|_| ()))?;
        let ends = self.links.open(job)?;
        if !job.migration.position.deduplicated {
            txn::run_at(txn::Isolation::RepeatableRead, || {
                away::copy::deduplicate(job, ends)?;
                hold::inside(self.id, "deduplicated");
                Ok(())
            })?;
            return Ok(Next::Continue);
        }
        let built = away::copy::build_next(job, ends, self.pace.gives_way())?;
        if built {
            hold::inside(self.id, "indexed");
            self.watch_backlog(job)?;
            return Ok(Next::Continue);
        }
        steps::prove_default(job)?;
        to(&job.migration, State::CatchingUp)
    }

    /// One round of catching up.
    pub(super) fn round_away(&mut self, job: &Job) -> Result<i64> {
        let id = self.id;
        txn::run(|| self.links.of(job).map(|_| ()))?;
        let ends = self.links.open(job)?;
        away::apply::round(job, ends, || hold::inside(id, "applied"))
    }

    /// Compares all rows, range by range, and keeps the log short meanwhile.
    pub(super) fn verify_away(&mut self, job: &Job, group: &[Migration]) -> Result<Next> {
        let mut comparison = txn::run(|| Comparison::begin(job, self.links.of(job)?))?;
        loop {
            background::check_for_interrupts();
            let begun = std::time::Instant::now();
            match comparison.next(job, self.links.open(job)?)? {
                Compared::All => break,
                Compared::Truncated => {
                    self.apply_log(job)?;
                    return Ok(Next::Continue);
                }
                Compared::More(pause) => {
                    let worked = begun.elapsed();
                    if !pause.is_zero() {
                        background::wait(pause);
                    }
                    self.between_ranges(job, group, worked)?;
                }
            }
        }
        let ends = self.links.open(job)?;
        let vacuum = format!("VACUUM {}", ends.target_tables.join(", "));
        match &mut ends.target {
            End::There(link) => txn::outside(|| link.ask(&vacuum)).map(|_| ())?,
            End::Here(_) => index::vacuum(job, self.pace.gives_way())?,
        }
        to(&job.migration, State::CuttingOver)
    }

    /// Empties the pages of the log of what was consumed.
    pub(super) fn vacuum_log_away(&mut self, job: &Job) -> Result<()> {
        txn::run(|| self.links.of(job).map(|_| ()))?;
        let ends = self.links.open(job)?;
        match &mut ends.source {
            End::There(link) => {
                let vacuum = format!("VACUUM (TRUNCATE off) {}", ends.log);
                txn::outside(|| link.ask(&vacuum)).map(|_| ())
            }
            End::Here(_) => txn::vacuum(&format!("VACUUM (TRUNCATE off) {}", names::log(job.id()))),
        }
    }
}
