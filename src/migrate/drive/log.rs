//! The log of captured changes: applying it, and not letting it grow without end.

use std::time::{Duration, Instant};

use repart_core::state::State;

use super::{Drive, Next, way};
use crate::catalog::journal::{self, Migration};
use crate::error::{Error, Result};
use crate::migrate::job::Job;
use crate::pg::txn;
use crate::settings;

/// Captured changes that may be left for the switch, whatever the measured rate says.
const FEW_CHANGES: (f64, f64) = (50.0, 10_000.0);

/// How often the log is counted while rows are copied.
pub(super) const BACKLOG_INTERVAL: Duration = Duration::from_secs(2);

/// Consumed entries of the log that slow down whatever reads it.
const MANY_CONSUMED: i64 = 20_000;

impl Drive {
    /// Now and then applies the logs of the tables that are ready and wait for the one that is at work.
    pub(super) fn keep_up(&mut self, at_work: &Migration, group: &[Migration]) -> Result<()> {
        if group.len() < 2 || self.kept_up.elapsed() < BACKLOG_INTERVAL {
            return Ok(());
        }
        for member in group {
            if member.id != at_work.id && member.state == State::CuttingOver {
                let job = txn::run(|| Job::load(member.clone()))?;
                self.apply_log(&job)?;
                self.watch_backlog(&job)?;
            }
        }
        self.kept_up = Instant::now();
        Ok(())
    }

    /// Applies what the log has now; measures how fast that goes.
    pub(super) fn apply_log(&mut self, job: &Job) -> Result<i64> {
        let begun = Instant::now();
        let applied = way::of(&job.migration).round(self, job)?;
        self.consumed += applied;
        if self.consumed >= MANY_CONSUMED {
            self.vacuum_log(job)?;
        }
        if applied > 0 {
            let rate = applied as f64 / begun.elapsed().as_secs_f64().max(1e-6);
            self.apply_rate = (self.apply_rate + rate) / 2.0;
        }
        Ok(applied)
    }

    /// Empties the pages of the log of what was consumed: a switch reads them all, several times, under its lock.
    pub(super) fn vacuum_log(&mut self, job: &Job) -> Result<()> {
        self.consumed = 0;
        way::of(&job.migration).vacuum_log(self, job)
    }

    /// Counts what waits in the log, wherever that is.
    pub(super) fn watch_backlog(&mut self, job: &Job) -> Result<i64> {
        txn::run(|| {
            let pending = way::of(&job.migration).pending(self, job)?;
            require_backlog(&job.migration, pending)
        })
    }

    /// How many captured changes can be applied within these seconds.
    pub(super) fn few_changes(&self, seconds: f64) -> i64 {
        let changes = self.apply_rate * seconds;
        changes.clamp(FEW_CHANGES.0, FEW_CHANGES.1) as i64
    }
}

/// Go on at once while rounds get shorter; else say so, and let the writers have the machine for a while.
pub(super) fn behind(pending: i64, applied: i64) -> Next {
    if pending < applied {
        return Next::Continue;
    }
    Next::Retry(format!(
        "{pending} captured changes wait, written faster than applied"
    ))
}

/// A log that grows without end is given up, so that it fills no disk.
pub(super) fn require_backlog(migration: &Migration, pending: i64) -> Result<i64> {
    journal::set_lag(migration.id, pending)?;
    if pending > settings::max_backlog() {
        return Err(Error::Backlog(pending, settings::max_backlog()));
    }
    Ok(pending)
}
