//! The observer: samples, forecasts, plans, starts movers and recovers what a crash left, in one database.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::catalog::runnable::{self, Runnable};
use crate::catalog::{cutovers, extension, journal, tables};
use crate::error::Result;
use crate::migrate::apply;
use crate::migrate::janitor::Janitor;
use crate::nodes::local::Local;
use crate::pg::shared::{self, Presence};
use crate::pg::{background, guc, time, txn};
use crate::settings::{self, Mode};
use crate::worker::admission::Admission;
use crate::worker::{mover, watcher};
use crate::{decide, observe};

/// The longest time between two looks at the journal; usually a commit wakes the observer.
const LOOK: Duration = Duration::from_secs(1);

/// How often old shards that are kept are brought up to date, and leftovers looked for.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// A mover that ended without finishing is not started again sooner than this.
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// How often old rows are deleted.
const PURGE_INTERVAL: Duration = Duration::from_secs(600);

/// Asks PostgreSQL to start an observer in a database.
pub fn start(database: pg_sys::Oid) -> Result<()> {
    background::start(
        "repart observer",
        "repart_observer_main",
        &database.to_u32().to_string(),
    )
}

/// Entry point of the process.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn repart_observer_main(_argument: pg_sys::Datum) {
    background::attach_signals();
    let Ok(number) = background::my_argument().parse::<u32>() else {
        log!("repart observer: started without a database");
        return;
    };
    let database = pg_sys::Oid::from(number);
    background::connect(database);
    background::report_name("repart observer");
    guc::set("search_path", "pg_catalog, pg_temp");
    guc::set("statement_timeout", "0");
    guc::set("idle_in_transaction_session_timeout", "0");
    for (name, value) in guc::TRANSMISSION_MODES {
        guc::set(name, value);
    }
    note(database, Presence::Running);
    let mut observer = Observer::new();
    loop {
        match txn::run(extension::is_installed) {
            Ok(true) => observer.round(),
            Ok(false) => return note(database, Presence::Absent),
            Err(error) => log!("repart observer: {error}"),
        }
        background::report_idle("waiting");
        background::wait(observer.until_next_job());
    }
}

fn note(database: pg_sys::Oid, presence: Presence) {
    shared::workers(|workers| {
        if let Some(slot) = workers.database_mut(database) {
            slot.presence = presence;
            slot.pid = if presence == Presence::Running {
                background::my_pid()
            } else {
                0
            };
        }
    });
}

/// The jobs of the observer, each with its own due time. A job that fails is logged and tried again when
/// it is next due; it stops neither the others nor the worker.
struct Observer {
    tidied: Option<Instant>,
    sampled: Option<Instant>,
    planned: Option<Instant>,
    purged: Option<Instant>,
    janitor: Janitor,
    /// What this server was doing at the last sample.
    local: Local,
    /// The last error of each job, so that one that stays is logged once.
    errors: BTreeMap<&'static str, String>,
    /// When the mover of each migration was last asked for.
    started: BTreeMap<i64, Instant>,
    /// Which migrations of plans may start.
    admission: Admission,
}

impl Observer {
    fn new() -> Self {
        Self {
            tidied: None,
            sampled: None,
            planned: None,
            purged: None,
            janitor: Janitor::default(),
            local: Local::default(),
            errors: BTreeMap::new(),
            started: BTreeMap::new(),
            admission: Admission::default(),
        }
    }

    fn round(&mut self) {
        let mut started = std::mem::take(&mut self.started);
        let mut admission = std::mem::take(&mut self.admission);
        self.run("migrating", || start_movers(&mut started, &mut admission));
        (self.started, self.admission) = (started, admission);
        if due(self.tidied, TIDY_INTERVAL) {
            self.tidied = Some(Instant::now());
            let mut janitor = std::mem::take(&mut self.janitor);
            self.run("tidying", || janitor.round());
            self.janitor = janitor;
            self.run("looking for nodes", watcher::ensure);
        }
        if settings::mode() == Mode::Off {
            return;
        }
        if due(self.sampled, settings::sample_interval()) {
            self.sampled = Some(Instant::now());
            self.run("sampling", || txn::run(observe::sample).map(|_| ()));
            let mut local = std::mem::take(&mut self.local);
            self.run("measuring", || txn::run(|| local.measure()));
            self.local = local;
        }
        if due(self.planned, settings::forecast_interval()) {
            self.planned = Some(Instant::now());
            self.run("judging", || txn::run(decide::learn::judge).map(|_| ()));
            self.run("planning", plan_all);
        }
        if due(self.purged, PURGE_INTERVAL) {
            self.purged = Some(Instant::now());
            self.run("purging", || {
                txn::run(tables::forget_dropped)?;
                txn::run(cutovers::forget_dropped)?;
                txn::run(observe::purge).map(|_| ())
            });
        }
    }

    fn run(&mut self, job: &'static str, body: impl FnOnce() -> Result<()>) {
        background::report_active(job);
        match body() {
            Ok(()) => {
                self.errors.remove(job);
            }
            Err(error) => {
                let text = error.to_string();
                if self.errors.get(job) != Some(&text) {
                    log!("repart observer: {job}: {text}");
                    self.errors.insert(job, text);
                }
            }
        }
    }

    fn until_next_job(&self) -> Duration {
        if settings::mode() == Mode::Off {
            return LOOK;
        }
        let left = |last: Option<Instant>, interval: Duration| {
            last.map_or(Duration::ZERO, |last| {
                interval.saturating_sub(last.elapsed())
            })
        };
        LOOK.min(left(self.sampled, settings::sample_interval()))
            .min(left(self.planned, settings::forecast_interval()))
            .max(Duration::from_millis(1))
    }
}

fn due(last: Option<Instant>, interval: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= interval)
}

/// Starts movers for migrations that may run: those that a crash interrupted first, then queued ones that somebody asked
/// for, then those of plans that are admitted. Those that are paused, or wait for a node that is away, take nobody's place.
fn start_movers(started: &mut BTreeMap<i64, Instant>, admission: &mut Admission) -> Result<()> {
    let running = mover::running();
    let runnable = txn::run(runnable::all)?;
    started.retain(|migration, _| runnable.iter().any(|one| one.id == *migration));
    let takes_place = |id: &&i64| {
        let known = runnable.iter().find(|one| one.id == **id);
        known.is_none_or(|one| !one.rests && !one.away && one.look_at.is_none())
    };
    let mut busy = running.iter().filter(takes_place).count();
    let is_waiting =
        |one: &&Runnable| one.waits && one.look_at.is_none() && !running.contains(&one.id);
    let waiting: Vec<&Runnable> = runnable.iter().filter(is_waiting).collect();
    let mut order: Vec<&Runnable> = runnable
        .iter()
        .filter(|one| !is_waiting(one) && one.look_at.is_none())
        .collect();
    if !waiting.is_empty() && busy < settings::max_movers() {
        let admitted = admission.admit(&waiting)?;
        let find = |id: &i64| waiting.iter().find(|one| one.id == *id).copied();
        order.extend(admitted.iter().filter_map(find));
    }
    for one in order {
        if one.rests || busy < settings::max_movers() {
            let is_new = start_mover(one.id, &running, started)?;
            busy += usize::from(is_new && !one.rests);
        }
    }
    look_for_node(&runnable, &running, started)
}

/// Starts a mover, unless there is one or was one a moment ago; returns whether it did.
fn start_mover(
    migration: i64,
    running: &[i64],
    started: &mut BTreeMap<i64, Instant>,
) -> Result<bool> {
    let too_soon = started
        .get(&migration)
        .is_some_and(|at| at.elapsed() < RESTART_AFTER);
    if running.contains(&migration) || too_soon {
        return Ok(false);
    }
    if let Err(error) = mover::start(migration) {
        let reason = error.to_string();
        txn::run(|| journal::set_reason(migration, Some(&reason)))?;
        return Err(error);
    }
    started.insert(migration, Instant::now());
    Ok(true)
}

/// Lets a mover look whether the node is back that its migration waits for. One at a time, which takes nobody's place:
/// it does nothing else, and looks for no longer than `repart.node_timeout`.
fn look_for_node(
    runnable: &[Runnable],
    running: &[i64],
    started: &mut BTreeMap<i64, Instant>,
) -> Result<()> {
    let looks = || runnable.iter().filter(|one| one.look_at.is_some());
    if settings::max_movers() == 0 || looks().any(|one| running.contains(&one.id)) {
        return Ok(());
    }
    let Some(next) = looks().min_by_key(|one| one.look_at) else {
        return Ok(());
    };
    if next.look_at.is_some_and(|at| at <= time::clock()) {
        start_mover(next.id, running, started)?;
    }
    Ok(())
}

/// Plans, and in `auto` mode queues what the plan says. A table that fails is left out of the plan.
fn plan_all() -> Result<()> {
    let (plan, failed) = decide::plan::make_plan_isolated()?;
    if settings::mode() == Mode::Auto {
        apply::plan_isolated(plan)?;
    }
    failed
        .into_iter()
        .next()
        .map_or(Ok(()), |(_, error)| Err(error))
}
