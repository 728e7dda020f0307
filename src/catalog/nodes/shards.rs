//! Shards that are on nodes, and what nodes tell of them.

use pgrx::pg_sys;

use super::LOCAL;
use crate::error::Result;
use crate::pg::spi;

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

/// The shards of managed tables that are on this server, with their names here.
pub fn placed_here() -> Result<Vec<Placed>> {
    spi::query(
        "SELECT c.oid, n.nspname::text, c.relname::text, coalesce(k.attname::text, '')
           FROM repart.sharded_tables m
           JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = m.relation
           JOIN pg_catalog.pg_inherits i ON i.inhparent = p.partrelid AND i.inhrelid <> p.partdefid
           JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind = 'r'
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_catalog.pg_attribute k ON k.attrelid = p.partrelid AND k.attnum = p.partattrs[0]
          ORDER BY c.oid",
        &[],
        |row| {
            Ok(Placed {
                shard: row.get(1)?,
                node: LOCAL.to_owned(),
                schema: row.get(2)?,
                table: row.get(3)?,
                key: row.get(4)?,
            })
        },
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
