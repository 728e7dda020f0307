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
        let limit = locks::limit();
        let begin = format!(
            "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = {};",
            limit.as_millis().max(1),
            alone.unwrap_or_default().as_millis()
        );
        let script = |session: &Session| {
            let locks: String = session.parts.iter().map(|part| &part.lock[..]).collect();
            format!("{begin}{locks}{}", session.exchange(false))
        };
        let mut asked: Vec<(&mut Link, String)> = self
            .at_work()
            .map(|session| {
                let script = script(session);
                (&mut session.link, script)
            })
            .collect();
        // All of them at the same time: clients of one wait no longer because there is another.
        for answer in Link::ask_all(&mut asked, Instant::now() + limit + pause())? {
            answer?;
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
        if self.at_work().next().is_none() {
            return Ok(());
        }
        let number = Number::new()?;
        number.hold()?;
        // From here on something may have to be undone elsewhere.
        on_commit::wake_workers_in_any_case();
        for (n, session) in self.at_work().enumerate() {
            let gid = number.gid(n + 1);
            let purpose = format!("routing copies, migration {leader}");
            two_phase::decide_commit(&gid, &session.link.node, &purpose)?;
            session.gid = Some(gid);
        }
        let mut asked: Vec<(&mut Link, String)> = self
            .at_work()
            .map(|session| {
                let gid = spi::quote_literal(session.gid.as_deref().unwrap_or_default());
                let script = format!("{}PREPARE TRANSACTION {gid}", session.exchange(true));
                (&mut session.link, script)
            })
            .collect();
        let answers = Link::ask_all(&mut asked, Instant::now() + pause())?;
        for (answer, (link, _)) in answers.into_iter().zip(&asked) {
            answer.map_err(|error| away::switch::without_room(&link.node, error))?;
        }
        Ok(())
    }

    /// Sessions with something to do; with others the source's session has it.
    fn at_work(&mut self) -> impl Iterator<Item = &mut Session> {
        let all = self.all.iter_mut();
        all.filter(|session| !session.parts.is_empty())
    }

    /// Tells the copies what was decided, at once. A copy that does not answer is told by the watcher. Outside of a
    /// transaction, after the one that decided.
    pub fn finish(&mut self) {
        let mut sessions = std::mem::take(self).all;
        let mut asked: Vec<(&mut Link, String)> = Vec::new();
        let mut gids = Vec::new();
        for session in &mut sessions {
            if let Some(gid) = session.gid.take() {
                asked.push((&mut session.link, Decision::Commit.command(&gid)));
                gids.push(gid);
            }
        }
        if asked.is_empty() {
            return;
        }
        // What a node is told must not be forgotten here by a crash.
        txn::flush_log();
        let deadline = Instant::now() + settings::node_timeout();
        let told = txn::outside(|| Link::ask_all(&mut asked, deadline)).and_then(|answers| {
            for (answer, gid) in answers.into_iter().zip(&gids) {
                match answer {
                    Ok(()) => txn::run(|| two_phase::forget(gid))?,
                    Err(error) => pgrx::debug1!("repart mover: {error}"),
                }
            }
            Ok(())
        });
        if let Err(error) = told {
            pgrx::debug1!("repart mover: {error}");
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
    /// The statements that exchange partitions: those that can only be said in the end, or the others.
    fn exchange(&self, late: bool) -> String {
        let parts = self.parts.iter().filter(|part| part.is_late == late);
        parts.map(|part| format!("{};", part.script)).collect()
    }

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
