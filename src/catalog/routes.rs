//! Routing copies: `repart.routing_copies`, and the partitions of a table as they are here and on a node.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{guc, spi};

/// A node with a table that routes to the same shards as one here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingCopy {
    /// The table here.
    pub relation: pg_sys::Oid,
    /// The node.
    pub node: String,
    /// The foreign server there that leads to this database.
    pub coordinator: String,
}

/// The routing copies of these tables, node by node. A node cannot be removed while it has one.
pub fn of(relations: &[pg_sys::Oid]) -> Result<Vec<RoutingCopy>> {
    spi::query_kept(
        "SELECT r.relation::oid, r.node::text, n.coordinator::text
           FROM repart.routing_copies r JOIN repart.node_list n USING (node)
          WHERE r.relation = ANY ($1) AND n.coordinator IS NOT NULL ORDER BY r.node, r.relation",
        &[relations.to_vec().into()],
        |row| {
            Ok(RoutingCopy {
                relation: row.get(1)?,
                node: row.get(2)?,
                coordinator: row.get(3)?,
            })
        },
    )
}

/// The tables of which a node has a routing copy. Those that were dropped here are forgotten.
pub fn on(node: &str) -> Result<Vec<String>> {
    spi::execute(
        "DELETE FROM repart.routing_copies r WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = r.relation)",
    )?;
    spi::query(
        "SELECT r.relation::text FROM repart.routing_copies r WHERE r.node = $1::name ORDER BY 1",
        &[node.into()],
        |row| row.get(1),
    )
}

/// Notes that a node has a routing copy.
pub fn insert(relation: pg_sys::Oid, node: &str) -> Result<()> {
    spi::run(
        "INSERT INTO repart.routing_copies (relation, node) VALUES ($1::regclass, $2::name) ON CONFLICT DO NOTHING",
        &[relation.into(), node.into()],
    )?;
    Ok(())
}

/// Forgets a routing copy; returns whether there was one.
pub fn delete(relation: pg_sys::Oid, node: &str) -> Result<bool> {
    let deleted = spi::run(
        "DELETE FROM repart.routing_copies WHERE relation = $1 AND node = $2::name",
        &[relation.into(), node.into()],
    )?;
    Ok(deleted > 0)
}

/// A partition as a catalog has it.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Its relation; it means nothing on another server.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its bound, as PostgreSQL prints it.
    pub bound: String,
    /// What it stands for, if it is a foreign table: server, schema and table.
    pub foreign: Option<(String, String, String)>,
    /// Whether its columns have options, such as another name on the other server.
    pub has_column_options: bool,
}

/// The partitions of the table `$t`, in columns of type text.
pub const PARTITIONS: &str = "
SELECT c.oid::text, n.nspname::text, c.relname::text, pg_catalog.pg_get_expr(c.relpartbound, c.oid), v.srvname::text,
       coalesce((SELECT option_value FROM pg_catalog.pg_options_to_table(f.ftoptions) WHERE option_name = 'schema_name'),
                n.nspname::text),
       coalesce((SELECT option_value FROM pg_catalog.pg_options_to_table(f.ftoptions) WHERE option_name = 'table_name'),
                c.relname::text),
       EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attfdwoptions IS NOT NULL)::text
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = c.oid
  LEFT JOIN pg_catalog.pg_foreign_server v ON v.oid = f.ftserver
 WHERE i.inhparent = $t ORDER BY i.inhrelid";

/// Columns of [`PARTITIONS`].
pub const COLUMNS: usize = 8;

impl Partition {
    /// From a row of [`PARTITIONS`].
    pub fn read(row: Vec<Option<String>>) -> Option<Self> {
        let [
            oid,
            schema,
            name,
            bound,
            server,
            far_schema,
            far_table,
            options,
        ]: [Option<String>; COLUMNS] = row.try_into().ok()?;
        Some(Self {
            oid: oid?.parse().ok()?,
            schema: schema?,
            name: name?,
            bound: bound?,
            foreign: match server {
                Some(server) => Some((server, far_schema?, far_table?)),
                None => None,
            },
            has_column_options: options? == "true",
        })
    }
}

/// The partitions of a table here.
pub fn partitions(table: pg_sys::Oid) -> Result<Vec<Partition>> {
    let sql = PARTITIONS.replace("$t", &table.to_u32().to_string());
    let rows = guc::with_transmission_modes(|| {
        spi::query(&sql, &[], |row| {
            (1..=COLUMNS)
                .map(|column| row.optional(column))
                .collect::<Result<Vec<Option<String>>>>()
        })
    })?;
    Ok(rows.into_iter().filter_map(Partition::read).collect())
}
