//! The role that repart is on a copy's node is nobody special, and neither are the clients of the copy: what they lack is
//! said when the copy is made, and with what they have every migration is switched.

use repart_tests::fleet::{Fleet, complaint};
use repart_tests::repart::Session;
use repart_tests::routing::{
    KEYS, SETTINGS, assert_same_map_of, lead_back, north, rows, wait_settled, with_names,
};

#[test]
fn a_role_without_privileges_has_a_copy_once_it_has_what_is_said() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    let mut copy = north(&fleet);
    lead_back(&fleet.north, &fleet.coordinator, &[("south", &fleet.south)]);
    copy.run(
        "CREATE ROLE router LOGIN; CREATE ROLE clerk LOGIN; GRANT CREATE, TEMPORARY ON DATABASE postgres TO router;
         REVOKE CREATE ON SCHEMA public FROM PUBLIC; DROP USER MAPPING FOR PUBLIC SERVER hq; DROP USER MAPPING FOR PUBLIC SERVER south;
         CREATE USER MAPPING FOR router SERVER south OPTIONS (user 'postgres', password_required 'false')",
    );
    session.run(&format!(
        "CREATE SERVER plain FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({});
         CREATE USER MAPPING FOR PUBLIC SERVER plain OPTIONS (user 'router');
         SELECT repart_add_node('south');
         CREATE ROLE app LOGIN",
        fleet.north.server_options("postgres")
    ));
    session.create_sharded_table("orders", &[2_000], KEYS);
    session.run(
        "SELECT repart_manage('orders', leaf_keys => true);
         GRANT SELECT, INSERT, UPDATE, DELETE ON orders, orders1, orders2 TO app",
    );
    let add_node = "repart_add_node('plain', coordinator => 'hq')";
    let add = "repart_add_routing_copy('orders', 'plain')";
    let grant = "GRANT EXECUTE ON FUNCTION repart_note_switch(oid[]) TO router";
    for (call, expected, hint, mend) in [
        (
            add_node,
            "55000 repart is not installed on node \"plain\", or not for the role that this server has there",
            "GRANT EXECUTE ON FUNCTION repart_note_switch(oid[])",
            grant,
        ),
        (
            add_node,
            "55000 role router, which repart is on node \"plain\", may not use server \"hq\" there",
            "GRANT USAGE ON FOREIGN SERVER hq TO router",
            "GRANT USAGE ON FOREIGN SERVER hq TO router",
        ),
        (
            add_node,
            "55000 node \"plain\" has no user mapping for server \"hq\" for the role that this server has there",
            "CREATE USER MAPPING FOR CURRENT_USER",
            "CREATE USER MAPPING FOR router SERVER hq OPTIONS (user 'app')",
        ),
        (
            add_node,
            "2F003 node \"plain\": password",
            "",
            "ALTER USER MAPPING FOR router SERVER hq OPTIONS (ADD password_required 'false')",
        ),
    ] {
        refuse(&mut session, call, expected, hint);
        copy.run(mend);
    }
    session.run(&format!("SELECT {add_node}"));
    refuse(
        &mut session,
        add,
        "55000 role router, which repart is on node \"plain\", may not make tables in schema public there",
        "GRANT USAGE, CREATE ON SCHEMA public TO router",
    );
    copy.run("GRANT USAGE, CREATE ON SCHEMA public TO router");
    // One that somebody else has made.
    copy.run(
        "CREATE TABLE orders (id bigint, payload text, counter bigint) PARTITION BY RANGE (id)",
    );
    refuse(
        &mut session,
        add,
        "55000 the role that repart is on node \"plain\" does not own table public.orders there",
        "ALTER TABLE … OWNER TO",
    );
    // And that others may use.
    copy.run("ALTER TABLE orders OWNER TO router; GRANT SELECT, INSERT, UPDATE ON orders TO clerk");
    refuse(
        &mut session,
        add,
        "55000 users of the routing copy of table \"orders\" have no user mapping for server \"hq\" on node \"plain\": clerk",
        "CREATE USER MAPPING FOR clerk SERVER hq",
    );
    copy.run(
        "CREATE USER MAPPING FOR clerk SERVER hq OPTIONS (user 'app', password_required 'false')",
    );
    session.run(&format!("SELECT {add}"));
    wait_settled(&mut session);

    // A server that no shard was on is asked for when one is to go there.
    let move_south = "repart_move('orders2', node => 'south')";
    refuse(
        &mut session,
        move_south,
        "55000 role router, which repart is on node \"plain\", may not use server \"south\" there",
        "GRANT USAGE ON FOREIGN SERVER south TO router",
    );
    copy.run("GRANT USAGE ON FOREIGN SERVER south TO router");
    refuse(
        &mut session,
        move_south,
        "55000 users of the routing copy of table \"orders\" have no user mapping for server \"south\" on node \"plain\": clerk",
        "CREATE USER MAPPING FOR clerk SERVER south",
    );
    copy.run("CREATE USER MAPPING FOR clerk SERVER south OPTIONS (user 'postgres', password_required 'false')");

    let mut clerk = north(&fleet);
    clerk.run("SET ROLE clerk");
    for (n, call) in [
        "repart_split('orders2', '4000')",
        "repart_move('{2}', node => 'plain')",
        "repart_split('{2}', '3000')",
        "repart_move('{2}', node => 'south')",
        "repart_move('{3}', node => 'local')",
        "repart_shift('{3}', '{4}', '4005')",
    ]
    .iter()
    .enumerate()
    {
        let call = with_names(&mut session, call);
        println!("{call}");
        let id = session.queue(&call);
        session.wait_done(id);
        wait_settled(&mut session);
        assert_same_map_of((&mut session, "orders"), (&mut copy, "orders"), "plain");
        clerk.run(&format!(
            "INSERT INTO orders SELECT -1 - {n} + 3000 * k, 'by the clerk', 0 FROM generate_series(0, 0) k;
             UPDATE orders SET counter = counter + 1 WHERE id IN ({0}, 2500 + {0}, 5000 + {0})",
            3 * n + 1
        ));
        assert_eq!(rows(&mut clerk, "orders"), rows(&mut session, "orders"));
    }
    session.run("SELECT repart_drop_routing_copy('orders', 'plain')");
    wait_settled(&mut session);
    assert_eq!(
        copy.number("SELECT count(*) FROM pg_class WHERE relname = 'orders'"),
        0
    );
}

fn refuse(session: &mut Session, call: &str, expected: &str, hint: &str) {
    let refused = complaint(session, &format!("SELECT {call}"));
    assert!(
        refused.starts_with(expected) && refused.contains(hint),
        "{call}: {refused}"
    );
}
