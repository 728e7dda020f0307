//! Leaving processors and disks to others, here and on the other nodes of a migration: after each piece of its work, how
//! long to rest.

use std::time::{Duration, Instant};

use repart_core::pace::{Duty, Usage};

use crate::catalog::journal;
use crate::catalog::nodes::LOCAL;
use crate::catalog::usage::{self as observed, Resource};
use crate::error::Result;
use crate::nodes::usage;
use crate::pg::txn;
use crate::settings;

/// Between two looks; the kernel counts in hundredths of a second.
const LOOK: Duration = Duration::from_millis(200);

/// Between two looks at what the watcher knows of other nodes.
const LOOK_AT_NODES: Duration = Duration::from_secs(1);

/// What the processors did until a moment, in seconds of one processor since the start of the machine.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    /// All that was to be had.
    total: f64,
    busy: f64,
    own: f64,
    processors: f64,
    /// Seconds in which somebody waited for I/O, where the system tells.
    stalled: Option<f64>,
}

/// The pace of one mover.
pub struct Pace {
    migration: i64,
    duty: Duty,
    last: Option<Reading>,
    /// The other nodes of the migration, once they were looked for.
    nodes: Option<Vec<String>>,
    /// When they were last looked at, and whether one of them has no headroom.
    elsewhere: Option<(Instant, bool)>,
}

impl Pace {
    /// Begins to look, so that the first piece of work already shows what others do.
    pub fn begin(migration: i64) -> Self {
        Self {
            migration,
            duty: Duty::default(),
            last: read(),
            nodes: None,
            elsewhere: None,
        }
    }

    /// Whether others want the processors.
    pub fn gives_way(&self) -> bool {
        self.duty.is_shared()
    }

    /// How long to rest after so much work. Nothing where neither the system tells what its processors do nor the
    /// migration has other nodes. Outside of a transaction.
    pub fn rest_after(&mut self, worked: Duration) -> Duration {
        let is_time = self.last.is_none_or(|last| last.at.elapsed() >= LOOK);
        if is_time && settings::headroom() < 1.0 {
            let elsewhere = self.is_short_elsewhere();
            let now = read();
            match (self.last, now) {
                (Some(last), Some(now)) => self.observe(last, now, elsewhere),
                _ => self.duty.observe(
                    Usage {
                        processors: 1.0,
                        elsewhere,
                        ..Usage::default()
                    },
                    settings::headroom(),
                ),
            }
            self.last = now;
        } else if is_time {
            self.duty = Duty::default();
            self.last = read();
        }
        Duration::from_secs_f64(self.duty.rest(worked.as_secs_f64()))
    }

    fn observe(&mut self, last: Reading, now: Reading, elsewhere: bool) {
        let total = now.total - last.total;
        let seconds = now.at.saturating_duration_since(last.at).as_secs_f64();
        if total <= 0.0 || seconds <= 0.0 {
            return;
        }
        let stalled = now.stalled.zip(last.stalled);
        let usage = Usage {
            all: (now.busy - last.busy) / total,
            own: (now.own - last.own) / total,
            processors: now.processors,
            stalled: stalled.map(|(now, last)| ((now - last) / seconds).clamp(0.0, 1.0)),
            elsewhere,
        };
        self.duty.observe(usage, settings::headroom());
    }

    /// Whether another node of the migration has no headroom, by the watcher's last reading.
    fn is_short_elsewhere(&mut self) -> bool {
        if let Some((at, is_short)) = self.elsewhere
            && at.elapsed() < LOOK_AT_NODES
        {
            return is_short;
        }
        let is_short = self.look_elsewhere().unwrap_or_else(|error| {
            pgrx::log!("repart mover: migration {}: {error}", self.migration);
            false
        });
        self.elsewhere = Some((Instant::now(), is_short));
        is_short
    }

    fn look_elsewhere(&mut self) -> Result<bool> {
        let nodes = match self.nodes.take() {
            Some(nodes) => nodes,
            None => {
                let mut nodes = txn::run(|| journal::nodes_of(self.migration))?;
                nodes.retain(|node| node != LOCAL);
                nodes
            }
        };
        let mut is_short = false;
        for node in &nodes {
            let last = txn::run(|| observed::last(node, settings::sample_interval()))?;
            let used = |resource| last.and_then(|last| last.of(resource)).unwrap_or(0.0);
            is_short |= Resource::ALL
                .into_iter()
                .any(|resource| used(resource) > settings::headroom());
        }
        self.nodes = Some(nodes);
        Ok(is_short)
    }
}

#[cfg(target_os = "linux")]
fn read() -> Option<Reading> {
    use procfs::{process::Process, ticks_per_second};

    let processors = usage::processors()?;
    let own = Process::myself().ok()?.stat().ok()?;
    Some(Reading {
        at: Instant::now(),
        total: processors.all,
        busy: processors.busy,
        own: (own.utime + own.stime) as f64 / ticks_per_second() as f64,
        processors: processors.count as f64,
        stalled: usage::io_stall(),
    })
}

#[cfg(not(target_os = "linux"))]
fn read() -> Option<Reading> {
    None
}
