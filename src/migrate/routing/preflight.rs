//! What would keep a migration from switching the routing copies of its table: asked when it is queued, and again when it
//! begins.

use pgrx::pg_sys;

use crate::catalog::journal::Spec;
use crate::catalog::routes::{self, RoutingCopy};
use crate::catalog::{nodes, two_phase};
use crate::error::{Error, Result};
use crate::migrate::away::link::Link;
use crate::migrate::routing::{map, rights, table};
use crate::nodes::servers::{self, Asked, Goal};
use crate::pg::{relation, spi};

/// Fails where a migration of this table could not be switched on all of its routing copies.
pub fn check(relation: pg_sys::Oid, spec: &Spec) -> Result<()> {
    let copies = routes::of(&[relation])?;
    copies.iter().try_for_each(|copy| check_copy(copy, spec))
}

fn check_copy(copy: &RoutingCopy, spec: &Spec) -> Result<()> {
    // What was decided for it just now it may have still to carry out. The switch waits for that, and looks again.
    if !two_phase::open_on(&copy.node)?.is_empty() {
        return Ok(());
    }
    let mut link = Link::visit(&copy.node)?;
    table::require_alike(&mut link, copy)?;
    let wanted: Vec<map::Route> = map::wanted(copy)?
        .into_iter()
        .map(|(_, route)| route)
        .collect();
    require_same(copy, &table::routes(&mut link, copy)?, &wanted)?;
    rights::require_schema(&mut link, copy)?;
    require_note(&mut link)?;
    let mut new: Vec<&str> = spec
        .targets
        .iter()
        .filter_map(|t| t.node.as_deref())
        .collect();
    new.retain(|node| *node != copy.node);
    new.dedup();
    let comes_here = spec.targets.iter().any(|target| target.node.is_none());
    if new.is_empty() && !comes_here {
        return Ok(());
    }
    let mut asked = Asked::open(&nodes::share(&copy.node)?)?;
    if comes_here {
        asked.require_server(&copy.coordinator, Goal::Here)?;
        rights::require_mappings(&mut link, copy, &copy.coordinator)?;
    }
    new.iter().try_for_each(|node| {
        asked.require_server(node, Goal::Node(node))?;
        rights::require_mappings(&mut link, copy, node)
    })
}

/// Fails unless switches can be noted there; returns the function that notes them.
pub fn require_note(link: &mut Link) -> Result<String> {
    let node = link.node.clone();
    servers::require_note(&node, |sql| link.ask(sql))
}

/// Fails unless a copy leads to what this table is made of.
pub fn require_same(copy: &RoutingCopy, there: &[map::Route], wanted: &[map::Route]) -> Result<()> {
    let Some(route) = map::difference(there, wanted) else {
        return Ok(());
    };
    let name = relation::display_name(copy.relation)?;
    Err(Error::Prerequisite {
        what: format!(
            "table \"{name}\" and its routing copy on node \"{}\" have different partitions, such as \"{}\" {}",
            copy.node, route.name, route.bound
        ),
        hint: format!(
            "Bring the copy up to date with SELECT repart_add_routing_copy({}, {}).",
            spi::quote_literal(relation::name(copy.relation)?),
            spi::quote_literal(&copy.node)
        ),
    })
}
