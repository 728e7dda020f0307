//! Takes one migration from where the journal says it is to its end, through errors and waits.

use std::time::{Duration, Instant};

use repart_core::state::State;

use crate::catalog::journal::{self, Migration};
use crate::catalog::outcomes::{self, NewOutcome};
use crate::error::{Error, Result};
use crate::migrate::cutover::Attempt;
use crate::migrate::job::Job;
use crate::migrate::{
    capture, catch_up, cause, clean, copy, cutover, hold, index, locks, prepare, verify,
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

/// How often the log is counted while rows are copied.
const BACKLOG_INTERVAL: Duration = Duration::from_secs(2);

/// The first and the longest pause before something is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

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
    /// When the logs of tables that wait for others of their group were last applied.
    kept_up: Instant,
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
            kept_up: Instant::now(),
            logged: String::new(),
            visits: (State::Queued, 0),
        }
    }

    /// Runs until the migration, and those that follow it, have ended, or do not exist any more.
    pub fn run(&mut self) -> Result<()> {
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
        background::report_active(&format!(
            "{} of table \"{}\": {} ({} rows copied)",
            migration.kind.as_str(),
            migration.relation_name,
            migration.state,
            migration.rows_done
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
                background::wait(pause.max(Duration::from_millis(1)));
                return Ok(());
            }
            Ok(Next::Retry(reason)) => reason,
            Err(error) if error.is_transient() => format!("waits for a lock: {error}"),
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

    /// Ends the migrations, leaving nothing behind; tries again until the locks for that are to be had.
    fn give_up(&mut self, migration: &Migration, group: &[Migration], error: Error) -> Result<()> {
        let error = explained(migration, error);
        pgrx::log!("repart mover: migration {} failed: {error}", self.id);
        let error = txn::run(|| Ok(cause::of(migration, error)))?;
        self.end(group, State::Failed, Some(&error))
    }

    /// All of them in one transaction: they end alike.
    fn end(&mut self, group: &[Migration], end: State, error: Option<&Error>) -> Result<()> {
        let abandon = |migration| clean::abandon(migration, end, error);
        loop {
            match txn::run(|| group.iter().try_for_each(abandon)) {
                Err(cause) if cause.is_transient() => background::wait(self.backoff),
                outcome => return outcome,
            }
            self.backoff = (self.backoff * 2).min(BACKOFF.1);
        }
    }

    fn step(&mut self, migration: Migration, group: &[Migration]) -> Result<Next> {
        let cancel_requested = group.iter().any(|member| member.cancel_requested);
        if cancel_requested && migration.state.is_before_switch() {
            self.end(group, State::Cancelled, None)?;
            return Ok(Next::Continue);
        }
        if migration.attempts > MAX_ATTEMPTS && migration.state.is_before_switch() {
            return Err(Error::Internal(format!(
                "given up after {MAX_ATTEMPTS} attempts without progress"
            )));
        }
        self.keep_up(&migration, group)?;
        match migration.state {
            State::Queued => to(&migration, State::Preparing),
            State::Preparing => prepare(migration),
            State::Copying => self.copy(migration),
            State::CatchingUp => self.catch_up(migration),
            State::Verifying => self.verify(migration, group),
            State::CuttingOver => self.cut_over(group),
            State::Cleaning => finish(&migration, group),
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
        if pending <= self.few_changes() {
            return to(&job.migration, State::Verifying);
        }
        Ok(behind(pending, applied))
    }

    fn verify(&mut self, migration: Migration, group: &[Migration]) -> Result<Next> {
        let job = txn::run(|| Job::load(migration))?;
        let complete = verify::all(&job, || {
            self.keep_up(&job.migration, group)?;
            // Keeps the log short while a large table is compared.
            self.apply_log(&job)?;
            txn::run(|| watch_backlog(&job.migration)).map(|_| ())
        })?;
        if !complete {
            self.apply_log(&job)?;
            return Ok(Next::Continue);
        }
        index::vacuum_and_analyze(&job)?;
        to(&job.migration, State::CuttingOver)
    }

    /// Of all together.
    fn cut_over(&mut self, group: &[Migration]) -> Result<Next> {
        let jobs = txn::run(|| {
            let jobs: Result<Vec<Job>> = group.iter().cloned().map(Job::load).collect();
            cutover::in_order(jobs?)
        })?;
        // As little as possible is left for the transaction that others wait for.
        let mut applied = 0;
        for job in &jobs {
            applied += self.apply_log(job)?;
        }
        let few = self.few_changes();
        let attempt =
            txn::run(|| cutover::attempt(&jobs, few, || hold::inside(self.id, "switched")))?;
        if !matches!(attempt, Attempt::Switched) {
            for job in &jobs {
                txn::run(|| watch_backlog(&job.migration))?;
            }
        }
        Ok(match attempt {
            Attempt::Switched => Next::Continue,
            Attempt::Waiting(reason) => Next::Retry(reason),
            Attempt::Behind(pending) => behind(pending, applied),
        })
    }

    /// Now and then applies the logs of the tables that are ready and wait for the one that is at work.
    fn keep_up(&mut self, at_work: &Migration, group: &[Migration]) -> Result<()> {
        if group.len() < 2 || self.kept_up.elapsed() < BACKLOG_INTERVAL {
            return Ok(());
        }
        for member in group {
            if member.id != at_work.id && member.state == State::CuttingOver {
                let job = txn::run(|| Job::load(member.clone()))?;
                self.apply_log(&job)?;
                txn::run(|| watch_backlog(&job.migration))?;
            }
        }
        self.kept_up = Instant::now();
        Ok(())
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

    /// How many captured changes can be applied under the lock within half of `repart.max_pause`.
    fn few_changes(&self) -> i64 {
        let changes = self.apply_rate * settings::max_pause().as_secs_f64() / 2.0;
        changes.clamp(FEW_CHANGES.0, FEW_CHANGES.1) as i64
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

/// Go on at once while rounds get shorter; else say so, and let the writers have the machine for a while.
fn behind(pending: i64, applied: i64) -> Next {
    if pending < applied {
        return Next::Continue;
    }
    Next::Retry(format!(
        "{pending} captured changes wait, written faster than applied"
    ))
}

/// Where the definition of the table was changed meanwhile, that is the reason of whatever failed.
fn explained(migration: &Migration, error: Error) -> Error {
    if migration.position.fingerprint.is_empty() {
        return error;
    }
    match txn::run(|| Job::load(migration.clone())?.require_unchanged()) {
        Err(reason @ Error::DefinitionChanged(_)) => reason,
        _ => error,
    }
}

fn to(migration: &Migration, state: State) -> Result<Next> {
    txn::run(|| journal::transition(migration, state))?;
    Ok(Next::Continue)
}

fn prepare(migration: Migration) -> Result<Next> {
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
    to(&job.migration, State::CatchingUp)
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

/// Drops the old shards; with the last of a group, notes what the migration cost, in one transaction.
fn finish(migration: &Migration, group: &[Migration]) -> Result<Next> {
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
        .flat_map(|member| &member.spec.sources)
        .map(|source| source.relation())
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
        shards: journal::descendants(&sources)?,
    })
}
