//! Functions about routing copies.

use pgrx::prelude::*;

use crate::api::regclass::{self, Regclass};
use crate::catalog::cutovers;
use crate::error::{Error, SqlResult};
use crate::manage;
use crate::migrate::routing;
use crate::pg::name::Name;
use crate::pg::{preload, relation, role, snapshot_guard};

/// Makes a table on a node that routes to the shards of this one, or brings it up to date; returns the number of its
/// partitions.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_add_routing_copy(relation: Option<Regclass>, node: Option<Name>) -> SqlResult<i32> {
    let relation = regclass::required(relation, "relation")?;
    let node = node.ok_or(Error::NullArgument("node"))?;
    regclass::require_superuser(
        "repart_add_routing_copy(): it is made with a user mapping of the node's",
    )?;
    manage::require_read_committed()?;
    Ok(role::as_superuser(|| {
        routing::add(relation, node.as_str())
    })?)
}

/// Drops the routing copy of a table on a node.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_drop_routing_copy(
    relation: Option<Regclass>,
    node: Option<Name>,
    force: default!(Option<bool>, "false"),
) -> SqlResult<()> {
    let relation = regclass::required(relation, "relation")?;
    let node = node.ok_or(Error::NullArgument("node"))?;
    let force = force.ok_or(Error::NullArgument("force"))?;
    regclass::require_superuser("repart_drop_routing_copy()")?;
    manage::require_read_committed()?;
    Ok(role::as_superuser(|| {
        routing::drop(relation, node.as_str(), force)
    })?)
}

/// Notes that the running transaction changes what these tables route to: a statement whose snapshot is older gets 40001.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_note_switch(relations: Option<Vec<Option<pg_sys::Oid>>>) -> SqlResult<()> {
    preload::require("a routing copy")?;
    let relations = relations.ok_or(Error::NullArgument("relations"))?;
    let relations: Vec<pg_sys::Oid> = relations.into_iter().flatten().collect();
    for relation in &relations {
        relation::require_owner(*relation)?;
    }
    if !relations.is_empty() {
        role::as_superuser(|| cutovers::record(&relations))?;
        snapshot_guard::record(&relations);
    }
    Ok(())
}
