//! Names and rights of relations.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{role, spi};

/// The qualified, quoted name of a relation; its number where it is gone.
pub fn name(relation: pg_sys::Oid) -> Result<String> {
    Ok(existing_name(relation)?.unwrap_or_else(|| relation.to_u32().to_string()))
}

/// The qualified, quoted name of a relation, if it exists.
pub fn existing_name(relation: pg_sys::Oid) -> Result<Option<String>> {
    spi::value::<String>(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE c.oid = $1",
        &[relation.into()],
    )
}

/// The name of a relation as errors and notices show it: unqualified where it is visible.
pub fn display_name(relation: pg_sys::Oid) -> Result<String> {
    let name = spi::value::<String>(
        "SELECT relname::text FROM pg_catalog.pg_class WHERE oid = $1",
        &[relation.into()],
    )?;
    Ok(name.unwrap_or_else(|| relation.to_u32().to_string()))
}

/// The relation of a name as SQL writes it.
pub fn find(name: &str) -> Result<pg_sys::Oid> {
    spi::value::<pg_sys::Oid>("SELECT $1::pg_catalog.regclass::oid", &[name.into()])?
        .ok_or_else(|| Error::Internal(format!("{name} vanished")))
}

/// Whether there is such a relation.
pub fn exists(relation: pg_sys::Oid) -> Result<bool> {
    let found = spi::value::<bool>(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = $1)",
        &[relation.into()],
    )?;
    Ok(found.unwrap_or(false))
}

/// Whether it is a foreign table.
pub fn is_foreign(relation: pg_sys::Oid) -> Result<bool> {
    let found = spi::query_kept(
        "SELECT relkind = 'f' FROM pg_catalog.pg_class WHERE oid = $1",
        &[relation.into()],
        |row| row.get(1),
    )?;
    Ok(found.first() == Some(&true))
}

/// Whether it is a table whose rows are stored here.
pub fn is_stored_table(relation: pg_sys::Oid) -> Result<bool> {
    let found = spi::value::<bool>(
        "SELECT relkind IN ('r', 'm') FROM pg_catalog.pg_class WHERE oid = $1",
        &[relation.into()],
    )?;
    Ok(found.unwrap_or(false))
}

/// Its owner.
pub fn owner(relation: pg_sys::Oid) -> Result<pg_sys::Oid> {
    spi::value(
        "SELECT relowner FROM pg_catalog.pg_class WHERE oid = $1",
        &[relation.into()],
    )?
    .ok_or_else(|| missing(relation))
}

/// The name of a role.
pub fn role_name(role: pg_sys::Oid) -> Result<String> {
    let name = spi::value::<String>(
        "SELECT pg_catalog.pg_get_userbyid($1)::text",
        &[role.into()],
    )?;
    Ok(name.unwrap_or_default())
}

/// Fails unless the current role owns the relation, or its owner's role.
pub fn require_owner(relation: pg_sys::Oid) -> Result<()> {
    if role::can_act_for(owner(relation)?) {
        Ok(())
    } else {
        Err(Error::NotOwner(display_name(relation)?))
    }
}

/// Makes this process read the relation's definition anew once the next command is done: for a change of its
/// catalog rows that PostgreSQL does not notice by itself. Others do so anyway, when its partition bound changes.
pub fn forget_cached(relation: pg_sys::Oid) {
    // SAFETY: inside a transaction, as all our code is; only queues a message.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) }
}

fn missing(relation: pg_sys::Oid) -> Error {
    Error::Missing {
        what: format!("relation with OID {} does not exist", relation.to_u32()),
        hint: "Give the name of an existing table.".to_owned(),
    }
}
