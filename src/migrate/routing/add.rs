//! Making routing copies, bringing them up to date, and dropping them. Everything here runs as superuser, for one who was
//! found to be one.

use pgrx::{notice, pg_sys, warning};

use crate::catalog::nodes::{self, Node};
use crate::catalog::routes::{self, RoutingCopy};
use crate::catalog::two_phase::{self, Number};
use crate::catalog::{journal, tables};
use crate::error::{Error, Result};
use crate::migrate::away::link::Link;
use crate::migrate::locks;
use crate::migrate::routing::map::{self, Place, Route};
use crate::migrate::routing::{preflight, rights, table};
use crate::nodes::servers::{Asked, Goal};
use crate::pg::{guc, lock, on_commit, preload, relation, spi};

/// Makes a table on a node that routes to the shards of this one, or brings it up to date; together with the running
/// transaction, by two-phase commit. Returns the number of its partitions.
pub fn add(relation: pg_sys::Oid, node: &str) -> Result<i32> {
    preload::require("a routing copy")?;
    tables::require(relation)?;
    let node = nodes::share(node)?;
    let coordinator = require_way_back(&node)?;
    require_settled(&node.name)?;
    // No migration switches, and nobody changes partitions, until this has been decided.
    hold(relation)?;
    let mut link = Link::visit(&node.name)?;
    let copy = copy_to_be(relation, &node.name, coordinator, &mut link)?;
    let name = copy.name();
    let mut wanted: Vec<Route> = map::wanted(&copy)?
        .into_iter()
        .map(|(_, route)| route)
        .collect();
    let note = preflight::require_note(&mut link)?;
    let servers = require_servers(&copy, &wanted)?;
    rights::require_schema(&mut link, &copy)?;
    rights::require_no_other(&mut link, &copy)?;
    // A table of many partitions takes its time there; the caller can cancel.
    link.wait_until(None);
    begin(&mut link)?;
    let mut losses = None;
    if !table::exists(&mut link, &name)? {
        losses = table::create(&mut link, &copy)?;
    }
    // Before the lock, which needs what this looks for; and again, since only the lock keeps it so.
    table::require_alike(&mut link, &copy)?;
    link.ask(&format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE"))?;
    table::require_alike(&mut link, &copy)?;
    for server in &servers {
        rights::require_mappings(&mut link, &copy, server)?;
    }
    let there = table::routes(&mut link, &copy)?;
    require_no_rows_of_its_own(&copy, &there, &wanted)?;
    map::name_new(&mut link, &there, &mut wanted)?;
    link.ask(&map::script(&name, &there, &wanted, &note))?;
    prepare(link, "a routing copy was made or changed")?;
    routes::store(&copy)?;
    let shown = relation::display_name(relation)?;
    let message = format!(
        "table \"{shown}\" has a routing copy on node \"{}\"",
        copy.node
    );
    journal::event("notice", None, &message)?;
    if let Some(columns) = losses {
        notice!(
            "the routing copy has no default for what takes its values from a sequence here: {columns}"
        );
    }
    Ok(i32::try_from(wanted.len()).unwrap_or(i32::MAX))
}

/// The copy that is known, or one of the same name as the table here: also where that which is known is not there any
/// more.
fn copy_to_be(
    relation: pg_sys::Oid,
    node: &str,
    coordinator: String,
    link: &mut Link,
) -> Result<RoutingCopy> {
    let known = routes::of(&[relation])?;
    if let Some(copy) = known.into_iter().find(|copy| copy.node == node)
        && table::exists(link, &copy.name())?
    {
        return Ok(copy);
    }
    let (schema, table) = table::names(relation)?;
    let copy = RoutingCopy {
        relation,
        node: node.to_owned(),
        coordinator,
        schema,
        table,
    };
    match routes::other_of(&copy)? {
        None => Ok(copy),
        Some(other) => Err(Error::InUse {
            what: format!(
                "table {} on node \"{node}\" is the routing copy of table \"{}\"",
                copy.name(),
                relation::display_name(other)?
            ),
            hint: format!(
                "Drop that one first with SELECT repart_drop_routing_copy({}, {}).",
                spi::quote_literal(relation::name(other)?),
                spi::quote_literal(node)
            ),
        }),
    }
}

/// Drops the routing copy of a table on a node, together with the running transaction. With `force` it is only forgotten,
/// for a node that is gone.
pub fn drop(relation: pg_sys::Oid, node: &str, force: bool) -> Result<()> {
    preload::require("a routing copy")?;
    let node = nodes::share(node)?.name;
    hold(relation)?;
    let shown = relation::display_name(relation)?;
    let known = routes::of(&[relation])?;
    let Some(copy) = known.into_iter().find(|copy| copy.node == node) else {
        return Err(Error::Missing {
            what: format!("table \"{shown}\" has no routing copy on node \"{node}\""),
            hint: "See SELECT * FROM repart.routing_copies.".to_owned(),
        });
    };
    routes::delete(relation, &node)?;
    let message = format!("table \"{shown}\" has no routing copy on node \"{node}\" any more");
    journal::event("notice", None, &message)?;
    if force {
        warning!(
            "what table {} on node \"{node}\" leads to is not switched any more: drop it there before anybody uses it",
            copy.name()
        );
        return Ok(());
    }
    require_settled(&node)?;
    let mut link = Link::visit(&node)?;
    begin(&mut link)?;
    if drop_there(&mut link, &copy)? {
        prepare(link, "a routing copy was dropped")?;
    }
    Ok(())
}

/// Drops the table there, in the transaction that has begun; whether there was one. Shards that are on the node stay.
pub fn drop_there(link: &mut Link, copy: &RoutingCopy) -> Result<bool> {
    let name = copy.name();
    if !table::exists(link, &name)? {
        return Ok(false);
    }
    link.ask(&format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE"))?;
    for route in table::routes(link, copy)? {
        if let Place::Own(schema, table) = &route.place {
            let own = spi::quote_qualified_identifier(schema, table);
            link.ask(&format!("ALTER TABLE {name} DETACH PARTITION {own}"))?;
        }
    }
    link.ask(&format!("DROP TABLE {name}"))?;
    Ok(true)
}

/// The server by which the node leads back here.
fn require_way_back(node: &Node) -> Result<String> {
    if let Some(primary) = &node.replica_of {
        return Err(Error::InvalidParameter {
            what: format!("node \"{}\" is a replica", node.name),
            hint: format!("It has the routing copies of node \"{primary}\": name that one."),
        });
    }
    node.coordinator.clone().ok_or_else(|| Error::Prerequisite {
        what: format!("it is not known by which foreign server node \"{}\" leads back here", node.name),
        hint: format!(
            "Create one there, and run SELECT repart_add_node({}, coordinator => '...') with its name.",
            spi::quote_literal(&node.name)
        ),
    })
}

/// Fails while the node has something to finish that may be about the same table.
fn require_settled(node: &str) -> Result<()> {
    if two_phase::open_before_on(node)?.is_empty() {
        return Ok(());
    }
    Err(Error::InUse {
        what: format!("node \"{node}\" has still to carry out what was decided"),
        hint: "See SELECT * FROM repart.in_doubt, and try again.".to_owned(),
    })
}

/// Keeps the partitions here as they are, without waiting for long.
fn hold(relation: pg_sys::Oid) -> Result<()> {
    let timeout = locks::limit().as_millis().max(1).to_string();
    guc::with_settings(&[("lock_timeout", timeout.as_str())], || {
        lock::share_update_exclusive(relation);
        Ok(())
    })
}

/// Fails unless every server that the copy needs leads to where it should; returns their names.
fn require_servers(copy: &RoutingCopy, wanted: &[Route]) -> Result<Vec<String>> {
    let mut asked = Asked::open(&nodes::share(&copy.node)?)?;
    let mut servers = vec![copy.coordinator.clone()];
    asked.require_server(&copy.coordinator, Goal::Here)?;
    for route in wanted {
        if let Place::Far(server, ..) = &route.place
            && !servers.contains(server)
        {
            asked.require_server(server, Goal::Node(server))?;
            servers.push(server.clone());
        }
    }
    Ok(servers)
}

/// A partition of the table there that is no shard has rows that would disappear.
fn require_no_rows_of_its_own(copy: &RoutingCopy, there: &[Route], wanted: &[Route]) -> Result<()> {
    let is_shard = |route: &Route| wanted.iter().any(|other| other.place == route.place);
    let own = |route: &&Route| matches!(route.place, Place::Own(..)) && !is_shard(route);
    let Some(route) = there.iter().find(own) else {
        return Ok(());
    };
    Err(Error::Unsupported {
        what: format!(
            "partition \"{}\" on node \"{}\" is a table of that node, and no shard",
            route.name, copy.node
        ),
        detail: "Its rows would disappear from the routing copy.".to_owned(),
        hint: "Move its rows to the table here, and drop it there.".to_owned(),
    })
}

/// Begins a transaction there that waits for nobody for long.
pub fn begin(link: &mut Link) -> Result<()> {
    let limit = locks::limit().as_millis().max(1);
    link.ask(&format!("BEGIN; SET LOCAL lock_timeout = {limit}"))
        .map(|_| ())
}

/// Prepares what was done there: the commit of the running transaction decides.
fn prepare(mut link: Link, purpose: &str) -> Result<()> {
    let number = Number::new()?;
    number.hold()?;
    on_commit::wake_workers_in_any_case();
    let gid = number.gid(1);
    link.ask(&format!("PREPARE TRANSACTION {}", spi::quote_literal(&gid)))?;
    two_phase::decide_commit(&gid, &link.node, purpose)
}
