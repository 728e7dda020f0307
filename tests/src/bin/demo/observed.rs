//! What repart says: its views, read as any user would.

use std::ops::Range;

use postgres::{Client, Row};

use crate::Result;
use crate::pages::shard_name;
use crate::trace::{CAPACITY, FIRST, HOUR, Trace};

/// One row of `repart.shards`.
pub struct Shard {
    /// The partition.
    pub name: String,
    /// Lower bound.
    pub from: i64,
    /// Upper bound.
    pub to: i64,
    /// Estimated rows.
    pub rows: i64,
    /// Bytes with indexes.
    pub bytes: i64,
    /// Where it is.
    pub node: String,
}

/// One step of a forecast.
#[derive(Clone, Copy)]
pub struct Expected {
    /// Its end, µs since the beginning.
    pub at: i64,
    /// The median.
    pub q50: f64,
    /// The value that one in ten exceeds.
    pub q90: f64,
}

/// One step of a stored plan.
pub struct Step {
    /// The plan.
    pub plan: i64,
    /// When it was made, µs since the beginning, as all times here.
    pub made: i64,
    /// What is to be done.
    pub action: String,
    /// Its sentence.
    pub why: String,
    /// When it is to start, when it must have started, and when the load passes the limit.
    pub planned: i64,
    /// See `planned`.
    pub start_by: Option<i64>,
    /// See `planned`.
    pub deadline: Option<i64>,
    /// Highest load of one shard without and with it.
    pub load: (f64, f64),
    /// What was ruled out, and why.
    pub alternatives: Vec<String>,
}

/// One row of `repart.migrations`.
pub struct Migration {
    /// Its number.
    pub id: i64,
    /// Kind and shards.
    pub what: String,
    /// Its state.
    pub state: String,
    /// Rows copied, and rows there are to copy.
    pub rows: (i64, i64),
    /// How long the cutover blocked its shards, ms.
    pub pause: Option<f64>,
    /// When it began.
    pub started: Option<i64>,
    /// When it ended.
    pub finished: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// A session that looks at repart.
pub struct Observed {
    client: Client,
    begin: i64,
    /// Migrations up to this one are not shown.
    seen: i64,
}

impl Observed {
    /// Times are given relative to `begin`, µs since the Unix epoch. Migrations that there are already are not shown.
    pub fn new(mut client: Client, begin: i64) -> Result<Self> {
        let sql = "SELECT coalesce(max(id), 0) FROM repart.migrations";
        let seen = client.query_one(sql, &[])?.get(0);
        Ok(Self {
            client,
            begin,
            seen,
        })
    }

    /// The session.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Changes a setting of the server.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.client
            .batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'"))?;
        Ok(self.client.batch_execute("SELECT pg_reload_conf()")?)
    }

    /// Imports the load of hours that have passed; returns how many samples.
    pub fn import(&mut self, trace: &Trace, hours: Range<i64>) -> Result<i64> {
        let mut count = 0;
        for shard in 0..trace.scene.shards {
            let samples: Vec<String> = hours
                .clone()
                .map(|hour| {
                    let at = (self.begin + (hour + 1) * HOUR) as f64 / 1e6;
                    let rate = trace.rate(hour, shard);
                    // Of a hundred rows that the clients touch, some 98 are read; a read row costs some 500 bytes.
                    format!(
                        r#"{{"at": {at:.6}, "reads": {:.1}, "writes": {:.1}, "bytes": {:.0}}}"#,
                        rate * 0.98,
                        rate * 0.02,
                        rate * 500.0
                    )
                })
                .collect();
            let json = format!("[{}]", samples.join(","));
            let name = shard_name(shard);
            let sql = "SELECT repart_import_samples($1::text::regclass, $2::text::jsonb)";
            count += i64::from(
                self.client
                    .query_one(sql, &[&name, &json])?
                    .get::<_, i32>(0),
            );
        }
        Ok(count)
    }

    /// The shards, in order.
    pub fn shards(&mut self) -> Result<Vec<Shard>> {
        let sql = "SELECT shard::text, key_from::bigint, key_to::bigint, coalesce(rows, 0), coalesce(bytes, 0), node::text FROM repart.shards ORDER BY 2";
        let shard = |row: &Row| Shard {
            name: row.get(0),
            from: row.get(1),
            to: row.get(2),
            rows: row.get(3),
            bytes: row.get(4),
            node: row.get(5),
        };
        Ok(self.client.query(sql, &[])?.iter().map(shard).collect())
    }

    /// The OID of each shard.
    pub fn oids(&mut self) -> Result<Vec<(String, u32)>> {
        let sql = "SELECT shard::text, shard::oid FROM repart.shards";
        let rows = self.client.query(sql, &[])?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// The mean load that repart sampled in a shard between two moments, rows per second.
    pub fn load(&mut self, shard: &str, from: i64, to: i64) -> Result<Option<f64>> {
        let row = self
            .client
            .query_one("SELECT to_regclass($1)::oid", &[&shard])?;
        let oid: Option<u32> = row.get(0);
        self.load_of(oid.as_slice(), from, to)
    }

    /// The same of a shard by all the OIDs that it has had.
    pub fn load_of(&mut self, oids: &[u32], from: i64, to: i64) -> Result<Option<f64>> {
        let sql = "SELECT sum((reads + writes) * seconds) / sum(seconds) FROM repart.samples
                    WHERE shard = ANY ($1::oid[])
                      AND at - make_interval(secs => seconds / 2) >= to_timestamp($2::float8 / 1e6)
                      AND at - make_interval(secs => seconds / 2) < to_timestamp($3::float8 / 1e6)";
        let (from, to) = ((self.begin + from) as f64, (self.begin + to) as f64);
        Ok(self.client.query_one(sql, &[&oids, &from, &to])?.get(0))
    }

    /// The stored forecast of the load of a shard, with the name of its model.
    pub fn forecast(&mut self, shard: &str) -> Result<(String, Vec<Expected>)> {
        let sql =
            "SELECT (extract(epoch FROM at) * 1e6)::bigint, q50, q90, model FROM repart.forecasts
                    WHERE shard = to_regclass($1) AND metric = 'load' ORDER BY at";
        let rows = self.client.query(sql, &[&shard])?;
        let model = rows.first().map(|row| row.get(3)).unwrap_or_default();
        let step = |row: &Row| Expected {
            at: row.get::<_, i64>(0) - self.begin,
            q50: row.get(1),
            q90: row.get(2),
        };
        Ok((model, rows.iter().map(step).collect()))
    }

    /// The first step of the latest plan that has something to do; only if it was carried out, where asked.
    pub fn step(&mut self, of_migration: Option<i64>) -> Result<Option<Step>> {
        let sql = "SELECT plan_id, (extract(epoch FROM made_at) * 1e6)::bigint,
                          action || CASE action WHEN 'move' THEN format(' from %s to %s', source, target) ELSE '' END, why,
                          (extract(epoch FROM planned_start) * 1e6)::bigint, (extract(epoch FROM start_by) * 1e6)::bigint,
                          (extract(epoch FROM deadline) * 1e6)::bigint, load_before, load_after,
                          ARRAY(SELECT a ->> 'action' || ': ' || (a ->> 'why') FROM jsonb_array_elements(alternatives) a)
                     FROM repart.plans WHERE action <> 'none' AND ($1::bigint IS NULL OR migration = $1)
                    ORDER BY plan_id DESC, step LIMIT 1";
        let begin = self.begin;
        Ok(self
            .client
            .query_opt(sql, &[&of_migration])?
            .map(|row| Step {
                plan: row.get(0),
                made: row.get::<_, i64>(1) - begin,
                action: row.get(2),
                why: row.get(3),
                planned: row.get::<_, i64>(4) - begin,
                start_by: row.get::<_, Option<i64>>(5).map(|at| at - begin),
                deadline: row.get::<_, Option<i64>>(6).map(|at| at - begin),
                load: (row.get(7), row.get(8)),
                alternatives: row.get(9),
            }))
    }

    /// Why the latest plan does nothing.
    pub fn latest_why(&mut self) -> Result<String> {
        let sql = "SELECT why FROM repart.plans ORDER BY plan_id DESC, step LIMIT 1";
        Ok(self
            .client
            .query_opt(sql, &[])?
            .map(|row| row.get(0))
            .unwrap_or_default())
    }

    /// All migrations, in order.
    pub fn migrations(&mut self) -> Result<Vec<Migration>> {
        let sql = "SELECT id, kind || ' of ' || array_to_string(sources, ', ') || ' into [' || array_to_string(targets, '), [') || ')',
                          state, rows_done, rows_total, pause_ms, (extract(epoch FROM started_at) * 1e6)::bigint,
                          (extract(epoch FROM finished_at) * 1e6)::bigint, error
                     FROM repart.migrations WHERE id > $1 ORDER BY id";
        let begin = self.begin;
        let time =
            |row: &Row, column: usize| row.get::<_, Option<i64>>(column).map(|at| at - begin);
        let migration = |row: &Row| Migration {
            id: row.get(0),
            what: row.get(1),
            state: row.get(2),
            rows: (row.get(3), row.get(4)),
            pause: row.get(5),
            started: time(row, 6),
            finished: time(row, 7),
            error: row.get(8),
        };
        let rows = self.client.query(sql, &[&self.seen])?;
        Ok(rows.iter().map(migration).collect())
    }

    /// Tables, functions and triggers that belong to no shard and not to the extension.
    pub fn left_behind(&mut self) -> Result<i64> {
        let sql = "SELECT (SELECT count(*) FROM pg_class c WHERE c.relnamespace = 'repart'::regnamespace
                              AND c.relkind IN ('r', 'p', 'S')
                              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('e', 'i', 'a')))
                        + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'repart%')
                        + (SELECT count(*) FROM pg_prepared_xacts)";
        Ok(self.client.query_one(sql, &[])?.get(0))
    }

    /// Calls `each` with every row of the table, in the order of keys.
    pub fn all_rows(&mut self, mut each: impl FnMut(i64, i64, &str)) -> Result<()> {
        use postgres::fallible_iterator::FallibleIterator;
        let none: [&str; 0] = [];
        let mut rows = self.client.query_raw(
            "SELECT page_id, revision, body FROM pages ORDER BY page_id",
            none,
        )?;
        while let Some(row) = rows.next()? {
            each(row.get(0), row.get(1), row.get(2));
        }
        Ok(())
    }
}

/// Whether a shard holds keys of the range that becomes hot.
pub fn is_hot(shard: &Shard) -> bool {
    let (hot, width) = (FIRST.hot as i64, FIRST.keys_per_shard);
    shard.from >= hot * width && shard.to <= (hot + 1) * width
}

/// A load as a share of what one shard may serve.
pub fn percent(load: f64) -> f64 {
    100.0 * load / CAPACITY
}
