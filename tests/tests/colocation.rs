//! Colocated tables with a foreign key between them are reshaped together, or not at all: under load, at every
//! crash, when one of them fails.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::{Cluster, Shutdown};
use repart_tests::control::{names, refusal};
use repart_tests::family::{self, Families};
use repart_tests::repart::Session;

const KEYS: i64 = 6_000;
const OLD: [i64; 1] = [3_000];
const NEW: [i64; 2] = [1_500, 3_000];

/// Both tables have these boundaries, every row is where it belongs, and the foreign key is as it was.
fn assert_reshaped(session: &mut Session, bounds: &[i64]) {
    assert_nothing_left(session);
    assert_sound(session, "orders");
    for table in ["orders", "lines"] {
        assert_eq!(session.bounds(table), bounds, "{table}");
        let misplaced = session.number(&format!(
            "SELECT count(*) FROM {table} t JOIN pg_class c ON c.oid = t.tableoid
              WHERE NOT satisfies_bound(t.id, pg_get_expr(c.relpartbound, c.oid))"
        ));
        assert_eq!(misplaced, 0, "{table}");
    }
    assert_eq!(session.number(family::AUDIT), 0);
    let parts = i64::try_from(bounds.len()).unwrap() + 1;
    let valid = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated";
    assert_eq!(
        session.number(&format!(
            "{valid} AND conrelid = 'lines'::regclass AND confrelid = 'orders'::regclass"
        )),
        1
    );
    // One for each shard of the referenced table, and one of each shard of the referencing one.
    assert_eq!(
        session.number(&format!("{valid} AND conparentid <> 0")),
        2 * parts
    );
    assert_eq!(
        session.number("SELECT count(*) FROM pg_constraint WHERE contype = 'f'"),
        1 + 2 * parts
    );
    // Two triggers of the constraint on each side, for the tables and for each of their shards.
    assert_eq!(
        session.number("SELECT count(*) FROM pg_trigger WHERE tgconstraint <> 0 AND tgisinternal"),
        4 + 4 * parts
    );
    assert_joins_by_shard(session, parts);
}

/// A join on the shard key joins shard with shard.
fn assert_joins_by_shard(session: &mut Session, parts: i64) {
    session.run("SET enable_partitionwise_join = on");
    let plan = session.texts("EXPLAIN (COSTS OFF) SELECT * FROM orders JOIN lines USING (id)");
    let joins = plan
        .iter()
        .filter(|line| line.contains("Join") || line.contains("Nested Loop"));
    assert_eq!(i64::try_from(joins.count()).unwrap(), parts, "{plan:#?}");
    assert!(plan[0].contains("Append"), "{plan:#?}");
}

fn scene(cluster: &Cluster) -> Session<'_> {
    let mut session = Session::open(cluster, "postgres");
    family::create(&mut session, &OLD, KEYS);
    session.run(
        "CREATE FUNCTION satisfies_bound(id bigint, bound text) RETURNS boolean LANGUAGE sql AS $$
             SELECT (bound LIKE '%(MINVALUE) TO%' OR id >= substring(bound FROM 'FROM \\(''([0-9-]+)''')::bigint)
                AND (bound LIKE '%(MAXVALUE)' OR id < substring(bound FROM 'TO \\(''([0-9-]+)''')::bigint) $$",
    );
    session
}

/// The name of the n-th shard of a table, from 0.
fn shard(session: &mut Session, table: &str, n: usize) -> String {
    session.shards(table)[n].name.clone()
}

#[test]
fn every_kind_of_migration_reshapes_both_tables_under_load() {
    let cluster = Cluster::with_repart(&[]);
    cluster.create_tablespace("elsewhere");
    let mut session = scene(&cluster);
    assert_reshaped(&mut session, &OLD);
    let families = Families::start(&cluster, KEYS, false);

    let lower = shard(&mut session, "orders", 0);
    let id = session.queue(&format!("repart_split('{lower}', '1000', '1500')"));
    session.wait_done(id);
    assert_reshaped(&mut session, &[1_000, 1_500, 3_000]);

    let (lower, upper) = (
        shard(&mut session, "lines", 0),
        shard(&mut session, "lines", 1),
    );
    let id = session.queue(&format!("repart_shift('{lower}', '{upper}', '500')"));
    session.wait_done(id);
    assert_reshaped(&mut session, &[500, 1_500, 3_000]);

    let (lower, upper) = (
        shard(&mut session, "lines", 2),
        shard(&mut session, "lines", 3),
    );
    let id = session.queue(&format!("repart_merge('{upper}', '{lower}')"));
    session.wait_done(id);
    assert_reshaped(&mut session, &[500, 1_500]);

    let moved = shard(&mut session, "orders", 1);
    let id = session.queue(&format!(
        "repart_move('{moved}', tablespace => 'elsewhere')"
    ));
    session.wait_done(id);
    assert_reshaped(&mut session, &[500, 1_500]);
    for table in ["orders", "lines"] {
        let tablespace = session.shards(table)[1].tablespace.clone();
        assert_eq!(tablespace.as_deref(), Some("elsewhere"), "{table}");
    }

    families.proceed(200);
    families.stop().assert_clean();
    assert_reshaped(&mut session, &[500, 1_500]);
    // One outcome for a migration of two tables.
    let outcomes =
        "SELECT count(*) FROM repart.outcome_log o JOIN repart.journal j ON j.id = o.migration
                     WHERE j.leader IS NULL AND cardinality(o.shards) >= 2";
    assert_eq!(session.number(outcomes), 4);
    assert_eq!(session.number("SELECT count(*) FROM repart.outcome_log"), 4);
}

/// A table that is in use is given the boundaries of the group that it joins.
#[test]
fn a_table_joins_a_group_under_load() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = scene(&cluster);
    session.run("SELECT repart_unmanage('orders')");
    let id = session.queue("repart_split('lines1', '1000', '2000')");
    session.wait_done(id);
    let id = session.queue("repart_merge(VARIADIC (SELECT array_agg(shard) FROM repart.shards WHERE key_to IN ('2000', '3000')))");
    session.wait_done(id);
    assert_eq!(session.bounds("lines"), [1_000, 3_000]);
    let families = Families::start(&cluster, KEYS, false);
    session.run("SELECT repart_manage('orders', colocate_with => 'lines')");
    let id = session.number("SELECT max(id) FROM repart.migrations");
    let state = session.wait(id);
    // It is referenced by a table whose shards stay as they are.
    assert_eq!(state, "done", "{:?}", session.migration(id));
    families.proceed(200);
    families.stop().assert_clean();
    assert_reshaped(&mut session, &[1_000, 3_000]);
}

/// Splits a shard of both tables under load, lets the crash happen at the point, and checks that both are old or both
/// are new.
fn crash_at(point: &str, immediate_shutdown: bool) {
    let cluster = Cluster::with_repart(&[]);
    let mut session = scene(&cluster);
    let families = Families::start(&cluster, KEYS, true);
    session.hold_at(point);
    let id = session.queue("repart_split('orders1', '1500')");
    let mover = session.wait_held(point);
    if point != "switched" {
        families.proceed(50);
    }
    if immediate_shutdown {
        cluster.restart(Shutdown::Immediate);
    } else {
        cluster.kill9(mover);
    }
    session.reopen();
    session.release();
    let migration = session.wait_ended(id);
    families.proceed(200);
    let report = families.stop();
    assert!(report.disconnects > 0, "the clients did not notice a crash");
    report.assert_clean();
    let states = session.texts("SELECT DISTINCT state FROM repart.journal");
    assert_eq!(
        states,
        std::slice::from_ref(&migration.state),
        "they end alike"
    );
    if migration.state == "done" {
        assert_reshaped(&mut session, &NEW);
    } else {
        assert_ne!(
            point, "cleaning",
            "what was committed cannot fail: {migration:?}"
        );
        assert_reshaped(&mut session, &OLD);
    }
    // What recovered must work.
    let merge = "repart_merge(VARIADIC (SELECT array_agg(shard) FROM repart.shards WHERE relation = 'lines'::regclass))";
    let id = session.queue(merge);
    session.wait_done(id);
    assert!(session.bounds("orders").is_empty());
    assert!(session.bounds("lines").is_empty());
    assert_nothing_left(&mut session);
}

#[test]
fn recovers_from_a_mover_killed_while_copying() {
    crash_at("copying", false);
}

#[test]
fn recovers_from_a_mover_killed_before_the_cutover() {
    crash_at("cutting_over", false);
}

#[test]
fn recovers_from_a_mover_killed_just_before_the_cutover_commits() {
    crash_at("switched", false);
}

#[test]
fn recovers_from_a_mover_killed_while_cleaning() {
    crash_at("cleaning", false);
}

#[test]
fn recovers_from_an_immediate_shutdown_just_before_the_cutover_commits() {
    crash_at("switched", true);
}

/// One is ready and the other at work: both are cancelled, by the number of either.
#[test]
fn a_cancelled_migration_leaves_both_tables_as_they_were() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = scene(&cluster);
    let families = Families::start(&cluster, KEYS, false);
    for (point, number) in [("copying", 0), ("cutting_over", 1)] {
        session.hold_at(point);
        let id = session.queue("repart_split('orders1', '1500')");
        session.wait_held(point);
        session.query(
            "SELECT repart_cancel($1::bigint + $2::bigint)",
            &[&id, &i64::from(number)],
        );
        session.release();
        assert_eq!(session.wait(id + 1), "cancelled");
        let sql = format!(
            "SELECT count(*) FROM repart.migrations WHERE id IN ({id}, {id} + 1) AND state = 'cancelled'"
        );
        assert_eq!(session.number(&sql), 2);
        assert_reshaped(&mut session, &OLD);
    }
    families.proceed(200);
    families.stop().assert_clean();
}

/// Somebody changes one of the tables while both are about to be cut over: neither is.
#[test]
fn when_one_table_fails_neither_is_changed() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = scene(&cluster);
    let families = Families::start(&cluster, KEYS, false);
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders1', '1500')");
    session.wait_held("cutting_over");
    session.run("CREATE INDEX ON lines (amount)");
    session.release();
    assert_eq!(session.wait(id), "failed");
    let error = session.migration(id).error.unwrap();
    assert!(
        error.contains("definition of table \"lines\" changed"),
        "{error}"
    );
    assert_eq!(session.migration(id + 1).state, "failed");
    families.proceed(200);
    families.stop().assert_clean();
    assert_reshaped(&mut session, &OLD);
    // And can be tried again.
    let id = session.queue("repart_split('lines1', '1500')");
    session.wait_done(id);
    assert_reshaped(&mut session, &NEW);
}

/// A table that is dropped in the middle takes the migration with it, not the other table.
#[test]
fn when_one_table_is_dropped_the_other_stays_as_it_was() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = scene(&cluster);
    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders1', '1500')");
    session.wait_held("cutting_over");
    session.run("DROP TABLE lines");
    session.release();
    assert_eq!(session.wait(id), "failed", "{:?}", session.migration(id));
    assert_nothing_left(&mut session);
    assert_eq!(session.bounds("orders"), OLD);
    // The group has ended with the table.
    let id = session.queue("repart_split('orders1', '1500')");
    session.wait_done(id);
    assert_eq!(session.bounds("orders"), NEW);
}

/// A restored database has the same groups.
#[test]
fn a_dump_keeps_groups() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = scene(&cluster);
    session.create_sharded_table("alone", &[1_000], 2_000);
    let dump = cluster.scratch("groups.sql");
    let mut program = cluster.client_program("pg_dump", "postgres");
    let dumped = program.output().unwrap();
    assert!(
        dumped.status.success(),
        "{}",
        String::from_utf8_lossy(&dumped.stderr)
    );
    std::fs::write(&dump, &dumped.stdout).unwrap();
    session.run("CREATE DATABASE restored TEMPLATE template0");
    cluster.psql("restored", &format!("\\i {}", dump.display()));
    let mut restored = Session::open(&cluster, "restored");
    assert_eq!(
        restored.number("SELECT count(*) FROM repart.sharded_tables"),
        3
    );
    let id = restored.queue("repart_split('orders1', '1500')");
    restored.wait_done(id);
    assert_eq!(restored.bounds("orders"), NEW);
    assert_eq!(restored.bounds("lines"), NEW);
    assert_eq!(restored.bounds("alone"), [1_000]);
    // A group made after that is another one.
    restored.create_sharded_table("other", &[1_000], 2_000);
    restored.run("SELECT repart_manage('other', colocate_with => 'alone')");
    let groups = "SELECT count(DISTINCT colocation_group) FROM repart.sharded_tables";
    assert_eq!(restored.number(groups), 2);
}

/// Splits both tables, takes that back by the number of the second one, and returns the rows that were copied for it.
fn split_and_revert(retain_source: &str) -> i64 {
    let cluster = Cluster::with_repart(&[]);
    let mut session = scene(&cluster);
    let both = |session: &mut Session| ["orders", "lines"].map(|table| names(session, table));
    let before = both(&mut session);
    session.set("repart.retain_source", retain_source);
    let families = Families::start(&cluster, KEYS, false);
    let id = session.queue("repart_split('orders1', '1500')");
    session.wait_done(id);
    families.proceed(100);
    session.set("repart.retain_source", "0");
    let back = session.queue(&format!("repart_revert({id} + 1)"));
    session.wait_done(back);
    families.proceed(200);
    families.stop().assert_clean();
    assert_reshaped(&mut session, &OLD);
    assert_eq!(both(&mut session), before);
    let taken_back =
        session.texts("SELECT reverts::text FROM repart.migrations WHERE reverts > 0 ORDER BY 1");
    assert_eq!(taken_back, [id.to_string(), (id + 1).to_string()]);
    session.number("SELECT sum(rows_done)::bigint FROM repart.migrations WHERE reverts > 0")
}

#[test]
fn a_group_is_taken_back_together() {
    assert!(split_and_revert("0") > 0);
}

#[test]
fn a_group_whose_old_shards_were_kept_is_taken_back_without_a_copy() {
    assert_eq!(split_and_revert("'1h'"), 0);
}

/// Paused and resumed by the number of either, while one table is ready and the other is not.
#[test]
fn a_group_is_paused_and_resumed_together() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = scene(&cluster);
    let families = Families::start(&cluster, KEYS, false);
    session.hold_at("verifying");
    let id = session.queue("repart_split('orders1', '1500')");
    session.wait_held("verifying");
    session.run(&format!("SELECT repart_pause({id} + 1)"));
    session.release();
    let paused = format!(
        "SELECT count(*) FROM repart.migrations WHERE id IN ({id}, {id} + 1) AND paused
                                  AND reason = 'paused by ' || current_user"
    );
    assert_eq!(session.number(&paused), 2);
    families.proceed(200);
    assert_eq!(session.migration(id).state, "verifying");
    session.run(&format!("SELECT repart_resume({id})"));
    assert_eq!(session.number(&paused), 0);
    session.wait_done(id);
    families.stop().assert_clean();
    assert_reshaped(&mut session, &NEW);
}

#[test]
fn what_does_not_fit_the_group_is_refused() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = scene(&cluster);
    let id = session.queue("repart_split('orders1', '1500')");
    session.wait_done(id);
    // The group that was split is not the one that would be merged.
    session.run("SELECT repart_unmanage('lines')");
    let (code, message, _) = refusal(&mut session, &format!("SELECT repart_revert({id})"));
    assert_eq!(code.code(), "55000", "{message}");
    assert!(
        message.contains("is not colocated with the same tables any more"),
        "{message}"
    );
    // Without a key, writers to all tables of the group would wait for all copies.
    session.run(
        "CREATE TABLE notes (id bigint NOT NULL, note text) PARTITION BY RANGE (id);
         CREATE TABLE notes1 PARTITION OF notes FOR VALUES FROM (MINVALUE) TO (1500);
         CREATE TABLE notes2 PARTITION OF notes FOR VALUES FROM (1500) TO (3000);
         CREATE TABLE notes3 PARTITION OF notes FOR VALUES FROM (3000) TO (MAXVALUE);
         SELECT repart_manage('notes', 'id', colocate_with => 'orders');
         SET repart.allow_blocking = on",
    );
    for shard in ["notes1".to_owned(), shard(&mut session, "orders", 0)] {
        let split = format!("SELECT repart_split('{shard}', '700')");
        let (code, message, _) = refusal(&mut session, &split);
        assert_eq!(code.code(), "0A000", "{message}");
        assert!(
            message.contains("colocated table \"notes\" has no key"),
            "{message}"
        );
    }
    let queued = "SELECT count(*) FROM repart.migrations WHERE state = 'queued'";
    assert_eq!(session.number(queued), 0);
}
