//! Watching nodes: asking all of them at the same time what they are doing, and storing the answers.
//!
//! Nodes that answered the last time are asked first, together, and their answers stored before any other is tried
//! again: one that is away costs the others nothing, and one that goes away costs them one `repart.node_timeout`, once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Deserialize;

use crate::catalog::journal;
use crate::catalog::nodes::{self, LOCAL, Node, NodeSample, Placed};
use crate::catalog::samples;
use crate::error::{Error, Result};
use crate::nodes::connect;
use crate::nodes::facts::{FACTS, Facts};
use crate::nodes::{shards, two_phase};
use crate::pg::libpq::{self, Connection, Conninfo};
use crate::pg::{spi, time, txn};
use crate::settings::{self, Mode};

/// Counters of a server at one time; see `usage::Usage` for those of its machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Reading {
    clock: f64,
    replica: bool,
    connections: Option<i32>,
    active: Option<i32>,
    max_connections: Option<i32>,
    transactions: Option<i64>,
    lag: Option<f64>,
    cpu_seconds: Option<f64>,
    cpu_busy_seconds: Option<f64>,
    load: Option<f64>,
    memory_total: Option<i64>,
    memory_available: Option<i64>,
    cpu_stall_us: Option<i64>,
    memory_stall_us: Option<i64>,
    io_stall_us: Option<i64>,
    read_bytes: Option<i64>,
    write_bytes: Option<i64>,
    disk_total: Option<i64>,
    disk_free: Option<i64>,
}

/// What SQL knows anywhere; with it, what the machine does, where repart is installed and may be asked.
///
/// A replica that receives and has replayed everything is not behind, however old its last transaction is.
fn question(facts: &Facts) -> String {
    let machine = facts.usage.as_ref().map_or_else(String::new, |function| {
        format!(" || (SELECT pg_catalog.to_jsonb(u) FROM {function}() u)")
    });
    format!(
        "SELECT (pg_catalog.jsonb_build_object(
         'clock', extract(epoch FROM pg_catalog.clock_timestamp())::float8,
         'replica', pg_catalog.pg_is_in_recovery(),
         'connections', (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database),
         'active', CASE WHEN pg_catalog.pg_has_role('pg_monitor', 'USAGE') THEN
                   (SELECT count(*) FROM pg_catalog.pg_stat_activity
                     WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()) END,
         'max_connections', pg_catalog.current_setting('max_connections')::int,
         'transactions', (SELECT sum(xact_commit + xact_rollback)::int8 FROM pg_catalog.pg_stat_database),
         'lag', CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN NULL
                     WHEN EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE pid IS NOT NULL)
                          AND pg_catalog.pg_last_wal_receive_lsn() = pg_catalog.pg_last_wal_replay_lsn() THEN 0
                     ELSE extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp()) END
         ){machine})::text"
    )
}

/// What a counter grew by; `None` where it began anew.
fn growth(before: Option<i64>, now: Option<i64>) -> Option<f64> {
    let growth = now?.checked_sub(before?)?;
    (growth >= 0).then_some(growth as f64)
}

/// The load between two readings; `None` where they say nothing about a span.
fn sample(before: &Reading, now: &Reading) -> Option<NodeSample> {
    let seconds = now.clock - before.clock;
    if seconds <= 0.0 {
        return None;
    }
    let rate = |before, now| growth(before, now).map(|growth| growth / seconds);
    let stall = |before, now| rate(before, now).map(|us| (us / 1e6).min(1.0));
    let busy = now.cpu_busy_seconds.zip(before.cpu_busy_seconds);
    let all = now.cpu_seconds.zip(before.cpu_seconds);
    let cpu = busy
        .zip(all)
        .and_then(|((busy, busy_before), (all, all_before))| {
            let share = (busy - busy_before) / (all - all_before);
            (all > all_before && (0.0..=1.1).contains(&share)).then_some(share.min(1.0))
        });
    Some(NodeSample {
        seconds,
        cpu,
        load: now.load,
        memory_total: now.memory_total,
        memory_available: now.memory_available,
        stalls: [
            stall(before.cpu_stall_us, now.cpu_stall_us),
            stall(before.memory_stall_us, now.memory_stall_us),
            stall(before.io_stall_us, now.io_stall_us),
        ],
        bytes: [
            rate(before.read_bytes, now.read_bytes),
            rate(before.write_bytes, now.write_bytes),
        ],
        disk: [now.disk_total, now.disk_free],
        sessions: [now.connections, now.active, now.max_connections],
        transactions: rate(before.transactions, now.transactions),
        lag: now.lag,
    })
}

/// What this server was doing at the last look.
#[derive(Default)]
pub struct Local(Option<Reading>);

impl Local {
    /// Looks, and stores the load since the last look. Inside a transaction.
    pub fn measure(&mut self) -> Result<()> {
        let facts = Facts::here()?;
        let json = spi::value::<String>(&question(&facts), &[])?
            .ok_or_else(|| Error::Internal("a query without a row".to_owned()))?;
        let now: Reading = serde_json::from_str(&json)?;
        nodes::note_seen(LOCAL, &serde_json::to_string(&facts)?)?;
        if let Some(sample) = self.0.as_ref().and_then(|before| sample(before, &now)) {
            nodes::insert_sample(LOCAL, time::clock(), &sample)?;
        }
        self.0 = Some(now);
        Ok(())
    }
}

/// A node that is watched.
struct Watched {
    node: Node,
    conninfo: Conninfo,
    connection: Connection,
    /// What it said of itself when it was connected to, as JSON too.
    facts: Option<(Facts, String)>,
    previous: Option<Reading>,
    /// The shards that it was asked about.
    asked: Vec<Placed>,
    /// What it had counted of them then.
    counted: shards::Counted,
}

/// All nodes of this database.
#[derive(Default)]
pub struct Watch {
    /// Those that answer, by name.
    known: BTreeMap<String, Watched>,
    /// Those that did not when they were last asked.
    away: BTreeSet<String>,
}

impl Watch {
    /// Looks after all nodes: finishes what is prepared on them and decided; where `due`, asks them what they are doing;
    /// with `retry`, also tries those that were away. Outside of a transaction.
    pub fn round(&mut self, due: bool, retry: bool) -> Result<()> {
        let listed = txn::run(nodes::all)?;
        let mut known = std::mem::take(&mut self.known);
        let (mut healthy, mut others) = (Vec::new(), Vec::new());
        for node in &listed {
            let conninfo = match txn::run(|| connect::conninfo(node)) {
                Ok(conninfo) => conninfo,
                Err(error) => {
                    note_failure(node, &error)?;
                    continue;
                }
            };
            match known.remove(&node.name) {
                Some(watched) if watched.is_usable(node, &conninfo) => healthy.push(watched),
                _ => others.push((node.clone(), conninfo)),
            }
        }
        self.look_after(healthy, due)?;
        others.retain(|(node, _)| retry || !self.is_away(node));
        self.away
            .extend(others.iter().map(|(node, _)| node.name.clone()));
        self.look_after(begin(others)?, due)
    }

    /// Whether a node was tried before, in vain.
    fn is_away(&self, node: &Node) -> bool {
        self.away.contains(&node.name)
    }

    fn look_after(&mut self, nodes: Vec<Watched>, due: bool) -> Result<()> {
        let nodes = resolve(nodes)?;
        if due && settings::mode() != Mode::Off {
            return self.ask(nodes);
        }
        for watched in nodes {
            self.keep(watched);
        }
        Ok(())
    }

    fn keep(&mut self, watched: Watched) {
        self.away.remove(&watched.node.name);
        self.known.insert(watched.node.name.clone(), watched);
    }

    /// Asks nodes that are connected to, and keeps those that answer; then what they count of shards.
    fn ask(&mut self, mut nodes: Vec<Watched>) -> Result<()> {
        for watched in &mut nodes {
            if let Some((facts, _)) = &watched.facts {
                watched.connection.say(&question(facts))?;
            }
        }
        converse(&mut nodes)?;
        let mut answering = Vec::new();
        for mut watched in nodes {
            match watched.take_reading() {
                Ok(()) => answering.push(watched),
                Err(error) => note_failure(&watched.node, &error)?,
            }
        }
        ask_for_shards(&mut answering)?;
        for watched in answering {
            self.keep(watched);
        }
        Ok(())
    }
}

/// Connects to nodes; returns those that can be asked.
fn begin(nodes: Vec<(Node, Conninfo)>) -> Result<Vec<Watched>> {
    let mut begun = Vec::new();
    for (node, conninfo) in nodes {
        let label = connect::label(&node.name);
        match connect::begin(&label, &conninfo, settings::node_timeout()) {
            Ok(mut connection) => {
                connection.say(FACTS)?;
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
    converse(&mut begun)?;
    let mut connected = Vec::new();
    for mut watched in begun {
        match watched.take_facts() {
            Ok(()) => connected.push(watched),
            Err(error) => note_failure(&watched.node, &error)?,
        }
    }
    Ok(connected)
}

/// Finishes what is prepared on nodes and decided; returns those that could be asked.
fn resolve(mut nodes: Vec<Watched>) -> Result<Vec<Watched>> {
    let mut reached: Vec<two_phase::Reached> = nodes
        .iter_mut()
        .map(|watched| two_phase::Reached {
            node: &watched.node.name,
            connection: &mut watched.connection,
        })
        .collect();
    let failed = two_phase::resolve(&mut reached)?;
    let mut answering = Vec::new();
    for (n, watched) in nodes.into_iter().enumerate() {
        match failed.iter().find(|(failed, _)| *failed == n) {
            Some((_, error)) => note_failure(&watched.node, error)?,
            None => answering.push(watched),
        }
    }
    Ok(answering)
}

/// Samples the shards on these nodes; what replicas served is added to what their primaries did. A node that cannot tell
/// now leaves a gap, as a shard here does whose counters cannot be read.
fn ask_for_shards(nodes: &mut [Watched]) -> Result<()> {
    let placed = txn::run(nodes::placed)?;
    for watched in nodes.iter_mut() {
        watched.asked = placed
            .iter()
            .filter(|placed| placed.node == watched.node.primary())
            .cloned()
            .collect();
        if !watched.asked.is_empty() {
            watched.connection.say(&shards::question(&watched.asked))?;
        }
    }
    converse(nodes)?;
    let mut load = shards::Load::default();
    for watched in nodes.iter_mut() {
        match watched.connection.answers() {
            Ok(answers) => {
                let counted = shards::read(&watched.asked, answers.last(), time::clock());
                load.add(
                    &counted,
                    &watched.counted,
                    watched.node.replica_of.is_some(),
                );
                watched.counted = counted;
            }
            Err(error) => {
                pgrx::debug1!("repart watcher: {error}");
                watched.counted.clear();
            }
        }
    }
    let samples = load.samples();
    if !samples.is_empty() {
        txn::run(|| samples::insert(&samples))?;
    }
    Ok(())
}

fn converse(nodes: &mut [Watched]) -> Result<()> {
    let mut connections: Vec<&mut Connection> = nodes
        .iter_mut()
        .map(|watched| &mut watched.connection)
        .collect();
    libpq::converse(&mut connections, Instant::now() + settings::node_timeout())
}

/// Stores why a node does not answer; an event says so once.
fn note_failure(node: &Node, error: &Error) -> Result<()> {
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
    fn is_usable(&self, node: &Node, conninfo: &Conninfo) -> bool {
        self.node == *node && self.conninfo == *conninfo && !self.connection.is_broken()
    }

    fn take_facts(&mut self) -> Result<()> {
        let json: String = last(&mut self.connection)?;
        self.facts = Some((Facts::read(&json)?, json));
        Ok(())
    }

    fn take_reading(&mut self) -> Result<()> {
        let json: String = last(&mut self.connection)?;
        let now: Reading = serde_json::from_str(&json)?;
        self.require_role(&now)?;
        let name = self.node.name.as_str();
        let facts = self.facts.as_ref().map_or("{}", |(_, json)| json);
        let sample = self
            .previous
            .as_ref()
            .and_then(|before| sample(before, &now));
        txn::run(|| {
            if nodes::note_seen(name, facts)? {
                let message = format!("node \"{name}\" answers again");
                journal::event("notice", None, &message)?;
            }
            sample.map_or(Ok(()), |sample| {
                nodes::insert_sample(name, time::clock(), &sample)
            })
        })?;
        self.previous = Some(now);
        Ok(())
    }

    /// A replica that was promoted, or a primary that became a replica, is not what it was added as.
    fn require_role(&self, now: &Reading) -> Result<()> {
        let is_replica = self.node.replica_of.is_some();
        if now.replica == is_replica {
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

/// The only column of the last answer.
fn last(connection: &mut Connection) -> Result<String> {
    let answers = connection.answers()?;
    let answer = answers
        .last()
        .ok_or_else(|| Error::Internal("no answer".to_owned()))?;
    answer.require(0, 0)
}
