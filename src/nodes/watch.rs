//! Watching nodes: asking all of them at the same time what they are doing, and storing the answers.
//!
//! Nodes that answered the last time are asked together. Others are connected to beside that, over several rounds if it
//! takes long: one that is away costs the others nothing, and one that goes away costs them one `repart.node_timeout`,
//! once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::catalog::nodes::{self, LOCAL, Node};
use crate::catalog::{replica_reads, samples};
use crate::error::Result;
use crate::nodes::reading;
use crate::nodes::watched::{self, Watched};
use crate::nodes::{connect, shards, two_phase};
use crate::pg::libpq::{self, Connection, Conninfo};
use crate::pg::{time, txn};
use crate::settings::{self, Mode};

/// For so long connections that are being made are waited for in each round.
const MOMENT: Duration = Duration::from_millis(50);

/// So often in each `repart.forecast_interval` nodes are asked by which keys their shards are used.
const KEYS_PER_FORECAST: u32 = 4;

/// All nodes of this database.
#[derive(Default)]
pub struct Watch {
    /// Those that answer, by name.
    known: BTreeMap<String, Watched>,
    /// Those that did not when they were last asked.
    away: BTreeSet<String>,
    /// Those that are being connected to, and until when.
    pending: Vec<(Watched, Instant)>,
    /// When they were last asked by which keys shards are used.
    keys_asked: Option<Instant>,
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
                    watched::note_failure(node, &error)?;
                    continue;
                }
            };
            match known.remove(&node.name) {
                Some(watched) if watched.is_usable(node, &conninfo) => healthy.push(watched),
                _ => others.push((node.clone(), conninfo)),
            }
        }
        self.look_after(healthy, due)?;
        let is_wanted = |watched: &Watched| {
            let same = |(node, conninfo): &(Node, Conninfo)| {
                watched.node == *node && watched.conninfo == *conninfo
            };
            others.iter().any(same)
        };
        self.pending.retain(|(watched, _)| is_wanted(watched));
        others.retain(|(node, _)| {
            let is_pending = |(watched, _): &(Watched, Instant)| watched.node == *node;
            (retry || !self.is_away(node)) && !self.pending.iter().any(is_pending)
        });
        self.away
            .extend(others.iter().map(|(node, _)| node.name.clone()));
        let deadline = Instant::now() + settings::node_timeout();
        let begun = watched::begin(others)?;
        self.pending
            .extend(begun.into_iter().map(|watched| (watched, deadline)));
        let connected = self.connected()?;
        self.look_after(connected, due)
    }

    /// Whether somebody is being connected to.
    pub fn is_connecting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Goes on connecting for a moment; those that have said what they are.
    fn connected(&mut self) -> Result<Vec<Watched>> {
        let mut connections: Vec<&mut Connection> = self
            .pending
            .iter_mut()
            .map(|(watched, _)| &mut watched.connection)
            .collect();
        libpq::talk(&mut connections, Instant::now() + MOMENT)?;
        let mut connected = Vec::new();
        for (mut watched, deadline) in std::mem::take(&mut self.pending) {
            if !watched.connection.is_settled() && Instant::now() < deadline {
                self.pending.push((watched, deadline));
                continue;
            }
            watched.connection.require_settled();
            match watched.take_facts() {
                Ok(()) => connected.push(watched),
                Err(error) => watched::note_failure(&watched.node, &error)?,
            }
        }
        Ok(connected)
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
                watched.connection.say(&reading::question(facts))?;
            }
        }
        converse(&mut nodes)?;
        let mut answering = Vec::new();
        for mut watched in nodes {
            match watched.take_reading() {
                Ok(()) => answering.push(watched),
                Err(error) => watched::note_failure(&watched.node, &error)?,
            }
        }
        // A plan needs them as often as there is one; they are too many to be asked for with each sample.
        let patience = settings::forecast_interval() / KEYS_PER_FORECAST;
        let with_keys = self.keys_asked.is_none_or(|at| at.elapsed() >= patience);
        if with_keys {
            self.keys_asked = Some(Instant::now());
        }
        ask_for_shards(&mut answering, with_keys)?;
        for watched in answering {
            self.keep(watched);
        }
        Ok(())
    }
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
            Some((_, error)) => watched::note_failure(&watched.node, error)?,
            None => answering.push(watched),
        }
    }
    Ok(answering)
}

/// Samples the shards on these nodes; what replicas served is added to what their primaries did. A node that cannot tell
/// now leaves a gap, as a shard here does whose counters cannot be read.
fn ask_for_shards(nodes: &mut [Watched], with_keys: bool) -> Result<()> {
    let mut placed = txn::run(nodes::placed)?;
    if nodes.iter().any(|watched| watched.node.primary() == LOCAL) {
        placed.extend(txn::run(nodes::placed_here)?);
    }
    for watched in nodes.iter_mut() {
        watched.asked = placed
            .iter()
            .filter(|placed| placed.node == watched.node.primary())
            .cloned()
            .collect();
        if !watched.asked.is_empty() {
            let facts = watched.facts.as_ref();
            let function = facts.and_then(|(facts, _)| facts.sampler.as_deref());
            let sampler = function.map(|function| shards::Sampler {
                function,
                with_keys,
            });
            let question = shards::question(&watched.asked, sampler);
            watched.connection.say(&question)?;
        }
    }
    converse(nodes)?;
    let mut load = shards::Load::default();
    for watched in nodes.iter_mut() {
        if watched.asked.is_empty() {
            watched.counted.clear();
            continue;
        }
        match watched.connection.last_answer() {
            Ok(answer) => {
                let counted = shards::read(&watched.asked, &answer, time::clock());
                let is_replica = watched.node.replica_of.is_some();
                if watched.node.primary() == LOCAL {
                    // The observer samples these shards, and adds it.
                    let served = shards::served(&counted, &watched.counted);
                    txn::run(|| replica_reads::add(&watched.node.name, &served))?;
                } else {
                    load.add(&counted, &watched.counted, is_replica);
                }
                keep_keys(&watched.node.name, &counted)?;
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

/// Stores the keys of shards that a node has told of.
fn keep_keys(node: &str, counted: &shards::Counted) -> Result<()> {
    let keys: Vec<(pg_sys::Oid, &str)> = counted
        .iter()
        .filter_map(|(shard, count)| Some((pg_sys::Oid::from(*shard), count.keys.as_deref()?)))
        .collect();
    if keys.is_empty() {
        return Ok(());
    }
    txn::run(|| nodes::store_keys(node, &keys))
}

fn converse(nodes: &mut [Watched]) -> Result<()> {
    let mut connections: Vec<&mut Connection> = nodes
        .iter_mut()
        .map(|watched| &mut watched.connection)
        .collect();
    libpq::converse(&mut connections, Instant::now() + settings::node_timeout())
}
