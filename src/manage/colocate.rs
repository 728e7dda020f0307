//! Putting a table into the colocation group of another one. From then on every migration reshapes all tables of the
//! group at the same keys, in one switch. Where the table has other boundaries, it is given those of the group by
//! migrations of its own, while it is in use; until they are done, the group cannot be migrated.

use pgrx::{notice, pg_sys};

use crate::catalog::groups;
use crate::catalog::tables::{self, ShardedTable};
use crate::error::{Error, Result};
use crate::manage::table::Table;
use crate::migrate::colocated;
use crate::migrate::queue;
use crate::pg::{preload, relation, spi};

/// Refuses what can be refused before the table is changed.
pub fn check(table: &Table, other: pg_sys::Oid) -> Result<()> {
    relation::require_owner(other)?;
    if table.oid == other {
        return Err(Error::InvalidParameter {
            what: format!("table \"{}\" cannot be colocated with itself", table.name),
            hint: "Give another table that is managed.".to_owned(),
        });
    }
    tables::require(other).map(|_| ())
}

/// Puts a managed table into the group of another one; returns the number of its shards.
pub fn join(table: &Table, other: pg_sys::Oid) -> Result<i32> {
    let like = Table::read(other)?;
    let group = groups::hold_alone(other)?;
    let is_member = group.iter().any(|member| member.relation == table.oid);
    for member in &group {
        // Whoever wants to migrate one of them must own all.
        relation::require_owner(member.relation)?;
    }
    if !is_member {
        refuse_other_group(table, &groups::hold_alone(table.oid)?)?;
    }
    require_same_key(table, &like)?;
    for member in group
        .iter()
        .map(|member| member.relation)
        .chain([table.oid])
    {
        refuse_unfinished(member)?;
    }
    let alignment = colocated::alignment(table.oid, other)?;
    if !is_member {
        groups::join(table.oid, other)?;
    }
    let (name, like) = (&table.name, &like.name);
    if alignment.is_empty() {
        notice!("table \"{name}\" is colocated with table \"{like}\"");
    } else {
        preload::require("giving a table the shards of another one")?;
    }
    for wanted in &alignment {
        let id = queue::alone(wanted)?;
        notice!(
            "migration {id} is queued: {} of table \"{name}\" at the boundaries of table \"{like}\"; \
             wait for it with SELECT repart_wait({id})",
            wanted.kind.as_str()
        );
    }
    let shards = colocated::shards_of(table.oid)?.len();
    Ok(i32::try_from(shards).unwrap_or(i32::MAX))
}

fn refuse_other_group(table: &Table, held: &[ShardedTable]) -> Result<()> {
    if held.len() < 2 {
        return Ok(());
    }
    let others = held
        .iter()
        .filter(|member| member.relation != table.oid)
        .map(|member| Ok(format!("\"{}\"", relation::display_name(member.relation)?)))
        .collect::<Result<Vec<_>>>()?;
    Err(Error::Prerequisite {
        what: format!(
            "table \"{}\" is colocated with {} already",
            table.name,
            others.join(", ")
        ),
        hint: format!(
            "Run SELECT repart_unmanage({}) first to take it out of that group.",
            spi::quote_literal(table.qualified())
        ),
    })
}

fn refuse_unfinished(table: pg_sys::Oid) -> Result<()> {
    let Some(migration) = tables::unfinished_migration(table)? else {
        return Ok(());
    };
    Err(Error::InUse {
        what: format!(
            "migration {migration} of table \"{}\" is not finished",
            relation::display_name(table)?
        ),
        hint: format!(
            "Wait for it with SELECT repart_wait({migration}), or stop it with SELECT repart_cancel({migration})."
        ),
    })
}

/// Type, collation and order of a partition key, as a text to compare and one to show.
fn key_of(table: &Table) -> Result<(String, String)> {
    let found = spi::query(
        "SELECT concat_ws(' ', a.atttypid, p.partcollation[0], p.partclass[0]),
                format('%I of type %s%s', a.attname, format_type(a.atttypid, NULL),
                       (SELECT format(', collation %I', l.collname) FROM pg_collation l WHERE l.oid = p.partcollation[0]))
           FROM pg_partitioned_table p
           JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
          WHERE p.partrelid = $1",
        &[table.oid.into()],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )?;
    let key = found.into_iter().next();
    key.ok_or_else(|| Error::Internal("a partition key vanished".to_owned()))
}

fn require_same_key(table: &Table, other: &Table) -> Result<()> {
    let ((own, own_text), (others, other_text)) = (key_of(table)?, key_of(other)?);
    if own == others {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "tables \"{}\" and \"{}\" cannot be colocated because their shard keys differ",
            table.name, other.name
        ),
        detail: format!("Shard keys: {own_text}; {other_text}."),
        hint: "Choose a shard key of the same type, collation and order.".to_owned(),
    })
}
