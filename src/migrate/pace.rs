//! Leaving processors to others: after each piece of a migration's work, how long to rest.

use std::time::{Duration, Instant};

use repart_core::pace::{Duty, Usage};

use crate::nodes::usage;
use crate::settings;

/// Between two looks; the kernel counts in hundredths of a second.
const LOOK: Duration = Duration::from_millis(200);

/// What the processors did until a moment, in seconds of one processor since the start of the machine.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    /// All that was to be had.
    total: f64,
    busy: f64,
    own: f64,
    processors: f64,
}

/// The pace of one mover.
pub struct Pace {
    duty: Duty,
    last: Option<Reading>,
}

impl Pace {
    /// Begins to look, so that the first piece of work already shows what others do.
    pub fn begin() -> Self {
        Self {
            duty: Duty::default(),
            last: read(),
        }
    }

    /// Whether others want the processors.
    pub fn gives_way(&self) -> bool {
        self.duty.is_shared()
    }

    /// How long to rest after so much work. Nothing where the system does not tell what its processors do.
    pub fn rest_after(&mut self, worked: Duration) -> Duration {
        let is_time = self.last.is_none_or(|last| last.at.elapsed() >= LOOK);
        if is_time && let Some(now) = read() {
            if let Some(last) = self.last {
                self.observe(last, now);
            }
            self.last = Some(now);
        }
        Duration::from_secs_f64(self.duty.rest(worked.as_secs_f64()))
    }

    fn observe(&mut self, last: Reading, now: Reading) {
        let total = now.total - last.total;
        if total <= 0.0 {
            return;
        }
        let usage = Usage {
            all: (now.busy - last.busy) / total,
            own: (now.own - last.own) / total,
            processors: now.processors,
        };
        self.duty.observe(usage, settings::headroom());
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
    })
}

#[cfg(not(target_os = "linux"))]
fn read() -> Option<Reading> {
    None
}
