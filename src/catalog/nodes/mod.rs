//! Nodes: `repart.node_list`, what PostgreSQL knows of the foreign servers behind them, and what was found out about
//! them (`repart.node_state`, `repart.node_samples`).
//!
//! Nobody but superusers may touch these tables and read user mappings: callers check the rights of whoever asked.

mod access;
mod samples;
mod shards;
mod state;

pub use access::*;
pub use samples::*;
pub use shards::*;
pub use state::*;

use crate::error::{Error, Result};
use crate::pg::spi;

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

/// Weight of this server as a node, and whether shards are to leave it.
pub fn own() -> Result<(f64, bool)> {
    let found = spi::select_first(
        "SELECT weight, draining FROM repart.local_node",
        &[],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )?;
    Ok(found.unwrap_or((1.0, false)))
}

/// Sets the weight of this server; it is not draining afterwards.
pub fn set_own_weight(weight: f64) -> Result<()> {
    spi::run(
        "INSERT INTO repart.local_node (weight) VALUES ($1)
         ON CONFLICT (single) DO UPDATE SET weight = excluded.weight, draining = false",
        &[weight.into()],
    )?;
    Ok(())
}

/// Lets shards leave this server.
pub fn drain_own() -> Result<()> {
    spi::execute(
        "INSERT INTO repart.local_node (draining) VALUES (true) ON CONFLICT (single) DO UPDATE SET draining = true",
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
