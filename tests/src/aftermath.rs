//! What must not be left when a migration has ended, whichever way.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::repart::Session;
use crate::wait::LONG;

/// Each query names objects that only a running migration may have.
const LEFTOVERS: [(&str, &str); 10] = [
    (
        "relations in schema repart",
        "SELECT c.oid::regclass::text FROM pg_class c
         WHERE c.relnamespace = 'repart'::regnamespace AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
           AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
                           WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
                             AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'repart')",
    ),
    (
        "functions in schema repart",
        "SELECT p.oid::regprocedure::text FROM pg_proc p
         WHERE p.pronamespace = 'repart'::regnamespace
           AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
                           WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                             AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'repart')",
    ),
    (
        "types in schema repart",
        "SELECT t.oid::regtype::text FROM pg_type t
         WHERE t.typnamespace = 'repart'::regnamespace AND t.typrelid = 0 AND t.typelem = 0
           AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
                           WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
                             AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'repart')",
    ),
    (
        "capture triggers",
        "SELECT tgrelid::regclass || ': ' || tgname FROM pg_trigger WHERE tgname LIKE 'repart%'",
    ),
    (
        "constraints on shards",
        "SELECT conrelid::regclass || ': ' || conname FROM pg_constraint WHERE conname LIKE 'repart%'
           AND connamespace <> 'repart'::regnamespace",
    ),
    (
        "tables beside the partition trees",
        "SELECT c.oid::regclass::text FROM pg_class c
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition",
    ),
    ("prepared transactions", "SELECT gid FROM pg_prepared_xacts"),
    (
        "movers",
        "SELECT pid || ': ' || query FROM pg_stat_activity
         WHERE backend_type = 'repart mover' AND datname = current_database()",
    ),
    (
        "advisory locks",
        "SELECT classid || ', ' || objid FROM pg_locks WHERE locktype = 'advisory'
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    ),
    ("replication slots", "SELECT slot_name::text FROM pg_replication_slots"),
];

/// Proves that no migration has left anything, in this database, which must hold sharded tables only.
///
/// # Panics
/// Panics with what is left, when it does not go away within seconds: cleaning may end after the state says
/// that the migration failed.
pub fn assert_nothing_left(session: &mut Session) {
    let deadline = Instant::now() + LONG / 6;
    loop {
        let mut found = Vec::new();
        for (what, sql) in LEFTOVERS {
            found.extend(
                session
                    .texts(sql)
                    .into_iter()
                    .map(|name| format!("{what}: {name}")),
            );
        }
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {found:#?}");
        sleep(Duration::from_millis(50));
    }
}

/// What a migration may have made on a node, but for the shards that are there.
const LEFTOVERS_THERE: [(&str, &str); 5] = [
    (
        "relations in schema repart_shards",
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'repart_shards' AND c.relkind = 'r' AND c.relname ~ '^(move|log|old)_'",
    ),
    (
        "functions in schema repart_shards",
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'repart_shards'",
    ),
    (
        "triggers",
        "SELECT tgrelid::regclass || ': ' || tgname FROM pg_trigger WHERE tgname LIKE 'repart%'",
    ),
    ("prepared transactions", "SELECT gid FROM pg_prepared_xacts"),
    (
        "sessions of movers",
        "SELECT DISTINCT pid::text FROM pg_locks WHERE locktype = 'advisory'",
    ),
];

/// Proves that no migration has left anything on a node that holds so many shards.
///
/// # Panics
/// Panics with what is left.
pub fn assert_nothing_left_on(cluster: &Cluster, shards: i64) {
    let mut session = Session::open(cluster, "postgres");
    let deadline = Instant::now() + LONG / 3;
    loop {
        let mut found = Vec::new();
        for (what, sql) in LEFTOVERS_THERE {
            let names = session.texts(sql).into_iter();
            found.extend(names.map(|name| format!("{what}: {name}")));
        }
        let tables = session.texts(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = 'repart_shards' AND c.relkind = 'r' AND c.relname !~ '^(move|log|old)_'",
        );
        if i64::try_from(tables.len()).unwrap() != shards {
            found.push(format!("{shards} shards expected: {tables:?}"));
        }
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {found:#?}");
        sleep(Duration::from_millis(50));
    }
}

/// Proves that every row is in the shard whose bounds it meets, and is found by index and by scan alike.
///
/// # Panics
/// Panics when it is not so.
pub fn assert_sound(session: &mut Session, table: &str) {
    // One snapshot, so that it also works while clients write.
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL enable_bitmapscan = off");
    let shards = session.query(
        "SELECT relid::regclass::text, pg_get_partition_constraintdef(relid)
         FROM pg_partition_tree($1::text::regclass) WHERE isleaf",
        &[&table],
    );
    for shard in shards {
        let (name, constraint): (String, Option<String>) = (shard.get(0), shard.get(1));
        let constraint = constraint.unwrap_or_else(|| "true".to_owned());
        let misplaced = session.number(&format!(
            "SELECT count(*) FROM ONLY {name} WHERE NOT ({constraint})"
        ));
        assert_eq!(misplaced, 0, "rows of {name} that violate {constraint}");
        let mut counts = vec![session.number(&format!("SELECT count(*) FROM ONLY {name}"))];
        for (off, on) in [("indexscan", "seqscan"), ("seqscan", "indexscan")] {
            session.run(&format!(
                "SET LOCAL enable_{off} = off; SET LOCAL enable_{on} = on"
            ));
            counts.push(session.number(&format!(
                "SELECT count(*) FROM (SELECT DISTINCT id FROM ONLY {name} ORDER BY id) AS keys"
            )));
        }
        assert!(
            counts.iter().all(|&count| count == counts[0]),
            "{name}: rows, keys by scan, keys by index: {counts:?}"
        );
    }
    session.run("COMMIT");
}
