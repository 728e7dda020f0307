//! CHECK constraints and outbound foreign keys. (Keys and exclusion constraints belong to indexes.)
//!
//! A valid CHECK is part of CREATE TABLE, where nothing is evaluated. What is not valid may be violated by rows
//! that are to be copied, and a foreign key would make deletes of referenced rows fail while the target lags:
//! both come inside the switch.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::spi;

/// CHECK constraints; constraints that are not valid; foreign keys.
///
/// A foreign key to a partitioned table has a row for each of its partitions, too, which PostgreSQL makes.
pub const PARTS: &str = "
SELECT s.oid, 'table', 10, format('constraint \"%s\"', k.conname),
       format('CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)), pg_get_constraintdef(k.oid)
  FROM s JOIN pg_constraint k ON k.conrelid = s.oid AND k.contype = 'c' AND k.convalidated
UNION ALL
SELECT s.oid, 'switch', 10, format('constraint \"%s\"', k.conname),
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', s.own, k.conname, pg_get_constraintdef(k.oid)),
       pg_get_constraintdef(k.oid)
  FROM s JOIN pg_constraint k ON k.conrelid = s.oid AND k.contype IN ('c', 'n') AND NOT k.convalidated
UNION ALL
SELECT s.oid, 'switch', 20, format('foreign key \"%s\"', k.conname),
       format('ALTER TABLE %s ADD CONSTRAINT %I %s%s', s.own, k.conname, pg_get_constraintdef(k.oid),
              CASE WHEN k.convalidated THEN ' NOT VALID' ELSE '' END),
       pg_get_constraintdef(k.oid)
  FROM s JOIN pg_constraint k ON k.conrelid = s.oid AND k.contype = 'f'
 WHERE NOT EXISTS (SELECT FROM pg_constraint up WHERE up.oid = k.conparentid AND up.conrelid = k.conrelid)";

/// The names of a table's valid foreign keys.
pub fn valid_foreign_keys(table: pg_sys::Oid) -> Result<Vec<String>> {
    spi::query_kept(
        "SELECT conname::text FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND contype = 'f' AND convalidated",
        &[table.into()],
        |row| row.get(1),
    )
}

/// Declares foreign keys valid that were added NOT VALID: the table's rows equal the source's, which satisfied
/// them, so no scan is needed to prove it.
pub fn declare_valid(table: pg_sys::Oid, foreign_keys: &[String]) -> Result<()> {
    spi::query_kept(
        "WITH RECURSIVE k AS (
             SELECT oid, conrelid FROM pg_catalog.pg_constraint
              WHERE conrelid = $1 AND contype = 'f' AND conname = ANY ($2::name[])
              UNION
             SELECT c.oid, c.conrelid FROM pg_catalog.pg_constraint c
               JOIN k ON c.conparentid = k.oid AND c.conrelid = k.conrelid)
         UPDATE pg_catalog.pg_constraint SET convalidated = true
          WHERE oid IN (SELECT oid FROM k) AND NOT convalidated RETURNING oid",
        &[table.into(), foreign_keys.to_vec().into()],
        |_| Ok(()),
    )?;
    Ok(())
}
