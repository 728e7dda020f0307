//! Whether a relation is of a kind that repart can manage at all.

use crate::error::{Error, Result};
use crate::manage::table::Table;
use crate::pg::spi;

/// The first OID that PostgreSQL gives to an object made by a user.
const FIRST_USER_OID: u32 = 16_384;

/// Fails unless the relation is a permanent table of a user, and not a partition of another one.
pub fn require_table(table: &Table) -> Result<()> {
    require_kind(table)?;
    require_user_table(table)?;
    require_permanent(table)?;
    match &table.partition_of {
        Some(parent) => Err(wrong(
            format!("table \"{}\" is a partition", table.name),
            format!(
                "Manage the partitioned table: run SELECT repart_manage({}).",
                spi::quote_literal(parent)
            ),
        )),
        None => Ok(()),
    }
}

fn require_kind(table: &Table) -> Result<()> {
    let kind = match table.kind.as_str() {
        "r" | "p" => return Ok(()),
        "v" => "a view",
        "m" => "a materialized view",
        "i" | "I" => "an index",
        "S" => "a sequence",
        "f" => "a foreign table",
        "c" => "a composite type",
        "t" => "a TOAST table",
        _ => "not a table",
    };
    let hint =
        "repart manages tables: give the name of a table, partitioned by RANGE or not partitioned.";
    Err(wrong(
        format!("\"{}\" is {kind}", table.name),
        hint.to_owned(),
    ))
}

fn require_user_table(table: &Table) -> Result<()> {
    if let Some(extension) = &table.extension {
        let hint = "An extension expects its tables as it made them.".to_owned();
        return Err(wrong(
            format!(
                "table \"{}\" belongs to extension \"{extension}\"",
                table.name
            ),
            hint,
        ));
    }
    if table.oid.to_u32() < FIRST_USER_OID {
        let hint = "repart manages tables that users made.".to_owned();
        return Err(wrong(
            format!("\"{}\" is a system catalog", table.name),
            hint,
        ));
    }
    Ok(())
}

fn require_permanent(table: &Table) -> Result<()> {
    match table.persistence.as_str() {
        "p" => Ok(()),
        "t" => Err(wrong(
            format!("table \"{}\" is temporary", table.name),
            "Only permanent tables can be managed: the workers that move rows cannot see a session's own tables."
                .to_owned(),
        )),
        _ => Err(wrong(
            format!("table \"{}\" is unlogged", table.name),
            format!(
                "A crash empties an unlogged table, so that a migration could not keep its rows. \
                 Run ALTER TABLE {} SET LOGGED first.",
                table.qualified()
            ),
        )),
    }
}

/// Fails above READ COMMITTED, where the checks would look at a snapshot older than the table's lock.
pub fn require_read_committed() -> Result<()> {
    let level = spi::value::<String>("SELECT current_setting('transaction_isolation')", &[])?
        .unwrap_or_default();
    if level.starts_with("read ") {
        return Ok(());
    }
    Err(Error::Prerequisite {
        what: format!(
            "repart_manage cannot run at isolation level {}",
            level.to_uppercase()
        ),
        hint:
            "Run it by itself, or in a transaction begun with BEGIN ISOLATION LEVEL READ COMMITTED."
                .to_owned(),
    })
}

fn wrong(what: String, hint: String) -> Error {
    Error::WrongObject { what, hint }
}
