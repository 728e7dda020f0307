//! A copy that does not answer.

use repart_tests::aftermath::{assert_nothing_left, assert_nothing_left_on};
use repart_tests::cluster::Shutdown;
use repart_tests::fleet::{Fleet, complaint};
use repart_tests::proxy::Proxy;
use repart_tests::repart::Session;
use repart_tests::routing::{
    KEYS, SETTINGS, assert_same, assert_same_map, lead_back, wait_settled, with_names,
};
use repart_tests::wait::LONG;

fn count_of_copy(fleet: &Fleet) -> i64 {
    Session::open(&fleet.north, "postgres").number("SELECT count(*) FROM orders")
}

/// A copy that hangs, or is away, keeps the switch from being made; nobody waits for it but those who are told to.
#[test]
fn a_copy_that_hangs_or_is_away_is_waited_for_and_never_left_behind() {
    let fleet = Fleet::start(&SETTINGS);
    lead_back(&fleet.north, &fleet.coordinator, &[("south", &fleet.south)]);
    let proxy = Proxy::to(fleet.north.port());
    let mut session = fleet.session();
    fleet.create_server(
        "west",
        &format!(
            "host '127.0.0.1', port '{}', dbname 'postgres'",
            proxy.port()
        ),
    );
    session.run("SELECT repart_add_node('west', coordinator => 'hq')");
    session.create_sharded_table("orders", &[2_000], KEYS);
    session.run("SELECT repart_add_routing_copy('orders', 'west')");
    wait_settled(&mut session);
    let rows = session.number("SELECT count(*) FROM orders");

    // Cut off before anything is asked of it: the migration waits, says for whom, and gives up in the end.
    session.set("repart.cutover_timeout", "'3s'");
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders2', '4000')");
    session.wait_held("cutting_over");
    proxy.cut();
    session.release();
    let failed = session.wait_ended(id);
    let error = failed.error.unwrap_or_default();
    assert!(
        failed.state == "failed" && error.contains("node \"west\""),
        "{error}"
    );
    assert_eq!(count_of_copy(&fleet), rows);
    proxy.mend();
    assert_same_map(&fleet, &mut session);
    session.run("ALTER SYSTEM RESET repart.cutover_timeout; ");
    session.run("SELECT pg_reload_conf()");

    // Cut off while the table there is locked: its server ends our session, and its clients go on.
    session.hold_at("routed");
    let id = session.queue("repart_split('orders2', '4000')");
    session.wait_held("routed");
    proxy.cut();
    assert_eq!(count_of_copy(&fleet), rows);
    session.release();
    session.wait_until(
        &format!("SELECT reason LIKE '%node \"west\"%' FROM repart.migrations WHERE id = {id}"),
        LONG,
    );
    assert_eq!(
        (
            session.number("SELECT count(*) FROM orders"),
            count_of_copy(&fleet)
        ),
        (rows, rows)
    );
    proxy.mend();
    session.wait_done(id);
    wait_settled(&mut session);
    assert_same_map(&fleet, &mut session);

    // Cut off when it is prepared: what is decided arrives when the way is mended.
    session.hold_at("switched");
    let call = with_names(&mut session, "repart_merge('{2}', '{3}')");
    let id = session.queue(&call);
    session.wait_held("switched");
    proxy.cut();
    session.release();
    session.wait_until(
        "SELECT count(*) = 1 FROM repart.in_doubt WHERE node = 'west' AND decision = 'commit'",
        LONG,
    );
    assert_eq!(session.number("SELECT count(*) FROM orders"), rows);
    assert_eq!(session.number("SELECT count(*) FROM repart.shards"), 2);
    // Nobody can use the old map any more, so that the migration ends.
    session.wait_done(id);
    let refused = complaint(
        &mut session,
        "SELECT repart_drop_routing_copy('orders', 'west')",
    );
    assert!(
        refused.starts_with("55006 node \"west\" has still to carry out"),
        "{refused}"
    );
    proxy.mend();
    wait_settled(&mut session);
    assert_same_map(&fleet, &mut session);
    assert_eq!(count_of_copy(&fleet), rows);

    // Away for long, prepared; and the coordinator crashes meanwhile.
    session.hold_at("switched");
    let call = with_names(&mut session, "repart_split('{2}', '3000')");
    let id = session.queue(&call);
    session.wait_held("switched");
    fleet.north.stop(Shutdown::Immediate);
    session.release();
    session.wait_until("SELECT count(*) = 3 FROM repart.shards", LONG);
    fleet.coordinator.kill_postmaster_and_start();
    session.reopen();
    session.run("UPDATE orders SET counter = 7 WHERE id = 4001");
    // Another migration does not switch before the copy has followed this one.
    session.set("repart.cutover_timeout", "'1s'");
    let refused = complaint(
        &mut session,
        "SELECT repart_drop_routing_copy('orders', 'west')",
    );
    assert!(
        refused.starts_with("55006 node \"west\" has still to carry out"),
        "{refused}"
    );
    let next = session.queue("repart_split('orders1', '1000')");
    let waited = session.wait_ended(next);
    let error = waited.error.unwrap_or_default();
    assert!(
        waited.state == "failed" && error.contains("has still to carry out"),
        "{error}"
    );
    fleet.north.start_again();
    assert_eq!(session.wait_ended(id).state, "done");
    wait_settled(&mut session);
    assert_same(&fleet, &mut session);
    assert_nothing_left(&mut session);
    assert_nothing_left_on(&fleet.north, 0);
}
