//! `repart.mode = 'auto'` with nodes: repart moves shards by itself, while clients read and write them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::aftermath::{assert_nothing_left, assert_nothing_left_on, assert_sound};
use repart_tests::fleet::{Fleet, complaint};
use repart_tests::repart::Session;
use repart_tests::wait::LONG;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 12_000;

/// Nothing is measured here but what is imported: each node counts as one processor, times its weight.
const QUIET: [&str; 6] = [
    "repart.mode = off",
    "repart.sample_interval = 1h",
    "repart.forecast_interval = 1s",
    "repart.horizon = 80s",
    "repart.shard_capacity = 1000",
    "repart.dwell = 0",
];

const AT_FIRST: [&str; 4] = [
    "orders1 north",
    "orders2 south",
    "orders3 north",
    "orders4 north",
];

/// What a node of weight 4 serves at that capacity, rows/s.
const NODE: f64 = 4_000.0;

/// Four shards of 3,000 keys, here.
fn create(session: &mut Session) {
    session
        .run("SELECT repart_add_node('north', weight => 4), repart_add_node('south', weight => 4)");
    session.create_movable_table("orders", &[3_000, 6_000, 9_000], KEYS);
}

/// The same on north, south and twice on north.
fn spread(session: &mut Session) {
    create(session);
    for (number, node) in [(1, "north"), (2, "south"), (3, "north"), (4, "north")] {
        let id = session.queue(&format!("repart_move('orders{number}', node => '{node}')"));
        session.wait_done(id);
    }
    assert_eq!(places(session), AT_FIRST);
}

/// Imports a load that rises and falls in 80 s, is lowest now, and highest in 40 s; shares of what a node serves.
fn import(session: &mut Session, shard: &str, lowest: f64, highest: f64) {
    session.run(&format!(
        "SELECT repart_import_samples('{shard}', jsonb_agg(jsonb_build_object('at', now() - n * interval '2 s', 'writes', 0,
                'reads', {NODE} * ({lowest} + {} * (1 - cos(2 * pi() * n / 40)) / 2), 'bytes', 8192)))
           FROM generate_series(0, 400) n",
        highest - lowest
    ));
}

fn places(session: &mut Session) -> Vec<String> {
    session.texts("SELECT concat_ws(' ', shard, node) FROM repart.shards ORDER BY shard::text")
}

/// Clients, once both nodes answer.
fn load(fleet: &Fleet, session: &mut Session) -> Workload {
    session.wait_until(
        "SELECT count(*) = 2 FROM repart.nodes WHERE reachable AND node <> 'local'",
        LONG,
    );
    let options = Options::new("orders", KEYS).with_nodes();
    Workload::start(&fleet.coordinator, "postgres", options)
}

fn automatic(session: &mut Session) {
    session.set("repart.mode", "auto");
}

#[test]
fn a_shard_moves_to_the_cooler_node_before_it_is_hot() {
    let fleet = Fleet::without_repart(&QUIET);
    let mut session = fleet.session();
    spread(&mut session);
    let last = session.number("SELECT max(id) FROM repart.migrations");
    // Three of them will need 90 % of north. Without one of the others it would still be above its limit, which is 70 %.
    import(&mut session, "orders1", 0.10, 0.18);
    import(&mut session, "orders2", 0.01, 0.02);
    import(&mut session, "orders3", 0.05, 0.54);
    import(&mut session, "orders4", 0.10, 0.18);
    let workload = load(&fleet, &mut session);
    automatic(&mut session);
    session.wait_until(
        &format!("SELECT bool_or(state = 'done') FROM repart.migrations WHERE id > {last}"),
        LONG,
    );
    session.set("repart.mode", "off");
    workload.proceed(200);
    workload.stop().assert_clean();
    assert_eq!(
        places(&mut session),
        [
            "orders1 north",
            "orders2 south",
            "orders3 south",
            "orders4 north"
        ]
    );
    let steps = session.texts(&format!(
        "SELECT concat_ws(' ', p.action, p.reason, p.source, p.target, m.finished_at < p.deadline)
           FROM repart.plans p JOIN repart.migrations m ON m.id = p.migration WHERE m.id > {last}"
    ));
    assert_eq!(steps, ["move PREDICTED_HOT north south t"]);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
    assert_nothing_left_on(&fleet.north, 2);
    assert_nothing_left_on(&fleet.south, 2);
    assert_eq!(session.number("SELECT count(*) FROM repart.in_doubt"), 0);
}

#[test]
fn a_node_that_is_drained_empties_itself() {
    let fleet = Fleet::without_repart(&QUIET);
    let mut session = fleet.session();
    // So little is done that shards which are together would be merged next.
    session.set("repart.dwell", "'1h'");
    spread(&mut session);
    for number in 1..=4 {
        import(&mut session, &format!("orders{number}"), 0.01, 0.02);
    }
    let workload = load(&fleet, &mut session);
    assert_eq!(session.number("SELECT repart_drain_node('north')"), 3);
    // By hand it is what the plan says.
    session.run("SELECT repart_plan()");
    for id in session.texts("SELECT id::text FROM repart_apply() AS id") {
        session.wait_done(id.parse().unwrap());
    }
    let left = "SELECT count(*) FROM repart.shards WHERE node = 'north'";
    assert!(session.number(left) < 3);
    // And by itself, the rest.
    automatic(&mut session);
    session.wait_until(
        "SELECT count(*) = 0 FROM repart.shards WHERE node = 'north'",
        LONG,
    );
    session.wait_until(
        "SELECT bool_and(state = 'done') FROM repart.migrations",
        LONG,
    );
    workload.proceed(200);
    workload.stop().assert_clean();
    let reasons = session.texts(
        "SELECT DISTINCT p.action || ' ' || p.reason FROM repart.plans p WHERE p.migration IS NOT NULL",
    );
    assert_eq!(reasons, ["move DRAIN"]);
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
    assert_nothing_left_on(&fleet.north, 0);
    session.run("SELECT repart_remove_node('north')");
}

#[test]
fn this_server_empties_itself_when_it_is_drained() {
    let fleet = Fleet::without_repart(&QUIET);
    let mut session = fleet.session();
    session.set("repart.dwell", "'1h'");
    create(&mut session);
    for number in 1..=4 {
        import(&mut session, &format!("orders{number}"), 0.01, 0.02);
    }
    let workload = load(&fleet, &mut session);
    assert_eq!(session.number("SELECT repart_drain_node('local')"), 4);
    let local = "SELECT concat_ws(' ', weight, draining) FROM repart.nodes WHERE node = 'local'";
    assert_eq!(session.texts(local), ["1 t"]);
    automatic(&mut session);
    session.wait_until(
        "SELECT count(*) = 0 FROM repart.shards WHERE node = 'local'",
        LONG,
    );
    session.wait_until(
        "SELECT bool_and(state = 'done') FROM repart.migrations",
        LONG,
    );
    let refused = complaint(
        &mut session,
        "SELECT repart_move('orders1', node => 'local')",
    );
    assert!(
        refused.starts_with("55000 node \"local\" is draining")
            && refused.contains("SELECT repart_add_node('local')"),
        "{refused}"
    );
    workload.proceed(200);
    session.set("repart.mode", "off");
    let moves = session.texts(
        "SELECT concat_ws(' ', p.reason, p.source, p.target <> 'local') FROM repart.plans p
          WHERE p.migration IS NOT NULL ORDER BY p.migration",
    );
    assert_eq!(moves, ["DRAIN local t"; 4]);
    session.run("SELECT repart_add_node('local', weight => 2)");
    assert_eq!(session.texts(local), ["2 f"]);
    let id = session.queue("repart_move('orders1', node => 'local')");
    session.wait_done(id);
    workload.proceed(200);
    workload.stop().assert_clean();
    assert_nothing_left(&mut session);
    assert_sound(&mut session, "orders");
    let on = |node: &str| format!("SELECT count(*) FROM repart.shards WHERE node = '{node}'");
    for (cluster, node) in [(&fleet.north, "north"), (&fleet.south, "south")] {
        let shards = session.number(&on(node));
        assert_nothing_left_on(cluster, shards);
    }
}
