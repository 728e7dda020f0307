//! A mover gives way to clients of the node that it copies to: by what the node itself says, or else by the last sample.
//! Samples are an hour apart here, so that none is taken while a test runs but those that it writes itself.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::cluster::Cluster;
use repart_tests::fleet::{Fleet, samples};
use repart_tests::repart::Session;
use repart_tests::wait::LONG;

/// The copy would take two minutes: long enough to see what it does, whatever else the machine is doing.
const SLOW: [&str; 3] = [
    "repart.headroom = 0.9",
    "repart.sample_interval = 1h",
    "repart.max_copy_rate = 256kB",
];

const ROWS: i64 = 30_000;

/// Makes a table that takes long to copy, and a node.
fn create_table(session: &mut Session, node: &str) {
    session.run(&format!(
        "CREATE TABLE large (id bigint, filling text) PARTITION BY RANGE (id);
         ALTER TABLE large ALTER filling SET STORAGE PLAIN;
         CREATE TABLE large1 PARTITION OF large FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
         ALTER TABLE large1 ADD PRIMARY KEY (id);
         INSERT INTO large SELECT n, repeat('x', 980) FROM generate_series(1, {ROWS}) n;
         SELECT repart_add_node('{node}');
         SELECT repart_manage('large')"
    ));
}

/// Begins to copy the table to a node.
fn move_slowly(session: &mut Session, node: &str) -> i64 {
    let id = session.queue(&format!("repart_move('large1', node => '{node}')"));
    session.wait_until(
        &format!("SELECT rows_done > 0 FROM repart.migrations WHERE id = {id}"),
        LONG,
    );
    id
}

/// Waits until the mover says that it gives way on a node, or that it does not.
fn wait_until_it_gives_way(session: &mut Session, node: &str, gives_way: bool) {
    let says = if gives_way { "LIKE" } else { "NOT LIKE" };
    session.wait_until(
        &format!(
            "SELECT bool_or(query LIKE '%: copying (%' AND query {says} '%gives way on%node \"{node}\"%')
               FROM pg_stat_activity WHERE backend_type = 'repart mover'"
        ),
        LONG,
    );
}

/// Lets the migration come to its end; nothing is missing then.
fn finish(session: &mut Session, id: i64) {
    session.set("repart.max_copy_rate", "0");
    session.set("repart.headroom", "1");
    session.wait_done(id);
    assert_eq!(session.number("SELECT count(*) FROM large"), ROWS);
}

/// What the watcher would note of a node now.
fn measured(session: &mut Session, node: &str, cpu: f64) {
    session.run(&format!(
        "DELETE FROM repart.node_samples WHERE node = '{node}';
         INSERT INTO repart.node_samples (node, at, seconds, cpu) VALUES ('{node}', clock_timestamp(), 1, {cpu})"
    ));
}

/// Has a node pretend to be a machine of its own, of two processors, of which a tenth works.
fn pretend_to_be_a_machine(node: &Cluster) {
    node.connect("postgres")
        .batch_execute(&format!(
            "CREATE TABLE public.machine (busy float8, since float8, share float8);
             INSERT INTO public.machine VALUES (1000, {NOW}, 0.1)"
        ))
        .unwrap();
    pretend(
        node,
        &format!("SELECT 2, 2 * {NOW}, busy + 2 * share * ({NOW} - since)"),
    );
}

const NOW: &str = "extract(epoch FROM clock_timestamp())::float8";

/// Has the function that tells what a machine does say this instead.
fn pretend(node: &Cluster, counters: &str) {
    let pretended = format!(
        "CREATE OR REPLACE FUNCTION repart_node_usage(OUT cpus int, OUT cpu_seconds float8, OUT cpu_busy_seconds float8,
             OUT load float8, OUT memory_total int8, OUT memory_available int8, OUT cpu_stall_us int8,
             OUT memory_stall_us int8, OUT io_stall_us int8, OUT read_bytes int8, OUT write_bytes int8,
             OUT disk_total int8, OUT disk_free int8) RETURNS SETOF record LANGUAGE sql VOLATILE
         AS $$ {counters}, NULL::float8, NULL::int8, NULL::int8, NULL::int8, NULL::int8, NULL::int8, NULL::int8,
               NULL::int8, NULL::int8, NULL::int8 FROM public.machine $$"
    );
    node.connect("postgres").batch_execute(&pretended).unwrap();
}

#[test]
fn a_mover_follows_the_load_of_a_node_by_what_the_node_says_itself() {
    let fleet = Fleet::start(&SLOW);
    let mut session = fleet.session();
    pretend_to_be_a_machine(&fleet.north);
    let mut north = fleet.north.connect("postgres");
    let mut set_load = |share: f64| {
        let sql = format!(
            "UPDATE public.machine SET busy = busy + 2 * share * ({NOW} - since), since = {NOW}, share = {share}"
        );
        north.batch_execute(&sql).unwrap();
    };
    create_table(&mut session, "north");
    let id = move_slowly(&mut session, "north");
    wait_until_it_gives_way(&mut session, "north", false);
    for _ in 0..2 {
        set_load(1.0);
        wait_until_it_gives_way(&mut session, "north", true);
        set_load(0.1);
        wait_until_it_gives_way(&mut session, "north", false);
    }
    assert_eq!(samples(&mut session, "north"), 0);

    // The node tells no more: the move goes on, by samples.
    pretend(&fleet.north, "SELECT 1 / 0, 1::float8, 1::float8");
    measured(&mut session, "north", 0.95);
    wait_until_it_gives_way(&mut session, "north", true);
    measured(&mut session, "north", 0.1);
    wait_until_it_gives_way(&mut session, "north", false);
    finish(&mut session, id);
}

fn goes_by_samples(fleet: &Fleet, node: &str) {
    let mut session = fleet.session();
    create_table(&mut session, node);
    let id = move_slowly(&mut session, node);
    for _ in 0..2 {
        measured(&mut session, node, 0.95);
        wait_until_it_gives_way(&mut session, node, true);
        measured(&mut session, node, 0.1);
        wait_until_it_gives_way(&mut session, node, false);
    }
    finish(&mut session, id);
}

#[test]
fn a_mover_goes_by_the_last_sample_of_a_node_without_repart() {
    goes_by_samples(&Fleet::start(&SLOW), "south");
}

#[test]
fn a_mover_goes_by_the_last_sample_of_a_node_with_an_older_repart() {
    let fleet = Fleet::start(&SLOW);
    fleet
        .north
        .connect("postgres")
        .batch_execute(
            "ALTER EXTENSION repart DROP FUNCTION repart_session_usage(); DROP FUNCTION repart_session_usage();
             CREATE TABLE public.calls (n int);
             CREATE FUNCTION repart_session_usage() RETURNS float8 LANGUAGE plpgsql
                 AS 'BEGIN INSERT INTO public.calls VALUES (1); RETURN 1; END'",
        )
        .unwrap();
    goes_by_samples(&fleet, "north");
    // Somebody else's function of that name is not called.
    let calls = Session::open(&fleet.north, "postgres").number("SELECT count(*) FROM public.calls");
    assert_eq!(calls, 0);
}

/// Whoever waits for an answer of the node, which nobody needs, must not be stuck with it.
#[test]
fn a_mover_that_asks_a_node_can_be_cancelled_and_goes_on_when_the_node_is_restarted() {
    let fleet = Fleet::start(&SLOW);
    let mut session = fleet.session();
    pretend_to_be_a_machine(&fleet.north);
    create_table(&mut session, "north");
    let keep_waiting = || {
        let mut north = Session::open(&fleet.north, "postgres");
        north.run("BEGIN; LOCK TABLE public.machine");
        // The mover: the watcher does not ask for what a session does.
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
                       WHERE wait_event_type = 'Lock' AND query LIKE '%repart_session_usage()%')";
        // In a session of its own: a transaction goes on seeing the activity that it has seen once.
        Session::open(&fleet.north, "postgres").wait_until(waits, LONG);
        north
    };
    let id = move_slowly(&mut session, "north");
    let north = keep_waiting();
    session.run(&format!("SELECT repart_cancel({id})"));
    assert_eq!(session.wait_ended(id).state, "cancelled");
    drop(north);
    fleet.wait_settled(&mut session, (0, 0));

    let id = move_slowly(&mut session, "north");
    let north = keep_waiting();
    fleet.north.kill_postmaster_and_start();
    drop(north);
    finish(&mut session, id);
    fleet.wait_settled(&mut session, (1, 0));
}
