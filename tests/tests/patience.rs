//! How long a migration tries to switch: it says whom it waits for, nobody queues behind it, and after
//! `repart.cutover_timeout` it gives up.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use std::thread::sleep;
use std::time::Duration;

use postgres::Client;

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::wait::LONG;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

/// Somebody who keeps a table from being switched.
struct Blocker {
    client: Client,
    /// What ends it.
    end: &'static str,
    /// What the reason must name.
    named: String,
}

impl Blocker {
    /// A session that is called by a name, after some statements.
    fn session(cluster: &Cluster, name: &str, statements: &str) -> Self {
        let mut client = cluster.connect("postgres");
        client
            .batch_execute(&format!("SET application_name = '{name}'; BEGIN"))
            .unwrap();
        client.batch_execute(statements).unwrap();
        let pid: i32 = client
            .query_one("SELECT pg_backend_pid()", &[])
            .unwrap()
            .get(0);
        Self {
            client,
            end: "COMMIT",
            named: format!(
                "waits for process {pid} (application \"{name}\", user \"postgres\", idle in transaction)"
            ),
        }
    }

    fn prepared(cluster: &Cluster) -> Self {
        let mut client = cluster.connect("postgres");
        client
            .batch_execute("BEGIN; SELECT count(*) FROM orders; PREPARE TRANSACTION 'forgotten'")
            .unwrap();
        Self {
            client,
            end: "COMMIT PREPARED 'forgotten'",
            named: "waits for prepared transaction \"forgotten\" of user \"postgres\"".to_owned(),
        }
    }
}

/// A table that is about to be switched, with clients on it.
fn about_to_switch(cluster: &Cluster) -> (Session<'_>, Workload, i64) {
    let mut session = Session::open(cluster, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    let workload = Workload::start(cluster, "postgres", Options::new("orders", KEYS));
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_held("cutting_over");
    (session, workload, id)
}

/// While somebody is in the way for five seconds, clients work and the reason names him; then the migration
/// completes.
fn waits_politely_for(block: impl FnOnce(&Cluster) -> Blocker) {
    let cluster = Cluster::with_repart(&[]);
    let (mut session, workload, id) = about_to_switch(&cluster);
    let mut blocker = block(&cluster);
    session.release();
    session.wait_until(
        &format!(
            "SELECT coalesce(strpos(reason, $named${}$named$) > 0, false) FROM repart.migrations",
            blocker.named
        ),
        LONG,
    );
    sleep(Duration::from_secs(5));
    let migration = session.migration(id);
    assert_eq!(migration.state, "cutting_over", "{migration:?}");
    assert!(migration.reason.unwrap().contains(&blocker.named));
    blocker.client.batch_execute(blocker.end).unwrap();
    session.wait_done(id);
    let report = workload.stop();
    report.assert_clean();
    assert!(
        report.longest < Duration::from_secs(2),
        "a client waited for {:?}",
        report.longest
    );
    assert_eq!(session.bounds("orders"), [1_000, 3_000]);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
}

#[test]
fn a_switch_waits_for_an_idle_transaction_that_has_read_the_table() {
    waits_politely_for(|cluster| Blocker::session(cluster, "idler", "SELECT count(*) FROM orders"));
}

#[test]
fn a_switch_waits_for_an_open_cursor() {
    waits_politely_for(|cluster| {
        Blocker::session(
            cluster,
            "reader",
            "DECLARE c CURSOR FOR SELECT * FROM orders; FETCH 10 FROM c",
        )
    });
}

#[test]
fn a_switch_waits_for_a_prepared_transaction() {
    waits_politely_for(Blocker::prepared);
}

#[test]
fn a_switch_waits_for_a_long_statement() {
    let cluster = Cluster::with_repart(&[]);
    let (mut session, workload, id) = about_to_switch(&cluster);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute("SET application_name = 'report'")
        .unwrap();
    let report = std::thread::spawn(move || {
        client
            .batch_execute("SELECT pg_sleep(6), count(*) FROM orders")
            .map_err(|error| error.to_string())
    });
    session.wait_until(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'orders'::regclass AND granted
            AND pid IN (SELECT pid FROM pg_stat_activity WHERE application_name = 'report'))",
        LONG,
    );
    session.release();
    session.wait_until(
        r#"SELECT coalesce(reason LIKE 'waits for process % (application "report", user "postgres", active)%', false)
           FROM repart.migrations"#,
        LONG,
    );
    session.wait_done(id);
    report.join().unwrap().unwrap();
    let report = workload.stop();
    report.assert_clean();
    assert!(report.longest < Duration::from_secs(2), "{report}");
    assert_nothing_left(&mut session);
}

/// The migration fails while the blocker is still there, and says who it is.
fn gives_up_on(block: impl FnOnce(&Cluster) -> Blocker) {
    let cluster = Cluster::with_repart(&["repart.cutover_timeout = '3s'"]);
    let (mut session, workload, id) = about_to_switch(&cluster);
    let mut blocker = block(&cluster);
    session.release();
    let migration = session.wait_ended(id);
    assert_eq!(migration.state, "failed", "{migration:?}");
    let error = migration.error.unwrap();
    assert!(error.contains(&blocker.named), "{error}");
    assert!(
        error.contains("gave up after trying to switch for"),
        "{error}"
    );
    assert!(error.contains("repart.cutover_timeout"), "{error}");
    // Copies are gone at once, whoever holds the table.
    assert_eq!(
        session.number(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'repart'::regnamespace AND relname ~ '^t_\\d'"
        ),
        0
    );
    workload.proceed(300);
    blocker.client.batch_execute(blocker.end).unwrap();
    workload.stop().assert_clean();
    assert_eq!(session.bounds("orders"), [3_000]);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
    // Nothing keeps it from being tried again.
    let again = session.queue("repart_split('orders1', '1000')");
    session.wait_done(again);
    assert_nothing_left(&mut session);
}

#[test]
fn a_switch_gives_up_on_a_session_that_stays_idle_in_a_transaction() {
    gives_up_on(|cluster| Blocker::session(cluster, "idler", "SELECT count(*) FROM orders"));
}

#[test]
fn a_switch_gives_up_on_a_forgotten_prepared_transaction() {
    gives_up_on(Blocker::prepared);
}

#[test]
fn a_pause_does_not_count_as_time_of_trying() {
    let cluster = Cluster::with_repart(&["repart.cutover_timeout = '4s'"]);
    let (mut session, workload, id) = about_to_switch(&cluster);
    session.run(&format!("SELECT repart_pause({id})"));
    session.release();
    sleep(Duration::from_secs(5));
    let mut blocker = Blocker::session(&cluster, "idler", "SELECT count(*) FROM orders");
    session.run(&format!("SELECT repart_resume({id})"));
    session.wait_until(
        "SELECT coalesce(reason LIKE 'waits for process%', false) FROM repart.migrations",
        LONG,
    );
    blocker.client.batch_execute(blocker.end).unwrap();
    session.wait_done(id);
    workload.stop().assert_clean();
    assert_nothing_left(&mut session);
}
