//! Adding, removing and draining nodes. Everything here runs as superuser, for one who was found to be one.

use pgrx::notice;

use crate::catalog::nodes::{self, LOCAL, Node};
use crate::catalog::{journal, node_objects, routes, runnable, two_phase};
use crate::error::{Error, Result};
use crate::nodes::check;
use crate::nodes::facts::Facts;
use crate::nodes::servers::{Asked, Goal};
use crate::nodes::two_phase::prepared_on;
use crate::pg::{on_commit, spi};

/// Makes a foreign server a node, or a replica of one, and says what will not work. One that is a node already is
/// checked again; it takes the given weight, and is not draining any more.
pub fn add(node: &Node) -> Result<()> {
    if !(node.weight > 0.0 && node.weight.is_finite()) {
        return Err(Error::InvalidParameter {
            what: format!("weight {} is not a positive number", node.weight),
            hint: "A node of weight 2 gets twice the load of a node of weight 1.".to_owned(),
        });
    }
    if node.name == LOCAL {
        return add_local(node);
    }
    let node = &with_known_way_back(node)?;
    if let Some(primary) = &node.replica_of {
        require_can_have_replica(node, primary)?;
    }
    if let Some(known) = nodes::find(&node.name)? {
        require_same_role(node, &known)?;
    }
    let checked = check::check(node)?;
    require_nothing_open_elsewhere(node, &checked.facts)?;
    if let Some(server) = &node.coordinator {
        let mut asked = Asked::open(node)?;
        asked.require_note()?;
        asked.require_server(server, Goal::Here)?;
    }
    nodes::upsert(node)?;
    if nodes::note_seen(&node.name, &checked.facts)? {
        runnable::release(&node.name)?;
    }
    journal::event("notice", None, &format!("node \"{}\" was added", node.name))?;
    for loss in &checked.losses {
        notice!("node \"{}\": {loss}", node.name);
    }
    on_commit::wake_workers();
    Ok(())
}

/// This server is a node always: it takes the given weight, and is not draining any more.
fn add_local(node: &Node) -> Result<()> {
    if node.replica_of.is_some() || node.coordinator.is_some() {
        return Err(is_this_server());
    }
    nodes::set_own_weight(node.weight)?;
    let message = "node \"local\" may receive shards";
    journal::event("notice", None, message)?;
    on_commit::wake_workers();
    Ok(())
}

/// A node that is added again leads back here as before, unless something else is said.
fn with_known_way_back(node: &Node) -> Result<Node> {
    if node.coordinator.is_some() && node.replica_of.is_some() {
        return Err(Error::InvalidParameter {
            what: format!(
                "node \"{}\" is to be a replica, and to have routing copies",
                node.name
            ),
            hint: "A replica has the routing copies of its primary: leave coordinator out."
                .to_owned(),
        });
    }
    let known = nodes::find(&node.name)?.and_then(|known| known.coordinator);
    let copies = routes::on(&node.name)?;
    if let (Some(known), Some(given), Some(table)) = (&known, &node.coordinator, copies.first())
        && known != given
    {
        return Err(in_use(
            &node.name,
            &format!(
                "has a routing copy of table \"{table}\", which leads back here by server \"{known}\""
            ),
            "Drop it first with repart_drop_routing_copy(), or change the options of that server there.",
        ));
    }
    Ok(Node {
        coordinator: node.coordinator.clone().or(known),
        ..node.clone()
    })
}

fn require_not_local(name: &str) -> Result<()> {
    if name == LOCAL {
        return Err(is_this_server());
    }
    Ok(())
}

fn is_this_server() -> Error {
    Error::InvalidParameter {
        what: "\"local\" is the name of this server".to_owned(),
        hint: "It is a node always; give another foreign server another name.".to_owned(),
    }
}

fn require_can_have_replica(node: &Node, primary: &str) -> Result<()> {
    if primary == LOCAL {
        return Ok(());
    }
    if primary == node.name {
        return Err(Error::InvalidParameter {
            what: format!("node \"{primary}\" cannot be a replica of itself"),
            hint: "Give the node that it streams from.".to_owned(),
        });
    }
    let primary = nodes::hold(primary)?;
    if primary.replica_of.is_none() {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        what: format!("node \"{}\" is a replica itself", primary.name),
        hint: "Give the node at the head of the chain: its data is the same.".to_owned(),
    })
}

/// A node that becomes a replica, or a replica that becomes a node, is another one.
fn require_same_role(node: &Node, known: &Node) -> Result<()> {
    if node.replica_of == known.replica_of {
        return Ok(());
    }
    let name = &node.name;
    Err(Error::InvalidParameter {
        what: match &known.replica_of {
            Some(primary) => format!("node \"{name}\" is a replica of node \"{primary}\" already"),
            None => format!("node \"{name}\" exists already, and is no replica"),
        },
        hint: format!(
            "Remove it first with SELECT repart_remove_node({}).",
            spi::quote_literal(name)
        ),
    })
}

/// A node that leads to another database than before would be asked in vain for what the other one has still to do.
fn require_nothing_open_elsewhere(node: &Node, facts: &str) -> Result<()> {
    let open = two_phase::open_on(&node.name)?;
    let Some(stored) = nodes::facts_of(&node.name)?.filter(|_| !open.is_empty()) else {
        return Ok(());
    };
    if Facts::read(&stored)?.is_same_database(&Facts::read(facts)?) {
        return Ok(());
    }
    Err(in_use(
        &node.name,
        &format!(
            "has prepared transactions ({}) in the database that it led to before",
            open.join(", ")
        ),
        "Let it lead there until they are finished: see SELECT * FROM repart.in_doubt.",
    ))
}

/// Forgets a node. The foreign server stays.
pub fn remove(name: &str) -> Result<()> {
    require_not_local(name)?;
    let node = nodes::hold(name)?;
    let shards = nodes::shards(name)?.len();
    if shards > 0 {
        return Err(in_use(
            name,
            &format!("holds {shards} shards"),
            &format!(
                "Move them away first: SELECT repart_drain_node({}) lets it receive no more.",
                spi::quote_literal(name)
            ),
        ));
    }
    if let Some(table) = routes::on(name)?.first() {
        return Err(in_use(
            name,
            &format!("has a routing copy of table \"{table}\""),
            &format!(
                "Drop it first with SELECT repart_drop_routing_copy({}, {}).",
                spi::quote_literal(table),
                spi::quote_literal(name)
            ),
        ));
    }
    if let Some(migration) = node_objects::on(name)?.first() {
        return Err(in_use(
            name,
            &format!("has, or may have, something that migration {migration} made"),
            "It is dropped as soon as the migration has ended and the node answers.",
        ));
    }
    let replicas = nodes::replicas(name)?;
    if let Some(replica) = replicas.first() {
        return Err(in_use(
            name,
            &format!("has replica \"{replica}\""),
            &format!(
                "Remove it first with SELECT repart_remove_node({}).",
                spi::quote_literal(replica)
            ),
        ));
    }
    if node.replica_of.is_none() {
        require_nothing_prepared(&node)?;
    }
    for copy in routes::forget_orphans(name)? {
        notice!(
            "table {copy} on node \"{name}\" was a routing copy of a table that was dropped here: drop it if it is still there"
        );
    }
    nodes::delete(name)?;
    journal::event("notice", None, &format!("node \"{name}\" was removed"))?;
    on_commit::wake_workers();
    Ok(())
}

/// Nobody would look for what is left prepared on a node that is none any more. One that is away can be removed all the
/// same, unless something was decided that it has not carried out.
fn require_nothing_prepared(node: &Node) -> Result<()> {
    let name = &node.name;
    let open = two_phase::open_on(name)?;
    let refuse = |gids: &[String]| {
        let hint = "Wait until they are finished: see SELECT * FROM repart.in_doubt.";
        Err(in_use(
            name,
            &format!("has prepared transactions ({})", gids.join(", ")),
            hint,
        ))
    };
    if !open.is_empty() {
        return refuse(&open);
    }
    match prepared_on(node) {
        Ok(gids) if gids.is_empty() => Ok(()),
        Ok(gids) => refuse(&gids),
        Err(error) => {
            let prefix = two_phase::prefix()?;
            notice!(
                "{error}; if it comes back, roll back there what is listed by SELECT gid FROM pg_prepared_xacts WHERE starts_with(gid, '{prefix}')"
            );
            Ok(())
        }
    }
}

fn in_use(name: &str, why: &str, hint: &str) -> Error {
    Error::InUse {
        what: format!("node \"{name}\" {why}"),
        hint: hint.to_owned(),
    }
}

/// Lets a node receive no more shards; returns how many it holds.
pub fn drain(name: &str) -> Result<i64> {
    let number = |shards: usize| i64::try_from(shards).unwrap_or(i64::MAX);
    if name == LOCAL {
        nodes::drain_own()?;
        note_draining(name)?;
        return Ok(number(nodes::placed_here()?.len()));
    }
    let node = nodes::hold(name)?;
    if let Some(primary) = node.replica_of {
        return Err(Error::InvalidParameter {
            what: format!("node \"{name}\" is a replica"),
            hint: format!("It holds what node \"{primary}\" does: drain that one."),
        });
    }
    nodes::set_draining(name)?;
    note_draining(name)?;
    Ok(number(nodes::shards(name)?.len()))
}

fn note_draining(name: &str) -> Result<()> {
    journal::event("notice", None, &format!("node \"{name}\" is draining"))?;
    on_commit::wake_workers();
    Ok(())
}
