//! Making routing copies, bringing them up to date, and dropping them. Everything here runs as superuser, for one who was
//! found to be one.

use std::collections::BTreeSet;

use pgrx::{notice, pg_sys, warning};

use crate::catalog::nodes::{self, Node};
use crate::catalog::routes::{self, RoutingCopy};
use crate::catalog::two_phase::{self, Number};
use crate::catalog::{journal, tables};
use crate::error::{Error, Result};
use crate::migrate::away::link::Link;
use crate::migrate::locks;
use crate::migrate::routing::map::{self, Place, Route};
use crate::migrate::routing::table;
use crate::nodes::servers::{Asked, Goal};
use crate::pg::{guc, lock, on_commit, preload, relation, spi};

/// Makes a table on a node that routes to the shards of this one, or brings it up to date; together with the running
/// transaction, by two-phase commit. Returns the number of its partitions.
pub fn add(relation: pg_sys::Oid, node: &str) -> Result<i32> {
    preload::require("a routing copy")?;
    tables::require(relation)?;
    let node = nodes::share(node)?;
    let copy = RoutingCopy {
        relation,
        coordinator: require_way_back(&node)?,
        node: node.name,
    };
    require_settled(&copy.node)?;
    // No migration switches, and nobody changes partitions, until this has been decided.
    hold(relation)?;
    let (name, schema) = table::names(relation)?;
    let wanted: Vec<Route> = map::wanted(&copy, &schema)?
        .into_iter()
        .map(|(_, route)| route)
        .collect();
    let note = require_servers(&copy, &wanted)?;
    let mut link = Link::visit(&copy.node)?;
    begin(&mut link)?;
    let mut losses = None;
    if !table::exists(&mut link, &name)? {
        losses = table::create(&mut link, relation, &name)?;
    }
    link.ask(&format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE"))?;
    table::require_alike(&mut link, &copy, &name)?;
    let there = table::routes(&mut link, &name)?;
    require_no_rows_of_its_own(&copy, &there, &wanted)?;
    link.ask(&map::script(&name, &there, &wanted, &note))?;
    prepare(link, "a routing copy was made or changed")?;
    routes::insert(relation, &copy.node)?;
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

/// Drops the routing copy of a table on a node, together with the running transaction. With `force` it is only forgotten,
/// for a node that is gone.
pub fn drop(relation: pg_sys::Oid, node: &str, force: bool) -> Result<()> {
    preload::require("a routing copy")?;
    let node = nodes::share(node)?.name;
    hold(relation)?;
    let (name, _) = table::names(relation)?;
    if !routes::delete(relation, &node)? {
        return Err(Error::Missing {
            what: format!("table {name} has no routing copy on node \"{node}\""),
            hint: "See SELECT * FROM repart.routing_copies.".to_owned(),
        });
    }
    let message = format!("table {name} has no routing copy on node \"{node}\" any more");
    journal::event("notice", None, &message)?;
    if force {
        warning!(
            "what table {name} on node \"{node}\" leads to is not switched any more: drop it there before anybody uses it"
        );
        return Ok(());
    }
    require_settled(&node)?;
    let mut link = Link::visit(&node)?;
    begin(&mut link)?;
    if !table::exists(&mut link, &name)? {
        return Ok(());
    }
    link.ask(&format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE"))?;
    // Shards that are on the node stay.
    for route in table::routes(&mut link, &name)? {
        if let Place::Own(schema, table) = &route.place {
            let own = spi::quote_qualified_identifier(schema, table);
            link.ask(&format!("ALTER TABLE {name} DETACH PARTITION {own}"))?;
        }
    }
    link.ask(&format!("DROP TABLE {name}"))?;
    prepare(link, "a routing copy was dropped")
}

/// The server by which the node leads back here.
fn require_way_back(node: &Node) -> Result<String> {
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

/// Fails unless every server that the copy needs leads to where it should; returns the function that notes switches there.
fn require_servers(copy: &RoutingCopy, wanted: &[Route]) -> Result<String> {
    let mut asked = Asked::open(&nodes::share(&copy.node)?)?;
    let servers: BTreeSet<&str> = wanted
        .iter()
        .filter_map(|route| match &route.place {
            Place::Far(server, ..) if *server != copy.coordinator => Some(server.as_str()),
            _ => None,
        })
        .collect();
    asked.require_server(&copy.coordinator, Goal::Here)?;
    for server in servers {
        asked.require_server(server, Goal::Node(server))?;
    }
    Ok(asked.function)
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
fn begin(link: &mut Link) -> Result<()> {
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
