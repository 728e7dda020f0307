//! Without `shared_preload_libraries` what needs no worker works, and what needs one says what is missing.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use postgres::error::SqlState;
use repart_tests::cluster::Cluster;

#[test]
fn without_preload_the_functions_work_and_say_what_is_missing() {
    let cluster = Cluster::start(&["shared_preload_libraries = ''"]);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "CREATE EXTENSION repart;
             CREATE TABLE t (k int PRIMARY KEY);
             INSERT INTO t SELECT generate_series(1, 1000);
             SELECT repart_manage('t');
             SELECT repart_sample();",
        )
        .unwrap();
    let plan = client
        .query("SELECT action, why FROM repart_plan()", &[])
        .unwrap();
    assert_eq!(plan.len(), 1, "exactly one explained row");
    assert_eq!(plan[0].get::<_, String>(0), "none");
    assert_eq!(
        client
            .query("SELECT * FROM repart.shards", &[])
            .unwrap()
            .len(),
        1
    );

    for call in [
        "SELECT repart_split(shard, '500') FROM repart.shards",
        "SELECT repart_apply()",
        "SELECT repart_run()",
        "SELECT repart_cancel(1)",
    ] {
        let error = client.query(call, &[]).unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(
            *error.code(),
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            "{call}: {error}"
        );
        let hint = error.hint().unwrap_or_default();
        assert!(
            hint.contains("shared_preload_libraries = 'repart'"),
            "{call}: {hint}"
        );
    }
    assert!(
        client
            .query("SELECT * FROM repart.migrations", &[])
            .unwrap()
            .is_empty()
    );
}
