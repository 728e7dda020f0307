//! Colocation groups: tables that share their boundaries, and are reshaped together. A group is a number in
//! `repart.sharded_tables`; a table without one is a group of its own.

use pgrx::pg_sys;

use crate::catalog::tables::{self, ShardedTable};
use crate::error::{Error, Result};
use crate::pg::{relation, role, spi};

/// Key of the advisory lock under which a new number is chosen.
const NUMBER_LOCK: i64 = 0x7265_7061_7274_0001;

/// The tables of a managed table's group that still exist, itself included, by OID.
const MEMBERS: &str = "
  FROM repart.sharded_tables t JOIN pg_catalog.pg_class c ON c.oid = t.relation
 WHERE t.relation = $1
    OR t.colocation_group = (SELECT m.colocation_group FROM repart.sharded_tables m WHERE m.relation = $1)
 ORDER BY c.oid";

/// The tables of a managed table's group, itself included, by OID; none if it is not managed.
pub fn members(table: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    role::as_superuser(|| {
        spi::query(&format!("SELECT c.oid {MEMBERS}"), &[table.into()], |row| {
            row.get(1)
        })
    })
}

/// As [`members`], and nobody else can hold one of them, or add one, until this transaction ends.
pub fn hold_alone(table: pg_sys::Oid) -> Result<Vec<ShardedTable>> {
    let sql = format!("SELECT {} {MEMBERS} FOR UPDATE OF t", tables::COLUMNS);
    let held = || role::as_superuser(|| spi::query(&sql, &[table.into()], tables::read));
    held()?;
    // Whoever was waited for may have added a table, which only a new snapshot shows.
    let found = held()?;
    if found.is_empty() {
        return Err(Error::NotManaged(relation::display_name(table)?));
    }
    Ok(found)
}

/// Puts a managed table into the group of another one. Both groups must be held, see [`hold_alone`].
pub fn join(table: pg_sys::Oid, other: pg_sys::Oid) -> Result<()> {
    role::as_superuser(|| {
        // Two transactions must not choose the same number for two groups.
        spi::execute(&format!(
            "SELECT pg_catalog.pg_advisory_xact_lock({NUMBER_LOCK})"
        ))?;
        spi::run(
            "UPDATE repart.sharded_tables
                SET colocation_group = (SELECT coalesce(max(colocation_group), 0) + 1 FROM repart.sharded_tables)
              WHERE relation = $1 AND colocation_group IS NULL",
            &[other.into()],
        )?;
        spi::run(
            "UPDATE repart.sharded_tables
                SET colocation_group = (SELECT o.colocation_group FROM repart.sharded_tables o WHERE o.relation = $2)
              WHERE relation = $1",
            &[table.into(), other.into()],
        )?;
        Ok(())
    })
}

/// Takes the number from tables that are the last of their group. As a superuser.
pub(super) fn dissolve_single() -> Result<()> {
    const SINGLE: &str = "t.colocation_group IS NOT NULL
        AND NOT EXISTS (SELECT FROM repart.sharded_tables o
                         WHERE o.colocation_group = t.colocation_group AND o.relation <> t.relation)";
    // Locked first: who holds a row may be adding a table, which only the next statement sees.
    spi::execute(&format!(
        "SELECT FROM repart.sharded_tables t WHERE {SINGLE} ORDER BY t.relation FOR UPDATE"
    ))?;
    spi::execute(&format!(
        "UPDATE repart.sharded_tables t SET colocation_group = NULL WHERE {SINGLE}"
    ))?;
    Ok(())
}
