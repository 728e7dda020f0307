//! Whose code runs as whom. Whatever could run a user's code runs as the table's owner inside a
//! security-restricted operation, as PostgreSQL does for its own maintenance commands.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::spi;

/// The role whose privileges apply now.
pub fn current() -> pg_sys::Oid {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetUserId() }
}

/// Its name.
pub fn current_name() -> Result<String> {
    let name = spi::value::<String>(
        "SELECT pg_catalog.pg_get_userbyid($1)::text",
        &[current().into()],
    )?;
    Ok(name.unwrap_or_default())
}

/// Whether the current role may act for `role`.
pub fn can_act_for(role: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up; inside a transaction, as all our code is.
    unsafe { pg_sys::has_privs_of_role(current(), role) }
}

/// Runs `body` as a superuser, for repart's own tables, once the caller's rights were checked.
pub fn as_superuser<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    switched(
        pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID),
        pg_sys::SECURITY_LOCAL_USERID_CHANGE,
        body,
    )
}

/// Runs `body` as the owner of a table. `FORCE ROW LEVEL SECURITY` does not apply, as for foreign key
/// checks: repart must see every row.
pub fn as_owner<T>(owner: pg_sys::Oid, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let context = pg_sys::SECURITY_LOCAL_USERID_CHANGE
        | pg_sys::SECURITY_RESTRICTED_OPERATION
        | pg_sys::SECURITY_NOFORCE_RLS;
    switched(owner, context, body)
}

fn switched<T>(role: pg_sys::Oid, context: u32, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut saved_role = pg_sys::InvalidOid;
    let mut saved_context = 0;
    // SAFETY: on an SQL error the (sub)transaction's abort restores both, as for every user of this pair.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut saved_role, &mut saved_context);
        pg_sys::SetUserIdAndSecContext(role, saved_context | context as i32);
    }
    let outcome = body();
    // SAFETY: restores what was read above.
    unsafe { pg_sys::SetUserIdAndSecContext(saved_role, saved_context) };
    outcome
}
