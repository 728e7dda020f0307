//! Switches under load, through both servers.

use repart_tests::aftermath::assert_sound;
use repart_tests::fleet::complaint;
use repart_tests::repart::Session;
use repart_tests::routing::{
    KEYS, assert_same, assert_same_map_of, assert_settled, do_all, load, north, start,
    wait_settled, with_names,
};

/// Carries these migrations out while clients use both servers; so many shards are on each node after each of them.
fn do_under_load(calls: &[(&str, (i64, i64))]) {
    let fleet = start();
    let mut session = fleet.session();
    let workload = load(&fleet, false);
    do_all(&fleet, &mut session, &workload, calls);
    workload.stop().assert_clean();
    assert_same(&fleet, &mut session);
    assert_sound(&mut session, "orders");
}

#[test]
fn a_routing_copy_switches_with_the_table_under_load_through_both() {
    do_under_load(&[
        ("repart_split('{2}', '3500', '5000')", (0, 0)),
        // A few rows leave a shard that is kept in place.
        ("repart_shift('{2}', '{3}', '3480')", (0, 0)),
        ("repart_move('{2}', node => 'south')", (0, 1)),
        ("repart_split('{2}', '2700')", (0, 2)),
        ("repart_merge('{2}', '{3}')", (0, 1)),
        ("repart_move('{2}', node => 'local')", (0, 0)),
        ("repart_merge('{3}', '{4}')", (0, 0)),
    ]);
}

/// What comes to the copy's own node becomes a partition of it, and what leaves it ceases to be one.
#[test]
fn shards_come_to_the_node_of_a_routing_copy_and_leave_it() {
    do_under_load(&[
        ("repart_move('{2}', node => 'north')", (1, 0)),
        ("repart_split('{2}', '4000')", (2, 0)),
        ("repart_shift('{2}', '{3}', '3000')", (2, 0)),
        ("repart_move('{3}', node => 'south')", (1, 1)),
        ("repart_move('{3}', node => 'north')", (2, 0)),
        ("repart_merge('{2}', '{3}')", (1, 0)),
        ("repart_move('{2}', node => 'local')", (0, 0)),
    ]);
}

/// The copies of colocated tables switch together, in one transaction on each node.
#[test]
fn routing_copies_of_a_colocation_group_switch_together() {
    let fleet = start();
    let mut session = fleet.session();
    session.create_sharded_table("lines", &[2_000], KEYS);
    session.run(
        "SELECT repart_manage('lines', colocate_with => 'orders', leaf_keys => true);
         SELECT repart_add_routing_copy('lines', 'north')",
    );
    wait_settled(&mut session);
    let rows = |session: &mut Session| {
        session.number("SELECT count(*) FROM orders JOIN lines USING (id) WHERE orders.payload = lines.payload")
    };
    let before = rows(&mut session);
    for (call, shards) in [
        ("repart_split('{2}', '4000')", (0, 0)),
        ("repart_move('{2}', node => 'south')", (0, 2)),
        ("repart_move('{2}', node => 'north')", (2, 0)),
        ("repart_split('{2}', '3000')", (4, 0)),
        ("repart_merge('{2}', '{3}')", (2, 0)),
        ("repart_move('{2}', node => 'local')", (0, 0)),
    ] {
        let call = with_names(&mut session, call);
        let id = session.queue(&call);
        session.wait_done(id);
        assert_settled(&fleet, &mut session, shards);
        let mut north = north(&fleet);
        for table in ["orders", "lines"] {
            assert_same_map_of((&mut session, table), (&mut north, table), "north");
        }
        assert_eq!(
            (rows(&mut session), rows(&mut north)),
            (before, before),
            "{call}"
        );
    }
    // One of the group alone has a copy.
    session.run("SELECT repart_drop_routing_copy('lines', 'north')");
    let call = with_names(&mut session, "repart_split('{2}', '3000')");
    let id = session.queue(&call);
    session.wait_done(id);
    assert_settled(&fleet, &mut session, (0, 0));
    assert_same(&fleet, &mut session);
    assert_eq!(session.bounds("lines"), session.bounds("orders"));
}

/// The remote snapshot of a transaction on the copy may be older than a shard's rows, there as here.
#[test]
fn an_old_snapshot_on_the_copy_gets_an_error_and_not_an_empty_shard() {
    let fleet = start();
    let mut session = fleet.session();
    session.create_sharded_table("others", &[], 1_000);
    session.run("SELECT repart_manage('others', leaf_keys => true); SELECT repart_add_routing_copy('others', 'north')");
    let id = session.queue("repart_move('others1', node => 'south')");
    session.wait_done(id);
    wait_settled(&mut session);
    let rows = session.number("SELECT count(*) FROM orders");
    let mut readers: Vec<Session> = [
        "BEGIN; SELECT count(*) FROM others",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM others",
    ]
    .iter()
    .map(|begin| {
        let mut reader = Session::open(&fleet.north, "postgres");
        reader.run(begin);
        reader
    })
    .collect();
    let id = session.queue("repart_move('orders2', node => 'south')");
    session.wait_done(id);
    wait_settled(&mut session);
    for reader in &mut readers {
        let refused = complaint(reader, "SELECT count(*) FROM orders");
        assert!(refused.starts_with("40001"), "{refused}");
        reader.run("ROLLBACK");
        assert_eq!(reader.number("SELECT count(*) FROM orders"), rows);
    }
    // To the copy's own node, too.
    readers[0].run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM others");
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    wait_settled(&mut session);
    let refused = complaint(&mut readers[0], "SELECT count(*) FROM orders");
    assert!(refused.starts_with("40001"), "{refused}");
    readers[0].run("ROLLBACK");
    assert_same(&fleet, &mut session);
}
