//! The part of a switch that concerns routing copies; see the module for the order of its steps.

use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::catalog::routes::{self, RoutingCopy};
use crate::catalog::two_phase::{self, Decision, Number};
use crate::error::{Error, Result};
use crate::migrate::away::Links;
use crate::migrate::away::link::Link;
use crate::migrate::job::Job;
use crate::migrate::routing::{map, preflight, table};
use crate::migrate::{away, hold, locks, obstacle};
use crate::pg::{on_commit, spi, txn};
use crate::settings;

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
pub struct Sessions {
    all: Vec<Session>,
    /// The tables here that have copies.
    tables: Vec<pg_sys::Oid>,
}

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
    let copies = routes::of(&relations)?;
    if copies.is_empty() {
        return Ok(None);
    }
    routes::vouch()?;
    for copy in copies {
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
        links.copies.tables.push(copy.relation);
        let session = links.copies.on(&copy.node)?;
        let part = match session.work_out(job, &copy)? {
            Ok(part) => part,
            Err(reason) => return Ok(Some(reason)),
        };
        let sources = &job.migration.spec.sources;
        if sources.iter().any(|source| map::is_own(source, &copy)) {
            links.open(job)?.handover = Some(part);
        } else {
            links.copies.on(&copy.node)?.parts.push(part);
        }
    }
    Ok(None)
}

impl Sessions {
    /// Closes the sessions, and with them what is not prepared there.
    pub fn close(&mut self) {
        self.all.clear();
        self.tables.clear();
    }

    fn on(&mut self, node: &str) -> Result<&mut Session> {
        let known = self
            .all
            .iter()
            .position(|session| session.link.node == node);
        let n = match known {
            Some(n) => n,
            None => {
                let mut link = Link::visit(node)?;
                let note = preflight::require_note(&mut link)?;
                self.all.push(Session {
                    link,
                    note,
                    parts: Vec::new(),
                    gid: None,
                });
                self.all.len() - 1
            }
        };
        self.all
            .get_mut(n)
            .ok_or_else(|| Error::Internal("a session vanished".to_owned()))
    }

    /// Locks the copies and exchanges their partitions, where that is possible now, in transactions that are not prepared
    /// yet. From here on clients of the copies wait. If this server is cut off meanwhile, they do so for `alone` at most,
    /// or until TCP gives the connection up.
    pub fn lock(&mut self, leader: i64, alone: Option<Duration>) -> Result<()> {
        for session in self
            .all
            .iter_mut()
            .filter(|session| !session.parts.is_empty())
        {
            let limit = locks::limit();
            session
                .link
                .wait_until(Some(Instant::now() + limit + pause()));
            let mut script = format!(
                "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {};",
                limit.as_millis().max(1),
                alone.unwrap_or_default().as_millis()
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
        if !self.all.is_empty() {
            hold::inside(leader, "routed");
        }
        Ok(())
    }

    /// Prepares what was done: the commit of the running transaction decides.
    pub fn prepare(&mut self, leader: i64) -> Result<()> {
        for table in &self.tables {
            routes::note_switched(*table)?;
        }
        if self.all.iter().all(|session| session.parts.is_empty()) {
            return Ok(());
        }
        let number = Number::new()?;
        number.hold()?;
        // From here on something may have to be undone elsewhere.
        on_commit::wake_workers_in_any_case();
        for (n, session) in self.all.iter_mut().enumerate() {
            if session.parts.is_empty() {
                continue;
            }
            let gid = number.gid(n + 1);
            session.link.wait_until(Some(Instant::now() + pause()));
            let mut script = String::new();
            for part in session.parts.iter().filter(|part| part.is_late) {
                script += &part.script;
                script += ";";
            }
            script += &format!("PREPARE TRANSACTION {}", spi::quote_literal(&gid));
            let link = &mut session.link;
            link.ask(&script)
                .map_err(|error| away::switch::without_room(&link.node, error))?;
            let purpose = format!("routing copies, migration {leader}");
            two_phase::decide_commit(&gid, &session.link.node, &purpose)?;
            session.gid = Some(gid);
        }
        Ok(())
    }

    /// Tells the copies what was decided, at once. A copy that does not answer is told by the watcher. Outside of a
    /// transaction, after the one that decided.
    pub fn finish(&mut self) {
        let sessions = std::mem::take(&mut self.all);
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

/// For how long a session of repart on a copy may be idle while the copy is locked.
pub fn alone() -> Duration {
    settings::node_timeout().max(4 * pause())
}

/// For how long a copy is waited for while its clients wait.
fn pause() -> Duration {
    settings::max_pause().max(LEAST)
}

impl Session {
    /// Compares the copy with the table here, and works out what the switch changes, or who is in the way of that for long.
    fn work_out(
        &mut self,
        job: &Job,
        copy: &RoutingCopy,
    ) -> Result<std::result::Result<Handover, String>> {
        table::require_alike(&mut self.link, copy)?;
        let there = table::routes(&mut self.link, copy)?;
        let now = map::wanted(copy)?;
        let mut after = map::after(job, copy, &now)?;
        let now: Vec<map::Route> = now.into_iter().map(|(_, route)| route).collect();
        preflight::require_same(copy, &there, &now)?;
        let concerned = map::concerned(copy, &there, &after);
        let question = obstacle::question_on(&copy.node, &concerned);
        if let Some(reason) = self.link.value(&question)? {
            return Ok(Err(reason));
        }
        map::name_new(&mut self.link, &there, &mut after)?;
        let name = copy.name();
        let targets = &job.migration.spec.targets;
        Ok(Ok(Handover {
            lock: format!("LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE;"),
            script: map::script(&name, &there, &after, &self.note),
            is_late: targets
                .iter()
                .any(|target| target.node.as_ref() == Some(&copy.node)),
        }))
    }
}
