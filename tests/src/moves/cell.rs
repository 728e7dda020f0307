//! One cell of a row: a migration of a table of its own, held at a moment, with a client on the table.

use std::time::{Duration, Instant};

use super::kind::{Family, KEYS, Kind, Place};
use super::plan;
use crate::fleet::Fleet;
use crate::matrix::cell::Moment;
use crate::repart::{Migration, Session};
use crate::wait::{LONG, wait_for};
use crate::workload::{Options, Workload};

/// Many migrations at once, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(3 * LONG.as_secs());

/// A table that goes from one kind of migration to the next.
pub struct Cell {
    /// Its kinds.
    pub family: Family,
    /// Where its migrations are held.
    pub moment: Moment,
    /// Its name.
    pub table: String,
    /// How many migrations it has behind it.
    step: usize,
    migration: i64,
    workload: Option<Workload>,
}

impl Cell {
    /// Makes the table, as it is before the so-many-th step.
    pub fn prepare(
        fleet: &Fleet,
        session: &mut Session,
        family: Family,
        moment: Moment,
        step: usize,
    ) -> Self {
        let name = moment.point.replace('#', "_");
        let table = format!("t{step}_{name}_");
        create_table(fleet, session, &table, &family.kind(step).layout());
        Self {
            family,
            moment,
            table,
            step,
            migration: 0,
            workload: None,
        }
    }

    /// What its migration does.
    pub fn kind(&self) -> Kind {
        self.family.kind(self.step)
    }

    /// Lets its client begin.
    pub fn start_client(&mut self, session: &Session) {
        let options = Options {
            clients: 1,
            // Many tables share the machine.
            pause: Duration::from_millis(800),
            ..Options::new(&self.table, KEYS)
        };
        let options = options.with_nodes().with_crashes();
        self.workload = Some(Workload::spawn(session.cluster(), "postgres", options));
    }

    /// Queues its migration.
    pub fn queue(&mut self, session: &mut Session) {
        self.migration = session.queue(&self.kind().call(&self.table));
    }

    /// Whether its migration comes by its moment.
    pub fn is_held(&self) -> bool {
        plan::has(self.kind(), &self.moment)
    }

    /// Its entry in `repart.hold_at`.
    pub fn hold(&self) -> String {
        format!("{}@{}", self.moment.point, self.migration)
    }

    /// Waits until it is where it is to be held; returns its mover.
    pub fn wait_held(&self, session: &mut Session) -> i32 {
        let what = format!("{} to be held at {}", self.table, self.moment.point);
        let name = format!("repart mover {}", self.migration);
        let query = format!("held at {}", self.moment.name());
        wait_for(&what, PATIENCE, || {
            let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND query = $2";
            let rows = session.query(sql, &[&name, &query]);
            let pid = rows.first().map(|row| row.get(0));
            if pid.is_none() {
                let migration = session.migration(self.migration);
                let over = ["done", "failed"].contains(&migration.state.as_str());
                assert!(!over, "{what}, but {migration:?}");
            }
            pid
        })
    }

    /// How many operations its client will have done after so many more.
    pub fn operations_after(&self, more: u64) -> u64 {
        let workload = self.workload.as_ref();
        workload.map_or(0, |workload| workload.operations() + more)
    }

    /// Waits until the client has done so many operations.
    pub fn reach(&self, operations: u64) {
        if let Some(workload) = &self.workload {
            workload.reach(operations);
        }
    }

    /// Proves that the migration is where it was to be held.
    ///
    /// # Panics
    /// Panics when it is elsewhere.
    pub fn assert_held(&self, session: &mut Session) {
        let migration = session.migration(self.migration);
        let (table, state) = (&self.table, self.moment.state.as_str());
        assert_eq!(migration.state, state, "{table}: {migration:?}");
        if self.moment.is_outside() {
            let said = Some(format!("held at {}", self.moment.name()));
            assert_eq!(migration.reason, said, "{table}");
        }
        if self.moment.point.contains('#') {
            let sql = "SELECT bytes_done > 0 AND bytes_done < bytes_total FROM repart.journal WHERE id = $1";
            let amid: bool = session.query(sql, &[&self.migration])[0].get(0);
            assert!(amid, "{table} is not between two batches");
        }
    }

    /// The number of its migration.
    pub fn number(&self) -> i64 {
        self.migration
    }

    /// Waits until the migration is done.
    ///
    /// # Panics
    /// Panics when it ends otherwise.
    pub fn wait_done(&self, session: &mut Session) {
        let migration = self.wait_ended(session);
        let (kind, point) = (self.kind(), &self.moment.point);
        assert_eq!(
            migration.state, "done",
            "{kind:?} held at {point}: {migration:?}"
        );
    }

    /// Waits until the migration has ended.
    pub fn wait_ended(&self, session: &mut Session) -> Migration {
        let what = format!(
            "{:?} of {}, held at {}",
            self.kind(),
            self.table,
            self.moment.point
        );
        let deadline = Instant::now() + PATIENCE;
        wait_for(&what, 2 * PATIENCE, || {
            let sql =
                "SELECT state IN ('done', 'failed', 'cancelled') FROM repart.journal WHERE id = $1";
            let is_over: bool = session.query(sql, &[&self.migration])[0].get(0);
            let is_late = Instant::now() > deadline;
            let migration = (is_over || is_late).then(|| session.migration(self.migration));
            assert!(is_over || !is_late, "{what} has not ended: {migration:?}");
            migration
        })
    }

    /// Proves that the shards are what the migration was to make of them, and that the client saw nothing wrong.
    ///
    /// # Panics
    /// Panics when it is not so.
    pub fn assert_right(&self, session: &mut Session) {
        let sql = "SELECT (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''?(\\w+)'))[1], coalesce(s.srvname, 'local')
                     FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                     LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
                    WHERE i.inhparent = $1::text::regclass ORDER BY nullif((regexp_match(
                          pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''?(\\w+)'))[1], 'MINVALUE')::int8 NULLS FIRST";
        let rows = session.query(sql, &[&self.table]);
        let mut found: Vec<(String, String)> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(found.remove(0).0, "MINVALUE", "{}", self.table);
        let expected: Vec<(String, String)> = self
            .family
            .kind(self.step + 1)
            .layout()
            .iter()
            .map(|(from, place)| (from.to_string(), place.node().to_owned()))
            .collect();
        assert_eq!(found, expected, "{} after {:?}", self.table, self.kind());
        self.assert_no_trouble();
    }

    /// Proves that the client saw nothing wrong so far.
    ///
    /// # Panics
    /// Panics when it did.
    pub fn assert_no_trouble(&self) {
        let trouble = self.workload.as_ref().map(Workload::trouble);
        let trouble = trouble.unwrap_or_default();
        let kind = self.kind();
        assert!(
            trouble.is_empty(),
            "{} at {kind:?}: {trouble:#?}",
            self.table
        );
    }

    /// The next migration of the table is its next kind.
    pub fn step(&mut self) {
        self.step += 1;
    }

    /// How many of the shards are on a server now.
    pub fn shards_on(&self, place: Place) -> usize {
        let layout = self.kind().layout();
        layout.iter().filter(|(_, at)| *at == place).count()
    }

    /// Stops the client and compares what it remembers with what is there.
    ///
    /// # Panics
    /// Panics when these differ, or an answer was wrong before.
    pub fn stop_client(&mut self) {
        if let Some(workload) = self.workload.take() {
            let report = workload.stop();
            let wrong: Vec<_> = report.wrong.iter().chain(&report.errors).collect();
            assert!(wrong.is_empty(), "{}: {wrong:#?}", self.table);
        }
    }
}

/// A managed table with a shard here and others where they are to be, with the rows that clients expect.
fn create_table(fleet: &Fleet, session: &mut Session, table: &str, layout: &[(i64, Place)]) {
    const COLUMNS: &str = "id bigint PRIMARY KEY, payload text NOT NULL, counter bigint NOT NULL";
    session.run(&format!(
        "CREATE TABLE {table} (id bigint NOT NULL, payload text NOT NULL, counter bigint NOT NULL)
             PARTITION BY RANGE (id)"
    ));
    let mut from = ("MINVALUE".to_owned(), 0);
    let mut place = Place::Local;
    let ends = layout.iter().map(|&(at, next)| (at.to_string(), at, next));
    let last = ("MAXVALUE".to_owned(), KEYS, Place::Local);
    for (n, (to, key, next)) in ends.chain([last]).enumerate() {
        let shard = format!("{table}{}", n + 1);
        let bounds = format!("FOR VALUES FROM ({}) TO ({to})", from.0);
        let rows = format!(
            "SELECT id, 'loaded ' || id, 0 FROM generate_series({}, {key} - 1) id WHERE id % 3 <> 0",
            from.1
        );
        let node = match place {
            Place::Local => None,
            Place::North => Some(&fleet.north),
            Place::South => Some(&fleet.south),
        };
        match node {
            None => session.run(&format!(
                "CREATE TABLE {shard} PARTITION OF {table} {bounds};
                 ALTER TABLE {shard} ADD PRIMARY KEY (id); INSERT INTO {shard} {rows}; ANALYZE {shard}"
            )),
            Some(node) => {
                Session::open(node, "postgres").run(&format!(
                    "CREATE SCHEMA IF NOT EXISTS repart_shards;
                     CREATE TABLE repart_shards.{shard} ({COLUMNS});
                     INSERT INTO repart_shards.{shard} {rows}; ANALYZE repart_shards.{shard}"
                ));
                session.run(&format!(
                    "CREATE FOREIGN TABLE {shard} PARTITION OF {table} {bounds} SERVER {}
                         OPTIONS (schema_name 'repart_shards', table_name '{shard}')",
                    place.node()
                ));
            }
        }
        (from, place) = ((to, key), next);
    }
    session.run(&format!("SELECT repart_manage('{table}')"));
}
