//! Foreign servers on a node, by which its routing copies reach shards.

use std::time::Instant;

use crate::catalog::nodes;
use crate::error::{Error, Result};
use crate::nodes::{connect, facts};
use crate::pg::libpq::{self, Answer, Connection};
use crate::pg::{guc, spi};
use crate::settings;

/// The function that a node needs for routing copies.
const NOTE: &str = "repart_note_switch";

/// Fails unless repart is there and preloaded, so that switches can be noted there; returns the function that notes them.
pub fn require_note(node: &str, mut ask: impl FnMut(&str) -> Result<Answer>) -> Result<String> {
    let note: String = ask(&facts::functions([NOTE]))?
        .get(0, 0)
        .ok_or_else(|| without_repart(node))?;
    // Fails where the library is not preloaded.
    ask(&format!("SELECT {note}('{{}}'::oid[])"))?;
    Ok(note)
}

/// What a foreign server of a node is to lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Goal<'a> {
    /// This database.
    Here,
    /// The database of another node.
    Node(&'a str),
}

/// A node with what it needs for routing copies, asked over a connection of its own.
pub struct Asked {
    node: String,
    connection: Connection,
}

impl Asked {
    /// Connects. Inside a transaction.
    pub fn open(node: &nodes::Node) -> Result<Self> {
        let conninfo = connect::conninfo(node)?;
        let label = connect::label(&node.name);
        Ok(Self {
            node: node.name.clone(),
            connection: connect::begin(&label, &conninfo, settings::node_timeout())?,
        })
    }

    /// As [`require_note`].
    pub fn require_note(&mut self) -> Result<()> {
        let node = self.node.clone();
        require_note(&node, |sql| self.ask(sql)).map(|_| ())
    }

    /// Lets the connection say something; its last answer.
    pub fn ask(&mut self, sql: &str) -> Result<Answer> {
        self.connection.say(sql)?;
        let deadline = Instant::now() + settings::node_timeout();
        libpq::converse(&mut [&mut self.connection], deadline)?;
        self.connection.last_answer()
    }

    /// Fails unless the foreign server of this name there leads to where it should.
    pub fn require_server(&mut self, server: &str, goal: Goal) -> Result<()> {
        self.require_usable(server, goal)?;
        let mark = spi::value::<String>("SELECT 'repart ' || pg_catalog.gen_random_uuid()", &[])?;
        let mark = mark.unwrap_or_default();
        let found = match goal {
            // This session itself is what is looked for.
            Goal::Here => guc::with_settings(&[("application_name", mark.as_str())], || {
                self.sees(server, &mark)
            })?,
            Goal::Node(name) => {
                let node = nodes::share(name)?;
                let conninfo = connect::conninfo(&node)?;
                let label = connect::label(name);
                let mut there = connect::begin(&label, &conninfo, settings::node_timeout())?;
                there.say(&format!(
                    "SET application_name = {}",
                    spi::quote_literal(&mark)
                ))?;
                connect::ask(&mut there)?;
                self.sees(server, &mark)?
            }
        };
        if found {
            return Ok(());
        }
        Err(Error::InvalidParameter {
            what: format!(
                "server \"{server}\" on node \"{}\" does not lead to {}",
                self.node,
                named(goal)
            ),
            hint: "Correct its options there with ALTER SERVER … OPTIONS (SET host '...', SET dbname '...')."
                .to_owned(),
        })
    }

    /// Fails unless postgres_fdw can use it there, and asks nothing before it does.
    fn require_usable(&mut self, server: &str, goal: Goal) -> Result<()> {
        let sql = format!(
            "SELECT (h.proname = 'postgres_fdw_handler')::text,
                    EXISTS (SELECT FROM pg_catalog.pg_user_mappings m
                             WHERE m.srvid = s.oid AND (m.umuser = 0 OR m.usename = current_user))::text,
                    EXISTS (SELECT FROM pg_catalog.pg_options_to_table(s.srvoptions)
                             WHERE option_name = 'use_remote_estimate' AND option_value::bool)::text,
                    pg_catalog.has_server_privilege(s.oid, 'USAGE')::text, pg_catalog.quote_ident(current_user)
               FROM pg_catalog.pg_foreign_server s
               JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
               LEFT JOIN pg_catalog.pg_proc h ON h.oid = w.fdwhandler
              WHERE s.srvname = {}",
            spi::quote_literal(server)
        );
        let answer = self.ask(&sql)?;
        let (node, quoted) = (self.node.clone(), spi::quote_identifier(server));
        let says = |column| answer.get::<String>(0, column).as_deref() == Some("true");
        if answer.len() == 0 || !says(0) {
            return Err(Error::Prerequisite {
                what: format!(
                    "node \"{node}\" has no server \"{server}\" of postgres_fdw, by which to reach {}",
                    named(goal)
                ),
                hint: format!(
                    "Run CREATE EXTENSION postgres_fdw and CREATE SERVER {quoted} FOREIGN DATA WRAPPER postgres_fdw \
                     OPTIONS (host '...', dbname '...') there, with a user mapping for everybody who is to use the table."
                ),
            });
        }
        if !says(3) {
            let role = answer.get::<String>(0, 4).unwrap_or_default();
            return Err(Error::Prerequisite {
                what: format!(
                    "role {role}, which repart is on node \"{node}\", may not use server \"{server}\" there"
                ),
                hint: format!("Run GRANT USAGE ON FOREIGN SERVER {quoted} TO {role} there."),
            });
        }
        if !says(1) {
            return Err(Error::Prerequisite {
                what: format!(
                    "node \"{node}\" has no user mapping for server \"{server}\" for the role that this server has there"
                ),
                hint: format!(
                    "Run CREATE USER MAPPING FOR CURRENT_USER SERVER {quoted} OPTIONS (user '...', password '...') there."
                ),
            });
        }
        if says(2) {
            return Err(Error::Unsupported {
                what: format!("server \"{server}\" on node \"{node}\" has the option use_remote_estimate"),
                detail: "Planning a statement then opens a transaction there, whose snapshot could be older than a shard."
                    .to_owned(),
                hint: format!("Run ALTER SERVER {quoted} OPTIONS (DROP use_remote_estimate) there."),
            });
        }
        Ok(())
    }

    /// Whether a session of this name works in the database that the server leads to.
    fn sees(&mut self, server: &str, mark: &str) -> Result<bool> {
        let server = spi::quote_identifier(server);
        // Undone in any case: nobody else ever sees the two tables.
        let sql = format!(
            "BEGIN;
             CREATE SCHEMA repart_probe;
             CREATE FOREIGN TABLE repart_probe.sessions (datname name, application_name text) SERVER {server}
                 OPTIONS (schema_name 'pg_catalog', table_name 'pg_stat_activity');
             CREATE FOREIGN TABLE repart_probe.place (catalog_name name) SERVER {server}
                 OPTIONS (schema_name 'information_schema', table_name 'information_schema_catalog_name');
             SELECT (SELECT pg_catalog.min(catalog_name::text) FROM repart_probe.place) IN
                    (SELECT datname::text FROM repart_probe.sessions WHERE application_name = {})",
            spi::quote_literal(mark)
        );
        let answer = self.ask(&sql)?;
        self.ask("ROLLBACK")?;
        Ok(answer.get::<String>(0, 0).as_deref() == Some("t"))
    }
}

/// Why a node cannot have routing copies.
fn without_repart(node: &str) -> Error {
    Error::Prerequisite {
        what: format!(
            "repart is not installed on node \"{node}\", or not for the role that this server has there"
        ),
        hint: "Run CREATE EXTENSION repart there, or GRANT EXECUTE ON FUNCTION repart_note_switch(oid[]): what is \
               switched there is noted, so that no old snapshot misses it."
            .to_owned(),
    }
}

fn named(goal: Goal) -> String {
    match goal {
        Goal::Here => "this database".to_owned(),
        Goal::Node(name) => format!("node \"{name}\""),
    }
}
