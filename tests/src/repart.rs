//! The SQL surface of repart as the tests call it, on one session.

use std::time::Duration;

use postgres::types::ToSql;
use postgres::{Client, Row};

use crate::cluster::Cluster;
use crate::wait::{LONG, wait_for, wait_until};

/// One row of `repart.shards`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Name of the partition.
    pub name: String,
    /// Lower bound, as a literal of the key type or MINVALUE.
    pub from: String,
    /// Upper bound, as a literal of the key type or MAXVALUE.
    pub to: String,
    /// Its tablespace.
    pub tablespace: Option<String>,
}

/// One row of `repart.migrations`.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Its state.
    pub state: String,
    /// Why it is in this state.
    pub reason: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A session that talks to repart.
pub struct Session<'a> {
    cluster: &'a Cluster,
    database: String,
    client: Client,
}

impl<'a> Session<'a> {
    /// Opens one.
    pub fn open(cluster: &'a Cluster, database: &str) -> Self {
        Self {
            cluster,
            database: database.to_owned(),
            client: cluster.connect(database),
        }
    }

    /// The cluster it is a session of.
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    /// Opens it anew after a crash or restart of the server.
    pub fn reopen(&mut self) {
        self.client = self.cluster.reconnect(&self.database);
    }

    /// The session itself.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Runs statements without results.
    pub fn run(&mut self, sql: &str) {
        self.client
            .batch_execute(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The rows of a query.
    pub fn query(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        self.client
            .query(sql, parameters)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The number that a query returns.
    pub fn number(&mut self, sql: &str) -> i64 {
        self.query(sql, &[])[0].get(0)
    }

    /// The first column of a query.
    pub fn texts(&mut self, sql: &str) -> Vec<String> {
        self.query(sql, &[]).iter().map(|row| row.get(0)).collect()
    }

    /// What time it is on the server.
    pub fn now(&mut self) -> String {
        self.texts("SELECT clock_timestamp()::text")[0].clone()
    }

    /// What samples of a shard come to since a time: statements, rows, milliseconds.
    pub fn sampled(&mut self, shard: &str, what: &str, since: &str) -> i64 {
        self.number(&format!(
            "SELECT coalesce(round(sum(({what}) * seconds)), 0)::int8 FROM repart.samples
              WHERE shard = '{shard}'::regclass AND at > '{since}'"
        ))
    }

    /// Creates a table of bigint keys, cut at `bounds`, from MINVALUE to MAXVALUE, and manages it. Its shards
    /// are named like the table with 1, 2, … behind. It holds every key below `keys` that [`is_loaded`] says.
    pub fn create_sharded_table(&mut self, table: &str, bounds: &[i64], keys: i64) {
        self.run(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, payload text NOT NULL, counter bigint NOT NULL)
                 PARTITION BY RANGE (id)"
        ));
        let mut from = "MINVALUE".to_owned();
        for (index, to) in bounds
            .iter()
            .map(i64::to_string)
            .chain(["MAXVALUE".to_owned()])
            .enumerate()
        {
            let number = index + 1;
            self.run(&format!(
                "CREATE TABLE {table}{number} PARTITION OF {table} FOR VALUES FROM ({from}) TO ({to})"
            ));
            from = to;
        }
        self.run(&format!(
            "INSERT INTO {table} SELECT id, 'loaded ' || id, 0 FROM generate_series(0, {keys} - 1) AS id
                 WHERE id % {LOADED_OF} <> 0; ANALYZE {table}"
        ));
        self.run(&format!("SELECT repart_manage('{table}')"));
    }

    /// [`Session::create_sharded_table`], whose shards can go to nodes.
    pub fn create_movable_table(&mut self, table: &str, bounds: &[i64], keys: i64) {
        self.create_sharded_table(table, bounds, keys);
        self.run(&format!(
            "SELECT repart_manage('{table}', leaf_keys => true)"
        ));
    }

    /// Queues a migration with a call such as `repart_split('t1', '5000')` and returns its id.
    pub fn queue(&mut self, call: &str) -> i64 {
        self.number(&format!("SELECT {call}"))
    }

    /// Waits until the migration has ended, through repart_wait, and returns its state.
    pub fn wait(&mut self, id: i64) -> String {
        self.query("SELECT repart_wait($1, '60 s')", &[&id])[0].get(0)
    }

    /// Waits until the migration is done.
    pub fn wait_done(&mut self, id: i64) {
        let state = self.wait(id);
        assert_eq!(state, "done", "{:?}", self.migration(id));
    }

    /// Its row in `repart.migrations`.
    pub fn migration(&mut self, id: i64) -> Migration {
        let rows = self.query(
            "SELECT state, reason, error FROM repart.migrations WHERE id = $1",
            &[&id],
        );
        let row = rows
            .first()
            .unwrap_or_else(|| panic!("migration {id} is not in repart.migrations"));
        Migration {
            state: row.get(0),
            reason: row.get(1),
            error: row.get(2),
        }
    }

    /// Waits until the migration has ended, by looking at the view: also right after a crash.
    pub fn wait_ended(&mut self, id: i64) -> Migration {
        let deadline_message = format!("migration {id} to end");
        wait_for(&deadline_message, LONG, || {
            let migration = self.migration(id);
            ["done", "failed", "cancelled"]
                .contains(&migration.state.as_str())
                .then_some(migration)
        })
    }

    /// The shards of a table in key order.
    pub fn shards(&mut self, table: &str) -> Vec<Shard> {
        let sql = "SELECT shard::text, key_from, key_to, tablespace::text FROM repart.shards
                   WHERE relation = $1::text::regclass
                   ORDER BY CASE key_from WHEN 'MINVALUE' THEN NULL ELSE key_from::bigint END NULLS FIRST";
        self.query(sql, &[&table])
            .iter()
            .map(|row| Shard {
                name: row.get(0),
                from: row.get(1),
                to: row.get(2),
                tablespace: row.get(3),
            })
            .collect()
    }

    /// The inner boundaries of a table's shards; also proves that they cover the whole key space.
    pub fn bounds(&mut self, table: &str) -> Vec<i64> {
        let shards = self.shards(table);
        assert_eq!(shards.first().unwrap().from, "MINVALUE", "{shards:?}");
        assert_eq!(shards.last().unwrap().to, "MAXVALUE", "{shards:?}");
        for pair in shards.windows(2) {
            assert_eq!(pair[0].to, pair[1].from, "{shards:?}");
        }
        shards[1..]
            .iter()
            .map(|shard| shard.from.parse().unwrap())
            .collect()
    }

    /// Makes movers stop at these points; `src/migrate/hold.rs` says how they are written.
    pub fn hold_at(&mut self, point: &str) {
        self.set("repart.hold_at", &format!("'{point}'"));
    }

    /// Lets held movers go on.
    pub fn release(&mut self) {
        self.run("ALTER SYSTEM RESET repart.hold_at");
        self.run("SELECT pg_reload_conf()");
    }

    /// Changes a setting of the server, without a restart.
    pub fn set(&mut self, name: &str, value: &str) {
        self.run(&format!("ALTER SYSTEM SET {name} = {value}"));
        self.run("SELECT pg_reload_conf()");
    }

    /// Waits until a mover says that it is held at the point, and returns its process id.
    pub fn wait_held(&mut self, point: &str) -> i32 {
        let pattern = format!("%held at {point}%");
        wait_for(&format!("a mover to be held at {point}"), LONG, || {
            let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'repart mover' AND query LIKE $1";
            self.query(sql, &[&pattern]).first().map(|row| row.get(0))
        })
    }

    /// The processes of a kind (`launcher`, `observer`, `mover`); observers and movers of this database.
    pub fn workers(&mut self, kind: &str) -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'repart ' || $1
                       AND (datname = current_database() OR datname IS NULL) ORDER BY pid";
        self.query(sql, &[&kind])
            .iter()
            .map(|row| row.get(0))
            .collect()
    }

    /// Waits for the only process of a kind.
    pub fn wait_worker(&mut self, kind: &str) -> i32 {
        wait_for(&format!("one repart {kind}"), LONG, || {
            match self.workers(kind)[..] {
                [pid] => Some(pid),
                _ => None,
            }
        })
    }

    /// Waits until a query that returns a boolean says true.
    pub fn wait_until(&mut self, sql: &str, timeout: Duration) {
        wait_until(sql, timeout, || {
            self.query(sql, &[])[0]
                .get::<_, Option<bool>>(0)
                .unwrap_or(false)
        });
    }
}

/// One key of so many is free at the start, so that there is room for inserts and key changes.
const LOADED_OF: i64 = 3;

/// Whether [`Session::create_sharded_table`] puts a row with this key.
pub fn is_loaded(key: i64) -> bool {
    key % LOADED_OF != 0
}
