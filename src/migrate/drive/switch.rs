//! Trying to cut over until it works, or has been tried for long enough.

use std::time::Duration;

use super::here::prove_default;
use super::log::behind;
use super::{Drive, Next};
use crate::catalog::journal::{self, Migration};
use crate::error::{Error, Result};
use crate::migrate::cutover::{self, Attempt, Progress, Waiting};
use crate::migrate::job::Job;
use crate::migrate::{blocking, choice, hold, patience};
use crate::pg::txn;
use crate::settings;

use repart_core::state::State;

/// Consumed entries of a log that a switch would notice.
const SOME_CONSUMED: i64 = 500;

/// Writers have waited often, and long, enough for copies that came to nothing.
const MOST_IN_VAIN: (u32, Duration) = (3, Duration::from_secs(10));

/// Copies that others waited for, without a switch in the end.
#[derive(Default)]
pub(super) struct InVain {
    times: u32,
    waited: Duration,
    /// How long the last complete one took.
    copy: Option<Duration>,
}

impl InVain {
    fn note(&mut self, progress: &Progress) {
        self.times += 1;
        self.waited += progress
            .begun
            .map_or(Duration::ZERO, |begun| begun.elapsed());
        self.copy = progress.copy.or(self.copy);
    }

    /// Fails once it is enough.
    fn require(&self, reason: &str) -> Result<()> {
        if self.times < MOST_IN_VAIN.0 || self.waited < MOST_IN_VAIN.1 {
            return Ok(());
        }
        Err(Error::CopiesInVain {
            times: self.times,
            seconds: self.waited.as_secs(),
            reason: reason.to_owned(),
        })
    }

    /// Who waits for the next one. Where transactions that read and then write come all the time, only one that
    /// readers wait for too gets through, which is in order if that is no longer than any other switch.
    fn waiting(&self) -> Waiting {
        match self.copy {
            Some(copy) if copy <= settings::max_pause() => Waiting::Everybody,
            _ => Waiting::Writers,
        }
    }
}

impl Drive {
    /// Switches all of a group together.
    pub(super) fn cut_over(&mut self, group: &[Migration]) -> Result<Next> {
        let jobs: Vec<Job> =
            txn::run(|| group.iter().cloned().map(Job::load).collect::<Result<_>>())?;
        // As little as possible is left for the transaction that others wait for.
        let mut applied = 0;
        let is_bloated = self.consumed >= SOME_CONSUMED;
        for job in &jobs {
            prove_default(job)?;
            if is_bloated {
                self.vacuum_log(job)?;
            }
            applied += self.apply_log(job)?;
        }
        let Some(seconds) = txn::run(|| time_left(&jobs))? else {
            return Ok(Next::Continue);
        };
        let few = self.few_changes(seconds * self.share_of_pause());
        let id = self.id;
        let attempt = txn::run(|| {
            cutover::attempt(&jobs, few, &mut self.links, || hold::inside(id, "switched"))
        });
        if !matches!(attempt, Ok(Attempt::Switched)) {
            // With its transactions on nodes, which hold locks there.
            self.links.close();
        }
        let next = match attempt {
            Ok(Attempt::Switched) => {
                // Clients of routing copies wait for this.
                hold::outside(id, "decided", 1);
                self.links.copies.finish();
                return Ok(Next::Continue);
            }
            Ok(Attempt::Waiting(reason)) => Next::Retry(reason),
            Ok(Attempt::Behind(pending)) => {
                self.behind += 1;
                behind(pending, applied)
            }
            Err(error) if error.is_transient() && !error.is_cancellation() => {
                Next::Retry(patience::reason(group, &error))
            }
            Err(error) => return Err(error),
        };
        for job in &jobs {
            self.watch_backlog(job)?;
        }
        if let Next::Retry(reason) = &next {
            patience::require(group, reason)?;
        }
        Ok(next)
    }

    /// Which share of the pause may go to captured changes, which have to be compared too: little, so that clients wait
    /// no longer than they must, and more where writers are too quick for that.
    fn share_of_pause(&self) -> f64 {
        match self.behind {
            0..5 => 0.1,
            5..10 => 0.2,
            _ => 0.4,
        }
    }

    /// Copies and switches in one transaction. Writers wait for it: it is not tried for ever.
    pub(super) fn cut_over_blocking(&mut self, migration: Migration) -> Result<Next> {
        let job = txn::run(|| Job::load(migration))?;
        prove_default(&job)?;
        txn::run(|| {
            let warning = blocking::warning(job.migration.relation, &job.migration.spec)?;
            journal::set_reason(job.id(), Some(&warning))
        })?;
        let mut progress = Progress::default();
        let waiting = self.in_vain.waiting();
        let attempt = txn::run(|| {
            let hold = || hold::inside(job.id(), "switched");
            cutover::attempt_blocking(&job, waiting, &mut progress, &mut self.links, hold)
        });
        if matches!(attempt, Ok(Attempt::Switched)) {
            hold::outside(self.id, "decided", 1);
            self.links.copies.finish();
        } else {
            self.links.close();
        }
        let reason = match attempt {
            Ok(Attempt::Switched | Attempt::Behind(_)) => return Ok(Next::Continue),
            Ok(Attempt::Waiting(reason)) => reason,
            Err(error) if !error.is_transient() || error.is_cancellation() => return Err(error),
            Err(error) if progress.begun.is_some() => {
                self.in_vain.note(&progress);
                self.in_vain.require(&error.to_string())?;
                format!("waits: {error}")
            }
            Err(error) => patience::reason([&job.migration], &error),
        };
        patience::require(std::slice::from_ref(&job.migration), &reason)?;
        Ok(Next::Retry(reason))
    }
}

/// How many seconds of the pause the rows leave that would have to be moved now; `None` if they do not fit any more,
/// and one of the tables is prepared anew for that.
fn time_left(jobs: &[Job]) -> Result<Option<f64>> {
    let mut left = 0.0;
    for job in jobs {
        let budget = choice::budget(&job.migration)?;
        let moves = choice::moves_now(job, &budget)?;
        if job.kept().next().is_some() && budget.left(moves) < 0.0 {
            choice::rebuild_instead(job, moves, &budget)?;
            journal::transition(&job.migration, State::Preparing)?;
            return Ok(None);
        }
        left += budget.left(moves);
    }
    Ok(Some(left))
}
