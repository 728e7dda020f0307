//! `regclass` arguments and results of the SQL functions, and what every function checks about them.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{relation, role, spi};

pub use crate::pg::regclass::Regclass;

/// The OID of an argument that must be given. (Functions are not STRICT: with that, a forgotten argument
/// would silently do nothing.)
pub fn required(argument: Option<Regclass>, name: &'static str) -> Result<pg_sys::Oid> {
    argument.map(Regclass::oid).ok_or(Error::NullArgument(name))
}

/// Fails unless the current role may see what repart knows about the table: its owner, or a member of
/// `pg_monitor` (a superuser is both).
pub fn require_owner_or_monitor(table: pg_sys::Oid) -> Result<()> {
    if is_monitor()? {
        relation::owner(table).map(|_| ())
    } else {
        relation::require_owner(table)
    }
}

/// Whether the current role is a member of `pg_monitor`.
pub fn is_monitor() -> Result<bool> {
    let sql = "SELECT pg_catalog.pg_has_role($1, 'pg_monitor', 'USAGE')";
    Ok(spi::value::<bool>(sql, &[role::current().into()])?.unwrap_or(false))
}

/// Fails unless the current role is a superuser.
pub fn require_superuser(what: &str) -> Result<()> {
    let sql = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE oid = $1";
    if spi::value::<bool>(sql, &[role::current().into()])? == Some(true) {
        return Ok(());
    }
    Err(Error::NotSuperuser(what.to_owned()))
}
