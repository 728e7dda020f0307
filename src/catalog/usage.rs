//! What is used of nodes, this server included: `repart.node_samples` as shares of 1, and what is foreseen of it
//! (`repart.node_curves`).

use std::time::Duration;

use pgrx::datum::TimestampWithTimeZone;
use repart_core::plan::input::Curve;

use crate::error::Result;
use crate::pg::{spi, time};

/// Samples that "now" is the mean of.
const NOW_SAMPLES: i64 = 3;

/// Samples older than so many intervals, and than [`STALE`], say nothing about now.
const STALE_INTERVALS: u32 = 10;
const STALE: Duration = Duration::from_secs(10);

/// Something that a node has only so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// The processors: the share of their time in which they work.
    Cpu,
    /// I/O: the share of the time in which somebody waits for it.
    Io,
    /// Memory: the share that is not available any more.
    Memory,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Io, Self::Memory];

    /// Its name in `repart.node_curves`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Io => "io",
            Self::Memory => "memory",
        }
    }

    /// What people call it.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Cpu => "processors",
            Self::Io => "I/O",
            Self::Memory => "memory",
        }
    }
}

/// The higher of two shares, where at least one is known.
fn busier(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        _ => one.or(other),
    }
}

/// Columns of a sample as shares of 1, in the order of [`Resource::ALL`].
const SHARES: &str =
    "s.cpu, s.io_stall, 1 - s.memory_available::float8 / nullif(s.memory_total, 0)";

/// What was used of one node so far, ascending by time; all lists are of one length.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Ends of the observed spans, µs since the Unix epoch.
    pub at: Vec<i64>,
    /// Lengths of the observed spans, s.
    pub seconds: Vec<f64>,
    /// Of each resource, in the order of [`Resource::ALL`].
    used: [Vec<Option<f64>>; 3],
}

impl History {
    /// What was used of a resource in the n-th span.
    pub fn of(&self, resource: Resource, n: usize) -> Option<f64> {
        let place = Resource::ALL.iter().position(|one| *one == resource)?;
        self.used.get(place)?.get(n).copied().flatten()
    }

    /// What was used of the busier of processors and I/O.
    pub fn busiest(&self, n: usize) -> Option<f64> {
        busier(self.of(Resource::Cpu, n), self.of(Resource::Io, n))
    }
}

/// What was used of nodes after `since`. Those without samples are left out.
pub fn histories(nodes: &[String], since: i64) -> Result<Vec<(String, History)>> {
    let names: Vec<String> = nodes.to_vec();
    spi::query(
        &format!(
            "SELECT node, array_agg(at), array_agg(seconds), array_agg(cpu), array_agg(io), array_agg(memory)
               FROM (SELECT s.node::text, s.at, s.seconds, u.cpu, u.io, u.memory
                       FROM repart.node_samples s
                      CROSS JOIN LATERAL (SELECT {SHARES}) u (cpu, io, memory)
                      WHERE s.node = ANY ($1::name[]) AND s.at > $2 ORDER BY s.node, s.at) h
              GROUP BY node ORDER BY node"
        ),
        &[names.into(), time::to_sql(since).into()],
        |row| {
            let at = row.get::<Vec<TimestampWithTimeZone>>(2)?;
            let history = History {
                at: at.into_iter().map(time::from_sql).collect(),
                seconds: row.get(3)?,
                used: [row.get(4)?, row.get(5)?, row.get(6)?],
            };
            Ok((row.get(1)?, history))
        },
    )
}

/// What is used of a node now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latest {
    /// The processors, a share of 1.
    pub cpu: Option<f64>,
    /// I/O, likewise.
    pub io: Option<f64>,
    /// Memory, likewise.
    pub memory: Option<f64>,
    /// Bytes free and in all.
    pub disk: Option<(f64, f64)>,
    /// Number of processors.
    pub cpus: Option<i32>,
    /// When it was measured, µs since the Unix epoch.
    pub at: i64,
}

impl Latest {
    /// Of one resource.
    pub fn of(&self, resource: Resource) -> Option<f64> {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Io => self.io,
            Resource::Memory => self.memory,
        }
    }

    /// Of the busier of processors and I/O.
    pub fn busiest(&self) -> Option<f64> {
        busier(self.cpu, self.io)
    }
}

/// What is used of a node now, where that is known: the mean of the last samples.
pub fn latest(node: &str, interval: Duration) -> Result<Option<Latest>> {
    latest_of(node, interval, NOW_SAMPLES)
}

/// As [`latest`], by the last sample alone.
pub fn last(node: &str, interval: Duration) -> Result<Option<Latest>> {
    latest_of(node, interval, 1)
}

fn latest_of(node: &str, interval: Duration, samples: i64) -> Result<Option<Latest>> {
    let stale = (interval * STALE_INTERVALS).max(STALE);
    let oldest = time::clock().saturating_sub(time::span(stale));
    let found = spi::query(
        &format!(
            "SELECT avg(cpu), avg(io), avg(memory), min(disk_free)::float8, max(disk_total)::float8, max(cpus), max(at)
               FROM (SELECT u.*, s.disk_free, s.disk_total, s.cpus, s.at
                       FROM repart.node_samples s
                      CROSS JOIN LATERAL (SELECT {SHARES}) u (cpu, io, memory)
                      WHERE s.node = $1::name AND s.at > $2 ORDER BY s.at DESC LIMIT $3) l
             HAVING count(*) > 0"
        ),
        &[node.into(), time::to_sql(oldest).into(), samples.into()],
        |row| {
            let (free, total) = (row.optional::<f64>(4)?, row.optional::<f64>(5)?);
            Ok(Latest {
                cpu: row.optional(1)?,
                io: row.optional(2)?,
                memory: row.optional(3)?,
                disk: free.zip(total),
                cpus: row.optional(6)?,
                at: time::from_sql(row.get(7)?),
            })
        },
    )?;
    Ok(found.into_iter().next())
}

/// Keeps what is foreseen of a node, instead of what was before.
pub fn store_curve(node: &str, resource: Resource, curve: Option<&Curve>) -> Result<()> {
    spi::run(
        "DELETE FROM repart.node_curves WHERE node = $1::name AND metric = $2",
        &[node.into(), resource.as_str().into()],
    )?;
    let Some(curve) = curve else { return Ok(()) };
    spi::run(
        "INSERT INTO repart.node_curves (node, metric, first_at, step, q90)
         VALUES ($1::name, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        &[
            node.into(),
            resource.as_str().into(),
            time::to_sql(curve.start).into(),
            time::span_to_sql(curve.step).into(),
            curve.q90.clone().into(),
        ],
    )?;
    Ok(())
}

/// The most that is foreseen to be used of a node from now on for so long, and when that ends; `None` where nothing is
/// foreseen.
pub fn foreseen(node: &str, resource: Resource, seconds: f64) -> Result<Option<f64>> {
    spi::query_value(
        "SELECT max(q.value)
           FROM repart.node_curves c
          CROSS JOIN LATERAL unnest(c.q90) WITH ORDINALITY q (value, n)
          WHERE c.node = $1::name AND c.metric = $2
            AND c.first_at + q.n * c.step > pg_catalog.clock_timestamp()
            AND c.first_at + (q.n - 1) * c.step < pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $3)",
        &[node.into(), resource.as_str().into(), seconds.into()],
    )
}

/// The minute of the day, by the clock and time zone of this server.
pub fn minute_of_day() -> Result<u32> {
    let minute = spi::query_value::<i32>(
        "SELECT (extract(hour FROM t) * 60 + extract(minute FROM t))::int4
           FROM (SELECT pg_catalog.timezone(pg_catalog.current_setting('TimeZone'), pg_catalog.clock_timestamp())) c (t)",
        &[],
    )?;
    Ok(u32::try_from(minute.unwrap_or(0)).unwrap_or(0))
}
