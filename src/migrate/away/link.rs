//! A mover's session on a node.
//!
//! It holds a lock there with the number of the migration and the part that the node has, so that there is but one: a mover that is gone may have left
//! a session that has still something to do, such as to commit what is on its way. Its successor ends that session, and
//! waits until it has ended, before it looks at anything.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use crate::catalog::node_objects::Role;
use crate::catalog::{nodes, two_phase};
use crate::error::{Error, Result};
use crate::migrate::away::ends::End;
use crate::nodes::usage::Usage;
use crate::nodes::{connect, facts};
use crate::pg::background;
use crate::pg::libpq::{self, Answer, Connection, Conninfo, Patience};
use crate::pg::{rows::Format, spi};
use crate::settings;

/// How often the lock is looked at while the session that has it ends.
const LOOK: Duration = Duration::from_millis(20);

/// How often, before the session is ended.
const GRACE: u32 = 5;

/// A session on a node.
pub struct Link {
    /// The node.
    pub node: String,
    connection: Connection,
    conninfo: Conninfo,
    silence: Duration,
    deadline: Option<Instant>,
    keys: Keys,
    functions: Functions,
}

/// The functions of repart on the node by which it helps a mover, as SQL writes them there, as far as they are there and
/// may be called.
#[derive(Default)]
struct Functions {
    /// Has the disk keep up with what is written to a table.
    write_back: Option<String>,
    /// Tells what the machine does.
    node_usage: Option<String>,
    /// Tells how long a session has worked.
    session_usage: Option<String>,
}

/// Whether a session has the table for keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// It was not made.
    Missing,
    /// It was made by the running transaction.
    Made,
    /// It is there to stay.
    Kept,
}

/// Settings of the session on which a migration depends. If this server is gone, the node notices before long, and lets
/// go of the locks. What it reads and writes there is no load of the shard, as here;
/// a role that may not leave it uncounted has it counted.
const SESSION: &str = "SET statement_timeout = 0; SET lock_timeout = '5s'; SET default_transaction_read_only = off;
    SET default_transaction_isolation = 'read committed'; SET row_security = off; SET client_min_messages = error;
    SET synchronous_commit = on; SET lc_monetary = 'C'; SET jit = off;
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 6;
    DO $$ BEGIN PERFORM pg_catalog.set_config('track_counts', 'off', false);
          EXCEPTION WHEN insufficient_privilege THEN NULL; END $$";

impl Link {
    /// Connects for a part in the migration of this number. Inside a transaction.
    pub fn open(node: &str, migration: i64, role: Role) -> Result<Self> {
        let mut link = Self::visit(node)?;
        link.take_over(&lock_key(migration, role)?)?;
        link.find_functions()?;
        link.deadline = None;
        Ok(link)
    }

    /// Connects for a look; the node is waited for no longer than `repart.node_timeout`. Inside a transaction.
    pub fn visit(node: &str) -> Result<Self> {
        let found = nodes::find(node)?.ok_or_else(|| Error::Missing {
            what: format!("node \"{node}\" does not exist"),
            hint: "See SELECT * FROM repart.nodes.".to_owned(),
        })?;
        let conninfo = connect::conninfo(&found)?;
        let silence = settings::node_timeout();
        let connection = connect::begin(&connect::label(node), &conninfo, silence)?;
        let mut link = Self {
            node: node.to_owned(),
            connection,
            conninfo,
            silence,
            deadline: Some(Instant::now() + silence),
            keys: Keys::Missing,
            functions: Functions::default(),
        };
        link.ask(SESSION)?;
        Ok(link)
    }

    /// Takes the lock, and ends whoever has it.
    fn take_over(&mut self, key: &str) -> Result<()> {
        let take = format!("SELECT pg_catalog.pg_try_advisory_lock({key})");
        let end = format!(
            "SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l
              WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.pid <> pg_catalog.pg_backend_pid()
                AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                AND (l.classid::int8 << 32) | l.objid::int8 = {key}"
        );
        let mut looks = 0;
        while self.value(&take)?.as_deref() != Some("t") {
            // One of our own that was closed just now is about to end by itself.
            looks += 1;
            if looks > GRACE {
                self.ask(&end)?;
            }
            background::wait(LOOK);
        }
        Ok(())
    }

    fn find_functions(&mut self) -> Result<()> {
        let names = [
            "repart_write_back",
            "repart_node_usage",
            "repart_session_usage",
        ];
        let found = self.ask(&facts::functions(names))?;
        self.functions = Functions {
            write_back: found.get(0, 0),
            node_usage: found.get(0, 1),
            session_usage: found.get(0, 2),
        };
        Ok(())
    }

    /// Has the disk there keep up with what was copied to tables; nothing where repart there cannot.
    pub fn write_back(&mut self, tables: &[&String]) -> Result<()> {
        let Some(function) = &self.functions.write_back else {
            return Ok(());
        };
        let call = |table: &&String| format!("{function}({}::regclass)", spi::quote_literal(table));
        let calls: Vec<String> = tables.iter().map(call).collect();
        self.ask(&format!("SELECT {}", calls.join(", ")))
            .map(|_| ())
    }

    /// What the machine there does, and how many seconds of a processor this session has used; `None` where repart there
    /// does not tell. Outside of a transaction there.
    ///
    /// What the node does not like about the question is logged, and it is not asked again: a migration does not fail for
    /// that.
    pub fn usage(&mut self) -> Result<Option<(Usage, f64)>> {
        let functions = &self.functions;
        let (Some(machine), Some(session)) = (&functions.node_usage, &functions.session_usage)
        else {
            return Ok(None);
        };
        let question =
            format!("SELECT pg_catalog.to_jsonb(u), {session}() FROM {machine}() u LIMIT 1");
        let answer = self.ask(&question).and_then(|answer| {
            let usage: String = answer.require(0, 0)?;
            Ok((serde_json::from_str(&usage)?, answer.get(0, 1)))
        });
        match answer {
            Ok((usage, own)) => Ok(own.map(|own| (usage, own))),
            Err(error)
                if error.is_cancellation()
                    || error.is_of_lost_server()
                    || self.connection.is_broken() =>
            {
                Err(error)
            }
            Err(error) => {
                pgrx::log!("repart mover: {error}; how busy it is, its last sample has to say");
                self.functions.node_usage = None;
                Ok(None)
            }
        }
    }

    /// Says statements, which are one transaction unless they say otherwise; returns the last answer.
    pub fn ask(&mut self, sql: &str) -> Result<Answer> {
        let patience = patience(self.deadline, self.silence, &self.conninfo);
        let answers = self.connection.ask(sql, &patience)?;
        answers
            .into_iter()
            .next_back()
            .ok_or_else(|| Error::Internal(format!("node \"{}\" did not answer", self.node)))
    }

    /// Says something to several nodes at the same time; what each has answered by the deadline.
    pub fn ask_all(
        asked: &mut [(&mut Self, String)],
        deadline: Instant,
    ) -> Result<Vec<Result<()>>> {
        for (link, sql) in asked.iter_mut() {
            link.connection.say(sql)?;
        }
        let mut connections: Vec<&mut Connection> = asked
            .iter_mut()
            .map(|(link, _)| &mut link.connection)
            .collect();
        libpq::converse(&mut connections, deadline)?;
        let answers = connections.into_iter();
        Ok(answers.map(|one| one.answers().map(|_| ())).collect())
    }

    /// The first column of the first row.
    pub fn value(&mut self, sql: &str) -> Result<Option<String>> {
        Ok(self.ask(sql)?.get(0, 0))
    }

    /// Makes the table for keys by this statement, unless the session has it.
    pub fn make_keys(&mut self, create: &str) -> Result<()> {
        if self.keys == Keys::Missing {
            self.ask(create)?;
            self.keys = Keys::Made;
        }
        Ok(())
    }

    /// Remembers that what was made is committed. A transaction that does not get so far ends with the session.
    pub fn keep_keys(&mut self) {
        if self.keys == Keys::Made {
            self.keys = Keys::Kept;
        }
    }

    /// From here on the node is waited for until `deadline` only; `None`: as long as it is alive.
    pub fn wait_until(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Begins to send rows to a table.
    pub fn begin_copy_in(&mut self, table: &str, columns: &str, format: Format) -> Result<()> {
        let sql = format!(
            "COPY {table} ({columns}) FROM STDIN (FORMAT {})",
            format.as_str()
        );
        let patience = patience(self.deadline, self.silence, &self.conninfo);
        self.connection.begin_copy_in(&sql, &patience)
    }

    /// Sends bytes of rows.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let patience = patience(self.deadline, self.silence, &self.conninfo);
        self.connection.put(bytes, &patience)
    }

    /// Ends sending rows.
    pub fn end_copy_in(&mut self) -> Result<()> {
        let patience = patience(self.deadline, self.silence, &self.conninfo);
        self.connection.end_copy_in(&patience)
    }

    /// Begins to receive the rows of a query.
    pub fn begin_copy_out(&mut self, query: &str, format: Format) -> Result<()> {
        let sql = format!("COPY ({query}) TO STDOUT (FORMAT {})", format.as_str());
        let patience = patience(self.deadline, self.silence, &self.conninfo);
        self.connection.begin_copy_out(&sql, &patience)
    }

    /// The next bytes of rows; `None` after the last.
    pub fn get(&mut self) -> Result<Option<Vec<u8>>> {
        let patience = patience(self.deadline, self.silence, &self.conninfo);
        self.connection.get(&patience)
    }
}

/// Connections for a look at several things: one to each node.
#[derive(Default)]
pub struct Visits(BTreeMap<String, End>);

impl Visits {
    /// A node, connected to if it is not. It is waited for no longer than `repart.node_timeout` from now on.
    pub fn to(&mut self, node: &str) -> Result<&mut End> {
        let end = match self.0.entry(node.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(End::There(Box::new(Link::visit(node)?))),
        };
        if let End::There(link) = end {
            link.wait_until(Some(Instant::now() + settings::node_timeout()));
        }
        Ok(end)
    }
}

fn patience(deadline: Option<Instant>, silence: Duration, conninfo: &Conninfo) -> Patience<'_> {
    match deadline {
        Some(deadline) => Patience::Until(deadline),
        None => Patience::WhileAlive(silence, conninfo),
    }
}

/// The number of the lock, for SQL.
fn lock_key(migration: i64, role: Role) -> Result<String> {
    let name = format!("{}{}_{migration}", two_phase::prefix()?, role.as_str());
    let key = spi::query_value::<i64>("SELECT pg_catalog.hashtextextended($1, 0)", &[name.into()])?;
    Ok(format!("({})", key.unwrap_or_default()))
}
