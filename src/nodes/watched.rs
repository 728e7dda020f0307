//! One node that is watched: what it says of itself, and what is noted of it.

use crate::catalog::journal;
use crate::catalog::nodes::{self, Node, Placed};
use crate::catalog::runnable;
use crate::error::{Error, Result};
use crate::nodes::facts::{self, Facts};
use crate::nodes::reading::{self, Reading};
use crate::nodes::{connect, shards};
use crate::pg::libpq::{Connection, Conninfo};
use crate::pg::{on_commit, time, txn};
use crate::settings;

/// A node that is watched.
pub(super) struct Watched {
    pub(super) node: Node,
    pub(super) conninfo: Conninfo,
    pub(super) connection: Connection,
    /// What it said of itself when it was connected to, as JSON too.
    pub(super) facts: Option<(Facts, String)>,
    pub(super) previous: Option<Reading>,
    /// The shards that it was asked about.
    pub(super) asked: Vec<Placed>,
    /// What it had counted of them then.
    pub(super) counted: shards::Counted,
}

/// Begins to connect to nodes, and asks them what they are.
pub(super) fn begin(nodes: Vec<(Node, Conninfo)>) -> Result<Vec<Watched>> {
    let mut begun = Vec::new();
    for (node, conninfo) in nodes {
        let label = connect::label(&node.name);
        match connect::begin(&label, &conninfo, settings::node_timeout()) {
            Ok(mut connection) => {
                connection.say(&facts::question())?;
                begun.push(Watched {
                    node,
                    conninfo,
                    connection,
                    facts: None,
                    previous: None,
                    asked: Vec::new(),
                    counted: shards::Counted::new(),
                });
            }
            Err(error) => note_failure(&node, &error)?,
        }
    }
    Ok(begun)
}

/// Stores that a node answers, and what it says of itself; if it did not before, an event says so.
fn note_seen(name: &str, facts: &str) -> Result<()> {
    if nodes::note_seen(name, facts)? {
        let message = format!("node \"{name}\" answers again");
        journal::event("notice", None, &message)?;
        if runnable::release(name)? > 0 {
            on_commit::wake_workers();
        }
    }
    Ok(())
}

/// Stores why a node does not answer; an event says so once.
pub(super) fn note_failure(node: &Node, error: &Error) -> Result<()> {
    let cause = match error.detail() {
        Some(detail) => format!("{error}: {detail}"),
        None => error.to_string(),
    };
    txn::run(|| {
        if nodes::note_failure(&node.name, &cause)? {
            journal::event("warning", None, &cause)?;
        }
        Ok(())
    })
}

impl Watched {
    /// Whether its connection still is what the foreign server and the user mapping say.
    pub(super) fn is_usable(&self, node: &Node, conninfo: &Conninfo) -> bool {
        self.node == *node && self.conninfo == *conninfo && !self.connection.is_broken()
    }

    pub(super) fn take_facts(&mut self) -> Result<()> {
        let json: String = self.connection.last_answer()?.require(0, 0)?;
        let facts = Facts::read(&json)?;
        self.require_role(facts.replica)?;
        txn::run(|| {
            self.require_same_database(&facts)?;
            note_seen(&self.node.name, &json)
        })?;
        self.facts = Some((facts, json));
        Ok(())
    }

    pub(super) fn take_reading(&mut self) -> Result<()> {
        let json: String = self.connection.last_answer()?.require(0, 0)?;
        let now: Reading = serde_json::from_str(&json)?;
        self.require_role(now.replica)?;
        let name = self.node.name.as_str();
        let facts = self.facts.as_ref().map_or("{}", |(_, json)| json);
        let sample = self
            .previous
            .as_ref()
            .and_then(|before| reading::sample(before, &now));
        txn::run(|| {
            note_seen(name, facts)?;
            sample.map_or(Ok(()), |sample| {
                nodes::insert_sample(name, time::clock(), &sample)
            })
        })?;
        self.previous = Some(now);
        Ok(())
    }

    /// Where a foreign server leads elsewhere, what was prepared or kept there would be looked for in vain, and taken
    /// for done.
    fn require_same_database(&self, facts: &Facts) -> Result<()> {
        let Some(stored) = nodes::facts_of(&self.node.name)? else {
            return Ok(());
        };
        if Facts::read(&stored)?.is_same_database(facts) {
            return Ok(());
        }
        Err(Error::Prerequisite {
            what: format!(
                "node \"{}\" leads to another database than before",
                self.node.name
            ),
            hint: "Correct the options of the foreign server, or add the node again.".to_owned(),
        })
    }

    /// A replica that was promoted, or a primary that became a replica, is not what it was added as.
    fn require_role(&self, replica: bool) -> Result<()> {
        let is_replica = self.node.replica_of.is_some();
        if replica == is_replica {
            return Ok(());
        }
        let what = if is_replica {
            "is no replica any more"
        } else {
            "has become a replica"
        };
        Err(Error::Prerequisite {
            what: format!("node \"{}\" {what}", self.node.name),
            hint: "Remove it, and add it as what it is now.".to_owned(),
        })
    }
}
