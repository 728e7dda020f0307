//! One client: does operations, compares every answer with its memory, survives crashes of the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, Config, Error, NoTls, Row, Statement as Prepared};

use super::memory::{Memory, Value};
use super::operation::{self, Operation, Statement};
use super::random::Random;
use super::report::Report;
use super::{Options, Shared};
use crate::wait::{LONG, wait_for};

/// A client with its memory.
pub struct Worker {
    config: Config,
    options: Options,
    memory: Memory,
    shared: Arc<Shared>,
    random: Random,
    report: Report,
}

/// What makes an insert an upsert.
const UPSERT: &str =
    "ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, counter = excluded.counter";

/// A session with its statements: as text, and prepared, since both kinds of plan must survive a cutover.
struct Connection {
    client: Client,
    table: String,
    texts: [String; 7],
    prepared: Vec<Prepared>,
}

/// How an operation that did not end well ended.
enum Trouble {
    /// The server said no; nothing was changed.
    Refused(Error),
    /// The connection is gone; nobody knows what was committed.
    Lost(Error),
}

impl Worker {
    pub fn new(config: Config, options: Options, memory: Memory, shared: Arc<Shared>) -> Self {
        let random = Random::new(memory.client().unsigned_abs() + 1);
        Self {
            config,
            options,
            memory,
            shared,
            random,
            report: Report::default(),
        }
    }

    /// Works until told to stop.
    pub fn work(mut self) -> (Memory, Report) {
        let mut connection = self.connect();
        let mut number = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            number += 1;
            let operation = operation::any(&self.memory, &mut self.random, number, &self.options);
            match self.perform(&mut connection, &operation) {
                Ok(()) => self.remember(operation),
                Err(Trouble::Refused(error)) => {
                    self.blame(&operation, &error);
                    // A session that cannot even do this will say so at the next operation.
                    let _ = connection.client.batch_execute("ROLLBACK");
                }
                Err(Trouble::Lost(error)) => {
                    self.report.disconnects += 1;
                    if !self.options.crashes {
                        self.blame(&operation, &error);
                    }
                    connection = self.connect();
                    self.resolve(&mut connection, operation);
                }
            }
            self.shared.operations.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(self.options.pause);
        }
        (self.memory, self.report)
    }

    fn remember(&mut self, operation: Operation) {
        *self.report.operations.entry(operation.name).or_default() += 1;
        if operation.commits {
            self.memory.apply(operation.changes);
        }
    }

    fn blame(&mut self, operation: &Operation, error: &Error) {
        let state = error.code().map_or("no SQLSTATE", |state| state.code());
        let message = error
            .as_db_error()
            .map_or_else(|| error.to_string(), ToString::to_string);
        let error = format!("{state} in {}: {message}", operation.name);
        self.shared.note(&error);
        self.report.errors.push(error);
    }

    fn complain(&mut self, wrong: String) {
        self.shared.note(&wrong);
        self.report.wrong.push(wrong);
    }

    fn connect(&self) -> Connection {
        wait_for("a client to connect", LONG, || {
            Connection::new(
                self.config.connect(NoTls).ok()?,
                &self.options.table,
                self.memory.clients(),
                self.options.nodes,
            )
            .ok()
        })
    }

    fn perform(
        &mut self,
        connection: &mut Connection,
        operation: &Operation,
    ) -> Result<(), Trouble> {
        let block = operation.statements.len() > 1;
        if block {
            connection
                .client
                .batch_execute("BEGIN")
                .map_err(Trouble::from)?;
        }
        let prepared = self.random.once_in(2);
        for statement in &operation.statements {
            let start = Instant::now();
            let rows = connection.execute(statement, prepared)?;
            self.report.time(start.elapsed(), operation.name);
            self.check(statement, &rows, connection, operation);
        }
        if block {
            let end = if operation.commits {
                "COMMIT"
            } else {
                "ROLLBACK"
            };
            connection
                .client
                .batch_execute(end)
                .map_err(Trouble::from)?;
        }
        Ok(())
    }

    /// Compares an answer with memory. Within one operation a read comes before the writes.
    fn check(
        &mut self,
        statement: &Statement,
        rows: &[Row],
        connection: &mut Connection,
        operation: &Operation,
    ) {
        let expected = match statement {
            Statement::Read(key) => self.memory.range(*key, key + 1),
            Statement::Range(from, to) => self.memory.range(*from, to + 1),
            write => {
                if rows.len() != 1 {
                    self.complain(format!(
                        "{write:?} of {} changed {} rows",
                        operation.name,
                        rows.len()
                    ));
                }
                return;
            }
        };
        let found = values(rows);
        if found != expected {
            let place = connection.backend();
            let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
            let surplus: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
            self.complain(format!(
                "{statement:?} {place} lacks {missing:?} and has instead {surplus:?}, {} rows in all",
                found.len()
            ));
        }
    }

    /// Finds out whether the operation that was cut off by a crash was committed: all of it or nothing.
    fn resolve(&mut self, connection: &mut Connection, operation: Operation) {
        let mut found = BTreeMap::new();
        for change in &operation.changes {
            match self.settled(connection, change.key) {
                Ok(value) => found.insert(change.key, value),
                Err(error) => {
                    self.blame(&operation, &error);
                    return;
                }
            };
        }
        let before = operation
            .changes
            .iter()
            .all(|change| found[&change.key] == change.before);
        let after = operation
            .changes
            .iter()
            .all(|change| found[&change.key] == change.after);
        if before {
            return;
        }
        if after && operation.commits {
            self.report.committed_in_doubt += 1;
            self.remember(operation);
        } else {
            self.complain(format!("after a crash in {operation:?} there is {found:?}"));
        }
    }

    /// What a key has, once nobody is changing it any more.
    fn settled(&mut self, connection: &mut Connection, key: i64) -> Result<Option<Value>, Error> {
        loop {
            let found = if self.options.nodes {
                connection.probe(key)
            } else {
                connection.execute(&Statement::Read(key), false)
            };
            match found {
                Ok(rows) => return Ok(values(&rows).pop().map(|(_, value)| value)),
                // The server may crash again meanwhile.
                Err(Trouble::Lost(_)) => *connection = self.connect(),
                Err(Trouble::Refused(error)) if is_of_another(&error) => {
                    // If the session cannot do that, the next look says so.
                    let _ = connection.client.batch_execute("ROLLBACK");
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(Trouble::Refused(error)) => return Err(error),
            }
        }
    }
}

/// Whether somebody else has changed the row meanwhile: on a node, what the lost session was about to commit.
fn is_of_another(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::UNIQUE_VIOLATION,
        ]
        .contains(code)
    })
}

impl Connection {
    /// Reads a key behind whoever is changing it. When this server crashes while postgres_fdw commits, the node goes on
    /// with what it was told, and may need a while, as when it waits for a replica: a plain read would not see that yet.
    fn probe(&mut self, key: i64) -> Result<Vec<Row>, Trouble> {
        let table = self.table.clone();
        self.client.batch_execute("BEGIN")?;
        let rows = self.client.query(
            &format!("SELECT id, payload, counter FROM {table} WHERE id = $1 FOR UPDATE"),
            &[&key],
        )?;
        if rows.is_empty() {
            self.client.execute(
                &format!("INSERT INTO {table} (id, payload, counter) VALUES ($1, 'probe', 0)"),
                &[&key],
            )?;
        }
        self.client.batch_execute("ROLLBACK")?;
        Ok(rows)
    }

    fn new(mut client: Client, table: &str, clients: i64, nodes: bool) -> Result<Self, Error> {
        let conflict = if nodes { "" } else { UPSERT };
        let texts = [
            format!("SELECT id, payload, counter FROM {table} WHERE id = $1"),
            format!(
                "SELECT id, payload, counter FROM {table}
                 WHERE id BETWEEN $1 AND $2 AND id % {clients} = $1 % {clients} ORDER BY id"
            ),
            format!("INSERT INTO {table} (id, payload, counter) VALUES ($1, $2, $3) RETURNING id"),
            format!("UPDATE {table} SET payload = $2, counter = $3 WHERE id = $1 RETURNING id"),
            format!("DELETE FROM {table} WHERE id = $1 RETURNING id"),
            format!("UPDATE {table} SET id = $2 WHERE id = $1 RETURNING id"),
            format!(
                "INSERT INTO {table} (id, payload, counter) VALUES ($1, $2, $3) {conflict} RETURNING id"
            ),
        ];
        let prepared = texts
            .iter()
            .map(|text| client.prepare(text))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            client,
            table: table.to_owned(),
            texts,
            prepared,
        })
    }

    fn execute(&mut self, statement: &Statement, prepared: bool) -> Result<Vec<Row>, Trouble> {
        let (number, parameters): (usize, Vec<&(dyn ToSql + Sync)>) = match statement {
            Statement::Read(key) => (0, vec![key]),
            Statement::Range(from, to) => (1, vec![from, to]),
            Statement::Insert(key, value) => (2, vec![key, &value.payload, &value.counter]),
            Statement::Update(key, value) => (3, vec![key, &value.payload, &value.counter]),
            Statement::Delete(key) => (4, vec![key]),
            Statement::Rekey(from, to) => (5, vec![from, to]),
            Statement::Upsert(key, value) => (6, vec![key, &value.payload, &value.counter]),
        };
        let result = if prepared {
            self.client.query(&self.prepared[number], &parameters)
        } else {
            self.client.query(self.texts[number].as_str(), &parameters)
        };
        result.map_err(Trouble::from)
    }

    /// Who and when, to find it in the server's log.
    fn backend(&mut self) -> String {
        let row = self
            .client
            .query_one("SELECT pg_backend_pid(), clock_timestamp()::text", &[]);
        row.map_or_else(
            |error| error.to_string(),
            |row| {
                format!(
                    "(process {}, {})",
                    row.get::<_, i32>(0),
                    row.get::<_, String>(1)
                )
            },
        )
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        // 57P01, 57P02, 57P03 and class 08 end the session; without SQLSTATE it has ended already.
        match error.code() {
            Some(state) if !state.code().starts_with("57P0") && !state.code().starts_with("08") => {
                Self::Refused(error)
            }
            _ => Self::Lost(error),
        }
    }
}

fn values(rows: &[Row]) -> Vec<(i64, Value)> {
    rows.iter()
        .map(|row| {
            (
                row.get(0),
                Value {
                    payload: row.get(1),
                    counter: row.get(2),
                },
            )
        })
        .collect()
}
