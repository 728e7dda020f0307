//! Configuration, creation and removal while the workers run, in more than one database.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::thread::sleep;
use std::time::Duration;

use repart_tests::aftermath::assert_nothing_left;
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};

const KEYS: i64 = 3_000;

/// Long enough for many samples at 100 ms, on a busy machine too.
const SEVERAL_SAMPLES: Duration = Duration::from_secs(2);

fn samples(session: &mut Session) -> i64 {
    session.number("SELECT count(*) FROM repart.samples")
}

#[test]
fn changed_settings_take_effect_without_a_restart() {
    let cluster = Cluster::with_repart(&["repart.sample_interval = '1h'"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_000], KEYS);
    let observer = session.wait_worker("observer");

    session.set("repart.sample_interval", "'100ms'");
    wait_until("samples", LONG, || samples(&mut session) >= 4);

    session.set("repart.mode", "'off'");
    wait_until("sampling to stop", LONG, || {
        let before = samples(&mut session);
        sleep(SEVERAL_SAMPLES);
        samples(&mut session) == before
    });

    let before = samples(&mut session);
    session.set("repart.mode", "'advise'");
    wait_until("sampling to go on", LONG, || samples(&mut session) > before);
    assert_eq!(
        session.wait_worker("observer"),
        observer,
        "the observer must not be restarted for this"
    );
}

#[test]
fn no_mover_starts_while_max_movers_is_zero() {
    let cluster = Cluster::with_repart(&["repart.max_movers = 0"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_000], KEYS);
    let id = session.queue("repart_split('orders1', '500')");
    let state: String = session.query("SELECT repart_wait($1, '2 s')", &[&id])[0].get(0);
    assert_eq!(state, "queued");
    session.set("repart.max_movers", "1");
    session.wait_done(id);
    assert_eq!(session.bounds("orders"), [500, 1_000]);
}

#[test]
fn dropping_the_extension_ends_the_observer_quietly_and_creating_it_again_works() {
    let cluster = Cluster::with_repart(&["repart.sample_interval = '100ms'"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_000], KEYS);
    session.wait_worker("observer");
    wait_until("samples", LONG, || samples(&mut session) >= 2);
    let id = session.queue("repart_split('orders2', '2000')");
    session.wait_done(id);

    session.run("DROP EXTENSION repart");
    wait_until("the observer to end", LONG, || {
        session.workers("observer").is_empty()
    });
    sleep(SEVERAL_SAMPLES);
    let errors: Vec<String> = cluster
        .log()
        .lines()
        .filter(|line| line.contains("ERROR") || line.contains("FATAL"))
        .map(String::from)
        .collect();
    assert!(
        errors.len() <= 1,
        "the log has more than one error: {errors:#?}"
    );
    // Ordinary partitioned tables are left.
    assert_eq!(
        session.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'orders'::regclass"),
        3
    );
    assert_eq!(
        session.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'repart'"),
        0
    );

    session.run("CREATE EXTENSION repart");
    session.wait_worker("observer");
    session.run("SELECT repart_manage('orders')");
    // Migrations count from 1 again; the shards that the first one made are still there.
    let id = session.queue("repart_split('orders1', '500')");
    session.wait_done(id);
    assert_eq!(session.bounds("orders"), [500, 1_000, 2_000]);
    assert_nothing_left(&mut session);
}

#[test]
fn dropping_the_extension_during_a_migration_leaves_ordinary_tables() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_000], KEYS);
    let rows = session.number("SELECT count(*) FROM orders");
    session.hold_at("copying");
    session.queue("repart_split('orders1', '500')");
    session.wait_held("copying");

    // Either it is refused, with the remedy, or it takes everything along.
    match session
        .client()
        .batch_execute("DROP EXTENSION repart CASCADE")
    {
        Ok(()) => {
            session.release();
            wait_until("the workers to end", LONG, || {
                session.workers("observer").is_empty() && session.workers("mover").is_empty()
            });
            assert_eq!(
                session.number("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'repart%'"),
                0
            );
            assert_eq!(
                session.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'repart'"),
                0
            );
        }
        Err(error) => {
            let error = error.as_db_error().unwrap();
            assert!(error.hint().is_some(), "{error:?}");
        }
    }
    session.release();
    assert_eq!(session.number("SELECT count(*) FROM orders"), rows);
    session.run(
        "INSERT INTO orders VALUES (0, 'written as before', 0); DELETE FROM orders WHERE id = 0",
    );
}

#[test]
fn two_databases_are_served_at_the_same_time() {
    let cluster = Cluster::with_repart(&["repart.sample_interval = '100ms'"]);
    cluster
        .connect("postgres")
        .batch_execute("CREATE DATABASE other")
        .unwrap();
    let mut first = Session::open(&cluster, "postgres");
    let mut second = Session::open(&cluster, "other");
    second.run("CREATE EXTENSION repart");
    for session in [&mut first, &mut second] {
        session.create_sharded_table("orders", &[1_000], KEYS);
        session.wait_worker("observer");
    }
    let ids = [
        first.queue("repart_split('orders1', '500')"),
        second.queue("repart_merge('orders1', 'orders2')"),
    ];
    first.wait_done(ids[0]);
    second.wait_done(ids[1]);
    assert_eq!(first.bounds("orders"), [500, 1_000]);
    assert!(second.bounds("orders").is_empty());
    for session in [&mut first, &mut second] {
        wait_until("samples", LONG, || samples(session) >= 2);
        assert_nothing_left(session);
    }
    // An observer must not keep its database from being dropped for long.
    drop(second);
    first.run("DROP DATABASE other WITH (FORCE)");
    first.wait_worker("observer");
}

#[test]
fn psql_gets_the_answers_that_the_documentation_shows() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_000], KEYS);
    let shards = cluster.psql(
        "postgres",
        "SELECT shard, key_from, key_to FROM repart.shards ORDER BY shard::text",
    );
    assert_eq!(shards, "orders1|MINVALUE|1000\norders2|1000|MAXVALUE\n");
}
