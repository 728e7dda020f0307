//! Foreign keys between tables of one colocation group, and of a table to itself. A switch replaces shards by shards
//! with the same rows, in all of its tables at once, so that whatever a foreign key says of the rows of two tables is as
//! true afterwards as it was before: it needs no check.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{relation, spi};

/// One such foreign key, as it is defined on the sharded tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupKey {
    /// The constraint.
    pub constraint: pg_sys::Oid,
    /// The table that has it.
    pub referencing: pg_sys::Oid,
    /// The table that it references.
    pub referenced: pg_sys::Oid,
}

/// The foreign keys among these sharded tables.
pub fn among(tables: &[pg_sys::Oid]) -> Result<Vec<GroupKey>> {
    spi::query(
        "SELECT oid, conrelid, confrelid FROM pg_catalog.pg_constraint
          WHERE contype = 'f' AND conparentid = 0 AND conrelid = ANY ($1) AND confrelid = ANY ($1)
          ORDER BY oid",
        &[tables.to_vec().into()],
        |row| {
            Ok(GroupKey {
                constraint: row.get(1)?,
                referencing: row.get(2)?,
                referenced: row.get(3)?,
            })
        },
    )
}

/// Fails if PostgreSQL would check such a key of `table` row by row when `role` attaches a shard: it does so where that
/// role may not read the referenced table, or not all of it.
pub fn check_rights(table: pg_sys::Oid, role: pg_sys::Oid, keys: &[GroupKey]) -> Result<()> {
    let constraints: Vec<pg_sys::Oid> = keys.iter().map(|key| key.constraint).collect();
    let unreadable = spi::query(
        "SELECT k.conname::text, r.oid::regclass::text, pg_catalog.quote_ident(o.rolname)
           FROM pg_catalog.pg_constraint k
           JOIN pg_catalog.pg_class r ON r.oid = k.confrelid
           JOIN pg_catalog.pg_roles o ON o.oid = $2
          WHERE k.oid = ANY ($3) AND k.conrelid = $1
            AND (EXISTS (SELECT FROM unnest(k.confkey) a
                          WHERE NOT pg_catalog.has_column_privilege(o.oid, r.oid, a, 'SELECT'))
                 OR r.relrowsecurity AND NOT o.rolsuper AND NOT o.rolbypassrls
                    AND NOT pg_catalog.pg_has_role(o.oid, r.relowner, 'USAGE'))",
        &[table.into(), role.into(), constraints.into()],
        |row| {
            Ok((
                row.get::<String>(1)?,
                row.get::<String>(2)?,
                row.get::<String>(3)?,
            ))
        },
    )?;
    match unreadable.into_iter().next() {
        None => Ok(()),
        Some((key, referenced, role)) => Err(Error::Prerequisite {
            what: format!(
                "foreign key \"{key}\" of table \"{}\" references a table that role {role} cannot read",
                relation::display_name(table)?
            ),
            hint: format!(
                "PostgreSQL would check every row of a new shard while it is attached in the name of {role}. \
                 GRANT SELECT ON {referenced} TO {role}, or give both tables one owner."
            ),
        }),
    }
}

/// Takes such keys off a shard that is about to leave its table. DETACH would instead make a foreign key of its own
/// of each, which costs two triggers for every shard of the referenced table and would forbid to delete rows that
/// the retired shard references. What is written here is what DETACH itself writes to separate a constraint from
/// that of the table.
pub fn take_off(shard: pg_sys::Oid, keys: &[GroupKey]) -> Result<()> {
    let parents: Vec<pg_sys::Oid> = keys.iter().map(|key| key.constraint).collect();
    let own = spi::query(
        "SELECT oid, conname::text FROM pg_catalog.pg_constraint
          WHERE conrelid = $1 AND contype = 'f' AND conparentid = ANY ($2)",
        &[shard.into(), parents.into()],
        |row| Ok((row.get::<pg_sys::Oid>(1)?, row.get::<String>(2)?)),
    )?;
    for (constraint, name) in own {
        for separate in SEPARATE {
            spi::run(separate, &[constraint.into()])?;
        }
        spi::execute(&format!(
            "ALTER TABLE ONLY {} DROP CONSTRAINT {}",
            relation::name(shard)?,
            spi::quote_identifier(&name)
        ))?;
    }
    Ok(())
}

/// Separate the constraint `$1` of a partition and its triggers from those of the partitioned table.
const SEPARATE: [&str; 4] = [
    "DELETE FROM pg_catalog.pg_depend
      WHERE classid = 'pg_catalog.pg_constraint'::regclass AND objid = $1 AND deptype IN ('P', 'S')",
    "DELETE FROM pg_catalog.pg_depend
      WHERE classid = 'pg_catalog.pg_trigger'::regclass AND deptype IN ('P', 'S')
        AND objid IN (SELECT oid FROM pg_catalog.pg_trigger WHERE tgconstraint = $1)",
    "UPDATE pg_catalog.pg_trigger SET tgparentid = 0 WHERE tgconstraint = $1",
    "UPDATE pg_catalog.pg_constraint SET conparentid = 0, coninhcount = 0, conislocal = true WHERE oid = $1",
];
