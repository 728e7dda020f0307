//! Plans and migrations as they are shown while they happen.

use std::time::{Duration, Instant};

use crate::Result;
use crate::clients::Shared;
use crate::observed::{Migration, Observed, Step, percent};
use crate::text::{grouped, labelled};
use crate::trace::clock;

/// The time between two lines about one copy.
const BETWEEN: Duration = Duration::from_millis(500);

/// A statement that a migration delayed may end a little after it.
const AFTERWARDS: i64 = 200_000;

/// What was last shown of a migration.
struct Shown {
    id: i64,
    text: String,
    at: Instant,
}

/// Watches migrations.
pub struct Watch {
    begin: Instant,
    shown: Vec<Shown>,
}

impl Watch {
    /// The days begin at `begin`.
    pub fn new(begin: Instant) -> Self {
        Self {
            begin,
            shown: Vec::new(),
        }
    }

    /// Says what migrations have done since the last look.
    pub fn look(&mut self, observed: &mut Observed, clients: &Shared) -> Result<()> {
        for migration in observed.migrations()? {
            let text = progress(&migration);
            if self.shown.iter().all(|shown| shown.id != migration.id) {
                self.announce(&migration, observed)?;
            }
            let Some(shown) = self.shown.iter_mut().find(|shown| shown.id == migration.id) else {
                continue;
            };
            let copying = text.starts_with("copying") && shown.text.starts_with("copying");
            if shown.text == text || (copying && shown.at.elapsed() < BETWEEN) {
                continue;
            }
            (shown.text, shown.at) = (text.clone(), Instant::now());
            println!("{}  migration {}: {text}", self.clock(), migration.id);
            if migration.finished.is_some() {
                self.show_end(&migration, clients);
            }
        }
        Ok(())
    }

    /// The longest that a client waited while the migration ran.
    pub fn longest_wait(&self, migration: &Migration, clients: &Shared) -> Duration {
        let moment = |micros: i64| self.begin + Duration::from_micros(micros.max(0).unsigned_abs());
        match (migration.started, migration.finished) {
            (Some(from), Some(to)) => clients.longest_wait(moment(from), moment(to + AFTERWARDS)),
            _ => Duration::ZERO,
        }
    }

    fn clock(&self) -> String {
        clock(self.begin.elapsed().as_micros() as i64)
    }

    fn announce(&mut self, migration: &Migration, observed: &mut Observed) -> Result<()> {
        if let Some(step) = observed.step(Some(migration.id))? {
            show_step("its plan", &step);
        }
        println!(
            "{}  migration {} is queued: {}",
            self.clock(),
            migration.id,
            migration.what
        );
        self.shown.push(Shown {
            id: migration.id,
            text: "queued".to_owned(),
            at: Instant::now(),
        });
        Ok(())
    }

    fn show_end(&self, migration: &Migration, clients: &Shared) {
        let seconds = migration
            .started
            .zip(migration.finished)
            .map_or(0.0, |(from, to)| (to - from) as f64 / 1e6);
        let pause = migration.pause.map_or_else(String::new, |pause| {
            format!(", pause of its cutover {pause:.0} ms")
        });
        let wait = self.longest_wait(migration, clients).as_secs_f64() * 1e3;
        println!(
            "{}  migration {}: took {seconds:.1} s{pause}, longest transaction of a client meanwhile {wait:.0} ms",
            self.clock(),
            migration.id
        );
        if let Some(error) = &migration.error {
            labelled("error", error);
        }
    }
}

/// A step of a plan, with its reasons.
pub fn show_step(title: &str, step: &Step) {
    let at = |time: Option<i64>| time.map_or_else(|| "-".to_owned(), clock);
    println!(
        "{}  plan {}, {title}: {}",
        clock(step.made),
        step.plan,
        step.action
    );
    labelled("why", &step.why);
    let times = format!(
        "starts {}, must start by {}, the load passes the limit at {}",
        clock(step.planned),
        at(step.start_by),
        at(step.deadline)
    );
    labelled("when", &times);
    // A shard that moves has the same load after that; its sentence says what its nodes have.
    if !step.action.starts_with("move") {
        let load = format!(
            "hottest shard {:.0} -> {:.0} rows/s, that is {:.0} % -> {:.0} % of its capacity",
            step.load.0,
            step.load.1,
            percent(step.load.0),
            percent(step.load.1)
        );
        labelled("promise", &load);
    }
    for alternative in step.alternatives.iter().take(2) {
        labelled("rather than", alternative);
    }
}

fn progress(migration: &Migration) -> String {
    let (done, total) = migration.rows;
    match migration.state.as_str() {
        "copying" => format!("copying, {} of some {} rows", grouped(done), grouped(total)),
        state => state.to_owned(),
    }
}
