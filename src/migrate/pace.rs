//! Leaving processors and disks to others, here and on the other nodes of a migration: after each piece of its work, how
//! long to rest.
//!
//! Each server is looked at by its own counters. Those of a node are asked of repart there, over the connection that the
//! mover has anyway, so that load there is known within a second or two of its beginning, and of its end. Of a node
//! where repart does not tell, all that is known is the watcher's last sample, which is up to `repart.sample_interval` old.

use std::time::{Duration, Instant};

use repart_core::pace::{Counters, Duty, Usage};

use crate::catalog::journal;
use crate::catalog::nodes::LOCAL;
use crate::catalog::usage::{self as observed, Resource};
use crate::error::Result;
use crate::migrate::away::Links;
use crate::nodes::{connect, usage};
use crate::pg::txn;
use crate::settings;

/// Between two looks; the kernel counts in hundredths of a second.
const LOOK: Duration = Duration::from_millis(200);

/// Between two looks at another machine.
const LOOK_AT_NODE: Duration = Duration::from_secs(1);

/// The pace of one mover.
pub struct Pace {
    migration: i64,
    began: Instant,
    here: Server,
    /// The other nodes of the migration, once they were looked for.
    nodes: Option<Vec<Node>>,
    /// On how many nodes sessions of the migration work that keep the processors of this machine busy.
    neighbours: usize,
}

/// A server that the migration uses.
#[derive(Default)]
struct Server {
    duty: Duty,
    /// When it was last looked at, and its counters then, where they were to be had.
    looked: Option<Instant>,
    last: Option<Counters>,
    /// How long the migration has worked since.
    worked: Duration,
}

/// Another node of the migration.
struct Node {
    name: String,
    server: Server,
    /// Whether it was found to be on this machine: then its sessions are part of what the migration takes here.
    is_here: bool,
}

/// What a look at a node finds.
enum Seen {
    /// Its machine's counters, and whether it is short of memory.
    Counted(Counters, bool),
    /// What its last sample says; as good as nothing if there is none.
    Sampled(Usage),
}

impl Server {
    fn is_due(&self, interval: Duration) -> bool {
        self.looked
            .is_none_or(|looked| looked.elapsed() >= interval)
    }

    /// Takes note of its counters, and of whether it has no headroom for another reason.
    fn observe(&mut self, now: Option<Counters>, is_short: bool) {
        let usage = now
            .zip(self.last)
            .and_then(|(now, last)| now.since(&last, self.worked.as_secs_f64()));
        if let Some(usage) = usage {
            let usage = Usage { is_short, ..usage };
            self.duty.observe(usage, settings::headroom());
        }
        self.begin(now);
    }

    /// From here on is what the next look is about.
    fn begin(&mut self, now: Option<Counters>) {
        self.looked = Some(Instant::now());
        self.last = now;
        self.worked = Duration::ZERO;
    }
}

impl Pace {
    /// Begins to look, so that the first piece of work already shows what others do.
    pub fn begin(migration: i64) -> Self {
        let began = Instant::now();
        let mut here = Server::default();
        here.begin(read(began));
        Self {
            migration,
            began,
            here,
            nodes: None,
            neighbours: 0,
        }
    }

    /// Whether others want the processors or the disks somewhere.
    pub fn gives_way(&self) -> bool {
        self.servers().any(|server| server.duty.is_shared())
    }

    /// Where others want them, for people; `None` while it gives way to nobody.
    pub fn gives_way_on(&self) -> Option<String> {
        let here = (self.here.duty.is_shared()).then(|| "this server".to_owned());
        let nodes = self.nodes.iter().flatten();
        let short = nodes.filter(|node| node.server.duty.is_shared());
        let places: Vec<String> = here
            .into_iter()
            .chain(short.map(|node| connect::label(&node.name)))
            .collect();
        (!places.is_empty()).then(|| places.join(" and "))
    }

    fn servers(&self) -> impl Iterator<Item = &Server> {
        let nodes = self.nodes.iter().flatten();
        std::iter::once(&self.here).chain(nodes.map(|node| &node.server))
    }

    /// How long to rest after so much work on a migration: nothing where no system tells what its processors do. Outside of
    /// a transaction, here and on the nodes.
    pub fn rest_after(
        &mut self,
        worked: Duration,
        links: &mut Links,
        migration: i64,
    ) -> Result<Duration> {
        if settings::headroom() >= 1.0 {
            *self = Self::begin(self.migration);
            return Ok(Duration::ZERO);
        }
        self.here.worked += worked;
        for node in self.nodes.iter_mut().flatten() {
            node.server.worked += worked;
        }
        if self.here.is_due(LOOK) {
            self.look(links, migration)?;
        }
        let longest = self
            .servers()
            .map(|server| server.duty.rest(worked.as_secs_f64()))
            .fold(0.0, f64::max);
        Ok(Duration::from_secs_f64(longest))
    }

    fn look(&mut self, links: &mut Links, migration: i64) -> Result<()> {
        let mut nodes = match self.nodes.take() {
            Some(nodes) => Some(nodes),
            None => self.find_nodes(),
        };
        let seen = self.look_around(nodes.iter_mut().flatten(), links, migration);
        self.nodes = nodes;
        let (now, neighbours) = seen?;
        if neighbours != self.neighbours {
            // What they worked so far is not what they worked since.
            self.neighbours = neighbours;
            self.here.last = None;
        }
        self.here.observe(now, false);
        Ok(())
    }

    /// Looks at nodes as often as each needs it. The counters of this machine, with the work of those sessions that are on
    /// nodes here, and how many such nodes there are.
    fn look_around<'a>(
        &self,
        nodes: impl Iterator<Item = &'a mut Node>,
        links: &mut Links,
        migration: i64,
    ) -> Result<(Option<Counters>, usize)> {
        let mut now = read(self.began);
        let mut neighbours = 0;
        for node in nodes {
            let interval = if node.is_here { LOOK } else { LOOK_AT_NODE };
            if !node.server.is_due(interval) {
                continue;
            }
            let seen = self.look_at(&node.name, links, migration)?;
            let after = now.and_then(|_| read(self.began));
            match (seen, now, after) {
                (Seen::Counted(there, _), Some(before), Some(after))
                    if there.is_between(&before, &after) =>
                {
                    node.is_here = true;
                    node.server = Server::default();
                    node.server.begin(None);
                    neighbours += 1;
                    let own = before.own + there.own;
                    now = Some(Counters { own, ..before });
                }
                (Seen::Counted(there, is_short), ..) => {
                    node.is_here = false;
                    node.server.observe(Some(there), is_short);
                }
                (Seen::Sampled(usage), ..) => {
                    node.is_here = false;
                    node.server.duty.observe(usage, settings::headroom());
                    node.server.begin(None);
                }
            }
        }
        Ok((now, neighbours))
    }

    fn find_nodes(&self) -> Option<Vec<Node>> {
        let found = txn::run(|| journal::nodes_of(self.migration));
        let names = self.unless_failed(found)?;
        let others = names.into_iter().filter(|name| name != LOCAL);
        let node = |name| Node {
            name,
            server: Server::default(),
            is_here: false,
        };
        Some(others.map(node).collect())
    }

    fn look_at(&self, node: &str, links: &mut Links, migration: i64) -> Result<Seen> {
        let asked = txn::outside(|| links.usage_of(migration, node))?;
        let counted = asked.and_then(|(usage, own)| {
            let counters = Counters {
                at: self.began.elapsed().as_secs_f64(),
                all: usage.cpu_seconds?,
                busy: usage.cpu_busy_seconds?,
                own,
                processors: f64::from(usage.cpus?),
                stalled: usage.io_stall_us.map(|us| us as f64 / 1e6),
            };
            Some(Seen::Counted(counters, is_short_of_memory(&usage)))
        });
        if let Some(counted) = counted {
            return Ok(counted);
        }
        let last = txn::run(|| observed::last(node, settings::sample_interval()));
        let last = self.unless_failed(last).flatten().unwrap_or_default();
        Ok(Seen::Sampled(Usage {
            processors: f64::from(last.cpus.unwrap_or(1)),
            is_short: Resource::ALL
                .into_iter()
                .any(|resource| last.of(resource).unwrap_or(0.0) > settings::headroom()),
            ..Usage::default()
        }))
    }

    /// A migration goes on without knowing how busy a server is.
    fn unless_failed<T>(&self, outcome: Result<T>) -> Option<T> {
        outcome
            .inspect_err(|error| {
                pgrx::log!("repart mover: migration {}: {error}", self.migration);
            })
            .ok()
    }
}

fn is_short_of_memory(usage: &usage::Usage) -> bool {
    let (Some(total), Some(available)) = (usage.memory_total, usage.memory_available) else {
        return false;
    };
    total > 0 && 1.0 - available as f64 / total as f64 > settings::headroom()
}

/// The counters of this machine, and of this process.
fn read(began: Instant) -> Option<Counters> {
    let processors = usage::processors()?;
    Some(Counters {
        at: began.elapsed().as_secs_f64(),
        all: processors.all,
        busy: processors.busy,
        own: usage::session_seconds()?,
        processors: processors.count as f64,
        stalled: usage::io_stall(),
    })
}
