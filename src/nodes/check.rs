//! Everything that a node will be needed for, tried before it becomes one: what would fail in the middle of a migration
//! fails here, with the remedy.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::catalog::nodes::{self, LOCAL, Node};
use crate::error::{Error, Result};
use crate::nodes::connect;
use crate::nodes::facts::{self, Facts, OLDEST, VERSION};
use crate::pg::libpq::Connection;
use crate::pg::spi;
use crate::settings;

/// Servers whose clocks differ by more seconds have no working time service: keys that are times would be routed by one
/// clock and made by another, and samples of different servers would not compare.
const CLOCK_TOLERANCE: f64 = 5.0;

/// What is known of a server that can become a node.
pub struct Checked {
    /// What it said of itself, as JSON.
    pub facts: String,
    /// What will not work, though the rest does.
    pub losses: Vec<String>,
}

/// Checks a server that is to be a node, or a replica of one.
pub fn check(node: &Node) -> Result<Checked> {
    let conninfo = connect::conninfo(node)?;
    let label = connect::label(&node.name);
    let mut connection = connect::begin(&label, &conninfo, settings::node_timeout())?;
    connection.say(VERSION)?;
    require_version(node, &mut connection)?;
    let before = clock();
    connection.say(&facts::question())?;
    let json: String = connect::ask(&mut connection)?.require(0, 0)?;
    let after = clock();
    let (there, here) = (Facts::read(&json)?, Facts::here()?);
    require_another(node, &there, &here)?;
    require_alike(node, &there, &here)?;
    require_clock(node, &there, before, after)?;
    match &node.replica_of {
        Some(primary) => require_replica(node, &there, primary, &here)?,
        None => require_primary(node, &there, &here)?,
    }
    Ok(Checked {
        facts: json,
        losses: losses_of(&there, &here),
    })
}

fn clock() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

fn require_version(node: &Node, connection: &mut Connection) -> Result<()> {
    let answer = connect::ask(connection)?;
    if answer.require::<i32>(0, 0)? >= OLDEST {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "node \"{}\" runs PostgreSQL {}",
            node.name,
            answer.get::<String>(0, 1).unwrap_or_default()
        ),
        detail: String::new(),
        hint: "A node needs PostgreSQL 15 or newer.".to_owned(),
    })
}

/// Fails for this database itself, and for a server that is a node already under another name.
fn require_another(node: &Node, there: &Facts, here: &Facts) -> Result<()> {
    if there.is_same_server(here) {
        return Err(Error::InvalidParameter {
            what: format!(
                "server \"{}\" leads back to this database, which is node \"local\" already",
                node.name
            ),
            hint: "Give a server with options of another database.".to_owned(),
        });
    }
    for (name, json) in nodes::facts()? {
        if name != node.name && there.is_same_server(&Facts::read(&json)?) {
            return Err(Error::InvalidParameter {
                what: format!(
                    "server \"{}\" leads to the same database as node \"{name}\"",
                    node.name
                ),
                hint: "Use one name for it, or give a server with options of another database."
                    .to_owned(),
            });
        }
    }
    Ok(())
}

/// Fails where the same bytes would not mean the same, or would not sort the same.
fn require_alike(node: &Node, there: &Facts, here: &Facts) -> Result<()> {
    let differing = [
        ("encoding", &there.encoding, &here.encoding),
        ("default collation", &there.collation, &here.collation),
    ];
    for (what, theirs, ours) in differing {
        if theirs != ours {
            return Err(Error::Unsupported {
                what: format!(
                    "the database on node \"{}\" has another {what} than this one",
                    node.name
                ),
                detail: format!("There: {theirs}. Here: {ours}."),
                hint: format!(
                    "Create it with CREATE DATABASE {} TEMPLATE template0 and the {what} of this one.",
                    spi::quote_identifier(&there.database_name)
                ),
            });
        }
    }
    Ok(())
}

/// Fails if the clock there cannot have shown what it did between `before` and `after` by the clock here.
fn require_clock(node: &Node, there: &Facts, before: f64, after: f64) -> Result<()> {
    let difference = (before - there.clock).max(there.clock - after);
    if difference <= CLOCK_TOLERANCE {
        return Ok(());
    }
    Err(Error::Prerequisite {
        what: format!(
            "the clock of node \"{}\" differs by {difference:.0} s from the one here",
            node.name
        ),
        hint: format!(
            "Run a time service (NTP) on both machines; a difference of {CLOCK_TOLERANCE:.0} s is allowed."
        ),
    })
}

fn require_primary(node: &Node, there: &Facts, here: &Facts) -> Result<()> {
    let name = &node.name;
    if there.replica {
        let (first, primary) = if there.system == here.system {
            ("It is one of this server: run", LOCAL)
        } else {
            ("Add its primary, then run", "...")
        };
        return Err(Error::InvalidParameter {
            what: format!("server \"{name}\" is a replica"),
            hint: format!(
                "{first} SELECT repart_add_node({}, replica_of => '{primary}').",
                spi::quote_literal(name)
            ),
        });
    }
    if there.max_prepared_transactions == 0 {
        return Err(Error::Prerequisite {
            what: format!("max_prepared_transactions is 0 on node \"{name}\""),
            hint: "Run ALTER SYSTEM SET max_prepared_transactions = 20 there, and restart the server: what changes on \
                   several nodes at once is prepared on each."
                .to_owned(),
        });
    }
    let database = spi::quote_identifier(&there.database_name);
    let role = spi::quote_identifier(&there.role);
    let missing = [
        (
            there.can_create,
            "create schemas",
            format!("Run GRANT CREATE ON DATABASE {database} TO {role} there."),
        ),
        (
            there.has_plpgsql,
            "use language plpgsql",
            format!(
                "Run CREATE EXTENSION plpgsql, or GRANT USAGE ON LANGUAGE plpgsql TO {role}, there."
            ),
        ),
    ];
    for (allowed, what, hint) in missing {
        if !allowed {
            return Err(Error::Prerequisite {
                what: format!(
                    "role \"{}\" may not {what} in database \"{}\" of node \"{name}\"",
                    there.role, there.database_name
                ),
                hint,
            });
        }
    }
    Ok(())
}

fn require_replica(node: &Node, there: &Facts, primary: &str, here: &Facts) -> Result<()> {
    if !there.replica {
        return Err(Error::InvalidParameter {
            what: format!("server \"{}\" is not a replica", node.name),
            hint: format!(
                "Run SELECT repart_add_node({}) without replica_of to add it as a node of its own.",
                spi::quote_literal(&node.name)
            ),
        });
    }
    let known = nodes::facts()?;
    let of_primary = match known.iter().find(|(name, _)| name == primary) {
        Some((_, json)) => Facts::read(json)?,
        None if primary == LOCAL => here.clone(),
        None => {
            return Err(Error::Internal(format!(
                "nothing is known of node \"{primary}\""
            )));
        }
    };
    if of_primary.system == there.system {
        return Ok(());
    }
    Err(Error::InvalidParameter {
        what: format!(
            "server \"{}\" is not a replica of node \"{primary}\"",
            node.name
        ),
        hint: "Give the node that it streams from: the two have the same system identifier."
            .to_owned(),
    })
}

/// What is lost.
fn losses_of(there: &Facts, here: &Facts) -> Vec<String> {
    let mut losses = Vec::new();
    match (&there.repart, &there.usage) {
        (None, _) => losses.push(
            "repart is not installed there: its CPU, memory, I/O and disk are not observed, and of its shards only the rows that PostgreSQL's statistics count, neither execution times nor keys; the kernel there writes what was copied all at once, half a minute later"
                .to_owned(),
        ),
        (Some(_), None) => losses.push(format!(
            "role \"{}\" may not call repart_node_usage() there: its CPU, memory, I/O and disk are not observed",
            there.role
        )),
        (Some(_), Some(_)) => {}
    }
    if there.repart.is_some() && there.sampler.is_none() {
        losses.push(format!(
            "its access sampler does not run, or role \"{}\" may not call repart_count_shard() there: of its shards only the rows that PostgreSQL's statistics count are observed, neither execution times nor keys",
            there.role
        ));
    }
    if !there.is_monitor {
        losses.push(format!(
            "role \"{}\" is no member of pg_monitor there: sessions of others at work are not counted",
            there.role
        ));
    }
    if there.collation_version != here.collation_version {
        losses.push(format!(
            "its collation library has another version ({}, here {}): texts may sort differently",
            there.collation_version.as_deref().unwrap_or("none"),
            here.collation_version.as_deref().unwrap_or("none"),
        ));
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node {
            name: "north".to_owned(),
            replica_of: None,
            weight: 1.0,
            draining: false,
            connects_as: "postgres".to_owned(),
            coordinator: None,
        }
    }

    fn facts(clock: f64) -> Facts {
        Facts {
            version: 150_020,
            release: "15.20".to_owned(),
            replica: false,
            system: "1".to_owned(),
            database: "5".to_owned(),
            database_name: "postgres".to_owned(),
            started: "1".to_owned(),
            encoding: "UTF8".to_owned(),
            collation: "C C c".to_owned(),
            collation_version: None,
            clock,
            max_prepared_transactions: 1,
            can_create: true,
            has_plpgsql: true,
            is_monitor: true,
            role: "postgres".to_owned(),
            repart: None,
            usage: None,
            sampler: None,
        }
    }

    #[test]
    fn a_clock_may_differ_by_what_the_answer_took_and_a_little_more() {
        // Asked at 100, answered by 103.
        let difference = |clock| require_clock(&node(), &facts(clock), 100.0, 103.0);
        for clock in [95.0, 100.0, 101.5, 103.0, 108.0] {
            assert!(difference(clock).is_ok(), "{clock}");
        }
        for (clock, seconds) in [(94.0, "6 s"), (109.0, "6 s"), (3_703.0, "3600 s")] {
            let error = difference(clock).unwrap_err().to_string();
            assert!(error.contains("node \"north\" differs by"), "{error}");
            assert!(error.contains(seconds), "{error}");
        }
    }
}
