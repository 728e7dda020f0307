//! The servers of the second part: a coordinator and two nodes, with the shards of one table on them.

use postgres::Client;
use repart_tests::fleet::Fleet;

use crate::Result;
use crate::observed::Observed;
use crate::pages::{self, shard_name};
use crate::text::grouped;
use crate::trace::{NODE_CAPACITY, Scene};

/// The nodes, and on which of them each shard is at first: the hot one where most of the others' load is.
pub const NODES: [&str; 2] = ["north", "south"];

/// Where a shard is at first.
pub fn first_home(shard: usize) -> &'static str {
    NODES[shard % 2]
}

/// The nodes' weight: this coordinator has as many processors, and is to hold nothing.
const WEIGHT: f64 = 4.0;

/// What differs from the defaults, and why.
pub const SETTINGS: [(&str, &str, &str); 7] = [
    ("repart.mode", "off", "until the history is imported"),
    (
        "repart.sample_interval",
        "2500ms",
        "an hour of the demonstration",
    ),
    ("repart.forecast_interval", "5s", "two hours"),
    ("repart.horizon", "60s", "a day"),
    (
        "repart.dwell",
        "5s",
        "a shard rests for two hours after a migration",
    ),
    ("repart.max_shards", "5", "shards move; none is split"),
    ("log_min_messages", "warning", ""),
];

/// Starts the servers, creates the table and puts its shards on the nodes; returns the number of rows.
pub fn start(scene: &Scene) -> Result<(Fleet, i64)> {
    let settings: Vec<String> = SETTINGS
        .iter()
        .map(|(name, value, _)| format!("{name} = '{value}'"))
        .collect();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let fleet = Fleet::without_repart(&settings);
    let mut session = fleet.coordinator.connect("postgres");
    let rows = pages::create(&mut session, scene)?;
    for node in NODES {
        session.execute(
            "SELECT repart_add_node($1::text::name, $2)",
            &[&node, &WEIGHT],
        )?;
    }
    let capacity = shard_capacity(&mut session)?;
    session.batch_execute(&format!(
        "ALTER SYSTEM SET repart.shard_capacity = {capacity}"
    ))?;
    session.batch_execute("SELECT pg_reload_conf()")?;
    session.execute("SELECT repart_manage('pages', leaf_keys => true)", &[])?;
    spread(&mut session, scene)?;
    println!(
        "a coordinator, and nodes {} without repart, of which each may serve {} rows/s;\n\
         table \"pages\": {} rows in {} shards, brought to the nodes with repart_move",
        NODES.join(" and "),
        grouped(NODE_CAPACITY as i64),
        grouped(rows),
        scene.shards
    );
    Ok((fleet, rows))
}

/// `repart.shard_capacity` is what one processor of a node of weight 1 serves. How many processors a node has is not known
/// where repart is not installed; they are taken to be as many as those of the coordinator.
fn shard_capacity(session: &mut Client) -> Result<f64> {
    let sql = "SELECT greatest(coalesce(max(cpus), 1), 1) FROM repart_node_usage()";
    let processors: i32 = session.query_one(sql, &[])?.get(0);
    Ok((NODE_CAPACITY / (WEIGHT * f64::from(processors))).round())
}

/// Brings every shard to its node; the hot one first, since a shard rests after a migration.
fn spread(session: &mut Client, scene: &Scene) -> Result<()> {
    let mut shards: Vec<usize> = (0..scene.shards).collect();
    shards.sort_by_key(|shard| *shard != scene.hot);
    for shard in shards {
        let (name, node) = (shard_name(shard), first_home(shard));
        let sql = "SELECT repart_move($1::text::regclass, node => $2::text::name)";
        let id: i64 = session.query_one(sql, &[&name, &node])?.get(0);
        let state: String = session
            .query_one("SELECT repart_wait($1, '60 s')", &[&id])?
            .get(0);
        if state != "done" {
            let sql = "SELECT coalesce(error, reason, '') FROM repart.migrations WHERE id = $1";
            let why: String = session.query_one(sql, &[&id])?.get(0);
            return Err(format!("the move of {name} to {node} is {state}: {why}").into());
        }
    }
    // So that it is known how large the shards are.
    session.batch_execute("ANALYZE pages")?;
    Ok(())
}

/// What there is on any of the servers that belongs to no shard, by server.
pub fn left_behind(fleet: &Fleet, observed: &mut Observed) -> Result<Vec<(String, i64)>> {
    let noted = "SELECT count(*) FROM repart.node_objects";
    let here = observed.left_behind()? + observed.client().query_one(noted, &[])?.get::<_, i64>(0);
    let mut found = vec![("coordinator".to_owned(), here)];
    let shards = observed.shards()?;
    for (node, cluster) in NODES.into_iter().zip([&fleet.north, &fleet.south]) {
        let sql = "SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                            WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema'))
                        + (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)
                        + (SELECT count(*) FROM pg_prepared_xacts)
                        + (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                            WHERE n.nspname NOT IN ('pg_catalog', 'information_schema'))";
        let objects: i64 = cluster.connect("postgres").query_one(sql, &[])?.get(0);
        let expected = shards.iter().filter(|shard| shard.node == node).count();
        found.push((node.to_owned(), objects - expected as i64));
    }
    Ok(found)
}
