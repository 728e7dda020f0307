//! Functions about nodes.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::api::regclass;
use crate::catalog::nodes::Node;
use crate::error::{Error, Result, SqlResult};
use crate::nodes::{registry, two_phase, usage};
use crate::pg::name::Name;
use crate::pg::role;

/// Makes a foreign server of postgres_fdw a node, or a replica of one; `coordinator` is the foreign server there by which
/// it leads back here, for routing copies.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_add_node(
    server: Option<Name>,
    weight: default!(Option<f64>, "1"),
    replica_of: default!(Option<Name>, "NULL"),
    coordinator: default!(Option<Name>, "NULL"),
) -> SqlResult<()> {
    regclass::require_superuser(
        "repart_add_node(): a node is reached with a user mapping of yours",
    )?;
    let node = Node {
        name: required(server.as_ref())?,
        replica_of: replica_of.map(|name| name.as_str().to_owned()),
        weight: weight.ok_or(Error::NullArgument("weight"))?,
        draining: false,
        connects_as: role::current_name()?,
        coordinator: coordinator.map(|name| name.as_str().to_owned()),
    };
    Ok(role::as_superuser(|| registry::add(&node))?)
}

/// Forgets a node. The foreign server stays.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_remove_node(server: Option<Name>) -> SqlResult<()> {
    regclass::require_superuser("repart_remove_node()")?;
    let name = required(server.as_ref())?;
    Ok(role::as_superuser(|| registry::remove(&name))?)
}

/// Lets a node receive no more shards; returns how many it still holds.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_drain_node(server: Option<Name>) -> SqlResult<i64> {
    regclass::require_superuser("repart_drain_node()")?;
    let name = required(server.as_ref())?;
    Ok(role::as_superuser(|| registry::drain(&name))?)
}

/// Runs a command on nodes, on all of them or on none, together with the calling transaction; returns on how many.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_run_on_nodes(
    command: Option<&str>,
    nodes: default!(Option<Vec<Option<String>>>, "NULL"),
) -> SqlResult<i32> {
    regclass::require_superuser("repart_run_on_nodes()")?;
    let command = command.ok_or(Error::NullArgument("command"))?;
    let names = nodes
        .map(|names| names.into_iter().collect::<Option<Vec<String>>>())
        .map(|names| names.ok_or(Error::NullArgument("nodes")))
        .transpose()?;
    let count = role::as_superuser(|| two_phase::run(command, names.as_deref()))?;
    Ok(i32::try_from(count).unwrap_or(i32::MAX))
}

fn required(server: Option<&Name>) -> Result<String> {
    server
        .map(|name| name.as_str().to_owned())
        .ok_or(Error::NullArgument("server"))
}

/// Seconds that the calling session has kept a processor busy. NULL where the system does not tell.
#[pg_extern(volatile, parallel_restricted)]
#[search_path(pg_catalog, pg_temp)]
fn repart_session_usage() -> SqlResult<Option<f64>> {
    Ok(usage::session_seconds())
}

/// Counters of this server's machine. NULL where the system does not tell.
#[pg_extern(parallel_safe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)] // pgrx reads the columns here
fn repart_node_usage() -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(cpus, Option<i32>),
            name!(cpu_seconds, Option<f64>),
            name!(cpu_busy_seconds, Option<f64>),
            name!(load, Option<f64>),
            name!(memory_total, Option<i64>),
            name!(memory_available, Option<i64>),
            name!(cpu_stall_us, Option<i64>),
            name!(memory_stall_us, Option<i64>),
            name!(io_stall_us, Option<i64>),
            name!(read_bytes, Option<i64>),
            name!(write_bytes, Option<i64>),
            name!(disk_total, Option<i64>),
            name!(disk_free, Option<i64>),
        ),
    >,
    ErrorReport,
> {
    let usage = usage::read();
    Ok(TableIterator::once((
        usage.cpus,
        usage.cpu_seconds,
        usage.cpu_busy_seconds,
        usage.load,
        usage.memory_total,
        usage.memory_available,
        usage.cpu_stall_us,
        usage.memory_stall_us,
        usage.io_stall_us,
        usage.read_bytes,
        usage.write_bytes,
        usage.disk_total,
        usage.disk_free,
    )))
}
