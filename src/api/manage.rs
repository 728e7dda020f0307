//! `repart_manage` and `repart_unmanage`.

use pgrx::prelude::*;

use crate::api::regclass::{Regclass, required};
use crate::error::{Error, SqlResult};
use crate::manage;
use crate::pg::name::Name;

/// Starts managing a table; a plain table becomes a sharded table with one shard. Returns the number of
/// shards. With `colocate_with`, also of a table that is managed already: it gets the boundaries of the other one, and
/// is reshaped together with it from then on. With `leaf_keys`, its unique indexes move to its shards.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_manage(
    relation: Option<Regclass>,
    shard_key: default!(Option<Name>, "NULL"),
    colocate_with: default!(Option<Regclass>, "NULL"),
    leaf_keys: default!(Option<bool>, "false"),
) -> SqlResult<i32> {
    let relation = required(relation, "relation")?;
    Ok(manage::manage(
        relation,
        shard_key.as_ref().map(Name::as_str),
        colocate_with.map(Regclass::oid),
        leaf_keys.ok_or(Error::NullArgument("leaf_keys"))?,
    )?)
}

/// Stops managing a table. Its partitions stay.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_unmanage(relation: Option<Regclass>) -> SqlResult<()> {
    Ok(manage::unmanage(required(relation, "relation")?)?)
}
