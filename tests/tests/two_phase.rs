//! What changes on several nodes changes on all of them or on none, whoever dies at whatever moment.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use postgres::Client;

use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::fleet::{Fleet, complaint, wait_for_new_samples};
use repart_tests::proxy::Proxy;
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};

const OFTEN: [&str; 2] = ["repart.sample_interval = 200ms", "repart.node_timeout = 2s"];

fn fleet() -> Fleet {
    let fleet = Fleet::start(&OFTEN);
    fleet
        .session()
        .run("SELECT repart_add_node('north'); SELECT repart_add_node('south'); CREATE TABLE here (n int)");
    fleet
}

fn number(client: &mut Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).unwrap().get(0)
}

/// Tables `t…` on a node, and transactions that are prepared there.
fn state(node: &Cluster) -> (i64, i64) {
    let mut client = node.reconnect("postgres");
    (
        number(
            &mut client,
            "SELECT count(*) FROM pg_class WHERE relname LIKE 't_' AND relkind = 'r'",
        ),
        number(&mut client, "SELECT count(*) FROM pg_prepared_xacts"),
    )
}

/// Waits until both nodes have so many tables, and nothing is prepared or open anywhere.
fn wait_settled(fleet: &Fleet, tables: i64) {
    for (name, node) in [("north", &fleet.north), ("south", &fleet.south)] {
        wait_until(
            &format!("{tables} tables and nothing prepared on {name}"),
            LONG,
            || {
                let found = state(node);
                assert!(found.0 <= tables, "{found:?} on {name}");
                found == (tables, 0)
            },
        );
    }
    let mut session = Session::open(&fleet.coordinator, "postgres");
    session.wait_until("SELECT NOT EXISTS (SELECT FROM repart.in_doubt)", LONG);
}

#[test]
fn a_command_takes_effect_on_all_nodes_or_on_none() {
    let fleet = fleet();
    let mut session = fleet.session();
    assert_eq!(
        session.number("SELECT repart_run_on_nodes('CREATE TABLE t1 (n int)')::bigint"),
        2
    );
    wait_settled(&fleet, 1);

    // Together with the local transaction, and with its savepoints.
    session.run("BEGIN; INSERT INTO here VALUES (1); SELECT repart_run_on_nodes('CREATE TABLE t2 (n int)'); COMMIT");
    wait_settled(&fleet, 2);
    session.run("BEGIN; INSERT INTO here VALUES (2); SELECT repart_run_on_nodes('CREATE TABLE t3 (n int)'); ROLLBACK");
    wait_settled(&fleet, 2);
    session.run(
        "BEGIN; SAVEPOINT a; SELECT repart_run_on_nodes('CREATE TABLE t3 (n int)'); ROLLBACK TO a;
         SELECT repart_run_on_nodes('CREATE TABLE t4 (n int)'); COMMIT",
    );
    wait_settled(&fleet, 3);
    // Also one that is prepared itself.
    session.run(
        "BEGIN; SELECT repart_run_on_nodes('CREATE TABLE t5 (n int)'); PREPARE TRANSACTION 'mine'",
    );
    wait_until("several looks of the watcher", LONG, || {
        session.number("SELECT count(*) FROM repart.node_samples WHERE node = 'north' AND at > now() - '1 s'::interval") >= 4
    });
    assert_eq!((state(&fleet.north), state(&fleet.south)), ((3, 1), (3, 1)));
    assert_eq!(session.number("SELECT count(*) FROM repart.in_doubt"), 0);
    session.run("COMMIT PREPARED 'mine'");
    wait_settled(&fleet, 4);

    // It fails on one node.
    fleet
        .south
        .connect("postgres")
        .batch_execute("CREATE TABLE t6 (n int)")
        .unwrap();
    let refused = complaint(
        &mut session,
        "SELECT repart_run_on_nodes('CREATE TABLE t6 (n int)')",
    );
    assert!(
        refused.starts_with("42P07 node \"south\": relation \"t6\" already exists"),
        "{refused}"
    );
    assert_eq!(state(&fleet.north), (4, 0));
    assert_eq!(
        session.number(
            "SELECT repart_run_on_nodes('CREATE TABLE t6 (n int)', ARRAY['north', 'north'])::bigint"
        ),
        1
    );
    wait_settled(&fleet, 5);
    // It fails when it is to be prepared: a foreign key that is violated at the end.
    session.run("SELECT repart_run_on_nodes('CREATE TABLE pk (n int PRIMARY KEY); CREATE TABLE fk (n int REFERENCES pk DEFERRABLE INITIALLY DEFERRED)')");
    wait_settled(&fleet, 5);
    fleet
        .north
        .connect("postgres")
        .batch_execute("INSERT INTO pk VALUES (1)")
        .unwrap();
    let refused = complaint(
        &mut session,
        "SELECT repart_run_on_nodes('INSERT INTO fk VALUES (1)')",
    );
    assert!(refused.starts_with("23503 node \"south\""), "{refused}");
    assert_eq!(
        number(
            &mut fleet.north.connect("postgres"),
            "SELECT count(*) FROM fk"
        ),
        0
    );
    assert_eq!((state(&fleet.north), state(&fleet.south)), ((5, 0), (5, 0)));

    for (call, expected) in [
        (
            "repart_run_on_nodes('COMMIT')",
            "22023 the command ended its transaction on node \"north\"",
        ),
        (
            "repart_run_on_nodes('SELECT 1', ARRAY['east'])",
            "42704 node \"east\" does not exist",
        ),
        (
            "repart_run_on_nodes('SELECT 1', ARRAY[NULL])",
            "22004 argument \"nodes\" must not be null",
        ),
        (
            "repart_run_on_nodes(NULL)",
            "22004 argument \"command\" must not be null",
        ),
    ] {
        let refused = complaint(&mut session, &format!("SELECT {call}"));
        assert!(refused.starts_with(expected), "{call}: {refused}");
    }
    // Another coordinator's transactions are left alone.
    let mut other = fleet.north.connect("postgres");
    let foreign = "repart_00000000000000000000000000000000_0123456789abcdef_1";
    other
        .batch_execute(&format!(
            "BEGIN; CREATE TABLE foreign_one (n int); PREPARE TRANSACTION '{foreign}'"
        ))
        .unwrap();
    session.run("SELECT repart_run_on_nodes('CREATE TABLE t7 (n int)')");
    wait_until("the other coordinator's to be the last", LONG, || {
        state(&fleet.north) == (6, 1)
    });
    other
        .batch_execute(&format!("ROLLBACK PREPARED '{foreign}'"))
        .unwrap();
}

#[test]
fn whoever_dies_a_prepared_transaction_ends_as_was_decided() {
    let fleet = fleet();
    let mut session = fleet.session();
    let prepare = |session: &mut Session, table: &str| {
        session.run(&format!(
            "BEGIN; INSERT INTO here VALUES (1); SELECT repart_run_on_nodes('CREATE TABLE {table} (n int)')"
        ));
        assert_eq!((state(&fleet.north).1, state(&fleet.south).1), (1, 1));
    };

    // The session, then the whole coordinator, before the decision.
    prepare(&mut session, "t1");
    let pid: i32 = session.query("SELECT pg_backend_pid()", &[])[0].get(0);
    fleet
        .session()
        .run(&format!("SELECT pg_terminate_backend({pid})"));
    wait_settled(&fleet, 0);
    session.reopen();
    prepare(&mut session, "t1");
    fleet.coordinator.kill_postmaster_and_start();
    session.reopen();
    wait_settled(&fleet, 0);
    assert_eq!(session.number("SELECT count(*) FROM here"), 0);

    // A node is away when it is decided; the coordinator crashes as well; nothing of it was on its disk by itself.
    session.run("SET synchronous_commit = off");
    prepare(&mut session, "t1");
    fleet.south.stop(Shutdown::Immediate);
    session.run("COMMIT");
    session.wait_until(
        "SELECT count(*) = 1 FROM repart.in_doubt WHERE node = 'south' AND decision = 'commit'",
        LONG,
    );
    session.wait_until(
        "SELECT count(*) = 1 FROM repart.in_doubt WHERE error LIKE '%connect%'",
        LONG,
    );
    let refused = complaint(&mut session, "SELECT repart_remove_node('south')");
    assert!(
        refused.starts_with("55006 node \"south\" has prepared transactions (repart_"),
        "{refused}"
    );
    wait_until("the other node to commit", LONG, || {
        state(&fleet.north) == (1, 0)
    });
    fleet.coordinator.kill_postmaster_and_start();
    session.reopen();
    assert_eq!(session.number("SELECT count(*) FROM here"), 1);
    assert_eq!(
        session.number("SELECT count(*) FROM repart.in_doubt WHERE decision = 'commit'"),
        1
    );
    fleet.south.start_again();
    wait_settled(&fleet, 1);

    // A node is away when it is rolled back, and comes back from a crash.
    prepare(&mut session, "t2");
    fleet.south.stop(Shutdown::Immediate);
    session.run("ROLLBACK");
    wait_until("the other node to roll back", LONG, || {
        state(&fleet.north) == (1, 0)
    });
    fleet.south.start_again();
    wait_settled(&fleet, 1);

    // The watcher dies, which is a crash of the coordinator, with the decision made.
    session.set("repart.sample_interval", "'1h'");
    prepare(&mut session, "t2");
    let watcher = session.wait_worker("watcher");
    session.run("COMMIT");
    fleet.coordinator.kill9(watcher);
    session.reopen();
    wait_settled(&fleet, 2);
}

#[test]
fn an_answer_that_is_lost_is_no_answer() {
    let fleet = fleet();
    let mut session = fleet.session();
    let proxy = Proxy::to(fleet.south.port());
    session.run(&format!(
        "SELECT repart_remove_node('south');
         CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{}', dbname 'postgres');
         CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'postgres'); SELECT repart_add_node('far')",
        proxy.port()
    ));
    // The connection hangs in the middle of the work: here for the command, whose effect comes too late.
    proxy.cut();
    let refused = complaint(
        &mut session,
        "SELECT repart_run_on_nodes('CREATE TABLE t1 (n int)')",
    );
    assert!(
        refused.contains("node \"far\"")
            && refused.contains("no answer within repart.node_timeout"),
        "{refused}"
    );
    proxy.mend();
    wait_settled(&fleet, 0);

    // Decided while the way is cut: the node that is reached does not wait for the other one.
    session.run("BEGIN; SELECT repart_run_on_nodes('CREATE TABLE t1 (n int)')");
    proxy.cut();
    session.run("COMMIT");
    wait_until("the other node to commit", LONG, || {
        state(&fleet.north) == (1, 0)
    });
    assert_eq!(state(&fleet.south), (0, 1));
    session.wait_until(
        "SELECT count(*) = 1 FROM repart.in_doubt WHERE node = 'far' AND error LIKE '%no answer%'",
        LONG,
    );
    proxy.mend();
    wait_settled(&fleet, 1);

    // A server that leads elsewhere meanwhile is not asked: there, nothing is prepared.
    fleet
        .south
        .connect("postgres")
        .batch_execute("CREATE DATABASE elsewhere")
        .unwrap();
    session.run("BEGIN; SELECT repart_run_on_nodes('CREATE TABLE t3 (n int)')");
    fleet
        .session()
        .run("ALTER SERVER far OPTIONS (SET dbname 'elsewhere')");
    session.run("COMMIT");
    session.wait_until(
        "SELECT count(*) = 1 FROM repart.in_doubt WHERE error LIKE '%leads to another database than before'",
        LONG,
    );
    let refused = complaint(&mut session, "SELECT repart_add_node('far')");
    assert!(
        refused.starts_with("55006 node \"far\" has prepared transactions (repart_"),
        "{refused}"
    );
    session.run("ALTER SERVER far OPTIONS (SET dbname 'postgres')");
    wait_settled(&fleet, 2);

    // Prepared when everybody had given it up: nobody decided, so that it is rolled back.
    let gid: String = session.texts(
        "SELECT format('repart_%s_%s_1', replace(id::text, '-', ''), '0123456789abcdef') FROM repart.coordinator",
    )[0]
    .clone();
    let mut late = fleet.south.connect("postgres");
    late.batch_execute(&format!(
        "BEGIN; CREATE TABLE t2 (n int); PREPARE TRANSACTION '{gid}'"
    ))
    .unwrap();
    wait_settled(&fleet, 2);
}

#[test]
fn a_node_that_hangs_while_it_is_told_is_told_again() {
    let fleet = fleet();
    let mut session = fleet.session();
    // Three transactions are decided while the node is away, so that it is told of all of them at once.
    for table in ["t1", "t2", "t3"] {
        session.run(&format!(
            "SELECT repart_run_on_nodes('CREATE TABLE {table} (n int)', ARRAY['north'])"
        ));
    }
    wait_until("the first three to be committed", LONG, || {
        state(&fleet.north) == (3, 0)
    });
    let mut sessions: Vec<Session> = (4..7).map(|_| fleet.session()).collect();
    for (n, other) in sessions.iter_mut().enumerate() {
        other.run(&format!(
            "BEGIN; SELECT repart_run_on_nodes('CREATE TABLE t{} (n int)', ARRAY['south'])",
            n + 4
        ));
    }
    // From here on a commit there waits for a standby that does not exist: longer than anybody waits for the node, and
    // less long than the session there was told to.
    let mut south = Session::open(&fleet.south, "postgres");
    south.set("synchronous_standby_names", "'nobody'");
    south.wait_until(
        "SELECT current_setting('synchronous_standby_names') = 'nobody'",
        LONG,
    );
    session.set("repart.node_timeout", "'500ms'");
    wait_for_new_samples(&mut session, "south");
    for other in &mut sessions {
        other.run("COMMIT");
    }
    session.wait_until(
        "SELECT count(*) >= 1 FROM repart.in_doubt WHERE node = 'south' AND error IS NOT NULL",
        LONG,
    );
    south.run("ALTER SYSTEM RESET synchronous_standby_names");
    south.run("SELECT pg_reload_conf()");
    wait_until("all that was decided to be committed", LONG, || {
        state(&fleet.south) == (3, 0)
    });
    session.wait_until("SELECT NOT EXISTS (SELECT FROM repart.in_doubt)", LONG);
    for (n, _) in sessions.iter().enumerate() {
        assert_eq!(
            number(
                &mut fleet.south.connect("postgres"),
                &format!("SELECT count(*) FROM t{}", n + 4)
            ),
            0
        );
    }
}
