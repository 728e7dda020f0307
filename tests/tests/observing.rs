//! What repart does itself is no load of the users.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;

const KEYS: i64 = 20_000;

/// Rows and blocks that the statistics have counted for a shard and its index.
const COUNTED: &str =
    "SELECT pg_stat_get_tuples_returned(c.oid) + pg_stat_get_tuples_fetched(c.oid)
         + pg_stat_get_tuples_deleted(c.oid) + pg_stat_get_blocks_fetched(c.oid)
         + pg_stat_get_tuples_returned(i.indexrelid) + pg_stat_get_blocks_fetched(i.indexrelid)
    FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid WHERE c.relname = 'orders2'";

#[test]
fn what_a_migration_reads_does_not_count_as_load_of_the_shard() {
    let cluster = Cluster::with_repart(&["autovacuum = off"]);
    let mut session = Session::open(&cluster, "postgres");
    session.create_sharded_table("orders", &[1_000], KEYS);
    session.run("SELECT pg_stat_force_next_flush()");
    session.reopen();
    let before = session.number(COUNTED);
    assert!(before > 0, "loading and analysing the shard is counted");

    session.hold_at("cutting_over");
    let id = session.queue("repart_split('orders2', '10000')");
    session.wait_held("cutting_over");
    let copied = session.number(&format!(
        "SELECT rows_done FROM repart.migrations WHERE id = {id}"
    ));
    assert!(copied > KEYS / 2, "{copied} rows were copied");
    assert_eq!(
        session.number(COUNTED),
        before,
        "the copy and its verification are not counted"
    );

    session.release();
    session.wait_done(id);
}
