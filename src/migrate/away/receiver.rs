//! What a node needs to receive shards.

use pgrx::pg_sys;

use crate::catalog::nodes;
use crate::error::{Error, Result};
use crate::migrate::away::ends::End;
use crate::pg::spi;

/// Fails unless shards may be moved to the node.
pub fn require(name: &str) -> Result<()> {
    let node = nodes::share(name)?;
    if let Some(primary) = &node.replica_of {
        return Err(Error::InvalidParameter {
            what: format!("node \"{name}\" is a replica"),
            hint: format!("It holds what node \"{primary}\" does: name that one."),
        });
    }
    if nodes::asks_for_estimates(name)? {
        return Err(Error::Unsupported {
            what: format!("server \"{name}\", or a foreign table on it, has the option use_remote_estimate"),
            detail: "Planning a statement then opens a transaction there, whose snapshot could be older than a shard."
                .to_owned(),
            hint: "Take the option off with ALTER SERVER … OPTIONS (DROP use_remote_estimate), and ALTER FOREIGN TABLE."
                .to_owned(),
        });
    }
    if node.draining {
        return Err(draining(name));
    }
    Ok(())
}

/// Fails unless shards may be moved to this server.
pub fn require_here() -> Result<()> {
    let (_, is_draining) = nodes::own()?;
    if is_draining {
        return Err(draining(nodes::LOCAL));
    }
    Ok(())
}

fn draining(name: &str) -> Error {
    Error::Prerequisite {
        what: format!("node \"{name}\" is draining"),
        hint: format!(
            "Let it receive shards again with SELECT repart_add_node({}).",
            spi::quote_literal(name)
        ),
    }
}

/// Fails if the node does not answer, takes no writes, or lacks a type or a collation of the table.
pub fn ask(name: &str, table: pg_sys::Oid, there: &mut End) -> Result<()> {
    let said = there.row(
        "SELECT pg_catalog.pg_is_in_recovery()::text,
                pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMP')::text",
        2,
    )?;
    let says = |column: usize, answer: &str| {
        let value = said.get(column).and_then(Option::as_deref);
        value == Some(answer)
    };
    if !says(0, "false") {
        return Err(Error::Prerequisite {
            what: format!("node \"{name}\" takes no writes"),
            hint: "It is a standby now: let the server's options lead to its primary.".to_owned(),
        });
    }
    if !says(1, "true") {
        return Err(Error::Prerequisite {
            what: format!("role of node \"{name}\" may not create temporary tables there"),
            hint: "Run GRANT TEMPORARY ON DATABASE … there.".to_owned(),
        });
    }
    let types = spi::query::<String>(
        "SELECT DISTINCT pg_catalog.format_type(a.atttypid, NULL) FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384 ORDER BY 1",
        &[table.into()],
        |row| row.get(1),
    )?;
    if types.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = types.iter().map(spi::quote_literal).collect();
    let missing = there.texts(
        &format!(
            "SELECT t FROM pg_catalog.unnest(ARRAY[{}]) t WHERE pg_catalog.to_regtype(t) IS NULL",
            list.join(", ")
        ),
        1,
    )?;
    match missing.into_iter().flatten().flatten().next() {
        None => Ok(()),
        Some(missing) => Err(Error::Prerequisite {
            what: format!("type {missing} does not exist on node \"{name}\""),
            hint: "Create it there, as it is here, before rows of this table go there.".to_owned(),
        }),
    }
}
