//! Takes one migration from where the journal says it is to its end, through errors and waits; with it those of the
//! tables that are colocated with its own, which it leads.

mod ending;
mod finish;
mod here;
mod log;
mod switch;
mod there;
mod waiting;
mod way;

use std::time::{Duration, Instant};

use repart_core::state::State;

use crate::catalog::control::{self, Wish};
use crate::catalog::journal::{self, Migration};
use crate::error::{Error, Result};
use crate::migrate::away::Links;
use crate::migrate::job::Job;
use crate::migrate::pace::Pace;
use crate::migrate::{copy, hold, locks, patience};
use crate::pg::background;
use crate::pg::txn;
use crate::settings;

use log::{BACKLOG_INTERVAL, behind};

/// A mover that ended this often without progress will not make any.
const MAX_ATTEMPTS: i32 = 10;

/// Captured changes per second that catch-up is taken to apply before it was measured: a cautious guess.
const UNMEASURED_RATE: f64 = 10_000.0;

/// The first and the longest pause before something is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// How often a paused migration looks whether it may go on, and applies what was captured.
const REST: Duration = Duration::from_millis(200);

/// What a step came to.
enum Next {
    /// Go on at once.
    Continue,
    /// Go on after a pause that the step asked for.
    Pause(Duration),
    /// Try again after a growing pause; the journal says what is waited for.
    Retry(String),
}

/// One mover at work.
pub struct Drive {
    id: i64,
    batches: copy::Batches,
    pace: Pace,
    backoff: Duration,
    /// Captured changes applied per second, lately.
    apply_rate: f64,
    /// How often there was more to apply than the switch was to be tried with.
    behind: u32,
    /// Entries that were applied since the log was last vacuumed.
    consumed: i64,
    /// When the log was last counted.
    counted: Option<Instant>,
    /// When the logs of tables that wait for others of their group were last applied.
    kept_up: Instant,
    /// Copies that writers waited for, without a switch in the end.
    in_vain: switch::InVain,
    /// The last error after the switch, so that one that stays is logged once.
    logged: String,
    /// Connections to nodes.
    links: Links,
    /// The state of the last step, and how many steps this mover has begun in it.
    visits: (State, u32),
}

impl Drive {
    /// For the migration of this number.
    pub fn new(id: i64) -> Self {
        Self {
            id,
            batches: copy::Batches::default(),
            pace: Pace::begin(id),
            backoff: BACKOFF.0,
            apply_rate: UNMEASURED_RATE,
            behind: 0,
            consumed: 0,
            counted: None,
            kept_up: Instant::now(),
            in_vain: switch::InVain::default(),
            logged: String::new(),
            links: Links::default(),
            visits: (State::Queued, 0),
        }
    }

    /// Runs until the migration, and those that follow it, have ended, or do not exist any more; or until it has to wait
    /// for a node, of which the journal knows then.
    pub fn run(&mut self) -> Result<()> {
        let group = txn::run(|| journal::with_followers(self.id))?;
        if let Some(node) = waiting::awaited(&group) {
            return self.look_for(node, &group);
        }
        txn::run(|| journal::take_up(self.id))?;
        loop {
            background::check_for_interrupts();
            background::end_without_postmaster();
            let group = txn::run(|| journal::with_followers(self.id))?;
            let Some(migration) = next_of(&group) else {
                return Ok(());
            };
            let visit = self.visit(migration.state);
            if hold::outside(self.id, migration.state.as_str(), visit) {
                self.visits.1 -= 1;
                continue;
            }
            self.report(migration);
            let outcome = self.step(migration.clone(), &group);
            if outcome.is_err() {
                // What is not committed on a node must not be, and what it still says would be taken for an answer.
                self.links.close();
            }
            if let Err(error) = &outcome
                && let Some(node) = waiting::unreachable(error)?
            {
                return self.wait_for(&node, error, migration, &group);
            }
            self.after(migration, &group, outcome)?;
        }
    }

    /// Counts the steps of a state.
    fn visit(&mut self, state: State) -> u32 {
        let before = if self.visits.0 == state {
            self.visits.1
        } else {
            0
        };
        self.visits = (state, before + 1);
        self.visits.1
    }

    /// What `pg_stat_activity` shows.
    fn report(&self, migration: &Migration) {
        let gives_way = self.pace.gives_way_on();
        background::report_active(&format!(
            "{} of table \"{}\": {} ({} rows copied){}",
            migration.kind.as_str(),
            migration.relation_name,
            migration.state,
            migration.rows_done,
            gives_way.map_or_else(String::new, |place| format!(", gives way on {place}"))
        ));
    }

    fn after(
        &mut self,
        migration: &Migration,
        group: &[Migration],
        outcome: Result<Next>,
    ) -> Result<()> {
        let reason = match outcome {
            Ok(Next::Continue) => {
                self.backoff = BACKOFF.0;
                return Ok(());
            }
            Ok(Next::Pause(pause)) => {
                self.backoff = BACKOFF.0;
                if !pause.is_zero() {
                    background::wait(pause.max(Duration::from_millis(1)));
                }
                return Ok(());
            }
            Ok(Next::Retry(reason)) => reason,
            // Somebody asked for something else, or interrupted it for that: the journal says what.
            Err(Error::Superseded(_)) => return Ok(()),
            Err(error) if error.is_cancellation() => return Ok(()),
            Err(error) if error.is_transient() => patience::reason([migration], &error),
            Err(error) if migration.state.is_before_switch() => {
                return self.give_up(migration, group, error);
            }
            // After the switch there is only forward.
            Err(error) => {
                let text = error.to_string();
                if text != self.logged {
                    pgrx::log!("repart mover: migration {}: {text}", self.id);
                    self.logged.clone_from(&text);
                }
                text
            }
        };
        txn::run(|| journal::set_reason(self.id, Some(&reason)))?;
        background::wait(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        Ok(())
    }

    /// What a paused migration does: nothing, but for keeping the log of changes from growing, where that is
    /// possible. Before everything is copied it is not: then the log grows, up to its limit.
    fn rest(&mut self, migration: Migration) -> Result<Next> {
        match migration.state {
            // Without a key nothing is captured.
            _ if migration.spec.blocking => {}
            State::CatchingUp | State::Verifying | State::CuttingOver => {
                let job = txn::run(|| Job::load(migration))?;
                self.apply_log(&job)?;
                self.watch_backlog(&job)?;
            }
            State::Copying => {
                let job = txn::run(|| Job::load(migration))?;
                self.watch_backlog(&job)?;
            }
            _ => {}
        }
        Ok(Next::Pause(REST))
    }

    fn step(&mut self, migration: Migration, group: &[Migration]) -> Result<Next> {
        if migration.cancel_requested && migration.state.is_before_switch() {
            self.end(group, State::Cancelled, None)?;
            return Ok(Next::Continue);
        }
        self.keep_up(&migration, group)?;
        if migration.is_paused && migration.state.is_before_switch() {
            return self.rest(migration);
        }
        if migration.attempts > MAX_ATTEMPTS && migration.state.is_before_switch() {
            return Err(Error::Internal(format!(
                "given up after {MAX_ATTEMPTS} attempts without progress"
            )));
        }
        match migration.state {
            State::Queued => to(&migration, State::Preparing),
            State::Preparing => way::of(&migration).prepare(self, &migration),
            State::Copying => self.copy(migration),
            State::CatchingUp => self.catch_up(migration),
            State::Verifying => self.verify(migration, group),
            State::CuttingOver if migration.spec.blocking => self.cut_over_blocking(migration),
            State::CuttingOver => self.cut_over(group),
            State::Cleaning => {
                self.links.close();
                finish::finish(&migration, group)
            }
            State::Done | State::Cancelled | State::Failed => Ok(Next::Continue),
        }
    }

    fn copy(&mut self, migration: Migration) -> Result<Next> {
        let job = txn::run(|| Job::load(migration))?;
        let begun = Instant::now();
        let batch = txn::run(|| {
            locks::be_polite();
            let batch = way::of(&job.migration).batch(self, &job)?;
            hold::inside(self.id, "copied");
            Ok(batch)
        })?;
        if self
            .counted
            .is_none_or(|counted| counted.elapsed() > BACKLOG_INTERVAL)
        {
            self.counted = Some(Instant::now());
            self.watch_backlog(&job)?;
        }
        match batch {
            copy::Batch::Copied(pause) => {
                let (worked, links) = (begun.elapsed(), &mut self.links);
                let rest = self.pace.rest_after(worked, links, job.id())?;
                Ok(Next::Pause(pause.max(rest)))
            }
            copy::Batch::Finished => way::of(&job.migration).finish_copy(self, &job),
        }
    }

    fn catch_up(&mut self, migration: Migration) -> Result<Next> {
        let job = txn::run(|| Job::load(migration))?;
        let applied = self.apply_log(&job)?;
        let pending = self.watch_backlog(&job)?;
        if pending <= self.few_changes(settings::max_pause().as_secs_f64() / 2.0) {
            return to(&job.migration, State::Verifying);
        }
        Ok(behind(pending, applied))
    }

    fn verify(&mut self, migration: Migration, group: &[Migration]) -> Result<Next> {
        let job = txn::run(|| Job::load(migration))?;
        way::of(&job.migration).verify(self, &job, group)
    }

    /// Keeps the log short while a large table is compared, and waits there while the migration is paused.
    fn between_ranges(&mut self, job: &Job, group: &[Migration], worked: Duration) -> Result<()> {
        let rest = self.pace.rest_after(worked, &mut self.links, job.id())?;
        background::wait(rest);
        loop {
            self.keep_up(&job.migration, group)?;
            self.apply_log(job)?;
            self.watch_backlog(job)?;
            match txn::run(|| control::wish(job.id()))? {
                Wish::Proceed => return Ok(()),
                Wish::Rest => background::wait(REST),
                Wish::Stop => return Err(Error::Superseded(job.id())),
            }
        }
    }
}

/// Which of a group to take a step with: one table after the other until all are ready to be cut over together; then
/// they are cleaned, the one that leads last, so that all have ended when it has. `None` when all have ended.
fn next_of(group: &[Migration]) -> Option<&Migration> {
    let open = || group.iter().filter(|member| !member.state.is_final());
    if open().all(|member| !member.state.is_before_switch()) {
        return open().next_back();
    }
    open()
        .find(|member| member.state != State::CuttingOver)
        .or_else(|| open().next())
}

fn to(migration: &Migration, state: State) -> Result<Next> {
    txn::run(|| journal::transition(migration, state))?;
    Ok(Next::Continue)
}
