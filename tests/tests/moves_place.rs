//! A node that is away holds no mover's place: with one place, others go on; its own migrations go on by themselves when
//! it is back.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Shutdown;
use repart_tests::fleet::Fleet;
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};

const KEYS: i64 = 6_000;

const SETTINGS: [&str; 4] = [
    "repart.max_movers = 1",
    "repart.sample_interval = 300ms",
    "repart.node_timeout = 2s",
    // Many batches of a small table.
    "repart.batch_duration = 10ms",
];

/// How `north` is away.
#[derive(Clone, Copy, Debug)]
enum Away {
    /// Connections are refused.
    Stopped,
    /// Connections hang.
    CutOff,
}

impl Away {
    fn begin(self, fleet: &Fleet) {
        match self {
            Self::Stopped => fleet.north.stop(Shutdown::Immediate),
            Self::CutOff => fleet.cut_off_north(),
        }
    }

    fn end(self, fleet: &Fleet) {
        match self {
            Self::Stopped => fleet.north.start_again(),
            Self::CutOff => fleet.mend_way_to_north(),
        }
    }
}

/// Queues a split of the last shard of a table that is here.
fn queue_split(session: &mut Session, table: &str, at: i64) -> i64 {
    let last = session.shards(table).pop().unwrap().name;
    session.queue(&format!("repart_split('{last}', '{at}')"))
}

/// Waits until a migration waits for `north`, and says so.
fn wait_waiting(session: &mut Session, id: i64) {
    session.wait_until(
        &format!(
            "SELECT waits_for IS NOT DISTINCT FROM 'north' FROM repart.migrations WHERE id = {id}"
        ),
        LONG,
    );
    let said = session.texts(&format!(
        "SELECT concat_ws(' ', reason LIKE 'waits for node \"north\", which does not answer: %',
                          waiting_since <= clock_timestamp(), retry_at > waiting_since,
                          (SELECT attempts <= 1 FROM repart.journal j WHERE j.id = m.id))
           FROM repart.migrations m WHERE id = {id}"
    ));
    assert_eq!(said, ["t t t t"], "{id}");
}

#[test]
fn migrations_of_a_node_that_is_away_give_their_place_to_others() {
    let fleet = Fleet::apart(&SETTINGS, &[]);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('south')");
    for table in ["orders", "here"] {
        session.create_movable_table(table, &[2_000], KEYS);
    }
    let workloads = [fleet.load("orders", KEYS), fleet.load("here", KEYS)];
    for (n, away) in [Away::Stopped, Away::CutOff].into_iter().enumerate() {
        let key = 3_000 + 1_000 * i64::try_from(n).unwrap();
        println!("{away:?}: before it has begun");
        // Nobody begins before all are queued.
        session.set("repart.max_movers", "0");
        let there = session.queue("repart_move('orders2', node => 'north')");
        let also = session.queue("repart_move('orders1', node => 'north')");
        let split = queue_split(&mut session, "here", key);
        away.begin(&fleet);
        session.set("repart.max_movers", "1");
        session.wait_done(split);
        // It is tried again, less and less often.
        wait_waiting(&mut session, there);
        let later = format!(
            "SELECT retry_at - waiting_since > interval '3 s' FROM repart.migrations WHERE id = {there}"
        );
        session.wait_until(&later, LONG);
        wait_waiting(&mut session, there);
        // The other one has not tried for itself, and can be given up.
        wait_waiting(&mut session, also);
        assert_eq!(session.migration(also).state, "queued");
        session.run(&format!("SELECT repart_cancel({also})"));
        assert_eq!(session.wait_ended(also).state, "cancelled");
        away.end(&fleet);
        session.wait_done(there);
        fleet.wait_settled(&mut session, (1, 0));
        for workload in &workloads {
            workload.proceed(20);
        }

        println!("{away:?}: after its switch");
        session.hold_at("switched");
        let back = session.queue("repart_move('orders2', node => 'local')");
        session.wait_held("switched");
        away.begin(&fleet);
        let split = queue_split(&mut session, "here", key + 500);
        session.release();
        wait_waiting(&mut session, back);
        assert_eq!(session.migration(back).state, "cleaning");
        session.wait_done(split);
        wait_waiting(&mut session, back);
        assert_eq!(
            session.texts("SELECT node::text FROM repart.in_doubt"),
            ["north"]
        );
        away.end(&fleet);
        session.wait_done(back);
        fleet.wait_settled(&mut session, (0, 0));
        for workload in &workloads {
            workload.proceed(20);
        }
    }
    for workload in workloads {
        workload.stop().assert_clean();
    }
    for table in ["orders", "here"] {
        assert_sound(&mut session, table);
    }
}

/// Nobody is at work, and yet somebody sees to it that the log fills no disk, wherever it is.
#[test]
fn what_is_captured_while_a_node_is_away_does_not_grow_without_end() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north'); SELECT repart_add_node('south')");
    session.create_movable_table("orders", &[2_000], KEYS);
    session.set("repart.max_backlog", "1000");
    for (from, shards) in [("local", (0, 0)), ("south", (0, 1))] {
        if from != "local" {
            let id = session.queue(&format!("repart_move('orders2', node => '{from}')"));
            session.wait_done(id);
        }
        session.hold_at("catching_up");
        let id = session.queue("repart_move('orders2', node => 'north')");
        session.wait_held("catching_up");
        fleet.north.stop(Shutdown::Immediate);
        session.release();
        wait_waiting(&mut session, id);
        session.run("UPDATE orders SET counter = counter + 1 WHERE id BETWEEN 2000 AND 4999");
        let migration = session.wait_ended(id);
        assert_eq!(migration.state, "failed", "from {from}: {migration:?}");
        let error = migration.error.unwrap_or_default();
        assert!(
            error.contains("captured changes are waiting, more than repart.max_backlog"),
            "from {from}: {error}"
        );
        assert_nothing_left(&mut session);
        fleet.north.start_again();
        fleet.wait_settled(&mut session, shards);
        assert_sound(&mut session, "orders");
    }
}

/// However many shards and targets it has, and however much is asked of the node.
#[test]
fn queueing_a_reshape_on_a_node_connects_to_it_once() {
    let fleet = Fleet::start(&SETTINGS);
    let mut session = fleet.session();
    session.run("SELECT repart_add_node('north')");
    session.create_movable_table("orders", &[2_000], KEYS);
    for shard in ["orders1", "orders2"] {
        let id = session.queue(&format!("repart_move('{shard}', node => 'north')"));
        session.wait_done(id);
    }
    session.run("SELECT repart_pause()");
    let mut north = Session::open(&fleet.north, "postgres");
    north.set("log_connections", "on");
    let connections = || {
        let log = fleet.north.log();
        let of_repart = |line: &&str| {
            line.contains("connection authorized") && line.ends_with("application_name=repart")
        };
        log.lines().filter(of_repart).count()
    };
    wait_until("connections to be logged", LONG, || {
        session.run("SELECT repart_add_node('north')");
        connections() > 0
    });
    for call in [
        "repart_merge('orders1', 'orders2')",
        "repart_split('orders2', '3000', '4000')",
    ] {
        let before = connections();
        let id = session.queue(call);
        assert_eq!(connections() - before, 1, "{call}");
        session.run(&format!("SELECT repart_cancel({id})"));
        session.wait_ended(id);
    }
}
