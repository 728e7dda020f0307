//! One migration or table that fails disturbs nothing else. (Failures of processes and of the disk during a
//! migration: `crash.rs`.)

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::fs;

use postgres::error::SqlState;

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::disk::SmallDisk;
use repart_tests::repart::Session;
use repart_tests::wait::LONG;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

#[test]
fn a_migration_that_fails_stops_neither_the_workers_nor_another_migration() {
    let cluster = Cluster::with_repart(&["repart.max_movers = 2"]);
    let broken = cluster.create_tablespace("broken");
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.create_sharded_table("u", &[3_000], KEYS);
    let workload = Workload::start(&cluster, "postgres", Options::new("orders", KEYS));
    let launcher = session.wait_worker("launcher");
    let observer = session.wait_worker("observer");

    session.hold_at("preparing");
    let failing = session.queue("repart_move('orders1', tablespace => 'broken')");
    let fine = session.queue("repart_split('u1', '1000')");
    session.wait_held("preparing");
    fs::remove_dir_all(&broken).unwrap();
    session.release();

    let migration = session.wait_ended(failing);
    assert_eq!(migration.state, "failed", "{migration:?}");
    assert!(
        migration.error.is_some_and(|error| !error.is_empty()),
        "a failed migration says why"
    );
    session.wait_done(fine);
    assert_eq!(session.bounds("u"), [1_000, 3_000]);
    assert_eq!(session.wait_worker("launcher"), launcher);
    assert_eq!(session.wait_worker("observer"), observer);
    assert_eq!(session.bounds("orders"), [3_000]);

    // The table that could not be moved can still be split.
    let split = session.queue("repart_split('orders1', '1000')");
    session.wait_done(split);
    assert_eq!(session.bounds("orders"), [1_000, 3_000]);
    workload.stop().assert_clean();
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
    assert_sound(&mut session, "u");
}

/// Load of an hour, far above what a shard may serve.
fn import_load(session: &mut Session, shard: &str) {
    session.run(&format!(
        "SELECT repart_import_samples('{shard}', jsonb_agg(jsonb_build_object(
                'at', now() - n * interval '1 minute', 'reads', 5000, 'writes', 1, 'bytes', 8192)))
           FROM generate_series(0, 60) n"
    ));
}

#[test]
fn a_table_that_cannot_be_planned_for_does_not_keep_the_others_from_it() {
    let cluster = Cluster::with_repart(&[
        "repart.mode = 'off'",
        "repart.sample_interval = '1h'",
        "repart.forecast_interval = '200ms'",
        "repart.horizon = '30min'",
        "repart.shard_capacity = 1000",
        "repart.min_shard_size = 0",
    ]);
    let mut session = Session::open(&cluster, "postgres");
    for table in ["broken", "sound"] {
        session.create_sharded_table(table, &[1_000], 3_000);
        import_load(&mut session, &format!("{table}2"));
    }
    // The keys of a shard are looked at as its owner, who may not read this one.
    session.run(
        "CREATE ROLE poor; ALTER TABLE broken2 OWNER TO poor; REVOKE ALL ON broken2 FROM poor",
    );
    let observer = session.wait_worker("observer");
    session.set("repart.mode", "'advise'");
    session.wait_until(
        "SELECT EXISTS (SELECT FROM repart.plans WHERE relation = 'sound' AND action = 'split')",
        LONG,
    );
    assert_eq!(
        session.number("SELECT count(*) FROM repart.plans WHERE relation = 'broken'"),
        0
    );
    assert!(
        cluster
            .log()
            .contains("permission denied for table broken2")
    );
    assert_eq!(session.wait_worker("observer"), observer);
}

#[test]
fn a_migration_that_would_fill_the_disk_is_refused_at_once() {
    let cluster = Cluster::with_repart(&[]);
    let directory = cluster.create_tablespace("tiny");
    let Some(_disk) = SmallDisk::mount(&directory, 1) else {
        return;
    };
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_000], 20_000);
    let error = session
        .client()
        .execute("SELECT repart_move('orders2', tablespace => 'tiny')", &[])
        .unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(*error.code(), SqlState::DISK_FULL, "{error}");
    assert!(
        error
            .message()
            .contains("tablespace \"tiny\" has 1 MB free"),
        "{error}"
    );
    assert!(error.hint().is_some());
    assert_eq!(session.number("SELECT count(*) FROM repart.migrations"), 0);
    assert_nothing_left(&mut session);
}

/// The log is written by clients: a full log must not be an error of theirs, so it is not where targets go.
/// And neither log nor targets go where the server would put new tables.
#[test]
fn log_and_targets_go_neither_to_the_default_tablespace_setting_nor_the_log_to_the_targets() {
    let cluster = Cluster::with_repart(&[]);
    cluster.create_tablespace("other");
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_000], 3_000);
    session.set("default_tablespace", "'other'");
    for (call, targets, log) in [
        // Both in the database's own tablespace, where clients write anyway.
        ("repart_split('orders1', '500')", None, None),
        (
            "repart_move('orders2', tablespace => 'other')",
            Some("other"),
            None,
        ),
        // Back again: the targets are to fill the database's tablespace, so the log is beside the source.
        (
            "repart_move((SELECT shard FROM repart.shards WHERE tablespace = 'other'), tablespace => 'pg_default')",
            None,
            Some("other"),
        ),
    ] {
        session.hold_at("copying");
        let id = session.queue(call);
        session.wait_held("copying");
        for (pattern, expected) in [("log_", log), ("t_", targets)] {
            let sql = "SELECT t.spcname::text FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
                        WHERE c.relnamespace = 'repart'::regnamespace AND c.relname LIKE $1 || $2 || '%' AND c.relkind = 'r'";
            let rows = session.query(sql, &[&pattern, &id.to_string()]);
            assert!(!rows.is_empty(), "{call}: no {pattern}");
            for row in rows {
                let found: Option<String> = row.get(0);
                assert_eq!(found.as_deref(), expected, "{call}: {pattern}");
            }
        }
        session.release();
        session.wait_done(id);
    }
    assert_nothing_left(&mut session);
}
