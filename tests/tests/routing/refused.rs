//! What a user may get wrong.

use repart_tests::fleet::{Fleet, complaint};
use repart_tests::repart::Session;
use repart_tests::routing::{KEYS, SETTINGS, assert_same, lead_back, wait_settled};
use repart_tests::wait::{LONG, wait_until};

/// What a user may get wrong has a message with the object's name and what helps.
#[test]
fn what_cannot_be_a_routing_copy_is_refused_with_its_name() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    let mut north = Session::open(&fleet.north, "postgres");
    session.run("SELECT repart_add_node('south')");
    session.create_sharded_table("orders", &[2_000], KEYS);
    let refuse = |session: &mut Session, call: &str, expected: &str| {
        let refused = complaint(session, &format!("SELECT {call}"));
        assert!(refused.starts_with(expected), "{call}: {refused}");
        assert!(
            refused
                .split(" | ")
                .nth(2)
                .is_some_and(|hint| !hint.is_empty()),
            "{refused}"
        );
    };
    refuse(
        &mut session,
        "repart_add_node('north', coordinator => 'hq')",
        "55000 node \"north\" has no server \"hq\" of postgres_fdw, by which to reach this database",
    );
    refuse(
        &mut session,
        "repart_add_node('south', coordinator => 'hq')",
        "55000 repart is not installed on node \"south\"",
    );
    lead_back(&fleet.north, &fleet.coordinator, &[("south", &fleet.south)]);
    refuse(
        &mut session,
        "repart_add_node('north', coordinator => 'south')",
        "22023 server \"south\" on node \"north\" does not lead to this database",
    );
    session.run("SELECT repart_add_node('north')");
    refuse(
        &mut session,
        "repart_add_routing_copy('orders', 'north')",
        "55000 it is not known by which foreign server node \"north\" leads back here",
    );
    session.run("SELECT repart_add_node('north', coordinator => 'hq')");
    let add = "repart_add_routing_copy('orders', 'north')";
    for (make, expected) in [
        (
            "CREATE TABLE orders (id bigint, payload text, counter int) PARTITION BY RANGE (id)",
            "0A000 table \"orders\" and its routing copy on node \"north\" have different columns",
        ),
        (
            "CREATE TABLE orders (id bigint, payload text, counter bigint) PARTITION BY RANGE (counter)",
            "0A000 table \"orders\" and its routing copy on node \"north\" have different partition key",
        ),
        (
            "CREATE TABLE orders (id bigint PRIMARY KEY, payload text, counter bigint) PARTITION BY RANGE (id)",
            "0A000 the routing copy of table \"orders\" on node \"north\" has unique indexes",
        ),
        (
            "CREATE TABLE orders (id bigint, payload text, counter bigint) PARTITION BY RANGE (id);
             CREATE TABLE own PARTITION OF orders DEFAULT",
            "0A000 partition \"own\" on node \"north\" is a table of that node",
        ),
    ] {
        north.run(make);
        refuse(&mut session, add, expected);
        north.run("DROP TABLE orders");
    }
    refuse(
        &mut session,
        "repart_add_routing_copy('orders', 'nowhere')",
        "42704 node \"nowhere\" does not exist",
    );
    refuse(
        &mut session,
        "repart_drop_routing_copy('orders', 'north')",
        "42704 table \"orders\" has no routing copy",
    );
    session.run("CREATE SCHEMA shop");
    session.create_sharded_table("shop.items", &[], 10);
    refuse(
        &mut session,
        "repart_add_routing_copy('shop.items', 'north')",
        "42704 schema shop does not exist on node \"north\"",
    );
    // A savepoint that is undone leaves nothing.
    session.run(&format!("BEGIN; SELECT {add}; ROLLBACK"));
    wait_until("what was prepared to be rolled back", LONG, || {
        north.number("SELECT count(*) FROM pg_prepared_xacts") == 0
    });
    assert_eq!(
        north.number("SELECT count(*) FROM pg_class WHERE relname = 'orders'"),
        0
    );
    session.run(&format!("SELECT {add}"));
    wait_settled(&mut session);
    refuse(
        &mut session,
        "repart_unmanage('orders')",
        "55006 table \"orders\" has a routing copy on node \"north\"",
    );
    refuse(
        &mut session,
        "repart_remove_node('north')",
        "55006 node \"north\" has a routing copy of table \"public.orders\"",
    );
    refuse(
        &mut session,
        "repart_add_node('north', coordinator => 'south')",
        "55006 node \"north\" has a routing copy of table \"public.orders\", which leads back here by server \"hq\"",
    );
    // It keeps its way back when it is added again, and a copy that somebody changed is brought up to date.
    session.run("SELECT repart_add_node('north', weight => 2)");
    north.run("DROP FOREIGN TABLE orders2");
    refuse(
        &mut session,
        "repart_split('orders2', '4000')",
        "55000 table \"orders\" and its routing copy on node \"north\" have different partitions",
    );
    session.run(&format!("SELECT {add}"));
    wait_settled(&mut session);
    assert_same(&fleet, &mut session);
    // The copy must know a node before a shard goes there.
    north.run("DROP SERVER south CASCADE");
    session.run("SELECT repart_manage('orders', leaf_keys => true)");
    refuse(
        &mut session,
        "repart_move('orders2', node => 'south')",
        "55000 node \"north\" has no server \"south\" of postgres_fdw, by which to reach node \"south\"",
    );
    session.run("SELECT repart_drop_routing_copy('orders', 'north')");
    wait_settled(&mut session);
    assert_eq!(
        north.number("SELECT count(*) FROM pg_class WHERE relname ~ '^orders'"),
        0
    );
    session.run("SELECT repart_remove_node('north')");
    assert_eq!(
        session.number("SELECT count(*) FROM repart.routing_copies"),
        0
    );
}
