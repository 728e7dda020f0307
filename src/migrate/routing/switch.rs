//! The part of a switch that concerns routing copies; see the module for the order of its steps.

use std::time::{Duration, Instant};

use crate::catalog::routes::{self, RoutingCopy};
use crate::catalog::two_phase::{self, Decision, Number};
use crate::error::{Error, Result};
use crate::migrate::away::Links;
use crate::migrate::away::link::Link;
use crate::migrate::job::Job;
use crate::migrate::routing::{map, preflight, table};
use crate::migrate::{hold, locks};
use crate::nodes::servers;
use crate::pg::{on_commit, spi, txn};
use crate::settings;

/// A transaction there that has used the table and is open for longer is waited for without asking for a lock.
const LONG_TRANSACTION: &str = "500 ms";

/// The least time for which a copy is waited for while its clients wait.
const LEAST: Duration = Duration::from_millis(500);

/// What is to be done with a copy inside the transaction that hides a source's table on the same node.
pub struct Handover {
    /// Locks the copy.
    pub lock: String,
    /// Exchanges its partitions.
    pub script: String,
    /// Whether a table that comes to the node is written by another session until the switch has come to its end, so that
    /// the partitions cannot be exchanged before.
    is_late: bool,
}

/// A mover's sessions on the nodes with routing copies, from the look at them until they are told to commit.
#[derive(Default)]
pub struct Sessions(Vec<Session>);

struct Session {
    link: Link,
    /// The function that notes a switch there.
    note: String,
    parts: Vec<Handover>,
    gid: Option<String>,
}

/// Looks at the copies of all tables that are to be switched, and works out what is to be done there. Nothing is locked
/// that clients use. Returns what is to be waited for, if anything is.
pub fn begin(jobs: &[Job], links: &mut Links) -> Result<Option<String>> {
    links.copies.close();
    let relations: Vec<_> = jobs.iter().map(|job| job.migration.relation).collect();
    for copy in routes::of(&relations)? {
        if !two_phase::open_on(&copy.node)?.is_empty() {
            return Ok(Some(format!(
                "waits for node \"{}\", which has still to carry out what was decided: see repart.in_doubt",
                copy.node
            )));
        }
        let Some(job) = jobs
            .iter()
            .find(|job| job.migration.relation == copy.relation)
        else {
            continue;
        };
        let session = links.copies.on(&copy.node)?;
        if let Some(reason) = session.obstacle(&copy)? {
            return Ok(Some(reason));
        }
        let part = session.work_out(job, &copy)?;
        let leaves_it = job
            .migration
            .spec
            .sources
            .iter()
            .any(|source| map::is_own(source, &copy));
        if leaves_it {
            links.open(job)?.handover = Some(part);
        } else {
            session_parts(links, &copy.node, part);
        }
    }
    Ok(None)
}

fn session_parts(links: &mut Links, node: &str, part: Handover) {
    let session = links
        .copies
        .0
        .iter_mut()
        .find(|session| session.link.node == node);
    if let Some(session) = session {
        session.parts.push(part);
    }
}

impl Sessions {
    /// Closes the sessions, and with them what is not prepared there.
    pub fn close(&mut self) {
        self.0.clear();
    }

    fn on(&mut self, node: &str) -> Result<&mut Session> {
        let known = self.0.iter().position(|session| session.link.node == node);
        let n = match known {
            Some(n) => n,
            None => {
                let mut link = Link::visit(node)?;
                let note = link
                    .value(servers::NOTE)?
                    .ok_or_else(|| servers::without_repart(node))?;
                self.0.push(Session {
                    link,
                    note,
                    parts: Vec::new(),
                    gid: None,
                });
                self.0.len() - 1
            }
        };
        self.0
            .get_mut(n)
            .ok_or_else(|| Error::Internal("a session vanished".to_owned()))
    }

    /// Locks the copies and exchanges their partitions, where that is possible now, in transactions that are not prepared
    /// yet. From here on clients of the copies wait.
    pub fn lock(&mut self, leader: i64) -> Result<()> {
        for session in self
            .0
            .iter_mut()
            .filter(|session| !session.parts.is_empty())
        {
            let limit = locks::limit();
            let pause = settings::max_pause().max(LEAST);
            session
                .link
                .wait_until(Some(Instant::now() + limit + pause));
            // If this server is cut off now, the clients of the copy wait for so long at most.
            let alone = settings::node_timeout().max(4 * pause);
            let mut script = format!(
                "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {};",
                limit.as_millis().max(1),
                alone.as_millis()
            );
            for part in &session.parts {
                script += &part.lock;
            }
            for part in session.parts.iter().filter(|part| !part.is_late) {
                script += &part.script;
                script += ";";
            }
            session.link.ask(&script)?;
        }
        if !self.0.is_empty() {
            hold::inside(leader, "routed");
        }
        Ok(())
    }

    /// Prepares what was done: the commit of the running transaction decides.
    pub fn prepare(&mut self, leader: i64) -> Result<()> {
        if self.0.iter().all(|session| session.parts.is_empty()) {
            return Ok(());
        }
        let number = Number::new()?;
        number.hold()?;
        // From here on something may have to be undone elsewhere.
        on_commit::wake_workers_in_any_case();
        for (n, session) in self.0.iter_mut().enumerate() {
            if session.parts.is_empty() {
                continue;
            }
            let gid = number.gid(n + 1);
            session
                .link
                .wait_until(Some(Instant::now() + settings::max_pause().max(LEAST)));
            let mut script = String::new();
            for part in session.parts.iter().filter(|part| part.is_late) {
                script += &part.script;
                script += ";";
            }
            script += &format!("PREPARE TRANSACTION {}", spi::quote_literal(&gid));
            session.link.ask(&script)?;
            let purpose = format!("routing copies, migration {leader}");
            two_phase::decide_commit(&gid, &session.link.node, &purpose)?;
            session.gid = Some(gid);
        }
        Ok(())
    }

    /// Tells the copies what was decided, at once. A copy that does not answer is told by the watcher. Outside of a
    /// transaction, after the one that decided.
    pub fn finish(&mut self) {
        let sessions = std::mem::take(&mut self.0);
        let mut prepared: Vec<(Session, String)> = sessions
            .into_iter()
            .filter_map(|mut session| session.gid.take().map(|gid| (session, gid)))
            .collect();
        if prepared.is_empty() {
            return;
        }
        // What a node is told must not be forgotten here by a crash.
        txn::flush_log();
        for (session, gid) in &mut prepared {
            let deadline = Instant::now() + settings::node_timeout();
            session.link.wait_until(Some(deadline));
            let command = Decision::Commit.command(gid);
            let told = txn::outside(|| session.link.ask(&command))
                .and_then(|_| txn::run(|| two_phase::forget(gid)));
            if let Err(error) = told {
                pgrx::debug1!("repart mover: {error}");
            }
        }
    }
}

impl Session {
    /// A transaction there that is in the way of locking the copy for long.
    fn obstacle(&mut self, copy: &RoutingCopy) -> Result<Option<String>> {
        let (name, _) = table::names(copy.relation)?;
        let sql = format!(
            r#"SELECT pg_catalog.format('waits for process %s (%s) on node "%s", whose transaction has been open for %s s', a.pid,
                        pg_catalog.concat_ws(', ', 'application "' || nullif(a.application_name, '') || '"',
                                             'user "' || a.usename || '"', coalesce(a.state, a.backend_type)), {},
                        pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::numeric, 1))
               FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
              WHERE l.locktype = 'relation' AND l.granted AND l.relation = pg_catalog.to_regclass({})
                AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type <> 'autovacuum worker'
                AND a.xact_start <= pg_catalog.clock_timestamp() - interval '{LONG_TRANSACTION}'
              ORDER BY a.xact_start LIMIT 1"#,
            spi::quote_literal(&copy.node),
            spi::quote_literal(&name)
        );
        self.link.value(&sql)
    }

    /// Compares the copy with the table here, and works out what the switch changes.
    fn work_out(&mut self, job: &Job, copy: &RoutingCopy) -> Result<Handover> {
        let (name, schema) = table::names(copy.relation)?;
        table::require_alike(&mut self.link, copy, &name)?;
        let there = table::routes(&mut self.link, &name)?;
        let now = map::wanted(copy, &schema)?;
        let after = map::after(job, copy, &now, &schema)?;
        let now: Vec<map::Route> = now.into_iter().map(|(_, route)| route).collect();
        preflight::require_same(copy, &there, &now)?;
        Ok(Handover {
            lock: format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE;"),
            script: map::script(&name, &there, &after, &self.note),
            is_late: {
                let targets = &job.migration.spec.targets;
                targets
                    .iter()
                    .any(|target| target.node.as_ref() == Some(&copy.node))
            },
        })
    }
}
