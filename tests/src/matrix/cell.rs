//! One cell of the matrix: a migration of a table of its own, held at a moment.

use std::time::Instant;

use repart_core::state::State;

use super::scenario::{KEYS, Scenario};
use crate::repart::{Migration, Session, Shard};
use crate::workload::{Options, Workload};

/// A moment in the life of a migration, at which `repart.hold_at` can hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What the journal says then.
    pub state: State,
    /// What `repart.hold_at` calls it: a state and perhaps a visit, or a point inside a step.
    pub point: String,
}

/// Points at which the mover has locks on the shards that clients wait for.
const LOCKED: &[&str] = &["captured", "blocking", "locked", "switched"];

impl Moment {
    fn of_state(state: State) -> Self {
        Self {
            state,
            point: state.as_str().to_owned(),
        }
    }

    /// None at which anything is held: for what is to run undisturbed.
    pub fn none() -> Self {
        Self {
            state: State::Done,
            point: "undisturbed".to_owned(),
        }
    }

    /// The moments of these states, with finer ones.
    pub fn all_of(finer: &[(State, &str)], states: &[State]) -> Vec<Self> {
        let mut moments: Vec<Self> = Vec::new();
        for &state in states {
            let moment = Self::of_state(state);
            if !state.is_final() && !moments.contains(&moment) {
                moments.push(moment);
            }
        }
        let finer = finer.iter();
        let finer = finer.filter(|(state, _)| states.contains(state));
        moments.extend(finer.map(|&(state, point)| Self {
            state,
            point: point.to_owned(),
        }));
        moments
    }

    /// The point without the visit, as a held mover says it.
    pub fn name(&self) -> &str {
        self.point
            .split_once('#')
            .map_or(&self.point, |(name, _)| name)
    }

    /// Whether clients can work meanwhile.
    pub fn lets_clients_work(&self) -> bool {
        !LOCKED.contains(&self.name())
    }

    /// Whether the new shards are as good as there: nothing more has to be written for them.
    pub fn is_switched(&self) -> bool {
        self.point == "switched" || !self.state.is_before_switch()
    }

    /// Whether it is between two steps, so that the journal can say so.
    pub fn is_outside(&self) -> bool {
        self.name() == self.state.as_str()
    }
}

/// A migration on its way to a moment, with clients on its table.
pub struct Cell {
    /// How it comes about.
    pub scenario: Scenario,
    /// Where it is held.
    pub moment: Moment,
    /// Its table.
    pub table: String,
    /// Its number.
    pub migration: i64,
    /// The shards before.
    before: Vec<Shard>,
    workload: Option<Workload>,
    /// The SQLSTATE of errors that clients had to get.
    pub excused: Option<&'static str>,
    /// What came of it and when, once it has ended.
    pub ended: Option<(Migration, Instant)>,
}

impl Cell {
    /// Makes the table.
    pub fn prepare(session: &mut Session, scenario: Scenario, moment: Moment) -> Self {
        let table = format!("{}_{}_", scenario.name, moment.point.replace('#', "_"));
        (scenario.prepare)(session, &table);
        Self {
            scenario,
            moment,
            migration: 0,
            before: session.shards(&table),
            table,
            workload: None,
            excused: None,
            ended: None,
        }
    }

    /// Starts the clients and queues the migration.
    pub fn start(&mut self, session: &mut Session, options: impl FnOnce(Options) -> Options) {
        let options = options(Options {
            clients: 2,
            pause: std::time::Duration::from_millis(30),
            ..Options::new(&self.table, KEYS)
        });
        let workload = Workload::spawn(session.cluster(), "postgres", options);
        self.workload = Some(workload);
        self.migration = session.queue(&(self.scenario.call)(&self.table));
    }

    /// Its entry in `repart.hold_at`.
    pub fn hold(&self) -> String {
        format!("{}@{}", self.moment.point, self.migration)
    }

    /// Lets the clients do something more, if they can.
    pub fn proceed(&self, operations: u64) {
        if let Some(workload) = &self.workload {
            workload.proceed(operations);
        }
    }

    /// Proves that the migration is where it was to be held.
    ///
    /// # Panics
    /// Panics when it is elsewhere.
    pub fn assert_held(&self, session: &mut Session) {
        let migration = session.migration(self.migration);
        assert_eq!(
            migration.state,
            self.moment.state.as_str(),
            "{}: {migration:?}",
            self.table
        );
        if self.moment.is_outside() {
            let said = Some(format!("held at {}", self.moment.name()));
            assert_eq!(migration.reason, said, "{}", self.table);
        }
        if self.moment.point.contains('#') {
            let sql = "SELECT bytes_done > 0 AND bytes_done < bytes_total FROM repart.journal WHERE id = $1";
            let amid: bool = session.query(sql, &[&self.migration])[0].get(0);
            assert!(amid, "{} is not between two batches", self.table);
        }
    }

    /// Waits until the migration has ended.
    pub fn wait_ended(&mut self, session: &mut Session) {
        let migration = session.wait_ended(self.migration);
        self.ended = Some((migration, Instant::now()));
    }

    /// How it ended.
    pub fn outcome(&self) -> &Migration {
        &self.ended.as_ref().expect("the migration has ended").0
    }

    /// Stops the clients and compares what they remember with what is there; the shards must be exactly the
    /// old or the new ones, as the state says.
    ///
    /// # Panics
    /// Panics when anything is not as it must be.
    pub fn assert_right(&mut self, session: &mut Session) {
        let table = self.table.clone();
        let workload = self.workload.take().expect("the clients are at work");
        let mut report = workload.stop();
        if let Some(state) = self.excused {
            report.errors.retain(|error| !error.starts_with(state));
        }
        assert!(
            report.errors.is_empty() && report.wrong.is_empty(),
            "{table}: {:#?}",
            report
                .wrong
                .iter()
                .chain(&report.errors)
                .take(10)
                .collect::<Vec<_>>()
        );
        let migration = self.outcome().clone();
        let shards = session.shards(&table);
        if migration.state == "done" {
            assert_eq!(session.bounds(&table), self.scenario.bounds.1, "{table}");
            let kept: Vec<_> = self.before.iter().filter(|s| shards.contains(s)).collect();
            // All of the migrated ones were replaced, and of the others nothing may have changed.
            let others: Vec<_> = self.before.iter().skip(self.scenario.replaced).collect();
            assert_eq!(kept, others, "{table}");
        } else {
            assert_eq!(migration.state, "failed", "{table}: {migration:?}");
            assert_eq!(shards, self.before, "{table}: {migration:?}");
            assert!(
                migration.error.is_some_and(|error| !error.is_empty()),
                "{table}: a failed migration says why"
            );
            assert!(
                !self.moment.is_switched() || self.moment.point == "switched",
                "{table}: a switch that was committed cannot fail"
            );
        }
    }
}
