//! As whom a target is attached: a shard's owner must not get functions run as anybody else.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{relation, spi};

/// The role that may attach a table of `owner` to `parent`: PostgreSQL asks for rights on both. The owner of the
/// shard where possible, else that of the sharded table.
pub fn attaching_role(parent: pg_sys::Oid, owner: pg_sys::Oid) -> Result<pg_sys::Oid> {
    let parent_owner = relation::owner(parent)?;
    for (role, other) in [(owner, parent_owner), (parent_owner, owner)] {
        let may_act = spi::query_value::<bool>(
            "SELECT pg_has_role($1::oid, $2::oid, 'USAGE')",
            &[role.into(), other.into()],
        )?;
        if may_act == Some(true) {
            return Ok(role);
        }
    }
    Err(Error::Unsupported {
        what: format!(
            "table \"{}\" and its shards have owners of whom neither may act for the other",
            relation::display_name(parent)?
        ),
        detail: String::new(),
        hint: "Give them one owner with ALTER TABLE … OWNER TO.".to_owned(),
    })
}

/// Fails if a shard of `owner` could not be attached to `parent`: nobody has the rights, or triggers of the sharded
/// table call functions that the attaching role may not call.
pub fn check(parent: pg_sys::Oid, owner: pg_sys::Oid) -> Result<()> {
    let role = attaching_role(parent, owner)?;
    let forbidden = spi::query(
        "SELECT pg_describe_object('pg_trigger'::regclass, oid, 0) FROM pg_trigger
          WHERE tgrelid = $1 AND NOT tgisinternal AND tgtype & 1 = 1 AND NOT has_function_privilege($2::oid, tgfoid, 'EXECUTE')
          ORDER BY 1",
        &[parent.into(), role.into()],
        |row| row.get::<String>(1),
    )?;
    if forbidden.is_empty() {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "triggers of table \"{}\" call functions that its owner may not call",
            relation::display_name(parent)?
        ),
        detail: format!("Concerned: {}.", forbidden.join(", ")),
        hint: "GRANT EXECUTE on these functions to the owner: new shards get these triggers in its name."
            .to_owned(),
    })
}
