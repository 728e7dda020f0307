//! What hangs on a table from outside.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::spi;

/// Dependents that a caller takes care of in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Except {
    /// Views of the table.
    Views,
    /// Sequences that belong to columns of it.
    Sequences,
    /// Foreign keys that reference it; those that reference a partitioned table have a part on each partition, which
    /// is never a dependent.
    References,
}

/// Everything that depends on a table or its row type and is not part of the table: its own columns' defaults,
/// constraints, indexes, triggers, rules, policies and statistics are, and its part of a foreign key that references
/// the sharded table.
const OTHERS: &str = "
    SELECT DISTINCT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
      FROM pg_catalog.pg_depend d
     WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = $1
       AND NOT CASE d.classid
           WHEN 'pg_catalog.pg_attrdef'::regclass THEN
               EXISTS (SELECT FROM pg_catalog.pg_attrdef WHERE oid = d.objid AND adrelid = $1)
           WHEN 'pg_catalog.pg_constraint'::regclass THEN
               EXISTS (SELECT FROM pg_catalog.pg_constraint
                        WHERE oid = d.objid AND (conrelid = $1 OR confrelid = $1 AND (conparentid <> 0 OR $4)))
           WHEN 'pg_catalog.pg_trigger'::regclass THEN
               EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE oid = d.objid AND tgrelid = $1)
           WHEN 'pg_catalog.pg_policy'::regclass THEN
               EXISTS (SELECT FROM pg_catalog.pg_policy WHERE oid = d.objid AND polrelid = $1)
           WHEN 'pg_catalog.pg_statistic_ext'::regclass THEN
               EXISTS (SELECT FROM pg_catalog.pg_statistic_ext WHERE oid = d.objid AND stxrelid = $1)
           WHEN 'pg_catalog.pg_class'::regclass THEN
               d.deptype IN ('a', 'i', 'P', 'S') AND EXISTS (
                   SELECT FROM pg_catalog.pg_class
                    WHERE oid = d.objid AND (relkind IN ('i', 't') OR relkind = 'S' AND (d.deptype = 'i' OR $3)))
           WHEN 'pg_catalog.pg_type'::regclass THEN d.deptype = 'i'
           WHEN 'pg_catalog.pg_rewrite'::regclass THEN EXISTS (
               SELECT FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class v ON v.oid = r.ev_class
                WHERE r.oid = d.objid AND (v.oid = $1 OR $2 AND v.relkind = 'v' AND r.rulename = '_RETURN'))
           ELSE false END
    UNION
    SELECT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)
      FROM pg_catalog.pg_type t
      JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray)
     WHERE t.typrelid = $1 AND NOT (d.classid = 'pg_catalog.pg_type'::regclass AND d.deptype = 'i')
     ORDER BY 1";

/// The descriptions of all objects outside of a table that depend on it or on its row type.
pub fn others(table: pg_sys::Oid, except: &[Except]) -> Result<Vec<String>> {
    spi::query_kept(
        OTHERS,
        &[
            table.into(),
            except.contains(&Except::Views).into(),
            except.contains(&Except::Sequences).into(),
            except.contains(&Except::References).into(),
        ],
        |row| row.get(1),
    )
}
