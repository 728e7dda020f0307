//! Nodes on which migrations may have made something: `repart.node_objects`.

use crate::error::Result;
use crate::pg::spi;

/// What a node is to a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Rows come from it.
    Source,
    /// Rows go to it.
    Target,
}

impl Role {
    /// Its name in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// A node with what a migration may have made there.
#[derive(Clone, Debug)]
pub struct Made {
    /// The migration's number.
    pub migration: i64,
    /// The node.
    pub node: String,
    /// What it is to the migration.
    pub role: Role,
    /// What tells the objects from others.
    pub tag: String,
    /// The migration's table there, as SQL writes it.
    pub relation: String,
    /// Whether the migration has switched: what was made is a shard, what was there is none.
    pub switched: bool,
}

const COLUMNS: &str =
    "migration, node::text, role, tag, relation, switched FROM repart.node_objects";

fn read(row: &spi::Row) -> Result<Made> {
    Ok(Made {
        migration: row.get(1)?,
        node: row.get(2)?,
        role: match row.get::<String>(3)?.as_str() {
            "source" => Role::Source,
            _ => Role::Target,
        },
        tag: row.get(4)?,
        relation: row.get(5)?,
        switched: row.get(6)?,
    })
}

/// Notes that something will be made on a node. To be committed before it is.
pub fn note(migration: i64, node: &str, role: Role, tag: &str, relation: &str) -> Result<()> {
    spi::run(
        "INSERT INTO repart.node_objects (migration, node, role, tag, relation)
         VALUES ($1, $2::name, $3, $4, $5)
         ON CONFLICT (migration, role) DO UPDATE
            SET node = excluded.node, tag = excluded.tag, relation = excluded.relation, switched = false",
        &[
            migration.into(),
            node.into(),
            role.as_str().into(),
            tag.into(),
            relation.into(),
        ],
    )?;
    Ok(())
}

/// Notes that a migration switches with the running transaction.
pub fn set_switched(migration: i64) -> Result<()> {
    spi::run(
        "UPDATE repart.node_objects SET switched = true WHERE migration = $1",
        &[migration.into()],
    )?;
    Ok(())
}

/// Forgets what is not there any more.
pub fn forget(made: &Made) -> Result<()> {
    spi::run(
        "DELETE FROM repart.node_objects WHERE migration = $1 AND role = $2",
        &[made.migration.into(), made.role.as_str().into()],
    )?;
    Ok(())
}

/// What a migration may have made.
pub fn of(migration: i64) -> Result<Vec<Made>> {
    let sql = format!("SELECT {COLUMNS} WHERE migration = $1 ORDER BY role");
    spi::query(&sql, &[migration.into()], read)
}

/// What migrations that have ended may have left on nodes that answer.
pub fn leftovers() -> Result<Vec<Made>> {
    let sql = format!(
        "SELECT {COLUMNS} m
          WHERE NOT EXISTS (SELECT FROM repart.journal j
                             WHERE j.id = m.migration AND j.state NOT IN ('done', 'cancelled', 'failed'))
            AND NOT EXISTS (SELECT FROM repart.node_state s WHERE s.node = m.node AND s.error IS NOT NULL)
          ORDER BY migration, role"
    );
    spi::query(&sql, &[], read)
}

/// Numbers of migrations that may have something on a node.
pub fn on(node: &str) -> Result<Vec<i64>> {
    spi::query(
        "SELECT DISTINCT migration FROM repart.node_objects WHERE node = $1::name ORDER BY migration",
        &[node.into()],
        |row| row.get(1),
    )
}
