//! A hot standby has no movers to tell its statements of a cutover: what it replays must.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use postgres::Client;

use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::snapshot::{assert_refused, count, with_snapshot};
use repart_tests::wait::{LONG, wait_until};

const KEYS: i64 = 6_000;

fn snapshot(cluster: &Cluster) -> Client {
    with_snapshot(cluster, "REPEATABLE READ")
}

fn split(session: &mut Session, standby: &Cluster, call: &str) {
    let id = session.queue(call);
    session.wait_done(id);
    let end = session.texts("SELECT pg_current_wal_insert_lsn()::text")[0].clone();
    let mut client = standby.connect("postgres");
    wait_until("the standby to replay the cutover", LONG, || {
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        client.query_one(&sql, &[]).unwrap().get(0)
    });
}

#[test]
fn a_standby_never_shows_a_moved_shard_as_empty() {
    let primary = Cluster::with_repart(&[]);
    let mut session = Session::open(&primary, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    session.create_sharded_table("others", &[3_000], KEYS);
    let rows = session.number("SELECT count(*) FROM orders");
    // Otherwise PostgreSQL cancels old snapshots, for the migration's VACUUM removes what only they could see.
    let standby = primary.standby(&["hot_standby_feedback = on"]);
    session.wait_until(
        "SELECT backend_xmin IS NOT NULL FROM pg_stat_replication",
        LONG,
    );
    let all = "SELECT count(*) FROM orders";
    let mut reader = snapshot(&standby);
    let mut dump = snapshot(&standby);
    let mut elsewhere = snapshot(&standby);
    let mut survivor = snapshot(&standby);
    let mut stable = standby.connect("postgres");
    stable
        .batch_execute("PREPARE p AS SELECT count(*) FROM orders; EXECUTE p")
        .unwrap();
    split(&mut session, &standby, "repart_split('orders1', '1000')");
    let shard = session.shards("orders")[0].name.clone();

    assert_refused(count(&mut reader, all));
    assert_refused(dump.batch_execute(&format!("COPY {shard} TO '/dev/null'")));
    assert_eq!(
        count(&mut elsewhere, "SELECT count(*) FROM others").unwrap(),
        rows
    );
    // A snapshot that is newer, at every level.
    reader
        .batch_execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ")
        .unwrap();
    assert_eq!(count(&mut reader, all).unwrap(), rows);
    assert_eq!(count(&mut stable, all).unwrap(), rows);
    reader.batch_execute("ROLLBACK").unwrap();
    stable.batch_execute("EXECUTE p").unwrap();
    // A transaction that has used the table is in the way of replay, and is cancelled or waited for, as with
    // any ACCESS EXCLUSIVE lock; one that has not goes on, also past a promotion.
    standby.promote();
    assert_refused(count(&mut survivor, all));
    assert_eq!(count(&mut stable, all).unwrap(), rows);
}

#[test]
fn a_cutover_on_a_promoted_standby_is_noticed_by_a_snapshot_from_before_the_promotion() {
    let primary = Cluster::with_repart(&[]);
    let mut session = Session::open(&primary, "postgres");
    session.create_sharded_table("orders", &[3_000], KEYS);
    let rows = session.number("SELECT count(*) FROM orders");
    let standby = primary.standby(&[]);
    let mut survivor = snapshot(&standby);
    standby.promote();
    let mut promoted = Session::open(&standby, "postgres");
    let id = promoted.queue("repart_split('orders1', '1000')");
    promoted.wait_done(id);
    assert_refused(count(&mut survivor, "SELECT count(*) FROM orders"));
    assert_eq!(promoted.number("SELECT count(*) FROM orders"), rows);
}

#[test]
fn without_the_extension_a_table_with_the_name_of_repart_is_not_read() {
    let primary = Cluster::start(&[]);
    let mut client = primary.connect("postgres");
    client
        .batch_execute(
            "CREATE SCHEMA repart; CREATE TABLE repart.cutovers (relation oid PRIMARY KEY, xid text);
             CREATE TABLE plain (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE plain_1 PARTITION OF plain FOR VALUES FROM (0) TO (10);
             INSERT INTO plain VALUES (1);
             INSERT INTO repart.cutovers SELECT oid, 'not a number' FROM pg_class WHERE relname LIKE 'plain%'",
        )
        .unwrap();
    let standby = primary.standby(&[]);
    let mut reader = snapshot(&standby);
    assert_eq!(count(&mut reader, "SELECT count(*) FROM plain").unwrap(), 1);
}
