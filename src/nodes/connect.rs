//! Connections of repart's own to a node: made from what postgres_fdw would use, with settings on which nothing of the
//! users' depends.

use std::time::{Duration, Instant};

use crate::catalog::nodes::{self, Access, Node};
use crate::error::{Error, Result};
use crate::pg::libpq::{self, Connection, Conninfo};
use crate::pg::{guc, spi};
use crate::settings;

/// What a node is called in errors.
pub fn label(node: &str) -> String {
    format!("node \"{node}\"")
}

/// How to reach a node, as the role that added it.
pub fn conninfo(node: &Node) -> Result<Conninfo> {
    let access = nodes::access(&node.name, &node.connects_as)?.ok_or_else(|| Error::Missing {
        what: format!("server \"{}\" does not exist", node.name),
        hint: format!(
            "Create it with CREATE SERVER {} FOREIGN DATA WRAPPER postgres_fdw.",
            spi::quote_identifier(&node.name)
        ),
    })?;
    require_usable(node, &access)?;
    Ok(complete(access.options))
}

fn require_usable(node: &Node, access: &Access) -> Result<()> {
    let name = &node.name;
    if !access.is_postgres {
        return Err(Error::WrongObject {
            what: format!("server \"{name}\" is not a server of postgres_fdw"),
            hint: "Run CREATE EXTENSION postgres_fdw, and create the server with FOREIGN DATA WRAPPER postgres_fdw."
                .to_owned(),
        });
    }
    if !access.is_mapped {
        return Err(Error::Prerequisite {
            what: format!(
                "there is no user mapping of role \"{}\" for server \"{name}\"",
                node.connects_as
            ),
            hint: format!(
                "Run CREATE USER MAPPING FOR {} SERVER {} OPTIONS (user '...', password '...').",
                spi::quote_identifier(&node.connects_as),
                spi::quote_identifier(name)
            ),
        });
    }
    Ok(())
}

/// How soon a silent connection is tried, and how often before it counts as lost. Without that, the answer of a machine
/// that lost its memory of the connection (it was restarted, or something in between was) would be waited for for two
/// hours: to a new connection it answers.
const KEEPALIVES: [(&str, &str); 3] = [
    ("keepalives_idle", "5"),
    ("keepalives_interval", "5"),
    ("keepalives_count", "6"),
];

fn complete(options: Vec<(String, String)>) -> Conninfo {
    KEEPALIVES
        .iter()
        .fold(Conninfo::new(options), |conninfo, (name, value)| {
            conninfo.or(name, value)
        })
        .or("client_encoding", &libpq::database_encoding())
        .or("fallback_application_name", "repart")
}

/// A connection that is being made, with the settings of its session to be sent first.
///
/// A pooler in between must be one of sessions, not of transactions.
pub fn begin(server: &str, conninfo: &Conninfo, timeout: Duration) -> Result<Connection> {
    let mut connection = Connection::begin(server, conninfo)?;
    connection.say(&session(timeout))?;
    Ok(connection)
}

/// Sets what answers depend on, and lets the server give up what nobody waits for any more.
fn session(timeout: Duration) -> String {
    let milliseconds = timeout.as_millis().max(1).to_string();
    let own = [
        ("search_path", "pg_catalog, pg_temp"),
        ("statement_timeout", milliseconds.as_str()),
        ("idle_in_transaction_session_timeout", "0"),
        ("idle_session_timeout", "0"),
    ];
    let mut statements = String::new();
    for (name, value) in guc::TRANSMISSION_MODES.iter().chain(&own) {
        let value = if *name == "search_path" {
            (*value).to_owned()
        } else {
            spi::quote_literal(value)
        };
        statements.push_str(&format!("SET {name} = {value};"));
    }
    statements
}

/// Lets one connection say what it has to say; the last answer.
pub fn ask(connection: &mut Connection) -> Result<libpq::Answer> {
    let deadline = Instant::now() + settings::node_timeout();
    libpq::converse(&mut [&mut *connection], deadline)?;
    connection.last_answer()
}
