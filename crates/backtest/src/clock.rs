//! The time of the processor that a forecast takes: what others do on the machine must not count.

use std::time::Instant;

/// Since when something runs.
pub struct Clock {
    wall: Instant,
    processor: Option<u64>,
}

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            wall: Instant::now(),
            processor: nanoseconds(),
        }
    }

    /// The milliseconds of processor time of this thread since the start; of the wall clock where the system
    /// does not tell.
    pub fn millis(&self) -> f64 {
        match (self.processor, nanoseconds()) {
            (Some(before), Some(now)) => now.saturating_sub(before) as f64 / 1e6,
            _ => self.wall.elapsed().as_secs_f64() * 1e3,
        }
    }
}

/// What Linux counts for this thread, ns.
fn nanoseconds() -> Option<u64> {
    // Otherwise it was counted at the last tick, up to 4 ms ago.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}
