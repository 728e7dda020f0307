//! A sharded table that is published as one table: subscribers get every row exactly once, whatever happens to the
//! shards meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use postgres::config::Host;
use repart_tests::aftermath::assert_nothing_left;
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::wait::{LONG, wait_until};
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 6_000;

/// How a subscriber reaches a cluster.
fn connection(cluster: &Cluster) -> String {
    let config = cluster.config("postgres");
    let Some(Host::Unix(directory)) = config.get_hosts().first() else {
        panic!("no socket");
    };
    format!(
        "host={} port={} user=postgres dbname=postgres",
        directory.display(),
        config.get_ports()[0]
    )
}

/// A plain table on another cluster that is subscribed to a publication of `orders`.
fn subscribe<'a>(publisher: &Cluster, subscriber: &'a Cluster, publication: &str) -> Session<'a> {
    let mut session = Session::open(subscriber, "postgres");
    session.run("CREATE TABLE orders (id bigint PRIMARY KEY, payload text NOT NULL, counter bigint NOT NULL)");
    session.run(&format!(
        "CREATE SUBSCRIPTION copy_of_orders CONNECTION '{}' PUBLICATION {publication}",
        connection(publisher)
    ));
    session.wait_until(
        "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel",
        LONG,
    );
    session
}

/// Waits until everything that the publisher wrote so far was applied; fails when the subscriber has stopped.
fn wait_applied(publisher: &mut Session) {
    let end: String = publisher.query("SELECT pg_current_wal_lsn()::text", &[])[0].get(0);
    let sql = format!(
        "SELECT bool_and(active AND confirmed_flush_lsn >= '{end}') FROM pg_replication_slots WHERE slot_name = 'copy_of_orders'"
    );
    wait_until("the subscriber to apply everything", LONG, || {
        publisher.query(&sql, &[])[0]
            .get::<_, Option<bool>>(0)
            .unwrap_or(false)
    });
}

fn content(session: &mut Session, condition: &str) -> String {
    session.texts(&format!(
        "SELECT count(*) || ' ' || coalesce(md5(string_agg(o::text, ',' ORDER BY id)), '') FROM orders o WHERE {condition}"
    ))[0]
    .clone()
}

#[test]
fn a_subscriber_gets_every_row_once_through_migrations() {
    let publisher = Cluster::with_repart(&["wal_level = logical"]);
    let subscriber = Cluster::start(&[]);
    let mut session = Session::open(&publisher, "postgres");
    session.create_sharded_table("orders", &[2_000, 4_000], KEYS);
    session
        .run("CREATE PUBLICATION orders FOR TABLE orders WITH (publish_via_partition_root = true)");
    let workload = Workload::start(&publisher, "postgres", Options::new("orders", KEYS));
    let mut copy = subscribe(&publisher, &subscriber, "orders");
    for call in [
        "repart_split('orders1', '1000')",
        "repart_merge('orders2', 'orders3')",
        "shift",
    ] {
        let call = if call == "shift" {
            let shards = session.shards("orders");
            format!(
                "repart_shift('{}', '{}', '1500')",
                shards[1].name, shards[2].name
            )
        } else {
            call.to_owned()
        };
        let id = session.queue(&call);
        session.wait_done(id);
        workload.proceed(200);
    }
    assert_eq!(session.bounds("orders"), [1_000, 1_500]);
    workload.stop().assert_clean();
    wait_applied(&mut session);
    assert_eq!(content(&mut copy, "true"), content(&mut session, "true"));
    assert!(!subscriber.log().contains("ERROR"), "{}", subscriber.log());
    copy.run("DROP SUBSCRIPTION copy_of_orders");
    assert_nothing_left(&mut session);
}

/// Rows that leave a kept shard are deleted from it, and inserted where they arrive: for subscribers nothing happens.
#[test]
fn a_subscriber_gets_every_row_once_when_shards_are_kept_in_place() {
    let keys = 24_000;
    let publisher = Cluster::with_repart(&["wal_level = logical"]);
    let subscriber = Cluster::start(&[]);
    let mut session = Session::open(&publisher, "postgres");
    session.create_sharded_table("orders", &[20_000], keys);
    // Few rows on many pages, so that sparing their copy is worth it.
    session.run("ALTER TABLE orders1 SET (fillfactor = 10)");
    session.run("VACUUM (FULL, ANALYZE) orders1");
    session
        .run("CREATE PUBLICATION orders FOR TABLE orders WITH (publish_via_partition_root = true)");
    let workload = Workload::start(&publisher, "postgres", Options::new("orders", keys));
    let mut copy = subscribe(&publisher, &subscriber, "orders");
    for (call, bounds) in [
        ("repart_split('orders1', '19800')", vec![19_800, 20_000]),
        ("repart_merge('orders1', '{1}')", vec![20_000]),
    ] {
        let second = session.shards("orders")[1].name.clone();
        let id = session.queue(&call.replace("{1}", &second));
        session.wait_done(id);
        assert_eq!(session.bounds("orders"), bounds);
        let kept = format!(
            "SELECT count(*) FROM repart.migrations, unnest(targets) t WHERE id = {id} AND t LIKE '%(in place)'"
        );
        assert_eq!(session.number(&kept), 1, "{call}");
        workload.proceed(200);
    }
    workload.stop().assert_clean();
    wait_applied(&mut session);
    assert_eq!(content(&mut copy, "true"), content(&mut session, "true"));
    assert!(!subscriber.log().contains("ERROR"), "{}", subscriber.log());
    copy.run("DROP SUBSCRIPTION copy_of_orders");
    assert_nothing_left(&mut session);
}

/// A row filter is that of the table, also for rows of new shards.
#[test]
fn a_row_filter_holds_for_new_shards() {
    let publisher = Cluster::with_repart(&["wal_level = logical"]);
    let subscriber = Cluster::start(&[]);
    let mut session = Session::open(&publisher, "postgres");
    session.create_sharded_table("orders", &[2_000], KEYS);
    session.run(
        "CREATE PUBLICATION orders FOR TABLE orders WHERE (id % 2 = 0) WITH (publish_via_partition_root = true)",
    );
    let mut copy = subscribe(&publisher, &subscriber, "orders");
    let id = session.queue("repart_split('orders1', '1000')");
    session.wait_done(id);
    session.run(
        "UPDATE orders SET counter = counter + 1 WHERE id < 1500; DELETE FROM orders WHERE id BETWEEN 100 AND 200;
         INSERT INTO orders VALUES (0, 'even', 0), (3, 'odd', 0)",
    );
    wait_applied(&mut session);
    assert_eq!(
        content(&mut copy, "true"),
        content(&mut session, "id % 2 = 0")
    );
    assert!(!subscriber.log().contains("ERROR"), "{}", subscriber.log());
    copy.run("DROP SUBSCRIPTION copy_of_orders");
}
