//! Somebody is killed in the middle of a switch.

use repart_tests::aftermath::assert_sound;
use repart_tests::routing::{
    assert_same, assert_same_map, assert_settled, load, start, with_names,
};

/// Whoever is killed, and whenever, both servers come to the same map: the old one before the decision, the new one after.
#[test]
fn whoever_is_killed_the_copy_ends_as_was_decided() {
    let fleet = start();
    let mut session = fleet.session();
    let workload = load(&fleet, true);
    // As many as are not a multiple of the strikes: each strike meets each of them.
    let moves = ["south", "north", "local", "north"];
    let mut place = moves.iter().cycle();
    for point in ["verifying", "routed", "switched", "decided"] {
        for strike in ["coordinator", "copy", "mover"] {
            let node = place.next().unwrap();
            println!("{strike} killed at {point}, to {node}");
            let call = with_names(
                &mut session,
                &format!("repart_move('{{2}}', node => '{node}')"),
            );
            session.hold_at(point);
            let id = session.queue(&call);
            let mover = session.wait_held(point);
            match strike {
                "coordinator" => fleet.coordinator.kill_postmaster_and_start(),
                "copy" => fleet.north.kill_postmaster_and_start(),
                _ => fleet.coordinator.kill9(mover),
            }
            session.reopen();
            session.release();
            assert_eq!(
                session.wait_ended(id).state,
                "done",
                "{:?}",
                session.migration(id)
            );
            workload.proceed(40);
            let on = |name: &str| i64::from(name == *node);
            assert_settled(&fleet, &mut session, (on("north"), on("south")));
            assert_same_map(&fleet, &mut session);
        }
    }
    workload.stop().assert_clean();
    assert_same(&fleet, &mut session);
    assert_sound(&mut session, "orders");
}
