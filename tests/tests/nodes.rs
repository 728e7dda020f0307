//! Which servers can be nodes, and what is observed of them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::cluster::Cluster;
use repart_tests::fleet::{Fleet, complaint, is_reachable, samples, wait_for_new_samples};
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};

/// Samples are taken often, so that a test sees several.
const OFTEN: [&str; 2] = ["repart.sample_interval = 200ms", "repart.node_timeout = 2s"];

fn assert_complains(session: &mut Session, sql: &str, parts: &[&str]) {
    let complaint = complaint(session, sql);
    for part in parts {
        assert!(complaint.contains(part), "{sql}: {complaint}");
    }
}

#[test]
fn servers_become_nodes_are_observed_and_removed() {
    let fleet = Fleet::start(&OFTEN);
    let mut session = fleet.session();
    // PostgreSQL reports changes of one that was added by a name that needs quotes as well.
    let standby = fleet.north.standby(&[]);
    fleet.create_server("\"North 2\"", &standby.server_options("postgres"));

    assert_eq!(
        session.texts("SELECT node::text FROM repart.nodes"),
        ["local"]
    );
    session.run("SELECT repart_add_node('north', 2)");
    session.run("SELECT repart_add_node('south')");
    session.run("SELECT repart_add_node('North 2', replica_of => 'north')");
    let listed = session.texts(
        "SELECT concat_ws(' ', node, replica_of, weight, draining, reachable, shards, repart_version)
           FROM repart.nodes ORDER BY node::text COLLATE \"C\"",
    );
    assert_eq!(
        listed,
        [
            "North 2 north 1 f t 0 0.1.0",
            "local 1 f t 0 0.1.0",
            "north 2 f t 0 0.1.0",
            "south 1 f t 0"
        ]
    );

    for node in ["local", "north", "south", "North 2"] {
        wait_for_new_samples(&mut session, node);
    }
    let observed = session.texts(
        "SELECT concat_ws(' ', node, cpu BETWEEN 0 AND 1, memory_available BETWEEN 1 AND memory_total,
                          disk_free BETWEEN 1 AND disk_total, connections BETWEEN 1 AND max_connections,
                          transactions >= 0, lag IS NOT NULL)
           FROM repart.nodes ORDER BY node::text COLLATE \"C\"",
    );
    assert_eq!(
        observed,
        [
            "North 2 t t t t t t",
            "local t t t t t f",
            "north t t t t t f",
            // What the machine does is not known there.
            "south t t f"
        ]
    );

    assert_complains(
        &mut session,
        "SELECT repart_remove_node('north')",
        &["55006", "node \"north\" has replica \"North 2\""],
    );
    assert_eq!(session.number("SELECT repart_drain_node('south')"), 0);
    assert_eq!(
        session.texts("SELECT node::text FROM repart.nodes WHERE draining"),
        ["south"]
    );
    session.run("SELECT repart_add_node('south', 3)");
    assert_eq!(
        session
            .texts("SELECT weight::text FROM repart.nodes WHERE node = 'south' AND NOT draining"),
        ["3"]
    );
    for node in ["North 2", "north", "south"] {
        session.run(&format!("SELECT repart_remove_node('{node}')"));
    }
    assert_eq!(
        session.texts("SELECT node::text FROM repart.nodes"),
        ["local"]
    );
    session.wait_until(
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'repart watcher')",
        LONG,
    );
    assert_eq!(samples(&mut session, "north"), 0);
    wait_for_new_samples(&mut session, "local");
}

#[test]
fn a_server_that_cannot_be_a_node_is_refused_with_the_remedy() {
    let fleet = Fleet::start(&["repart.node_timeout = 2s"]);
    let mut session = fleet.session();
    let replica = fleet.north.standby(&[]);
    let unprepared = Cluster::start(&["max_prepared_transactions = 0"]);
    let mut north = fleet.north.connect("postgres");
    for sql in [
        "CREATE DATABASE other_encoding TEMPLATE template0 ENCODING 'SQL_ASCII'",
        "CREATE DATABASE other_collation TEMPLATE template0 LC_COLLATE 'C.UTF-8'",
        "CREATE ROLE guest LOGIN",
    ] {
        north.batch_execute(sql).unwrap();
    }
    fleet.create_server("replica", &replica.server_options("postgres"));
    fleet.create_server("unprepared", &unprepared.server_options("postgres"));
    fleet.create_server("myself", &fleet.coordinator.server_options("postgres"));
    fleet.create_server("again", &fleet.north.server_options("postgres"));
    for database in ["other_encoding", "other_collation", "missing"] {
        fleet.create_server(database, &fleet.north.server_options(database));
    }
    fleet.create_server("closed", "host '127.0.0.1', port '1', dbname 'postgres'");
    session.run(&format!(
        "CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
         CREATE SERVER unmapped FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({0});
         CREATE SERVER guests FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({0});
         CREATE USER MAPPING FOR CURRENT_USER SERVER guests OPTIONS (user 'guest');
         CREATE ROLE somebody LOGIN; GRANT EXECUTE ON FUNCTION repart_add_node(name, float8, name, name) TO somebody",
        fleet.north.server_options("postgres")
    ));
    session.run("SELECT repart_add_node('north')");

    for (server, parts) in [
        (
            "nowhere",
            [
                "42704",
                "server \"nowhere\" does not exist",
                "CREATE SERVER nowhere",
            ],
        ),
        (
            "files",
            [
                "42809",
                "\"files\" is not a server of postgres_fdw",
                "CREATE EXTENSION postgres_fdw",
            ],
        ),
        (
            "unmapped",
            [
                "55000",
                "no user mapping of role \"postgres\" for server \"unmapped\"",
                "CREATE USER MAPPING FOR postgres SERVER unmapped",
            ],
        ),
        (
            "closed",
            [
                "08001",
                "could not connect to node \"closed\"",
                "Connection refused",
            ],
        ),
        (
            "missing",
            [
                "08001",
                "could not connect to node \"missing\"",
                "database \"missing\" does not exist",
            ],
        ),
        (
            "myself",
            [
                "22023",
                "server \"myself\" leads back to this database",
                "another database",
            ],
        ),
        (
            "again",
            [
                "22023",
                "server \"again\" leads to the same database as node \"north\"",
                "one name",
            ],
        ),
        (
            "other_encoding",
            [
                "0A000",
                "node \"other_encoding\" has another encoding",
                "There: SQL_ASCII. Here: UTF8.",
            ],
        ),
        (
            "other_collation",
            [
                "0A000",
                "node \"other_collation\" has another default collation",
                "CREATE DATABASE other_collation",
            ],
        ),
        (
            "unprepared",
            [
                "55000",
                "max_prepared_transactions is 0 on node \"unprepared\"",
                "ALTER SYSTEM SET max_prepared_transactions",
            ],
        ),
        (
            "replica",
            ["22023", "server \"replica\" is a replica", "replica_of"],
        ),
        (
            "guests",
            [
                "55000",
                "role \"guest\" may not create schemas in database \"postgres\" of node \"guests\"",
                "GRANT CREATE ON DATABASE postgres TO guest",
            ],
        ),
    ] {
        // The same server as `guest` is another database only for what may be done there.
        if server == "guests" {
            session.run("SELECT repart_remove_node('north')");
        }
        assert_complains(
            &mut session,
            &format!("SELECT repart_add_node('{server}')"),
            &parts,
        );
    }
    session.run("SELECT repart_add_node('north')");
    for (call, parts) in [
        (
            "repart_add_node('south', replica_of => 'north')",
            ["22023", "server \"south\" is not a replica"],
        ),
        (
            "repart_add_node('south', replica_of => 'east')",
            ["42704", "node \"east\" does not exist"],
        ),
        (
            "repart_add_node('south', replica_of => 'local')",
            ["22023", "server \"south\" is not a replica"],
        ),
        (
            "repart_add_node('south', replica_of => 'south')",
            ["22023", "replica of itself"],
        ),
        (
            "repart_add_node('north', replica_of => 'south')",
            ["42704", "node \"south\" does not exist"],
        ),
        (
            "repart_add_node('south', 0)",
            ["22023", "weight 0 is not a positive number"],
        ),
        (
            "repart_add_node('south', 'NaN')",
            ["22023", "weight NaN is not a positive number"],
        ),
        (
            "repart_add_node('south', NULL)",
            ["22004", "\"weight\" must not be null"],
        ),
        (
            "repart_add_node(NULL)",
            ["22004", "\"server\" must not be null"],
        ),
        (
            "repart_remove_node('south')",
            ["42704", "node \"south\" does not exist"],
        ),
        (
            "repart_remove_node('local')",
            ["22023", "\"local\" is the name of this server"],
        ),
        (
            "repart_add_node('local', replica_of => 'north')",
            ["22023", "\"local\" is the name of this server"],
        ),
        (
            "repart_add_node('local', -1)",
            ["22023", "weight -1 is not a positive number"],
        ),
    ] {
        assert_complains(&mut session, &format!("SELECT {call}"), &parts);
    }
    assert_complains(
        &mut session,
        "SET ROLE somebody; SELECT repart_add_node('south')",
        &["42501", "must be superuser for repart_add_node()"],
    );
    assert_eq!(
        session.texts("SELECT node::text FROM repart.nodes"),
        ["local", "north"]
    );
}

#[test]
fn no_message_shows_a_secret() {
    let fleet = Fleet::start(&[]);
    let mut session = fleet.session();
    fleet
        .north
        .connect("postgres")
        .batch_execute("CREATE ROLE app LOGIN PASSWORD 'right'")
        .unwrap();
    session.run(&format!(
        "CREATE SERVER secret FOREIGN DATA WRAPPER postgres_fdw
             OPTIONS (host '127.0.0.1', port '{}', dbname 'hunter2 and hunter2');
         CREATE USER MAPPING FOR CURRENT_USER SERVER secret OPTIONS (user 'postgres', password 'hunter2')",
        fleet.north.port()
    ));
    // A server that repeats in its error what happens to be the password as well.
    let refused = complaint(&mut session, "SELECT repart_add_node('secret')");
    assert!(
        refused.contains("node \"secret\"") && refused.contains("********"),
        "{refused}"
    );
    assert!(!refused.contains("hunter2"), "{refused}");
    session.run("SELECT repart_add_node('north')");
    session.run("ALTER SERVER north OPTIONS (SET dbname 'hunter2')");
    session.run("ALTER USER MAPPING FOR PUBLIC SERVER north OPTIONS (ADD password 'hunter2')");
    session.set("repart.sample_interval", "'200ms'");
    wait_until("the node to be unreachable", LONG, || {
        !is_reachable(&mut session, "north")
    });
    let errors = session.texts(
        "SELECT coalesce(error, '') FROM repart.nodes UNION ALL SELECT message FROM repart.events",
    );
    assert!(
        errors.iter().any(|error| error.contains("********")),
        "{errors:?}"
    );
    assert!(
        !errors.iter().any(|error| error.contains("hunter2")),
        "{errors:?}"
    );
    let log = fleet.coordinator.log();
    let of_repart = log.lines().filter(|line| line.contains("repart watcher"));
    assert!(of_repart.into_iter().all(|line| !line.contains("hunter2")));
}
