//! Two-phase commit: what changes on several nodes changes on all of them or on none, together with a local
//! transaction.
//!
//! 1. On each node, a transaction does the work and is *prepared* there under a name of ours. Meanwhile the local
//!    transaction holds an advisory lock with the number in that name.
//! 2. The local transaction notes the names in `repart.two_phase`. **Its commit is the decision**: with it the rows
//!    are there, without it they are not.
//! 3. The watcher finds the prepared transactions on the nodes. Where the lock is free, the local transaction has
//!    ended: with a row the prepared one is committed, without it is rolled back. When a node has done so, the row goes.
//!
//! What can happen, and why it is right:
//!
//! - *The coordinator, or the session, dies before the decision*: the lock goes with it, there is no row, everything
//!   is rolled back. So it is if the local transaction, or its savepoint, is rolled back: lock and rows go with it. If
//!   it is itself prepared, both stay until its own end.
//! - *The coordinator dies after the decision*: the row is in its log. The watcher flushes the log before it tells a
//!   node, so that `synchronous_commit = off` cannot take back what a node was told.
//! - *A node dies before it has prepared*: the error is the local transaction's. *After*: a prepared transaction
//!   survives; it is finished when the node is back, however late.
//! - *An answer is lost*: not having heard that a transaction is prepared counts as failure. It may be prepared later
//!   all the same, and will then be found without a row. Not having heard that it was committed: the next look finds
//!   it, or not; a row without a prepared transaction is one that was carried out. For that, rows are read *before*
//!   the node is asked: a row that is there then belongs to a transaction that had been prepared before.
//! - *Two coordinators use one node*: names begin with the identity of the coordinator.

use std::time::Instant;

use crate::catalog::nodes::{self, LOCAL, Node};
use crate::catalog::two_phase::{self, Number};
use crate::error::{Error, Result};
use crate::nodes::connect;
use crate::pg::libpq::{self, Connection};
use crate::pg::{on_commit, preload, spi, txn};
use crate::settings;

/// One node's part.
struct Part {
    node: String,
    gid: String,
    connection: Connection,
}

/// Runs a command on nodes, all or none, together with the running transaction; see the module. Nodes that are no
/// replicas, or those that are named. Returns on how many.
pub fn run(command: &str, names: Option<&[String]>) -> Result<usize> {
    preload::require("two-phase commit")?;
    let nodes = chosen(names)?;
    let number = Number::new()?;
    number.hold()?;
    // From here on something may have to be undone elsewhere.
    on_commit::wake_workers_in_any_case();
    let mut parts = begin(&nodes, &number)?;
    work(&mut parts, command)?;
    prepare(&mut parts)?;
    for part in &parts {
        two_phase::decide_commit(&part.gid, &part.node, "repart_run_on_nodes")?;
    }
    Ok(parts.len())
}

/// The nodes to work on; they cannot be removed until the local transaction ends.
fn chosen(names: Option<&[String]>) -> Result<Vec<Node>> {
    let all: Vec<Node> = nodes::all()?;
    let Some(names) = names else {
        let primaries = all.iter().filter(|node| node.replica_of.is_none());
        return primaries.map(|node| nodes::share(&node.name)).collect();
    };
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    let mut chosen = Vec::new();
    for name in &names {
        let node = nodes::share(name)?;
        if let Some(primary) = &node.replica_of {
            return Err(Error::InvalidParameter {
                what: format!("node \"{name}\" is a replica"),
                hint: if primary == LOCAL {
                    "It follows this server: run the command here.".to_owned()
                } else {
                    format!("It follows node \"{primary}\": name that one.")
                },
            });
        }
        chosen.push(node);
    }
    Ok(chosen)
}

fn begin(nodes: &[Node], number: &Number) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        let conninfo = connect::conninfo(node)?;
        let label = connect::label(&node.name);
        parts.push(Part {
            node: node.name.clone(),
            gid: number.gid(n + 1),
            connection: connect::begin(&label, &conninfo, settings::node_timeout())?,
        });
    }
    Ok(parts)
}

/// What all parts answer to the last that was said; the first failure counts.
fn answers(parts: &mut [Part]) -> Result<Vec<libpq::Answer>> {
    converse(parts)?;
    parts
        .iter_mut()
        .map(|part| part.connection.last_answer())
        .collect()
}

fn converse(parts: &mut [Part]) -> Result<()> {
    let mut connections: Vec<&mut Connection> =
        parts.iter_mut().map(|part| &mut part.connection).collect();
    libpq::converse(&mut connections, Instant::now() + settings::node_timeout())
}

/// Does the work in an open transaction on each node. An error closes the connections, which rolls back.
fn work(parts: &mut [Part], command: &str) -> Result<()> {
    const TRANSACTION: &str = "SELECT pg_catalog.pg_current_xact_id()";
    for part in parts.iter_mut() {
        part.connection.say("RESET search_path")?;
        part.connection.say("BEGIN")?;
        part.connection.say(TRANSACTION)?;
    }
    let before = last_values(parts)?;
    for part in parts.iter_mut() {
        part.connection.say(command)?;
    }
    answers(parts)?;
    for part in parts.iter_mut() {
        part.connection.say(TRANSACTION)?;
    }
    let after = last_values(parts)?;
    for ((before, after), part) in before.iter().zip(&after).zip(&*parts) {
        if before != after || !part.connection.in_transaction() {
            return Err(Error::InvalidParameter {
                what: format!(
                    "the command ended its transaction on node \"{}\"; what it did before may be committed there",
                    part.node
                ),
                hint: "Give a command without BEGIN, COMMIT and ROLLBACK.".to_owned(),
            });
        }
    }
    Ok(())
}

fn last_values(parts: &mut [Part]) -> Result<Vec<String>> {
    answers(parts)?
        .iter()
        .map(|answer| answer.require(0, 0))
        .collect()
}

/// Prepares all parts, or rolls back those that could be prepared. What cannot be told so now, the watcher does.
fn prepare(parts: &mut [Part]) -> Result<()> {
    for part in parts.iter_mut() {
        let gid = spi::quote_literal(&part.gid);
        part.connection.say(&format!("PREPARE TRANSACTION {gid}"))?;
    }
    converse(parts)?;
    let mut failure = None;
    let mut prepared = Vec::new();
    for part in parts.iter_mut() {
        match part.connection.answers() {
            Ok(_) => prepared.push(part),
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    let Some(failure) = failure else {
        return Ok(());
    };
    for part in &mut prepared {
        let command = two_phase::Decision::Rollback.command(&part.gid);
        part.connection.say(&command)?;
    }
    let mut connections: Vec<&mut Connection> = prepared
        .iter_mut()
        .map(|part| &mut part.connection)
        .collect();
    libpq::converse(&mut connections, Instant::now() + settings::node_timeout())?;
    Err(failure)
}

/// A node that the watcher is connected to.
pub struct Reached<'a> {
    /// Its name.
    pub node: &'a str,
    /// The connection, with nothing left to be said.
    pub connection: &'a mut Connection,
}

/// Finishes what is prepared on these nodes and decided; for the watcher, outside of a transaction. Returns which nodes
/// could not be asked, by their number, and why not.
pub fn resolve(reached: &mut [Reached]) -> Result<Vec<(usize, Error)>> {
    // Before the nodes are asked: see the module.
    let (prefix, decided) = txn::run(|| Ok((two_phase::prefix()?, two_phase::open()?)))?;
    for node in reached.iter_mut() {
        node.connection.say(&list(&prefix))?;
    }
    converse_with(reached)?;
    let mut failed = Vec::new();
    for (n, node) in reached.iter_mut().enumerate() {
        let prepared = match node.connection.last_answer() {
            Ok(answer) => names(&answer),
            Err(error) => {
                failed.push((n, error));
                continue;
            }
        };
        for (_, gid) in decided.iter().filter(|(of, _)| of == node.node) {
            if !prepared.contains(gid) {
                txn::run(|| two_phase::forget(gid))?;
            }
        }
        for gid in &prepared {
            if !node.connection.is_broken() {
                finish(node, gid)?;
            }
        }
    }
    Ok(failed)
}

/// The statement that lists what is prepared on a node.
fn list(prefix: &str) -> String {
    format!(
        "SELECT gid FROM pg_catalog.pg_prepared_xacts
          WHERE database = pg_catalog.current_database() AND pg_catalog.starts_with(gid, {}) ORDER BY prepared, gid",
        spi::quote_literal(prefix)
    )
}

fn names(answer: &libpq::Answer) -> Vec<String> {
    (0..answer.len())
        .filter_map(|row| answer.get(row, 0))
        .collect()
}

fn finish(node: &mut Reached, gid: &str) -> Result<()> {
    let Some(decision) = txn::run(|| two_phase::decision(gid, node.node))? else {
        return Ok(());
    };
    // What a node is told must not be forgotten here by a crash.
    txn::flush_log();
    node.connection.say(&decision.command(gid))?;
    converse_with(std::slice::from_mut(node))?;
    match node.connection.answers() {
        Ok(_) => txn::run(|| two_phase::forget(gid)),
        Err(error) => {
            let cause = match error.detail() {
                Some(detail) => format!("{error}: {detail}"),
                None => error.to_string(),
            };
            txn::run(|| two_phase::set_error(gid, &cause))
        }
    }
}

fn converse_with(reached: &mut [Reached]) -> Result<()> {
    let mut connections: Vec<&mut Connection> = reached
        .iter_mut()
        .map(|node| &mut *node.connection)
        .collect();
    libpq::converse(&mut connections, Instant::now() + settings::node_timeout())
}

/// The transactions of this coordinator that are prepared on a node.
pub fn prepared_on(node: &Node) -> Result<Vec<String>> {
    let conninfo = connect::conninfo(node)?;
    let label = connect::label(&node.name);
    let mut connection = connect::begin(&label, &conninfo, settings::node_timeout())?;
    connection.say(&list(&two_phase::prefix()?))?;
    Ok(names(&connect::ask(&mut connection)?))
}
