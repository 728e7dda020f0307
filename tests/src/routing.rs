//! What the tests of routing copies share: a coordinator whose table has a copy on `north`, and what must be the same
//! through both.

use crate::aftermath::{assert_nothing_left, assert_nothing_left_on};
use crate::cluster::Cluster;
use crate::fleet::Fleet;
use crate::repart::Session;
use crate::wait::LONG;
use crate::workload::{Options, Workload};

/// The keys of `orders` are below this one.
pub const KEYS: i64 = 6_000;

/// Of the coordinator.
pub const SETTINGS: [&str; 2] = ["repart.sample_interval = 300ms", "repart.node_timeout = 2s"];

/// Prepares a server for routing copies: it leads to the coordinator by `hq`, and to the other nodes by their names.
pub fn lead_back(from: &Cluster, coordinator: &Cluster, nodes: &[(&str, &Cluster)]) {
    let servers: String = [("hq", coordinator)]
        .iter()
        .chain(nodes)
        .map(|(name, cluster)| {
            format!(
                "CREATE SERVER {name} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({});
                 CREATE USER MAPPING FOR PUBLIC SERVER {name} OPTIONS (user 'postgres');",
                cluster.server_options("postgres")
            )
        })
        .collect();
    from.connect("postgres")
        .batch_execute(&format!("CREATE EXTENSION postgres_fdw; {servers}"))
        .unwrap();
}

/// A fleet whose `north` may have routing copies, and knows `south`.
pub fn fleet() -> Fleet {
    let fleet = Fleet::start(&SETTINGS);
    lead_back(&fleet.north, &fleet.coordinator, &[("south", &fleet.south)]);
    fleet.session().run(
        "SELECT repart_add_node('north', coordinator => 'hq'); SELECT repart_add_node('south')",
    );
    fleet
}

/// With a table of two shards cut at 2000, of which `north` has a routing copy.
pub fn start() -> Fleet {
    let fleet = fleet();
    let mut session = fleet.session();
    session.create_movable_table("orders", &[2_000], KEYS);
    assert_eq!(
        session.number("SELECT repart_add_routing_copy('orders', 'north')::bigint"),
        2
    );
    wait_settled(&mut session);
    assert_same(&fleet, &mut session);
    fleet
}

/// A session on `north`.
pub fn north(fleet: &Fleet) -> Session<'_> {
    Session::open(&fleet.north, "postgres")
}

/// Waits until every node has carried out what was decided, and cleaned.
pub fn wait_settled(session: &mut Session) {
    session.wait_until("SELECT NOT EXISTS (SELECT FROM repart.in_doubt)", LONG);
    session.wait_until("SELECT NOT EXISTS (SELECT FROM repart.node_objects)", LONG);
}

/// Clients of `orders`, every other one through the copy.
pub fn load(fleet: &Fleet, crashes: bool) -> Workload {
    load_through(&[&fleet.coordinator, &fleet.north], crashes)
}

/// Clients of `orders` through these servers in turn.
pub fn load_through(clusters: &[&Cluster], crashes: bool) -> Workload {
    let options = Options {
        crashes,
        ..Options::new("orders", KEYS).with_nodes()
    };
    let workload = Workload::spread(clusters, "postgres", options);
    workload.proceed(50);
    workload
}

/// Bound and place of each partition, as the copy sees it: `local` is what a table of this server is to it, and `own` the
/// server of the copy's own node.
fn map(session: &mut Session, table: &str, local: &str, own: &str) -> Vec<String> {
    session.texts(&format!(
        "SELECT concat_ws(' ', pg_get_expr(c.relpartbound, c.oid),
                    CASE WHEN f.ftrelid IS NULL THEN '{local}' WHEN v.srvname = '{own}' THEN 'own' ELSE v.srvname END,
                    coalesce((SELECT string_agg(option_value, '.' ORDER BY option_name) FROM pg_options_to_table(f.ftoptions)
                               WHERE option_name IN ('schema_name', 'table_name')), n.nspname || '.' || c.relname))
           FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid LEFT JOIN pg_foreign_server v ON v.oid = f.ftserver
          WHERE i.inhparent = '{table}'::regclass ORDER BY 1"
    ))
}

/// A table and its copy, on the node of that name, lead to the same shards.
///
/// # Panics
/// Panics when they do not.
pub fn assert_same_map_of(
    (session, table): (&mut Session, &str),
    (copy, there): (&mut Session, &str),
    node: &str,
) {
    assert_eq!(
        map(copy, there, "own", node),
        map(session, table, "hq", node),
        "partitions of {there} on {node}, and of {table}"
    );
}

/// The same of `orders` and its copy on `north`.
///
/// # Panics
/// Panics when they do not.
pub fn assert_same_map(fleet: &Fleet, session: &mut Session) {
    let copy = &mut north(fleet);
    assert_same_map_of((session, "orders"), (copy, "orders"), "north");
}

/// How many rows a table has, and a sum of them.
pub fn rows(session: &mut Session, table: &str) -> (i64, Option<i64>) {
    let sql = format!("SELECT count(*), sum(hashtext(t::text)) FROM {table} t");
    let row = &session.query(&sql, &[])[0];
    (row.get(0), row.get(1))
}

/// `orders` and its copy on `north` lead to the same shards, and have the same rows.
///
/// # Panics
/// Panics when they do not.
pub fn assert_same(fleet: &Fleet, session: &mut Session) {
    assert_same_map(fleet, session);
    assert_eq!(rows(&mut north(fleet), "orders"), rows(session, "orders"));
}

/// Nothing is in doubt or left on any server; so many shards are on the two nodes.
///
/// # Panics
/// Panics with what is left.
pub fn assert_settled(fleet: &Fleet, session: &mut Session, (north, south): (i64, i64)) {
    wait_settled(session);
    assert_nothing_left(session);
    assert_nothing_left_on(&fleet.north, north);
    assert_nothing_left_on(&fleet.south, south);
}

/// The shards in the order of their keys, as `{1}`, `{2}` … in the call.
pub fn with_names(session: &mut Session, call: &str) -> String {
    let shards = session.shards("orders");
    shards
        .iter()
        .enumerate()
        .fold(call.to_owned(), |call, (n, shard)| {
            call.replace(&format!("{{{}}}", n + 1), &shard.name)
        })
}

/// Carries out one migration after the other, under load; after each, so many shards are on the two nodes.
pub fn do_all(
    fleet: &Fleet,
    session: &mut Session,
    workload: &Workload,
    calls: &[(&str, (i64, i64))],
) {
    for (call, shards) in calls {
        let call = with_names(session, call);
        println!("{call}");
        let id = session.queue(&call);
        session.wait_done(id);
        workload.proceed(60);
        assert_same_map(fleet, session);
        assert_settled(fleet, session, *shards);
    }
}
