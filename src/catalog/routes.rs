//! Routing copies: `repart.routing_copies`, and the partitions of a table as they are here and on a node.

use pgrx::datum::DatumWithOid;
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
    /// Schema of the table there, and of its partitions.
    pub schema: String,
    /// Name of the table there.
    pub table: String,
}

impl RoutingCopy {
    /// The table there, as SQL writes it.
    pub fn name(&self) -> String {
        spi::quote_qualified_identifier(self.schema.as_str(), self.table.as_str())
    }
}

/// The routing copies of these tables, node by node. A node cannot be removed while it has one.
pub fn of(relations: &[pg_sys::Oid]) -> Result<Vec<RoutingCopy>> {
    spi::query_kept(
        "SELECT r.relation::oid, r.node::text, n.coordinator::text, r.table_schema::text, r.table_name::text
           FROM repart.routing_copies r JOIN repart.node_list n USING (node)
          WHERE r.relation = ANY ($1) AND n.coordinator IS NOT NULL ORDER BY r.node, r.relation",
        &[relations.to_vec().into()],
        read,
    )
}

fn read(row: &spi::Row) -> Result<RoutingCopy> {
    Ok(RoutingCopy {
        relation: row.get(1)?,
        node: row.get(2)?,
        coordinator: row.get(3)?,
        schema: row.get(4)?,
        table: row.get(5)?,
    })
}

/// The copies of tables that were dropped here.
pub fn orphans() -> Result<Vec<RoutingCopy>> {
    spi::query(
        "SELECT r.relation::oid, r.node::text, n.coordinator::text, r.table_schema::text, r.table_name::text
           FROM repart.routing_copies r JOIN repart.node_list n USING (node)
          WHERE n.coordinator IS NOT NULL
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = r.relation) ORDER BY r.node, r.relation",
        &[],
        read,
    )
}

/// The tables of which a node has a routing copy.
pub fn on(node: &str) -> Result<Vec<String>> {
    spi::query(
        "SELECT r.relation::text FROM repart.routing_copies r JOIN pg_catalog.pg_class c ON c.oid = r.relation
          WHERE r.node = $1::name ORDER BY 1",
        &[node.into()],
        |row| row.get(1),
    )
}

/// Forgets the copies on a node of tables that were dropped here; returns what they are called there.
pub fn forget_orphans(node: &str) -> Result<Vec<String>> {
    let orphans = orphans()?;
    let on_node = orphans.iter().filter(|copy| copy.node == node);
    on_node
        .map(|copy| delete(copy.relation, node).map(|_| copy.name()))
        .collect()
}

/// The table of which the table there is a copy, if it is another one than is said. What was a copy of a table that was
/// dropped is nobody's.
pub fn other_of(copy: &RoutingCopy) -> Result<Option<pg_sys::Oid>> {
    const SAME: &str = "r.node = $1::name AND r.table_schema = $2::name AND r.table_name = $3::name AND r.relation <> $4";
    let arguments: [DatumWithOid; 4] = [
        copy.node.as_str().into(),
        copy.schema.as_str().into(),
        copy.table.as_str().into(),
        copy.relation.into(),
    ];
    spi::run(
        &format!(
            "DELETE FROM repart.routing_copies r
              WHERE {SAME} AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = r.relation)"
        ),
        &arguments,
    )?;
    spi::query_value(
        &format!("SELECT r.relation::oid FROM repart.routing_copies r WHERE {SAME}"),
        &arguments,
    )
}

/// Notes that a node has a routing copy that leads to what the table is made of now.
pub fn store(copy: &RoutingCopy) -> Result<()> {
    spi::run(
        "INSERT INTO repart.routing_copies AS r (relation, node, table_schema, table_name, map)
         VALUES ($1::regclass, $2::name, $3::name, $4::name, repart.map_of($1))
         ON CONFLICT (relation, node) DO UPDATE
            SET table_schema = excluded.table_schema, table_name = excluded.table_name, map = excluded.map",
        &[
            copy.relation.into(),
            copy.node.as_str().into(),
            copy.schema.as_str().into(),
            copy.table.as_str().into(),
        ],
    )?;
    watch_definitions(true)
}

/// Notes that the copies of a table lead to what it is made of now.
pub fn note_switched(relation: pg_sys::Oid) -> Result<()> {
    spi::run(
        "UPDATE repart.routing_copies SET map = repart.map_of($1) WHERE relation = $1",
        &[relation.into()],
    )?;
    Ok(())
}

/// Until the end of the transaction, changes of definitions need not be looked at: they are noted in the end.
pub fn vouch() -> Result<()> {
    spi::execute(
        "SELECT pg_catalog.set_config('repart_routing.seen', pg_catalog.pg_current_xact_id()::text, true)",
    )?;
    Ok(())
}

/// Forgets a routing copy; returns whether there was one.
pub fn delete(relation: pg_sys::Oid, node: &str) -> Result<bool> {
    let deleted = spi::run(
        "DELETE FROM repart.routing_copies WHERE relation = $1 AND node = $2::name",
        &[relation.into(), node.into()],
    )?;
    let is_last =
        spi::query_value::<bool>("SELECT NOT EXISTS (SELECT FROM repart.routing_copies)", &[])?;
    if is_last == Some(true) {
        watch_definitions(false)?;
    }
    Ok(deleted > 0)
}

/// Lets changes of definitions be looked at, or not: nobody pays for it who has no routing copies.
fn watch_definitions(on: bool) -> Result<()> {
    let state = if on { "ENABLE" } else { "DISABLE" };
    let is_so = spi::query_value::<bool>(
        "SELECT (evtenabled <> 'D') = $1 FROM pg_catalog.pg_event_trigger WHERE evtname = 'repart_routing_copies'",
        &[on.into()],
    )?;
    if is_so == Some(false) {
        spi::execute(&format!(
            "ALTER EVENT TRIGGER repart_routing_copies {state}"
        ))?;
    }
    Ok(())
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
