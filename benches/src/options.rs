//! How large and how often, from the environment.

use std::str::FromStr;
use std::time::Duration;

/// What the benchmarks are run with.
#[derive(Clone, Debug)]
pub struct Options {
    /// `REPART_BENCH_RUNS`: runs of each side, in turn.
    pub runs: usize,
    /// `REPART_BENCH_ROWS`: rows of the shard; `carve` takes twice as many.
    pub rows: i64,
    /// `REPART_BENCH_SECONDS`: how long clients are watched without a migration before one begins.
    pub seconds: Duration,
    /// `REPART_BENCH_HOLD`: for how long `held` keeps a transaction open.
    pub hold: Duration,
    /// `REPART_BENCH_RATE`: `repart.max_copy_rate` of the rate-controlled migration, kB/s.
    pub rate: i64,
    /// Whether commits reach the disk, as in production.
    pub durable: bool,
}

impl Options {
    /// Those of the environment; what it lacks is as in DESIGN.md, section 12.
    ///
    /// # Panics
    /// Panics when a variable is no number.
    pub fn from_environment() -> Self {
        Self {
            runs: number("REPART_BENCH_RUNS", 5),
            rows: number("REPART_BENCH_ROWS", 1_000_000),
            seconds: Duration::from_secs_f64(number("REPART_BENCH_SECONDS", 5.0)),
            hold: Duration::from_secs_f64(number("REPART_BENCH_HOLD", 20.0)),
            rate: number("REPART_BENCH_RATE", 4_096),
            durable: true,
        }
    }

    /// So small that everything is over in seconds: proves that a benchmark works, and measures nothing.
    pub fn smoke() -> Self {
        Self {
            runs: 1,
            rows: 2_000,
            seconds: Duration::from_millis(200),
            hold: Duration::from_millis(300),
            rate: 1_000_000,
            durable: false,
        }
    }
}

fn number<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Err(_) => default,
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is \"{text}\", which is not a number")),
    }
}
