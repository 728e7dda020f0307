//! `repart_manage` and `repart_unmanage`.

use pgrx::prelude::*;

use crate::api::regclass::{Regclass, required};
use crate::error::{Error, SqlResult};
use crate::manage;
use crate::pg::name::Name;

/// Starts managing a table; a plain table becomes a sharded table with one shard. Returns the number of
/// shards. With `colocate_with`, also of a table that is managed already: it gets the boundaries of the other one, and
/// is reshaped together with it from then on.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_manage(
    relation: Option<Regclass>,
    shard_key: default!(Option<Name>, "NULL"),
    colocate_with: default!(Option<Regclass>, "NULL"),
    leaf_keys: default!(Option<bool>, "false"),
) -> SqlResult<i32> {
    let relation = required(relation, "relation")?;
    if leaf_keys.ok_or(Error::NullArgument("leaf_keys"))? {
        return Err(not_yet("leaf_keys", "shards on other nodes, which need it, are").into());
    }
    Ok(manage::manage(
        relation,
        shard_key.as_ref().map(Name::as_str),
        colocate_with.map(Regclass::oid),
    )?)
}

/// Stops managing a table. Its partitions stay.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_unmanage(relation: Option<Regclass>) -> SqlResult<()> {
    Ok(manage::unmanage(required(relation, "relation")?)?)
}

fn not_yet(parameter: &str, what: &str) -> Error {
    Error::Unsupported {
        what: format!("{parameter} is not supported"),
        detail: String::new(),
        hint: format!("Leave it out: {what} not part of this version of repart."),
    }
}
