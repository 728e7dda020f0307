//! A server and the table `accounts`: the one that published measurements of Citus and pgbench use.

use std::process::Command;
use std::time::{Duration, Instant};

use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

use crate::migration::{Watched, watch};
use crate::options::Options;

/// Segments of WAL, of 16 MB, in `min_wal_size`.
const KEPT_SEGMENTS: usize = 128;

/// A server configured as one in production, except that checkpoints come only when asked for: the images of
/// whole pages that follow one would fall on either side by chance.
pub fn start_server(options: &Options, settings: &[&str]) -> Cluster {
    start_with(options, settings, Cluster::with_repart)
}

/// As [`start_server`], a server that is a node; the library is there, but not preloaded.
pub fn start_node(options: &Options) -> Cluster {
    let settings = ["shared_preload_libraries = ''"];
    start_with(options, &settings, Cluster::start)
}

fn start_with(options: &Options, settings: &[&str], start: impl Fn(&[&str]) -> Cluster) -> Cluster {
    let mut all = vec![
        if options.durable {
            "fsync = on"
        } else {
            "fsync = off"
        },
        "shared_buffers = 1GB",
        "max_wal_size = 16GB",
        "min_wal_size = 2GB",
        "checkpoint_timeout = 1d",
        "statement_timeout = 0",
        // As by default; servers of tests give way to nobody.
        "repart.headroom = 0.8",
    ];
    all.extend(settings);
    let cluster = start(&all);
    if options.durable {
        recycle_wal(&cluster);
    }
    cluster
}

/// A server that has run for a while writes its WAL into old segments, and does not wait for the disk to make new ones:
/// makes as many as `min_wal_size` keeps.
fn recycle_wal(cluster: &Cluster) {
    let mut session = Session::open(cluster, "postgres");
    for _ in 0..KEPT_SEGMENTS {
        session.run("SELECT pg_logical_emit_message(false, 'repart_bench', ''), pg_switch_wal()");
    }
    // The first makes them old, the second gives them new names.
    session.run("CHECKPOINT");
    session.run("CHECKPOINT");
}

/// What repart itself says of a cutover.
#[derive(Clone, Copy)]
pub struct Cutover {
    /// Milliseconds for which it held its locks.
    pub pause: f64,
    /// Rows per second that it deleted from a table that is kept; 0 where none is.
    pub delete_rate: f64,
}

/// A session with the table.
pub struct Scene<'a> {
    /// The session.
    pub session: Session<'a>,
    /// The last migration.
    pub last: Option<Watched>,
    /// Whether the size of the database is to be watched during migrations.
    pub watches_size: bool,
    rows: i64,
}

impl<'a> Scene<'a> {
    /// A managed table of one shard with keys 0 .. rows, in place of the one before.
    pub fn set(cluster: &'a Cluster, rows: i64) -> Self {
        let mut scene = Self::with_empty_table(cluster, rows);
        scene.session.run(
            "CREATE TABLE accounts_1 PARTITION OF accounts FOR VALUES FROM (MINVALUE) TO (MAXVALUE)",
        );
        scene.fill();
        scene.session.run("SELECT repart_manage('accounts')");
        scene
    }

    /// The parent alone.
    pub fn with_empty_table(cluster: &'a Cluster, rows: i64) -> Self {
        let mut session = Session::open(cluster, "postgres");
        session.run("DROP TABLE IF EXISTS accounts");
        session.run("CHECKPOINT");
        session.run(
            "CREATE TABLE accounts (aid bigint PRIMARY KEY, bid int, abalance int, filler char(100))
                 PARTITION BY RANGE (aid)",
        );
        Self {
            session,
            last: None,
            watches_size: false,
            rows,
        }
    }

    /// Puts the rows in.
    pub fn fill(&mut self) {
        let rows = self.rows;
        self.session.run(&format!(
            "INSERT INTO accounts SELECT aid, 1, 0, '' FROM generate_series(0, {rows} - 1) AS aid"
        ));
        self.session.run("VACUUM (ANALYZE) accounts");
        self.settle();
    }

    /// Has the kernel write what it would else write half a minute later, when something is measured: a table that has
    /// been there for longer is on the disk already.
    pub fn settle(&mut self) {
        if self.session.texts("SHOW fsync") == ["on"] {
            let synced = Command::new("sync").status().unwrap();
            assert!(synced.success(), "sync: {synced}");
        }
    }

    /// How many.
    pub fn rows(&self) -> i64 {
        self.rows
    }

    /// The name of the only shard, or of the first.
    pub fn shard(&mut self, ordinal: usize) -> String {
        self.session.shards("accounts")[ordinal].name.clone()
    }

    /// Queues a migration and watches it to its end.
    ///
    /// # Panics
    /// Panics when it does not end well: a benchmark of a migration that fails says nothing.
    pub fn migrate(&mut self, call: &str) -> Watched {
        let watched = self.try_to_migrate(call, Duration::from_secs(600));
        assert_eq!(
            watched.state,
            "done",
            "{call}: {:?}",
            self.session.migration(watched.id)
        );
        watched
    }

    /// As [`Scene::migrate`], for one that need not end well; it is given up after `limit`.
    pub fn try_to_migrate(&mut self, call: &str, limit: Duration) -> Watched {
        let begun = Instant::now();
        let id = self.session.queue(call);
        let watched = watch(&mut self.session, id, begun, limit, self.watches_size);
        self.last = Some(watched.clone());
        watched
    }

    /// What the cutover of the last migration did.
    pub fn last_cutover(&mut self) -> Cutover {
        let sql = "SELECT pause_ms, CASE WHEN rows_deleted > 0 THEN rows_deleted / delete_seconds ELSE 0 END
                     FROM repart.outcome_log ORDER BY migration DESC LIMIT 1";
        let row = &self.session.query(sql, &[])[0];
        Cutover {
            pause: row.get(0),
            delete_rate: row.get(1),
        }
    }

    /// Bytes of a relation with its indexes.
    pub fn bytes(&mut self, relation: &str) -> f64 {
        let sql = format!("SELECT pg_total_relation_size('{relation}')");
        self.session.number(&sql) as f64
    }

    /// Runs SQL and returns how long that took.
    pub fn time(&mut self, sql: &str) -> Duration {
        let begun = Instant::now();
        self.session.run(sql);
        begun.elapsed()
    }

    /// Bytes of WAL that were written so far.
    pub fn wal(&mut self) -> f64 {
        self.session
            .number("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint") as f64
    }

    /// Proves that no row was lost or doubled on the way.
    ///
    /// # Panics
    /// Panics when the table has not all of its keys, each once.
    pub fn assert_complete(&mut self) {
        let sql = "SELECT count(*) FROM (SELECT DISTINCT aid FROM accounts) AS keys";
        let counts = [
            self.session.number("SELECT count(*) FROM accounts"),
            self.session.number(sql),
        ];
        assert_eq!(counts, [self.rows; 2], "rows and keys of accounts");
    }
}
