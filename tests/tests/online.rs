//! Every kind of migration while clients read and write: no error, no wrong answer, the shards as asked,
//! nothing left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::aftermath::{assert_nothing_left, assert_sound};
use repart_tests::cluster::Cluster;
use repart_tests::repart::Session;
use repart_tests::workload::{Options, Workload};

const KEYS: i64 = 12_000;

/// A table of three shards cut at 4000 and 8000, and clients on it.
struct Scene<'a> {
    session: Session<'a>,
    workload: Workload,
}

impl<'a> Scene<'a> {
    fn set(cluster: &'a Cluster) -> Self {
        let mut session = Session::open(cluster, "postgres");
        session.create_sharded_table("orders", &[4_000, 8_000], KEYS);
        let workload = Workload::start(cluster, "postgres", Options::new("orders", KEYS));
        Self { session, workload }
    }

    /// Migrates under load and checks everything but the shards.
    fn migrate(mut self, call: &str) -> Session<'a> {
        let id = self.session.queue(call);
        self.session.wait_done(id);
        self.workload.proceed(200);
        self.workload.stop().assert_clean();
        assert_nothing_left(&mut self.session);
        assert_sound(&mut self.session, "orders");
        self.session
    }
}

#[test]
fn a_split_under_load_loses_nothing() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Scene::set(&cluster).migrate("repart_split('orders2', '5000', '6500')");
    assert_eq!(session.bounds("orders"), [4_000, 5_000, 6_500, 8_000]);
}

#[test]
fn a_merge_under_load_loses_nothing() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Scene::set(&cluster).migrate("repart_merge('orders1', 'orders2')");
    assert_eq!(session.bounds("orders"), [8_000]);
}

#[test]
fn a_shift_under_load_loses_nothing() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Scene::set(&cluster).migrate("repart_shift('orders1', 'orders2', '3000')");
    assert_eq!(session.bounds("orders"), [3_000, 8_000]);
}

#[test]
fn a_move_to_a_tablespace_under_load_loses_nothing() {
    let cluster = Cluster::with_repart(&[]);
    cluster.create_tablespace("elsewhere");
    let mut session =
        Scene::set(&cluster).migrate("repart_move('orders2', tablespace => 'elsewhere')");
    assert_eq!(session.bounds("orders"), [4_000, 8_000]);
    let tablespaces: Vec<_> = session
        .shards("orders")
        .into_iter()
        .map(|shard| shard.tablespace)
        .collect();
    assert_eq!(tablespaces[1].as_deref(), Some("elsewhere"));
    assert_ne!(tablespaces[0].as_deref(), Some("elsewhere"));
    assert_ne!(tablespaces[2].as_deref(), Some("elsewhere"));
    let in_catalog = session.number(
        "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             JOIN pg_tablespace s ON s.oid = c.reltablespace
         WHERE i.inhparent = 'orders'::regclass AND s.spcname = 'elsewhere'",
    );
    assert_eq!(in_catalog, 1);
}

#[test]
fn migrations_one_after_another_under_load_lose_nothing() {
    let cluster = Cluster::with_repart(&[]);
    let mut scene = Scene::set(&cluster);
    for (call, bounds) in [
        ("repart_split('{0}', '2000')", vec![2_000, 4_000, 8_000]),
        (
            "repart_shift('{0}', '{1}', '2500')",
            vec![2_500, 4_000, 8_000],
        ),
        ("repart_merge('{0}', '{1}', '{2}')", vec![8_000]),
        (
            "repart_split('{0}', '1000', '6000')",
            vec![1_000, 6_000, 8_000],
        ),
    ] {
        let shards = scene.session.shards("orders");
        let call = shards
            .iter()
            .enumerate()
            .fold(call.to_owned(), |call, (index, shard)| {
                call.replace(&format!("{{{index}}}"), &shard.name)
            });
        let id = scene.session.queue(&call);
        scene.session.wait_done(id);
        assert_eq!(scene.session.bounds("orders"), bounds, "{call}");
    }
    scene.workload.stop().assert_clean();
    assert_nothing_left(&mut scene.session);
    assert_sound(&mut scene.session, "orders");
}

/// Names that repart gives and names of the users' must never meet.
#[test]
fn a_table_may_be_called_like_the_private_ones() {
    let cluster = Cluster::with_repart(&[]);
    let mut session = Session::open(&cluster, "postgres");
    for table in ["t", "i", "old", "log", "samples", "journal"] {
        session.create_sharded_table(table, &[1_000], 2_000);
        let id = session.queue(&format!("repart_split('{table}1', '500')"));
        session.wait_done(id);
        assert_eq!(session.bounds(table), [500, 1_000]);
    }
    assert_nothing_left(&mut session);
}
