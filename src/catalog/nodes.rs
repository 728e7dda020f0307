//! Nodes: `repart.node_list`, what PostgreSQL knows of the foreign servers behind them, and what was found out about
//! them (`repart.node_state`, `repart.node_samples`).
//!
//! Nobody but superusers may touch these tables and read user mappings: callers check the rights of whoever asked.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{spi, time};

/// The node that this server is.
pub const LOCAL: &str = "local";

/// A foreign server that is a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The foreign server's name.
    pub name: String,
    /// The node whose changes it replays; `None` where it is no replica.
    pub replica_of: Option<String>,
    /// Its capacity, compared with that of other nodes.
    pub weight: f64,
    /// Whether shards are to leave it.
    pub draining: bool,
    /// The role whose user mapping is used.
    pub connects_as: String,
    /// The foreign server there that leads back to this database, where routing copies are possible.
    pub coordinator: Option<String>,
}

impl Node {
    /// The node whose shards it has: itself, or its primary.
    pub fn primary(&self) -> &str {
        self.replica_of.as_deref().unwrap_or(&self.name)
    }
}

/// How PostgreSQL itself would reach a foreign server for a role.
pub struct Access {
    /// Whether the server is one of postgres_fdw.
    pub is_postgres: bool,
    /// Whether there is a user mapping for the role, or for everybody.
    pub is_mapped: bool,
    /// Options of the server, followed by those of the mapping.
    pub options: Vec<(String, String)>,
}

const COLUMNS: &str = "node::text, replica_of::text, weight, draining, connects_as::text, coordinator::text FROM repart.node_list";

fn read(row: &spi::Row) -> Result<Node> {
    Ok(Node {
        name: row.get(1)?,
        replica_of: row.optional(2)?,
        weight: row.get(3)?,
        draining: row.get(4)?,
        connects_as: row.get(5)?,
        coordinator: row.optional(6)?,
    })
}

/// All nodes but the local one, by name.
pub fn all() -> Result<Vec<Node>> {
    spi::select(&format!("SELECT {COLUMNS} ORDER BY node"), &[], read)
}

/// A node, if there is one of that name.
pub fn find(name: &str) -> Result<Option<Node>> {
    let sql = format!("SELECT {COLUMNS} WHERE node = $1::name");
    spi::select_first(&sql, &[name.into()], read)
}

/// A node that must be there; nobody else changes or removes it until this transaction ends.
pub fn hold(name: &str) -> Result<Node> {
    let sql = format!("SELECT {COLUMNS} WHERE node = $1::name FOR UPDATE");
    let found = spi::query(&sql, &[name.into()], read)?;
    found.into_iter().next().ok_or_else(|| missing(name))
}

/// A node that must be there; nobody removes it until this transaction ends.
pub fn share(name: &str) -> Result<Node> {
    let sql = format!("SELECT {COLUMNS} WHERE node = $1::name FOR SHARE");
    let found = spi::query(&sql, &[name.into()], read)?;
    found.into_iter().next().ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Error {
    Error::Missing {
        what: format!("node \"{name}\" does not exist"),
        hint: "See SELECT * FROM repart.nodes.".to_owned(),
    }
}

/// How to reach a foreign server as a role; `None` if there is no such server.
pub fn access(server: &str, role: &str) -> Result<Option<Access>> {
    let found = spi::select_first(
        "SELECT h.proname = 'postgres_fdw_handler', m.umoptions IS NOT NULL OR m.oid IS NOT NULL,
                ARRAY(SELECT x FROM pg_catalog.pg_options_to_table(s.srvoptions) o, unnest(ARRAY[o.option_name, o.option_value]) x)
                || ARRAY(SELECT x FROM pg_catalog.pg_options_to_table(m.umoptions) o, unnest(ARRAY[o.option_name, o.option_value]) x)
           FROM pg_catalog.pg_foreign_server s
           JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
           LEFT JOIN pg_catalog.pg_proc h ON h.oid = w.fdwhandler
           LEFT JOIN LATERAL (
                SELECT u.* FROM pg_catalog.pg_user_mapping u
                 WHERE u.umserver = s.oid
                   AND u.umuser IN (0, (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = $2::name))
                 ORDER BY u.umuser = 0 LIMIT 1) m ON true
          WHERE s.srvname = $1::name",
        &[server.into(), role.into()],
        |row| {
            let flat: Vec<String> = row.get(3)?;
            Ok(Access {
                is_postgres: row.optional(1)?.unwrap_or(false),
                is_mapped: row.get(2)?,
                options: flat
                    .chunks_exact(2)
                    .filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone())))
                    .collect(),
            })
        },
    )?;
    Ok(found)
}

/// Bytes that were free on a node's disk when it was last looked at, if it says.
pub fn disk_free(name: &str) -> Result<Option<i64>> {
    spi::query_value(
        "SELECT disk_free FROM repart.node_samples WHERE node = $1::name ORDER BY at DESC LIMIT 1",
        &[name.into()],
    )
}

/// Whether plans for tables on a server are made with estimates from there.
pub fn asks_for_estimates(server: &str) -> Result<bool> {
    let found = spi::query_value::<bool>(
        "SELECT EXISTS (
            SELECT FROM pg_catalog.pg_foreign_server s
              LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftserver = s.oid,
                   LATERAL (SELECT option_name, option_value FROM pg_catalog.pg_options_to_table(s.srvoptions)
                             UNION ALL
                            SELECT option_name, option_value FROM pg_catalog.pg_options_to_table(f.ftoptions)) o
             WHERE s.srvname = $1::name AND o.option_name = 'use_remote_estimate' AND o.option_value::bool)",
        &[server.into()],
    )?;
    Ok(found.unwrap_or(false))
}

/// The table on a node that a foreign shard stands for: node, schema and name, as postgres_fdw uses them.
pub fn place(shard: pg_sys::Oid) -> Result<Option<(String, String, String)>> {
    spi::select_first(
        "SELECT v.srvname::text,
                coalesce((SELECT option_value FROM pg_catalog.pg_options_to_table(f.ftoptions) WHERE option_name = 'schema_name'),
                         n.nspname::text),
                coalesce((SELECT option_value FROM pg_catalog.pg_options_to_table(f.ftoptions) WHERE option_name = 'table_name'),
                         c.relname::text)
           FROM pg_catalog.pg_foreign_table f
           JOIN pg_catalog.pg_foreign_server v ON v.oid = f.ftserver
           JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE f.ftrelid = $1",
        &[shard.into()],
        |row| Ok((row.get(1)?, row.get(2)?, row.get(3)?)),
    )
}

/// Adds a node, or changes what is known of it; it is not draining afterwards.
pub fn upsert(node: &Node) -> Result<()> {
    spi::run(
        "INSERT INTO repart.node_list AS n (node, replica_of, weight, connects_as, coordinator)
         VALUES ($1::name, $2::name, $3, $4::name, $5::name)
         ON CONFLICT (node) DO UPDATE
            SET replica_of = excluded.replica_of, weight = excluded.weight, connects_as = excluded.connects_as,
                coordinator = excluded.coordinator, draining = false",
        &[
            node.name.as_str().into(),
            node.replica_of.as_deref().into(),
            node.weight.into(),
            node.connects_as.as_str().into(),
            node.coordinator.as_deref().into(),
        ],
    )?;
    Ok(())
}

/// Forgets a node, and what was observed of it.
pub fn delete(name: &str) -> Result<()> {
    for table in [
        "node_list",
        "node_state",
        "node_samples",
        "node_curves",
        "node_keys",
    ] {
        spi::run(
            &format!("DELETE FROM repart.{table} WHERE node = $1::name"),
            &[name.into()],
        )?;
    }
    Ok(())
}

/// Lets shards leave a node.
pub fn set_draining(name: &str) -> Result<()> {
    spi::run(
        "UPDATE repart.node_list SET draining = true WHERE node = $1::name",
        &[name.into()],
    )?;
    Ok(())
}

/// The replicas of a node.
pub fn replicas(name: &str) -> Result<Vec<String>> {
    spi::query(
        "SELECT node::text FROM repart.node_list WHERE replica_of = $1::name ORDER BY node",
        &[name.into()],
        |row| row.get(1),
    )
}

/// The shards of managed tables that are foreign tables of a server.
pub fn shards(server: &str) -> Result<Vec<pg_sys::Oid>> {
    spi::query(
        "SELECT f.ftrelid FROM repart.sharded_tables m
           JOIN pg_catalog.pg_inherits i ON i.inhparent = m.relation
           JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = i.inhrelid
           JOIN pg_catalog.pg_foreign_server v ON v.oid = f.ftserver
          WHERE v.srvname = $1::name ORDER BY f.ftrelid",
        &[server.into()],
        |row| row.get(1),
    )
}

/// Whether a node did not answer when it was last asked, or never has.
pub fn is_away(name: &str) -> Result<bool> {
    let answers = spi::query_value::<bool>(
        "SELECT seen_at IS NOT NULL AND error IS NULL FROM repart.node_state WHERE node = $1::name",
        &[name.into()],
    )?;
    Ok(answers != Some(true))
}

/// The shards of a table that are foreign tables, each with its server's name.
pub fn homes(table: pg_sys::Oid) -> Result<Vec<(pg_sys::Oid, String)>> {
    spi::query(
        "SELECT f.ftrelid, v.srvname::text
           FROM pg_catalog.pg_inherits i
           JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = i.inhrelid
           JOIN pg_catalog.pg_foreign_server v ON v.oid = f.ftserver
          WHERE i.inhparent = $1",
        &[table.into()],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// Foreign partitions of a table on servers that are no nodes, each with the server's name.
pub fn strangers(table: pg_sys::Oid) -> Result<Vec<(String, String)>> {
    spi::query(
        "SELECT pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, f.ftrelid, 0), v.srvname::text
           FROM pg_catalog.pg_inherits i
           JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = i.inhrelid
           JOIN pg_catalog.pg_foreign_server v ON v.oid = f.ftserver
          WHERE i.inhparent = $1
            AND NOT EXISTS (SELECT FROM repart.node_list n WHERE n.node = v.srvname AND n.replica_of IS NULL)
          ORDER BY 1",
        &[table.into()],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// A shard that is on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The foreign table.
    pub shard: pg_sys::Oid,
    /// The node.
    pub node: String,
    /// The schema of the table there.
    pub schema: String,
    /// The name of the table there.
    pub table: String,
    /// The name of its key column there.
    pub key: String,
}

/// The shards of managed tables that are on nodes, with the names that postgres_fdw uses there.
pub fn placed() -> Result<Vec<Placed>> {
    let option = |name: &str, otherwise: &str| {
        format!(
            "coalesce((SELECT option_value FROM pg_catalog.pg_options_to_table(f.ftoptions) WHERE option_name = '{name}'), {otherwise}::text)"
        )
    };
    let sql = format!(
        "SELECT f.ftrelid, v.srvname::text, {}, {},
                coalesce((SELECT coalesce((SELECT o.option_value FROM pg_catalog.pg_options_to_table(a.attfdwoptions) o
                                            WHERE o.option_name = 'column_name'), a.attname::text)
                            FROM pg_catalog.pg_attribute k
                            JOIN pg_catalog.pg_attribute a ON a.attrelid = f.ftrelid AND a.attname = k.attname
                           WHERE k.attrelid = p.partrelid AND k.attnum = p.partattrs[0]), '')
           FROM repart.sharded_tables m
           JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = m.relation
           JOIN pg_catalog.pg_inherits i ON i.inhparent = p.partrelid AND i.inhrelid <> p.partdefid
           JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = i.inhrelid
           JOIN pg_catalog.pg_foreign_server v ON v.oid = f.ftserver
           JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          ORDER BY f.ftrelid",
        option("schema_name", "n.nspname"),
        option("table_name", "c.relname")
    );
    spi::query(&sql, &[], |row| {
        Ok(Placed {
            shard: row.get(1)?,
            node: row.get(2)?,
            schema: row.get(3)?,
            table: row.get(4)?,
            key: row.get(5)?,
        })
    })
}

/// What was last found out about each node, as it was stored.
pub fn facts() -> Result<Vec<(String, String)>> {
    spi::query(
        "SELECT t.node::text, t.facts::text FROM repart.node_state t JOIN repart.node_list n USING (node)
          WHERE t.facts IS NOT NULL ORDER BY t.node",
        &[],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// What was last found out about a node, as it was stored.
pub fn facts_of(name: &str) -> Result<Option<String>> {
    spi::query_value(
        "SELECT facts::text FROM repart.node_state WHERE node = $1::name",
        &[name.into()],
    )
}

/// Notes that a node answered, and what it said of itself, as JSON; returns whether it had not answered before that.
pub fn note_seen(name: &str, facts: &str) -> Result<bool> {
    let was_away = spi::query_value(
        "WITH before AS (SELECT error FROM repart.node_state WHERE node = $1::name AND error IS NOT NULL),
              noted AS (
              INSERT INTO repart.node_state AS t (node, seen_at, facts)
              SELECT $1::name, pg_catalog.clock_timestamp(), $2::jsonb
               WHERE $1 = 'local' OR EXISTS (SELECT FROM repart.node_list n WHERE n.node = $1::name)
              ON CONFLICT (node) DO UPDATE
                 SET seen_at = excluded.seen_at, facts = excluded.facts, error = NULL, error_since = NULL)
         SELECT EXISTS (SELECT FROM before)",
        &[name.into(), facts.into()],
    )?;
    Ok(was_away.unwrap_or(false))
}

/// Notes that a node did not answer, and why; returns whether it did before that.
pub fn note_failure(name: &str, error: &str) -> Result<bool> {
    let is_new = spi::query_value(
        "WITH before AS (SELECT error FROM repart.node_state WHERE node = $1::name AND error IS NOT NULL),
              noted AS (
              INSERT INTO repart.node_state AS t (node, error, error_since)
              SELECT n.node, $2, pg_catalog.clock_timestamp() FROM repart.node_list n WHERE n.node = $1::name
              ON CONFLICT (node) DO UPDATE
                 SET error = excluded.error, error_since = coalesce(t.error_since, excluded.error_since))
         SELECT NOT EXISTS (SELECT FROM before)",
        &[name.into(), error.into()],
    )?;
    Ok(is_new.unwrap_or(false))
}

/// One observation of a node; see `repart.node_samples` for units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeSample {
    /// Length of the observed span in seconds; above 0.
    pub seconds: f64,
    /// Share of all processors that was busy.
    pub cpu: Option<f64>,
    /// Load average over a minute.
    pub load: Option<f64>,
    /// Bytes.
    pub memory_total: Option<i64>,
    /// Bytes that programs can still get without swapping.
    pub memory_available: Option<i64>,
    /// Shares of the time in which somebody waited for a processor, for memory, for I/O.
    pub stalls: [Option<f64>; 3],
    /// Bytes read and written per second.
    pub bytes: [Option<f64>; 2],
    /// Bytes of the file system of the data directory, in all and free.
    pub disk: [Option<i64>; 2],
    /// Sessions of clients, those at work, and how many there may be.
    pub sessions: [Option<i32>; 3],
    /// Transactions per second.
    pub transactions: Option<f64>,
    /// Seconds that a replica is behind.
    pub lag: Option<f64>,
    /// Number of processors.
    pub cpus: Option<i32>,
}

/// Adds an observation of a node, if it still is one.
pub fn insert_sample(name: &str, at: i64, sample: &NodeSample) -> Result<()> {
    spi::run(
        "INSERT INTO repart.node_samples
         SELECT $1::name, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20
          WHERE $1 = 'local' OR EXISTS (SELECT FROM repart.node_list n WHERE n.node = $1::name)
         ON CONFLICT DO NOTHING",
        &[
            name.into(),
            time::to_sql(at).into(),
            sample.seconds.into(),
            sample.cpu.into(),
            sample.load.into(),
            sample.memory_total.into(),
            sample.memory_available.into(),
            sample.stalls[0].into(),
            sample.stalls[1].into(),
            sample.stalls[2].into(),
            sample.bytes[0].into(),
            sample.bytes[1].into(),
            sample.disk[0].into(),
            sample.disk[1].into(),
            sample.sessions[0].into(),
            sample.sessions[1].into(),
            sample.sessions[2].into(),
            sample.transactions.into(),
            sample.lag.into(),
            sample.cpus.into(),
        ],
    )?;
    Ok(())
}

/// Deletes at most `limit` observations that are older than `before`.
pub fn purge(before: i64, limit: i64) -> Result<u64> {
    spi::run(
        "DELETE FROM repart.node_samples
          WHERE ctid = ANY (ARRAY(SELECT ctid FROM repart.node_samples WHERE at < $1 ORDER BY at LIMIT $2))",
        &[time::to_sql(before).into(), limit.into()],
    )
}

/// Keeps the keys of shards that a node has told of, as JSON, instead of those that it told of before.
pub fn store_keys(node: &str, keys: &[(pg_sys::Oid, &str)]) -> Result<()> {
    let (shards, texts): (Vec<pg_sys::Oid>, Vec<String>) = keys
        .iter()
        .map(|(shard, keys)| (*shard, (*keys).to_owned()))
        .unzip();
    spi::run(
        "INSERT INTO repart.node_keys AS k (shard, node, at, keys)
         SELECT u.shard, $1::name, pg_catalog.clock_timestamp(), u.keys::jsonb
           FROM unnest($2::oid[], $3::text[]) u (shard, keys)
          WHERE EXISTS (SELECT FROM repart.node_list n WHERE n.node = $1::name)
         ON CONFLICT (shard, node) DO UPDATE SET at = excluded.at, keys = excluded.keys",
        &[node.into(), shards.into(), texts.into()],
    )?;
    Ok(())
}

/// The keys of a shard that nodes have told of lately, one list from each.
pub fn keys(shard: pg_sys::Oid) -> Result<Vec<serde_json::Value>> {
    spi::query(
        "SELECT keys FROM repart.node_keys WHERE shard = $1 AND at > pg_catalog.now() - interval '1 day' ORDER BY node",
        &[shard.into()],
        |row| Ok(row.get::<pgrx::JsonB>(1)?.0),
    )
}

/// Forgets the keys of shards that are gone.
pub fn forget_gone_keys() -> Result<u64> {
    spi::execute(
        "DELETE FROM repart.node_keys t WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.shard)",
    )
}
