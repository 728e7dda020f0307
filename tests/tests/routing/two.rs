//! Two copies of one table, of which one goes away at each moment of a switch.

use repart_tests::aftermath::{assert_nothing_left, assert_nothing_left_on, assert_sound};
use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::proxy::Proxy;
use repart_tests::repart::Session;
use repart_tests::routing::{
    assert_same_map_of, lead_back, load_through, rows, start, wait_settled, with_names,
};
use repart_tests::wait::LONG;

/// The migration waits for it, or ends without it; the clients of the other copy, and those here, go on; it comes to the
/// same map as the others in the end.
#[test]
fn of_two_copies_one_goes_away_and_the_other_goes_on() {
    let fleet = start();
    let mut session = fleet.session();
    let west = Cluster::with_repart(&[]);
    lead_back(&west, &fleet.coordinator, &[("north", &fleet.north)]);
    let proxy = Proxy::to(west.port());
    fleet.create_server(
        "west",
        &format!(
            "host '127.0.0.1', port '{}', dbname 'postgres'",
            proxy.port()
        ),
    );
    // North has to know nothing of west: no shard goes there.
    session.run("SELECT repart_add_node('west', coordinator => 'hq')");
    session.run("SELECT repart_add_routing_copy('orders', 'west')");
    wait_settled(&mut session);
    let workload = load_through(&[&fleet.coordinator, &fleet.north], false);

    let moves = ["north", "local"];
    let mut place = moves.iter().cycle();
    for (point, strike, is_decided) in [
        ("cutting_over", "cut", false),
        ("cutting_over", "stop", false),
        ("routed", "cut", false),
        ("routed", "stop", false),
        ("switched", "cut", true),
        ("switched", "stop", true),
        ("decided", "cut", true),
        ("decided", "stop", true),
    ] {
        let node = place.next().unwrap();
        println!("west {strike} at {point}, to {node}");
        let call = with_names(
            &mut session,
            &format!("repart_move('{{2}}', node => '{node}')"),
        );
        session.hold_at(point);
        let id = session.queue(&call);
        session.wait_held(point);
        match strike {
            "cut" => proxy.cut(),
            _ => west.stop(Shutdown::Immediate),
        }
        session.release();
        if is_decided {
            // West was told before it went, where the watcher was quicker than the strike.
            let least = if point == "switched" { 1 } else { 0 };
            session.wait_until(
                &format!("SELECT count(*) >= {least} AND bool_and(node = 'west') IS NOT FALSE FROM repart.in_doubt"),
                LONG,
            );
            session.wait_done(id);
        } else {
            session.wait_until(
                &format!(
                    "SELECT reason LIKE '%node \"west\"%' FROM repart.migrations WHERE id = {id}"
                ),
                LONG,
            );
        }
        // Nobody else waits for it.
        workload.proceed(100);
        match strike {
            "cut" => proxy.mend(),
            _ => west.start_again(),
        }
        session.wait_done(id);
        wait_settled(&mut session);
        workload.proceed(40);
        for (cluster, node) in [(&fleet.north, "north"), (&west, "west")] {
            let copy = &mut Session::open(cluster, "postgres");
            assert_same_map_of((&mut session, "orders"), (copy, "orders"), node);
        }
    }
    workload.stop().assert_clean();
    let expected = rows(&mut session, "orders");
    for cluster in [&fleet.north, &west] {
        let copy = &mut Session::open(cluster, "postgres");
        assert_eq!(rows(copy, "orders"), expected);
    }
    assert_nothing_left(&mut session);
    assert_nothing_left_on(&fleet.north, 0);
    assert_nothing_left_on(&west, 0);
    assert_sound(&mut session, "orders");
}
