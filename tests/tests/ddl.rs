//! Every change that somebody else may make to a table, in every state of its migration before the switch:
//! theirs succeeds at once, and the migration then follows or ends with a reason; no row is lost and nothing
//! is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use postgres::Client;
use repart_core::state::State;
use repart_tests::aftermath::assert_nothing_left;
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

/// What may become of the migration, by whether the change came before the targets were made or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It is done.
    Done,
    /// It is done if nothing was made yet, and otherwise ends with this reason.
    Fails(&'static str),
    /// It ends with this reason in any case.
    Gone(&'static str),
}

use Then::{Done, Fails, Gone};

const CHANGED: &str = "definition of table";
const NO_SHARD: &str = "no longer exists, or was changed";

/// A change: what is done, statement by statement, what becomes of the migration, and what must be true in the
/// end. `$T` is the table, `$L` the shard that is split, `$K` the one that is not.
type Change = (&'static str, Then, &'static str);

static CHANGES: [Change; 65] = [
    ("TRUNCATE $T", Done, ""),
    ("TRUNCATE $L", Done, ""),
    ("TRUNCATE $K", Done, ""),
    (
        "ALTER TABLE $T ADD COLUMN extra text DEFAULT 'set'",
        Fails(CHANGED),
        "SELECT bool_and(extra = 'set') FROM $T",
    ),
    ("ALTER TABLE $T DROP COLUMN spare", Fails(CHANGED), ""),
    (
        "ALTER TABLE $T ALTER COLUMN spare TYPE bigint",
        Fails(CHANGED),
        "SELECT pg_typeof(spare)::text = 'bigint' FROM $T LIMIT 1",
    ),
    (
        "ALTER TABLE $T ALTER COLUMN spare SET DEFAULT 5",
        Fails(CHANGED),
        "",
    ),
    (
        "ALTER TABLE $T ALTER COLUMN spare DROP NOT NULL",
        Fails(CHANGED),
        "",
    ),
    (
        "ALTER TABLE $T ALTER COLUMN payload SET STORAGE EXTERNAL",
        Fails(CHANGED),
        "",
    ),
    (
        "ALTER TABLE $T ALTER COLUMN spare SET STATISTICS 10",
        Fails(CHANGED),
        "",
    ),
    (
        "ALTER TABLE $T RENAME COLUMN spare TO other",
        Fails(CHANGED),
        "",
    ),
    (
        "ALTER TABLE $T RENAME COLUMN counter TO spare2; ALTER TABLE $T RENAME COLUMN spare TO counter2; ALTER TABLE $T RENAME COLUMN spare2 TO counter",
        Fails(CHANGED),
        "",
    ),
    ("CREATE INDEX ON $T (spare)", Fails(CHANGED), ""),
    ("CREATE INDEX ON $L (spare)", Fails(CHANGED), ""),
    ("CREATE UNIQUE INDEX ON $T (id, spare)", Fails(CHANGED), ""),
    (
        "CREATE INDEX CONCURRENTLY ON $L (spare)",
        Fails(CHANGED),
        "",
    ),
    ("DROP INDEX $T_counter_idx", Fails(CHANGED), ""),
    (
        "ALTER INDEX $T_counter_idx RENAME TO $T_renamed",
        Fails(CHANGED),
        "",
    ),
    ("REINDEX TABLE $L", Done, ""),
    ("REINDEX TABLE CONCURRENTLY $L", Fails(CHANGED), ""),
    ("REINDEX TABLE CONCURRENTLY $T", Fails(CHANGED), ""),
    ("VACUUM $L", Done, ""),
    ("VACUUM FULL $L", Done, ""),
    ("VACUUM FULL $T", Done, ""),
    ("ANALYZE $T", Done, ""),
    ("CLUSTER $L USING $L_pkey", Fails(CHANGED), ""),
    ("DROP TABLE $T", Gone("no longer exists"), ""),
    ("DROP TABLE $L", Gone(NO_SHARD), ""),
    ("DROP TABLE $K", Done, ""),
    (
        "ALTER TABLE $T DETACH PARTITION $L",
        Gone(NO_SHARD),
        "SELECT count(*) = 60 FROM $L",
    ),
    (
        "ALTER TABLE $T DETACH PARTITION $L CONCURRENTLY",
        Gone(NO_SHARD),
        "SELECT count(*) = 60 FROM $L",
    ),
    (
        "ALTER TABLE $T DETACH PARTITION $K CONCURRENTLY",
        Done,
        "SELECT count(*) = 40 FROM $K",
    ),
    (
        "ALTER TABLE $T DETACH PARTITION $K; ALTER TABLE $T ATTACH PARTITION $K FOR VALUES FROM (60) TO (MAXVALUE)",
        Done,
        "",
    ),
    (
        "ALTER TABLE $T DETACH PARTITION $L; ALTER TABLE $T ATTACH PARTITION $L FOR VALUES FROM (MINVALUE) TO (60)",
        Done,
        "",
    ),
    (
        "ALTER TABLE $T DETACH PARTITION $L; ALTER TABLE $T ATTACH PARTITION $L FOR VALUES FROM (-9) TO (60)",
        Gone(""),
        "",
    ),
    ("ALTER TABLE $T OWNER TO other", Done, ""),
    ("ALTER TABLE $L OWNER TO other", Fails(CHANGED), ""),
    (
        "GRANT SELECT ON $T TO other",
        Done,
        "SELECT has_table_privilege('other', '$T', 'SELECT')",
    ),
    ("GRANT SELECT ON $L TO other", Fails(CHANGED), ""),
    ("GRANT UPDATE (spare) ON $L TO other", Fails(CHANGED), ""),
    ("ALTER TABLE $L RENAME TO $L_renamed", Gone(""), ""),
    (
        "CREATE SCHEMA s_$T; ALTER TABLE $L SET SCHEMA s_$T",
        Gone(""),
        "",
    ),
    (
        "ALTER TABLE $T ADD CONSTRAINT positive CHECK (spare >= 0)",
        Fails(CHANGED),
        "SELECT count(*) = 1 + (SELECT count(*) FROM pg_inherits WHERE inhparent = '$T'::regclass) FROM pg_constraint WHERE conname = 'positive' AND conrelid IN (SELECT '$T'::regclass UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = '$T'::regclass)",
    ),
    (
        "ALTER TABLE $L ADD CONSTRAINT positive CHECK (spare >= 0)",
        Fails(CHANGED),
        "",
    ),
    ("ALTER TABLE $T DROP CONSTRAINT small", Fails(CHANGED), ""),
    ("ALTER TABLE $T ADD UNIQUE (id, spare)", Fails(CHANGED), ""),
    (
        "ALTER TABLE $T ADD FOREIGN KEY (spare) REFERENCES referenced",
        Fails(CHANGED),
        "",
    ),
    (
        "CREATE TRIGGER noted BEFORE INSERT ON $T FOR EACH ROW EXECUTE FUNCTION noted()",
        Fails(CHANGED),
        "",
    ),
    (
        "CREATE TRIGGER noted BEFORE INSERT ON $L FOR EACH ROW EXECUTE FUNCTION noted()",
        Fails(CHANGED),
        "SELECT count(*) > 0 FROM pg_trigger t JOIN pg_inherits ON inhrelid = tgrelid WHERE inhparent = '$T'::regclass AND tgname = 'noted'",
    ),
    ("ALTER TABLE $T DISABLE TRIGGER USER", Done, ""),
    (
        "ALTER TABLE $L DISABLE TRIGGER ALL; $W; ALTER TABLE $L ENABLE TRIGGER ALL",
        Fails(CHANGED),
        "",
    ),
    (
        "SET session_replication_role = replica; $W; RESET session_replication_role",
        Done,
        "",
    ),
    ("ALTER TABLE $L SET (fillfactor = 70)", Fails(CHANGED), ""),
    (
        "ALTER TABLE $L SET TABLESPACE elsewhere",
        Fails(CHANGED),
        "",
    ),
    ("ALTER TABLE $L SET UNLOGGED", Gone(""), ""),
    ("ALTER TABLE $L REPLICA IDENTITY FULL", Fails(CHANGED), ""),
    ("ALTER TABLE $T ENABLE ROW LEVEL SECURITY", Done, ""),
    (
        "ALTER TABLE $L ENABLE ROW LEVEL SECURITY",
        Fails(CHANGED),
        "",
    ),
    (
        "CREATE RULE nothing AS ON INSERT TO $L WHERE false DO INSTEAD NOTHING",
        Fails(CHANGED),
        "SELECT count(*) > 0 FROM pg_rewrite JOIN pg_inherits ON inhrelid = ev_class WHERE inhparent = '$T'::regclass",
    ),
    (
        "CREATE VIEW v_$T AS SELECT * FROM $L",
        Gone("depend"),
        "SELECT count(*) = 58 FROM v_$T",
    ),
    (
        "CREATE TABLE r_$T (n bigint REFERENCES $L); DROP TABLE r_$T",
        Done,
        "",
    ),
    (
        "CREATE STATISTICS st_$T ON id, spare FROM $L",
        Fails(CHANGED),
        "SELECT count(*) > 0 FROM pg_statistic_ext JOIN pg_inherits ON inhrelid = stxrelid WHERE inhparent = '$T'::regclass",
    ),
    (
        "COMMENT ON TABLE $L IS 'a comment'",
        Fails(CHANGED),
        "SELECT count(*) > 0 FROM pg_inherits WHERE inhparent = '$T'::regclass AND obj_description(inhrelid, 'pg_class') = 'a comment'",
    ),
    ("ALTER TYPE mood ADD VALUE IF NOT EXISTS '$T'", Done, ""),
    (
        "DROP OWNED BY owner_$T CASCADE",
        Gone("no longer exists"),
        "",
    ),
];

const KEYS: i64 = 100;

/// So many migrations are held at the same time.
const MOVERS: usize = 33;

/// The names of one change's table.
struct Subject {
    change: &'static Change,
    table: String,
    migration: i64,
    rows: Option<String>,
}

impl Subject {
    fn text(&self, sql: &str) -> String {
        let writes = format!(
            "UPDATE {} SET counter = counter + 1 WHERE id % 7 = 1",
            self.table
        );
        sql.replace("$W", &writes)
            .replace("$T", &self.table)
            .replace("$L", &format!("{}_1", self.table))
            .replace("$K", &format!("{}_2", self.table))
    }

    /// Creates the table and queues its migration.
    fn create(session: &mut Session, change: &'static Change, table: String) -> Self {
        session.run(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, payload text NOT NULL, counter bigint NOT NULL,
                    spare int NOT NULL DEFAULT 1, feeling mood, CONSTRAINT small CHECK (spare < 1000))
                 PARTITION BY RANGE (id);
             CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES FROM (MINVALUE) TO (60);
             CREATE TABLE {table}_2 PARTITION OF {table} FOR VALUES FROM (60) TO (MAXVALUE);
             CREATE INDEX ON {table} (counter);
             INSERT INTO {table} SELECT n, 'row ' || n, n, 1 FROM generate_series(0, {KEYS} - 1) n"
        ));
        if change.0.contains("OWNED") {
            session.run(&format!(
                "CREATE ROLE owner_{table}; ALTER TABLE {table} OWNER TO owner_{table};
                 ALTER TABLE {table}_1 OWNER TO owner_{table}; ALTER TABLE {table}_2 OWNER TO owner_{table}"
            ));
        }
        session.run(&format!("SELECT repart_manage('{table}')"));
        let migration = session.queue(&format!("repart_split('{table}_1', '30')"));
        Self {
            change,
            table,
            migration,
            rows: None,
        }
    }

    /// Makes the change, as a user who does not wait for long, and writes a little.
    fn change(&mut self, client: &mut Client) -> Result<(), String> {
        for statement in self.text(self.change.0).split("; ") {
            client
                .batch_execute(statement)
                .map_err(|error| format!("{statement}: {error:?}"))?;
        }
        if self.exists(client) {
            let mut writes = self.text(
                "$W; DELETE FROM $T WHERE id = 29; UPDATE $T SET id = -id WHERE id IN (3, 5)",
            );
            if !self.change.0.contains("$K") {
                writes += &self.text("; UPDATE $T SET id = id + 1000 WHERE id = 55");
            }
            client
                .batch_execute(&writes)
                .map_err(|error| format!("{}: {error:?}", self.change.0))?;
        }
        self.rows = self.read(client);
        Ok(())
    }

    fn exists(&self, client: &mut Client) -> bool {
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        client.query_one(sql, &[&self.table]).unwrap().get(0)
    }

    /// All rows, if the table is there.
    fn read(&self, client: &mut Client) -> Option<String> {
        let sql = self.text("SELECT count(*) || ' ' || coalesce(md5(string_agg(x::text, ',' ORDER BY id)), '') FROM $T x");
        self.exists(client)
            .then(|| client.query_one(&sql, &[]).unwrap().get(0))
    }

    /// What is wrong in the end, if anything.
    fn judge(&self, session: &mut Session, early: bool) -> Option<String> {
        let migration = session.wait_ended(self.migration);
        let error = migration.error.clone().unwrap_or_default();
        let expected = match self.change.1 {
            Done => migration.state == "done",
            Fails(_) if early => migration.state == "done",
            Fails(reason) | Gone(reason) => migration.state == "failed" && error.contains(reason),
        };
        if !expected {
            return Some(format!("{migration:?}"));
        }
        let found = self.read(session.client());
        if found != self.rows {
            return Some(format!(
                "rows were {:?} and are {found:?}; {migration:?}",
                self.rows
            ));
        }
        let effect = self.text(self.change.2);
        if !effect.is_empty() && !session.query(&effect, &[])[0].get::<_, bool>(0) {
            return Some(format!("it had no effect; {migration:?}"));
        }
        println!(
            "  {}: {} {}",
            self.change.0,
            migration.state,
            error.lines().next().unwrap_or_default()
        );
        None
    }
}

/// The states in which a mover can be held before the switch.
fn states() -> Vec<State> {
    State::all()
        .filter(|state| state.is_before_switch() && !state.is_final())
        .collect()
}

#[test]
fn every_change_in_every_state_succeeds_and_loses_nothing() {
    let cluster = Cluster::with_repart(&[
        "max_worker_processes = 100",
        "repart.max_movers = 64",
        "repart.sample_interval = '1h'",
        "max_locks_per_transaction = 1024",
        "max_connections = 150",
        "autovacuum = off",
    ]);
    cluster.create_tablespace("elsewhere");
    let mut session = Session::open(&cluster, "postgres");
    session.run(
        "CREATE ROLE other; CREATE TYPE mood AS ENUM ('good');
         CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    );
    let mut wrong = Vec::new();
    for state in states() {
        println!("{state}");
        for changes in CHANGES.chunks(MOVERS) {
            wrong.extend(try_all(&cluster, &mut session, state, changes));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// All changes in one state, each on a table of its own; returns what went wrong.
fn try_all(
    cluster: &Cluster,
    session: &mut Session,
    state: State,
    changes: &'static [Change],
) -> Vec<String> {
    session.run(
        "CREATE TABLE referenced (n int PRIMARY KEY) PARTITION BY RANGE (n);
         CREATE TABLE referenced_1 PARTITION OF referenced DEFAULT; INSERT INTO referenced VALUES (1)",
    );
    session.hold_at(state.as_str());
    let mut wrong = Vec::new();
    let mut subjects: Vec<Subject> = changes
        .iter()
        .enumerate()
        .map(|(n, change)| Subject::create(session, change, format!("{state}_{n}")))
        .collect();
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("SET lock_timeout = '5s'; SET statement_timeout = '20s'")
        .unwrap();
    for subject in &mut subjects {
        let held = format!(
            "SELECT reason LIKE 'held at%' FROM repart.migrations WHERE id = {}",
            subject.migration
        );
        session.wait_until(&held, repart_tests::wait::LONG);
        if let Err(error) = subject.change(&mut client) {
            wrong.push(format!("{state}: {error}"));
        }
    }
    session.release();
    let early = [State::Queued, State::Preparing].contains(&state);
    for subject in &subjects {
        if let Some(problem) = subject.judge(session, early) {
            wrong.push(format!("{state}, {}: {problem}", subject.change.0));
        }
    }
    clear(session);
    wrong
}

/// Drops everything, so that what is left is a migration's.
fn clear(session: &mut Session) {
    session.run("DROP TABLE referenced CASCADE");
    for drop in session.texts(
        "SELECT format('DROP VIEW %s', oid::regclass) FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'
         UNION ALL
         SELECT format('DROP TABLE %s CASCADE', oid::regclass) FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind = 'p'
         UNION ALL
         SELECT format('DROP TABLE %s CASCADE', oid::regclass) FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND NOT relispartition
         UNION ALL
         SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace WHERE nspname LIKE 's\\_%'",
    ) {
        session.run(&drop);
    }
    assert_nothing_left(session);
}
