//! Takes one migration from where the journal says it is to its end, through errors and waits.

use std::time::{Duration, Instant};

use repart_core::state::State;

use crate::catalog::control::{self, Wish};
use crate::catalog::journal::{self, Migration};
use crate::catalog::outcomes::{self, NewOutcome};
use crate::error::{Error, Result};
use crate::migrate::cutover::Attempt;
use crate::migrate::job::Job;
use crate::migrate::{
    blocking, capture, catch_up, cause, choice, clean, copy, cutover, default_partition, hold,
    index, janitor, locks, patience, prepare, retain, verify,
};
use crate::pg::background;
use crate::pg::txn::{self, Isolation};
use crate::settings;

/// A mover that ended this often without progress will not make any.
const MAX_ATTEMPTS: i32 = 10;

/// Captured changes that may be left for the switch, whatever the measured rate says.
const FEW_CHANGES: (f64, f64) = (50.0, 10_000.0);

/// Captured changes per second that catch-up is taken to apply before it was measured: a cautious guess.
const UNMEASURED_RATE: f64 = 10_000.0;

/// Writers have waited often enough for a copy that came to nothing.
const MAX_COPIES_IN_VAIN: u32 = 3;

/// How often the log is counted while rows are copied.
const BACKLOG_INTERVAL: Duration = Duration::from_secs(2);

/// The first and the longest pause before something is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// How often a paused migration looks whether it may go on, and applies what was captured.
const REST: Duration = Duration::from_millis(200);

/// How long a migration that ends tries to get the locks for dropping everything at once.
const CLEAN_PATIENCE: Duration = Duration::from_secs(2);

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
    pace: copy::Pace,
    backoff: Duration,
    /// Captured changes applied per second, lately.
    apply_rate: f64,
    /// When the log was last counted.
    counted: Option<Instant>,
    /// How often all rows were copied while writers waited, without a switch in the end.
    copied_in_vain: u32,
    /// The last error after the switch, so that one that stays is logged once.
    logged: String,
    /// The state of the last step, and how many steps this mover has begun in it.
    visits: (State, u32),
}

impl Drive {
    /// For the migration of this number.
    pub fn new(id: i64) -> Self {
        Self {
            id,
            pace: copy::Pace::default(),
            backoff: BACKOFF.0,
            apply_rate: UNMEASURED_RATE,
            counted: None,
            copied_in_vain: 0,
            logged: String::new(),
            visits: (State::Queued, 0),
        }
    }

    /// Runs until the migration has ended, or does not exist any more.
    pub fn run(&mut self) -> Result<()> {
        txn::run(|| journal::take_up(self.id))?;
        loop {
            background::check_for_interrupts();
            background::end_without_postmaster();
            let Some(migration) = txn::run(|| journal::find(self.id))? else {
                return Ok(());
            };
            if migration.state.is_final() {
                return Ok(());
            }
            let visit = self.visit(migration.state);
            if hold::outside(self.id, migration.state.as_str(), visit) {
                self.visits.1 -= 1;
                continue;
            }
            self.report(&migration);
            let outcome = self.step(migration.clone());
            self.after(&migration, outcome)?;
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
        background::report_active(&format!(
            "{} of table \"{}\": {} ({} rows copied)",
            migration.kind.as_str(),
            migration.relation_name,
            migration.state,
            migration.rows_done
        ));
    }

    fn after(&mut self, migration: &Migration, outcome: Result<Next>) -> Result<()> {
        let reason = match outcome {
            Ok(Next::Continue) => {
                self.backoff = BACKOFF.0;
                return Ok(());
            }
            Ok(Next::Pause(pause)) => {
                self.backoff = BACKOFF.0;
                background::wait(pause.max(Duration::from_millis(1)));
                return Ok(());
            }
            Ok(Next::Retry(reason)) => reason,
            // Somebody asked for something else, or interrupted it for that: the journal says what.
            Err(Error::Superseded(_)) => return Ok(()),
            Err(error) if error.is_cancellation() => return Ok(()),
            Err(error) if error.is_transient() => patience::reason(migration, &error)?,
            Err(error) if migration.state.is_before_switch() => {
                return self.give_up(migration, error);
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

    /// Ends the migration, leaving nothing behind; tries again until the locks for that are to be had.
    fn give_up(&mut self, migration: &Migration, error: Error) -> Result<()> {
        pgrx::log!("repart mover: migration {} failed: {error}", self.id);
        let error = txn::run(|| Ok(cause::of(migration, error)))?;
        self.end(migration, State::Failed, Some(&error))
    }

    fn end(&mut self, migration: &Migration, end: State, error: Option<&Error>) -> Result<()> {
        let begun = Instant::now();
        loop {
            let how = if begun.elapsed() < CLEAN_PATIENCE {
                clean::How::Thoroughly
            } else {
                clean::How::InPart
            };
            match txn::run(|| clean::abandon(migration, end, error, how)) {
                Err(cause) if cause.is_transient() => background::wait(self.backoff),
                // A user's cancel was first: it has ended already.
                Err(Error::Superseded(_)) => return Ok(()),
                outcome => return outcome,
            }
            self.backoff = (self.backoff * 2).min(BACKOFF.1);
        }
    }

    /// What a paused migration does: nothing, but for keeping the log of changes from growing, where that is
    /// possible. Before everything is copied it is not: then the log grows, up to its limit.
    fn rest(&mut self, migration: Migration) -> Result<Next> {
        match migration.state {
            State::CatchingUp | State::Verifying | State::CuttingOver => {
                let job = txn::run(|| Job::load(migration))?;
                self.apply_log(&job)?;
                txn::run(|| watch_backlog(&job.migration))?;
            }
            State::Copying => {
                txn::run(|| watch_backlog(&migration))?;
            }
            _ => {}
        }
        Ok(Next::Pause(REST))
    }

    fn step(&mut self, migration: Migration) -> Result<Next> {
        if migration.cancel_requested && migration.state.is_before_switch() {
            self.end(&migration, State::Cancelled, None)?;
            return Ok(Next::Continue);
        }
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
            State::Preparing => prepare(migration),
            State::Copying => self.copy(migration),
            State::CatchingUp => self.catch_up(migration),
            State::Verifying => self.verify(migration),
            State::CuttingOver if migration.spec.blocking => self.cut_over_blocking(migration),
            State::CuttingOver => self.cut_over(migration),
            State::Cleaning => finish(&migration),
            State::Done | State::Cancelled | State::Failed => Ok(Next::Continue),
        }
    }

    fn copy(&mut self, migration: Migration) -> Result<Next> {
        let job = txn::run(|| Job::load(migration))?;
        let batch = txn::run(|| {
            locks::be_polite();
            let batch = copy::batch(&job, &mut self.pace)?;
            hold::inside(self.id, "copied");
            Ok(batch)
        })?;
        if self
            .counted
            .is_none_or(|counted| counted.elapsed() > BACKLOG_INTERVAL)
        {
            self.counted = Some(Instant::now());
            txn::run(|| watch_backlog(&job.migration))?;
        }
        match batch {
            copy::Batch::Copied(pause) if pause.is_zero() => Ok(Next::Continue),
            copy::Batch::Copied(pause) => Ok(Next::Pause(pause)),
            copy::Batch::Finished => finish_copy(&job),
        }
    }

    fn catch_up(&mut self, migration: Migration) -> Result<Next> {
        let job = txn::run(|| Job::load(migration))?;
        let applied = self.apply_log(&job)?;
        let pending = txn::run(|| watch_backlog(&job.migration))?;
        if pending <= self.few_changes(settings::max_pause().as_secs_f64()) {
            return to(&job.migration, State::Verifying);
        }
        Ok(behind(pending, applied))
    }

    fn verify(&mut self, migration: Migration) -> Result<Next> {
        let job = txn::run(|| Job::load(migration))?;
        let complete = verify::all(&job, || self.between_ranges(&job))?;
        if !complete {
            self.apply_log(&job)?;
            return Ok(Next::Continue);
        }
        index::vacuum_and_analyze(&job)?;
        to(&job.migration, State::CuttingOver)
    }

    /// Keeps the log short while a large table is compared, and waits there while the migration is paused.
    fn between_ranges(&mut self, job: &Job) -> Result<()> {
        loop {
            self.apply_log(job)?;
            txn::run(|| watch_backlog(&job.migration))?;
            match txn::run(|| control::wish(job.id()))? {
                Wish::Proceed => return Ok(()),
                Wish::Rest => background::wait(REST),
                Wish::Stop => return Err(Error::Superseded(job.id())),
            }
        }
    }

    fn cut_over(&mut self, migration: Migration) -> Result<Next> {
        let job = txn::run(|| Job::load(migration))?;
        prove_default(&job)?;
        // As little as possible is left for the transaction that others wait for.
        let applied = self.apply_log(&job)?;
        let (budget, moves) = txn::run(|| {
            let budget = choice::budget()?;
            Ok((budget, choice::moves_now(&job, &budget)?))
        })?;
        if job.kept().next().is_some() && budget.left(moves) < 0.0 {
            txn::run(|| {
                choice::rebuild_instead(&job, moves, &budget)?;
                journal::transition(&job.migration, State::Preparing)
            })?;
            return Ok(Next::Continue);
        }
        let few = self.few_changes(budget.left(moves));
        let attempt = txn::run(|| {
            cutover::attempt(std::slice::from_ref(&job), few, || {
                hold::inside(self.id, "switched");
            })
        });
        let next = match attempt {
            Ok(Attempt::Switched) => return Ok(Next::Continue),
            Ok(Attempt::Waiting(reason)) => Next::Retry(reason),
            Ok(Attempt::Behind(pending)) => behind(pending, applied),
            Err(error) if error.is_transient() && !error.is_cancellation() => {
                Next::Retry(patience::reason(&job.migration, &error)?)
            }
            Err(error) => return Err(error),
        };
        txn::run(|| watch_backlog(&job.migration))?;
        if let Next::Retry(reason) = &next {
            patience::require(&job.migration, reason)?;
        }
        Ok(next)
    }

    /// Copies and switches in one transaction. Writers wait for it: it is not tried for ever.
    fn cut_over_blocking(&mut self, migration: Migration) -> Result<Next> {
        let job = txn::run(|| Job::load(migration))?;
        prove_default(&job)?;
        txn::run(|| {
            let warning = blocking::warning(job.migration.relation, &job.migration.spec)?;
            journal::set_reason(job.id(), Some(&warning))
        })?;
        let mut copied = false;
        let attempt = txn::run(|| {
            cutover::attempt_blocking(&job, &mut copied, || hold::inside(job.id(), "switched"))
        });
        match attempt {
            Ok(Attempt::Waiting(reason)) => Ok(Next::Retry(reason)),
            Ok(Attempt::Switched | Attempt::Behind(_)) => Ok(Next::Continue),
            Err(error) if error.is_transient() && copied => {
                self.copied_in_vain += 1;
                if self.copied_in_vain < MAX_COPIES_IN_VAIN {
                    return Ok(Next::Retry(format!("waits: {error}")));
                }
                Err(Error::Internal(format!("given up: {error}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Applies what the log has now; measures how fast that goes.
    fn apply_log(&mut self, job: &Job) -> Result<i64> {
        let begun = Instant::now();
        let applied = txn::run_at(Isolation::RepeatableRead, || {
            let applied = catch_up::round(job)?;
            hold::inside(self.id, "applied");
            Ok(applied)
        })?;
        if applied > 0 {
            let rate = applied as f64 / begun.elapsed().as_secs_f64().max(1e-6);
            self.apply_rate = (self.apply_rate + rate) / 2.0;
        }
        Ok(applied)
    }

    /// How many captured changes can be applied under the lock within half of these seconds.
    fn few_changes(&self, seconds: f64) -> i64 {
        let changes = self.apply_rate * seconds / 2.0;
        changes.clamp(FEW_CHANGES.0, FEW_CHANGES.1) as i64
    }
}

/// Go on at once while rounds get shorter; else say so, and let the writers have the machine for a while.
fn behind(pending: i64, applied: i64) -> Next {
    if pending < applied {
        return Next::Continue;
    }
    Next::Retry(format!(
        "{pending} captured changes wait, written faster than applied"
    ))
}

fn to(migration: &Migration, state: State) -> Result<Next> {
    txn::run(|| journal::transition(migration, state))?;
    Ok(Next::Continue)
}

fn prepare(migration: Migration) -> Result<Next> {
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

fn finish_copy(job: &Job) -> Result<Next> {
    background::report_active(&format!(
        "building indexes of table \"{}\"",
        job.migration.relation_name
    ));
    if !job.migration.position.deduplicated {
        txn::run(|| index::deduplicate(job))?;
        return Ok(Next::Continue);
    }
    let built = txn::run(|| {
        let built = index::build_next(job)?;
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
fn prove_default(job: &Job) -> Result<()> {
    while txn::run(|| default_partition::prove_next(job))? {}
    Ok(())
}

/// A log that grows without end is given up, so that it fills no disk.
fn watch_backlog(migration: &Migration) -> Result<i64> {
    let pending = capture::pending(migration)?;
    journal::set_lag(migration.id, pending)?;
    if pending > settings::max_backlog() {
        return Err(Error::Backlog(pending, settings::max_backlog()));
    }
    Ok(pending)
}

/// Drops the old shards and notes what the migration cost, in one transaction.
fn finish(migration: &Migration) -> Result<Next> {
    if migration.spec.blocking {
        blocking::vacuum(migration)?;
    }
    txn::run(|| {
        // Dropping a table with foreign keys locks the tables that they reference.
        locks::be_polite();
        let sources: Vec<_> = migration
            .spec
            .sources
            .iter()
            .map(|source| source.relation())
            .collect();
        let number = |key: &str| {
            migration
                .predicted
                .as_ref()
                .and_then(|predicted| predicted.get(key)?.as_f64())
        };
        outcomes::record(&NewOutcome {
            migration: migration.id,
            kind: migration.kind.as_str().to_owned(),
            relation: migration.relation,
            relation_name: migration.relation_name.clone(),
            rows: migration.rows_done,
            bytes: migration.bytes_done,
            copy_seconds: migration.copy_seconds,
            duration: migration.running_seconds,
            pause_ms: migration.pause_ms.unwrap_or(0.0),
            predicted: migration.predicted.clone(),
            load_before: number("load_before"),
            moved: migration.position.moved,
            shards: journal::descendants(&sources)?,
        })?;
        clean::finish(migration)?;
        hold::inside(migration.id, "cleaned");
        Ok(())
    })?;
    Ok(Next::Continue)
}
