//! Every real schema: what a shard has, each of its replacements has, and the rows are the same.
//!
//! Each test is one feature, named by it: it is put on both shards of a table, which are then split, merged,
//! shifted and moved; after each step, every new shard is described from the catalogs, and compared with the old.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

mod changes;
mod columns;
mod comparator;
mod constraints;
mod indexes;
mod keys;
mod load;
mod objects;
mod rights;

use std::sync::{Arc, Mutex, Weak};

use repart_tests::cluster::Cluster;
use repart_tests::describe;
use repart_tests::repart::Session;

/// One server for all features that are tested at the same time.
fn shared_cluster() -> Arc<Cluster> {
    static CURRENT: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let mut current = CURRENT
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(cluster) = current.upgrade() {
        return cluster;
    }
    let cluster = Arc::new(Cluster::with_repart(&[
        "repart.max_movers = 4",
        "max_worker_processes = 20",
        // So little that no shard is kept in place: what is asked here is what new ones have.
        "repart.max_pause = '1ms'",
        // ATTACH says at this level whether it scans.
        "log_min_messages = debug1",
    ]));
    cluster.create_tablespace("elsewhere");
    cluster.create_tablespace("indexes");
    cluster
        .connect("postgres")
        .batch_execute(describe::CREATE)
        .unwrap();
    *current = Arc::downgrade(&cluster);
    cluster
}

/// What a table has that must be carried over.
struct Feature {
    /// Its columns and table constraints.
    columns: &'static str,
    /// What is done to the sharded table before it has shards.
    table: &'static str,
    /// What is done to each shard, called `{leaf}`, before it has rows.
    shard: &'static str,
    /// The rows.
    rows: &'static str,
    /// What is done to each shard with its rows.
    filled: &'static str,
    /// The oldest major version that has it.
    since: i32,
}

impl Feature {
    /// A table with nothing particular about it.
    const PLAIN: Self = Self {
        columns: "k bigint PRIMARY KEY, v text, n int",
        table: "",
        shard: "",
        rows: "INSERT INTO tbl (k, v, n) SELECT g, 'value ' || g, g % 7 FROM generate_series(0, 1999) g",
        filled: "",
        since: 15,
    };

    /// Makes the table with its shards below and above 1000, in a schema of its own. `false` if the server is too
    /// old for it.
    fn set_up(&self, session: &mut Session, name: &str) -> bool {
        let everything = [self.columns, self.table, self.shard].concat();
        if let Some(reason) = missing(session, self.since, &everything) {
            eprintln!("skipped: {name}: {reason}");
            return false;
        }
        let sql = |text: &str, leaf: &str| text.replace("{leaf}", leaf).replace("{name}", name);
        session.run(&format!(
            "CREATE SCHEMA {name}; SET search_path = {name}, {name}_shards, public"
        ));
        session.run(&format!(
            "CREATE TABLE tbl ({}) PARTITION BY RANGE (k); {}",
            self.columns,
            sql(self.table, "")
        ));
        for (leaf, bounds) in [
            ("lower_leaf", "FROM (MINVALUE) TO (1000)"),
            ("upper_leaf", "FROM (1000) TO (MAXVALUE)"),
        ] {
            if !self.shard.contains("CREATE TABLE {leaf}") {
                session.run(&format!(
                    "CREATE TABLE {leaf} PARTITION OF tbl FOR VALUES {bounds}"
                ));
            }
            session.run(&sql(self.shard, leaf).replace("{bounds}", bounds));
        }
        session.run(&sql(self.rows, ""));
        for leaf in ["lower_leaf", "upper_leaf"] {
            session.run(&sql(self.filled, leaf));
        }
        session.run("ANALYZE tbl; SELECT repart_manage('tbl')");
        true
    }
}

/// What this server lacks of what a test needs.
fn missing(session: &mut Session, since: i32, sql: &str) -> Option<String> {
    let version = session.number("SELECT current_setting('server_version_num')::bigint / 10000");
    if version < i64::from(since) {
        return Some(format!("needs PostgreSQL {since}"));
    }
    let icu = session.number("SELECT count(*) FROM pg_collation WHERE collprovider = 'i'");
    if icu == 0 && sql.contains("icu") {
        return Some("the server is built without ICU".to_owned());
    }
    let xml = session.number("SELECT count(*) FROM pg_config WHERE setting LIKE '%with-libxml%'");
    if xml == 0 && sql.contains(" xml") {
        return Some("the server is built without libxml".to_owned());
    }
    let gist =
        session.number("SELECT count(*) FROM pg_available_extensions WHERE name = 'btree_gist'");
    if gist == 0 && sql.contains("btree_gist") {
        return Some("extension btree_gist is not installed".to_owned());
    }
    None
}

/// A table under test.
struct Scene<'a> {
    session: Session<'a>,
    name: String,
    description: Vec<String>,
    rows: Vec<String>,
}

impl Scene<'_> {
    /// Carries out a migration and compares the shards that it made with what the old ones were.
    fn step(&mut self, call: &str) {
        let old = self.shards();
        let id = self.session.queue(call);
        self.session.wait_done(id);
        let is_move = call.starts_with("repart_move");
        let made: Vec<String> = self
            .shards()
            .into_iter()
            .filter(|shard| is_move || !old.contains(shard))
            .collect();
        assert!(!made.is_empty());
        for shard in made {
            let description = describe::shard(&mut self.session, &shard, !is_move);
            let without = without_tablespaces(&self.description);
            let before = if is_move { &without } else { &self.description };
            describe::assert_same(&format!("{shard} after {call}"), before, &description);
        }
        assert_eq!(rows(&mut self.session), self.rows, "rows after {call}");
        self.assert_nothing_left(id);
    }

    /// Nothing that the migration made for itself is left.
    fn assert_nothing_left(&mut self, id: i64) {
        let left = self.session.texts(&format!(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'repart'::regnamespace
                AND relname ~ '^(t|i|log|old)_{id}(_\\d+)*$'
             UNION ALL
             SELECT stxname::text FROM pg_statistic_ext WHERE stxnamespace = 'repart'::regnamespace
                AND stxname ~ '^(s|old_s)_{id}(_\\d+)*$'
             UNION ALL
             SELECT conname::text FROM pg_constraint WHERE conname = 'repart_bound'
                AND connamespace = '{0}'::regnamespace
             UNION ALL
             SELECT tgname::text FROM pg_trigger WHERE tgname ~ '^repart_capture_{id}(_[a-z]+)?$'",
            self.name
        ));
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// The shards in key order.
    fn shards(&mut self) -> Vec<String> {
        self.session.texts(
            "SELECT shard::text FROM repart.shards WHERE relation = 'tbl'::regclass
              ORDER BY CASE key_from WHEN 'MINVALUE' THEN NULL ELSE key_from::bigint END NULLS FIRST",
        )
    }
}

/// Every row as text, with the columns by name, so that their order does not matter.
fn rows(session: &mut Session) -> Vec<String> {
    session.texts("SELECT to_jsonb(t)::text FROM tbl t ORDER BY 1")
}

fn without_tablespaces(description: &[String]) -> Vec<String> {
    let pattern = "tablespace ";
    let mut lines: Vec<String> = description
        .iter()
        .map(|line| match line.split_once(pattern) {
            Some((before, after)) if line.starts_with("table") || line.starts_with("index") => {
                let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
                format!("{before}{pattern}{}", rest.trim_start())
            }
            _ => line.clone(),
        })
        .collect();
    lines.sort();
    lines
}

/// Splits, merges, shifts and moves a table with the feature.
fn carried(name: &str, feature: &Feature) {
    let cluster = shared_cluster();
    let mut session = Session::open(&cluster, "postgres");
    if !feature.set_up(&mut session, name) {
        return;
    }
    let mut scene = start(session, name);
    scene.step("repart_split('lower_leaf', '500')");
    let shards = scene.shards();
    scene.step(&format!("repart_merge('{}', '{}')", shards[0], shards[1]));
    let shards = scene.shards();
    scene.step(&format!(
        "repart_shift('{}', '{}', '700')",
        shards[0], shards[1]
    ));
    let shards = scene.shards();
    scene.step(&format!(
        "repart_move('{}', tablespace => 'elsewhere')",
        shards[0]
    ));
    scene.session.run(&format!("DROP SCHEMA {name} CASCADE"));
}

/// Remembers what the shards are.
fn start<'a>(mut session: Session<'a>, name: &str) -> Scene<'a> {
    let description = describe::shard(&mut session, "lower_leaf", true);
    let upper = describe::shard(&mut session, "upper_leaf", true);
    describe::assert_same("the two shards, before", &description, &upper);
    let rows = rows(&mut session);
    Scene {
        session,
        name: name.to_owned(),
        description,
        rows,
    }
}

/// One test for each feature, named by it.
macro_rules! carried_over {
    ($($name:ident: { $($field:ident: $value:expr),* $(,)? })*) => {
        $(
            #[test]
            fn $name() {
                $crate::carried(
                    stringify!($name),
                    &$crate::Feature { $($field: $value,)* ..$crate::Feature::PLAIN },
                );
            }
        )*
    };
}
use carried_over;
