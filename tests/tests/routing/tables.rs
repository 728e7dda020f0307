//! What tables have and what is done to them: kept old shards, DEFAULT partitions, no key, other names, changes by hand.

use std::thread::spawn;

use repart_tests::aftermath::assert_sound;
use repart_tests::control::{expire, names, revert, rows_copied};
use repart_tests::fleet::complaint;
use repart_tests::repart::Session;
use repart_tests::routing::{
    KEYS, assert_same, assert_same_map, assert_same_map_of, assert_settled, fleet, load, north,
    rows, start, wait_settled, with_names,
};
use repart_tests::wait::LONG;

/// A call with each `{key}` in it replaced by the shard that begins there.
fn by_keys(call: &str) -> String {
    call.replace('{', "(SELECT shard FROM repart.shards WHERE key_from = '")
        .replace('}', "')")
}

/// The reverse of a migration switches the copy as any other; and so it does where the old shards were kept and only come
/// back. What is kept is dropped without the copy noticing.
#[test]
fn a_revert_switches_the_copy_back_also_where_old_shards_were_kept() {
    let fleet = start();
    let mut session = fleet.session();
    let workload = load(&fleet, false);
    let before = names(&mut session, "orders");
    for (retain, copied) in [("'1h'", false), ("0", true)] {
        session.set("repart.retain_source", retain);
        let id = session.queue("repart_split('orders2', '3500', '5000')");
        session.wait_done(id);
        workload.proceed(60);
        let back = revert(&mut session, id);
        assert_eq!(rows_copied(&mut session, back) > 0, copied);
        workload.proceed(60);
        assert_eq!(names(&mut session, "orders"), before);
        assert_same_map(&fleet, &mut session);
    }
    // From the copy's own node, and into two from one that was kept in place.
    for call in [
        "repart_move('orders2', node => 'north')",
        "repart_shift('{1}', '{2}', '2010')",
    ] {
        let call = with_names(&mut session, call);
        let id = session.queue(&call);
        session.wait_done(id);
        assert_same_map(&fleet, &mut session);
        revert(&mut session, id);
        workload.proceed(60);
        assert_same_map(&fleet, &mut session);
        assert_eq!(session.bounds("orders"), [2_000], "{call}");
    }
    session.set("repart.retain_source", "'1h'");
    let call = with_names(&mut session, "repart_merge('{1}', '{2}')");
    let id = session.queue(&call);
    session.wait_done(id);
    workload.proceed(60);
    expire(&mut session);
    session.wait_until(
        "SELECT NOT EXISTS (SELECT FROM repart.journal WHERE retained IS NOT NULL)",
        LONG,
    );
    workload.proceed(60);
    workload.stop().assert_clean();
    assert_settled(&fleet, &mut session, (0, 0));
    assert_same(&fleet, &mut session);
    assert_sound(&mut session, "orders");
}

/// Rows of a DEFAULT partition are seen through the copy, and a new bound hides none of them.
#[test]
fn rows_of_a_default_partition_are_seen_through_the_copy() {
    let fleet = fleet();
    let mut session = fleet.session();
    session.run(
        "CREATE TABLE orders (id bigint NOT NULL, payload text NOT NULL) PARTITION BY RANGE (id);
         CREATE TABLE orders1 PARTITION OF orders (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (2000);
         CREATE TABLE orders2 PARTITION OF orders (PRIMARY KEY (id)) FOR VALUES FROM (2000) TO (4000);
         CREATE TABLE others PARTITION OF orders (PRIMARY KEY (id)) DEFAULT;
         INSERT INTO orders SELECT g, 'loaded ' || g FROM generate_series(-500, 5999) g;
         SELECT repart_manage('orders');
         SELECT repart_add_routing_copy('orders', 'north')",
    );
    wait_settled(&mut session);
    let mut copy = north(&fleet);
    for (n, call) in [
        "repart_split('orders2', '3000', '3500')",
        "repart_merge({2000}, {3000})",
        "repart_move({2000}, node => 'north')",
        "repart_split({2000}, '2010')",
    ]
    .iter()
    .enumerate()
    {
        let id = session.queue(&by_keys(call));
        session.wait_done(id);
        wait_settled(&mut session);
        let n = i64::try_from(n).unwrap();
        copy.run(&format!(
            "INSERT INTO orders VALUES ({}, 'through the copy'), ({}, 'through the copy');
             DELETE FROM orders WHERE id = {}; UPDATE orders SET payload = 'changed' WHERE id IN ({}, {})",
            7_000 + n, -1_000 - n, 4_100 + n, 4_200 + n, 1_200 + n
        ));
        assert_same(&fleet, &mut session);
        assert_eq!(
            copy.number("SELECT count(*) FROM orders WHERE id NOT BETWEEN 0 AND 3999"),
            500 + 2_000 + 2 * (n + 1) - (n + 1)
        );
    }
    // A bound of its own for some of them, by hand: not without the copy.
    let make = "WITH moved AS (DELETE FROM others WHERE id >= 4000 AND id < 5000 RETURNING *) INSERT INTO aside SELECT * FROM moved;
                ALTER TABLE orders ATTACH PARTITION aside FOR VALUES FROM (4000) TO (5000)";
    session.run("CREATE TABLE aside (LIKE orders)");
    let refused = complaint(&mut session, &format!("BEGIN; {make}; COMMIT"));
    assert!(
        refused.starts_with("55006 partitions of table \"public.orders\" were changed, but not those of its routing copy on node \"north\"")
            && refused.contains("repart_add_routing_copy"),
        "{refused}"
    );
    let before = rows(&mut session, "orders");
    assert_eq!(rows(&mut copy, "orders"), before);
    session.run(&format!(
        "BEGIN; {make}; SELECT repart_add_routing_copy('orders', 'north'); COMMIT"
    ));
    wait_settled(&mut session);
    assert_eq!(rows(&mut session, "orders"), before);
    copy.run("INSERT INTO orders VALUES (4103, 'in its new place')");
    assert_eq!(
        session.number("SELECT count(*) FROM aside WHERE id = 4103"),
        1
    );
    assert_same(&fleet, &mut session);
}

/// Writers wait through the copy as they do here, and lose nothing.
#[test]
fn a_table_without_a_key_is_switched_with_its_copy() {
    let fleet = fleet();
    let mut session = fleet.session();
    session.run(
        "CREATE TABLE orders (id bigint, payload text) PARTITION BY RANGE (id);
         CREATE TABLE orders1 PARTITION OF orders FOR VALUES FROM (MINVALUE) TO (1500);
         CREATE TABLE orders2 PARTITION OF orders FOR VALUES FROM (1500) TO (MAXVALUE);
         INSERT INTO orders SELECT g % 3000, 'twice' FROM generate_series(0, 5999) g;
         SELECT repart_manage('orders'); SELECT repart_add_routing_copy('orders', 'north');
         SET repart.allow_blocking = on",
    );
    wait_settled(&mut session);
    session.hold_at("blocking");
    let id = session.queue("repart_split('orders1', '700')");
    session.wait_held("blocking");
    // Each with a key of its own: of two that delete one row by different ways, the later is told so (40001).
    let writers: Vec<_> = [(&fleet.coordinator, 20), (&fleet.north, 21)]
        .into_iter()
        .map(|(server, key)| {
            let config = server.config("postgres");
            spawn(move || {
                let mut client = config.connect(postgres::NoTls).unwrap();
                client
                    .batch_execute(&format!(
                        "SET application_name = 'writer'; DELETE FROM orders WHERE id = {key};
                         INSERT INTO orders SELECT 10 + 1000 * n, 'meanwhile' FROM generate_series(0, 2) n"
                    ))
                    .unwrap();
            })
        })
        .collect();
    let blocked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'writer' AND wait_event_type = 'Lock')";
    session.wait_until(blocked, LONG);
    north(&fleet).wait_until(blocked, LONG);
    session.release();
    session.wait_done(id);
    for writer in writers {
        writer.join().unwrap();
    }
    wait_settled(&mut session);
    assert_same(&fleet, &mut session);
    assert_eq!(session.number("SELECT count(*) FROM orders"), 6_000 - 4 + 6);
    assert_eq!(session.bounds("orders"), [700, 1_500]);

    // A client of the copy that does not end keeps it from being tried, and waits for nobody.
    let mut reader = north(&fleet);
    reader.run("BEGIN; LOCK TABLE ONLY orders IN ACCESS SHARE MODE");
    let id = session
        .queue("repart_merge('orders2', (SELECT shard FROM repart.shards WHERE key_from = '700'))");
    session.wait_until(
        &format!("SELECT reason LIKE 'waits for process % on node \"north\"%' FROM repart.migrations WHERE id = {id}"),
        LONG,
    );
    reader.run("INSERT INTO orders VALUES (5, 'while it waits'); COMMIT");
    session.wait_done(id);
    wait_settled(&mut session);
    assert_same(&fleet, &mut session);
    assert_settled(&fleet, &mut session, (0, 0));
}

/// A copy is known by its name there, whatever the table here is called; what has the name of a new shard there is nobody's
/// harm.
#[test]
fn a_copy_keeps_its_name_and_gives_way_to_what_has_the_name_of_a_shard() {
    let fleet = start();
    let mut session = fleet.session();
    let mut copy = north(&fleet);
    session.run("ALTER TABLE orders RENAME TO purchases");
    copy.run("CREATE TABLE purchases_1_1 (n int); CREATE TYPE purchases_1_2 AS (n int)");
    let id = session.queue("repart_split('orders2', '4000')");
    assert_eq!(id, 1);
    session.wait_done(id);
    wait_settled(&mut session);
    let same = |session: &mut Session, copy: &mut Session| {
        assert_same_map_of((session, "purchases"), (copy, "orders"), "north");
        assert_eq!(rows(copy, "orders"), rows(session, "purchases"));
    };
    same(&mut session, &mut copy);

    // Shards of two schemas with one name.
    session.run("CREATE SCHEMA cold; BEGIN; ALTER TABLE orders1 SET SCHEMA cold; ALTER TABLE purchases_1_1 RENAME TO orders1");
    session.run("SELECT repart_add_routing_copy('purchases', 'north'); COMMIT");
    wait_settled(&mut session);
    same(&mut session, &mut copy);
    // Few rows leave a shard that is kept in place, in another schema than the other one.
    for call in [
        "repart_shift({MINVALUE}, {2000}, '1990')",
        "repart_split({MINVALUE}, '1000')",
    ] {
        let id = session.queue(&by_keys(call));
        session.wait_done(id);
        wait_settled(&mut session);
        same(&mut session, &mut copy);
    }

    // Renamed there, it is not found, and no second one is made beside it.
    copy.run("ALTER TABLE orders RENAME TO mine");
    for (call, expected) in [
        (
            by_keys("repart_merge({1990}, {4000})"),
            "42704 table public.orders does not exist on node \"north\"",
        ),
        (
            "repart_add_routing_copy('purchases', 'north')".to_owned(),
            "55006 table public.mine on node \"north\" leads to shards of table \"purchases\" already",
        ),
    ] {
        let refused = complaint(&mut session, &format!("SELECT {call}"));
        assert!(refused.starts_with(expected), "{call}: {refused}");
    }
    copy.run("ALTER TABLE mine RENAME TO orders");

    // Another table cannot take it over while its own is there.
    session.create_sharded_table("orders", &[], 10);
    let refused = complaint(
        &mut session,
        "SELECT repart_add_routing_copy('orders', 'north')",
    );
    assert!(
        refused.starts_with(
            "55006 table public.orders on node \"north\" is the routing copy of table \"purchases\""
        ),
        "{refused}"
    );
    let id = session.queue(&by_keys("repart_merge({1990}, {4000})"));
    session.wait_done(id);
    wait_settled(&mut session);
    same(&mut session, &mut copy);

    // Without repart, both are ordinary tables.
    session.run("DROP EXTENSION repart CASCADE");
    session.run("CREATE TABLE anything (n int); DROP TABLE anything");
    same(&mut session, &mut copy);
}

/// What is dropped here is dropped there, but for shards that are there; nothing else can be changed by hand on one side
/// only.
#[test]
fn a_copy_goes_with_its_table_and_changes_by_hand_need_it() {
    let fleet = start();
    let mut session = fleet.session();
    let mut copy = north(&fleet);
    for change in [
        "ALTER TABLE orders DETACH PARTITION orders2",
        "DROP TABLE orders2",
        "ALTER TABLE orders2 RENAME TO orders_two",
        "CREATE SCHEMA s; ALTER TABLE orders2 SET SCHEMA s",
        "CREATE TABLE more (LIKE orders); ALTER TABLE orders DETACH PARTITION orders2; ALTER TABLE orders ATTACH PARTITION more FOR VALUES FROM (2000) TO (9000)",
    ] {
        let refused = complaint(&mut session, &format!("BEGIN; {change}; COMMIT"));
        assert!(
            refused.starts_with("55006 partitions of table \"public.orders\" were changed"),
            "{change}: {refused}"
        );
        assert_same(&fleet, &mut session);
    }
    // What concerns no partition does not matter, nor does what is undone.
    session.run("CREATE TABLE bystander (n int); DROP TABLE bystander; ALTER TABLE orders ALTER payload SET STATISTICS 50");
    session.run(
        "BEGIN; SAVEPOINT a; ALTER TABLE orders DETACH PARTITION orders2; ROLLBACK TO a; COMMIT",
    );

    // On the other side it is noticed before anything is moved.
    copy.run(
        "ALTER TABLE orders DETACH PARTITION orders2;
         ALTER TABLE orders ATTACH PARTITION orders2 FOR VALUES FROM (2000) TO (4000)",
    );
    for call in [
        "repart_split('orders1', '1000')",
        "repart_move('orders2', node => 'north')",
    ] {
        let refused = complaint(&mut session, &format!("SELECT {call}"));
        assert!(
            refused.starts_with("55000 table \"orders\" and its routing copy on node \"north\" have different partitions, such as \"orders2\""),
            "{refused}"
        );
    }
    assert_eq!(session.number("SELECT count(*) FROM repart.migrations"), 0);
    session.run("SELECT repart_add_routing_copy('orders', 'north')");
    wait_settled(&mut session);
    assert_same(&fleet, &mut session);
    copy.run("ALTER FOREIGN TABLE orders2 OPTIONS (ADD use_remote_estimate 'true')");
    let refused = complaint(&mut session, "SELECT repart_split('orders1', '1000')");
    assert!(
        refused.starts_with("0A000 partitions of the routing copy of table \"orders\" on node \"north\" have options of their own"),
        "{refused}"
    );
    copy.run("ALTER FOREIGN TABLE orders2 OPTIONS (DROP use_remote_estimate)");

    // Dropped, with a shard on the copy's node.
    let id = session.queue("repart_move('orders2', node => 'north')");
    session.wait_done(id);
    wait_settled(&mut session);
    let left = copy.number("SELECT count(*) FROM orders WHERE id >= 2000");
    session.run("DROP TABLE orders");
    copy.wait_until("SELECT to_regclass('orders') IS NULL", LONG);
    session.wait_until(
        "SELECT NOT EXISTS (SELECT FROM repart.routing_copies)",
        LONG,
    );
    let shard = copy.texts("SELECT c.oid::regclass::text FROM pg_class c WHERE relnamespace = 'repart_shards'::regnamespace AND relkind = 'r'");
    assert_eq!(
        copy.number(&format!("SELECT count(*) FROM {}", shard[0])),
        left
    );
    // A new one of that name has a copy of its own, which stays.
    session.create_sharded_table("orders", &[2_000], KEYS);
    session.run("SELECT repart_manage('orders', leaf_keys => true); SELECT repart_add_routing_copy('orders', 'north')");
    wait_settled(&mut session);
    session.run("DROP TABLE orders");
    session.create_movable_table("orders", &[2_000], KEYS);
    // Either the old one is gone by now, or it becomes the new one's.
    let add = "SELECT repart_add_routing_copy('orders', 'north')";
    let begun = std::time::Instant::now();
    while let Err(error) = session.client().batch_execute(add) {
        assert!(begun.elapsed() < LONG, "{error:?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    wait_settled(&mut session);
    let id = session.queue("repart_split('orders2', '4000')");
    session.wait_done(id);
    wait_settled(&mut session);
    assert_same(&fleet, &mut session);
    session.run("SELECT repart_drop_routing_copy('orders', 'north')");
    wait_settled(&mut session);
    session.run("ALTER TABLE orders DETACH PARTITION orders1");
}
