//! What nodes were doing: `repart.node_samples`.

use crate::error::Result;
use crate::pg::{spi, time};

/// One observation of a node; see `repart.node_samples` for units.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeSample {
    /// Length of the observed span in seconds; above 0.
    pub seconds: f64,
    /// Share of all processors that was busy.
    pub cpu: Option<f64>,
    /// Load average over a minute.
    pub load: Option<f64>,
    /// Bytes.
    pub memory_total: Option<i64>,
    /// Bytes that programs can still get without swapping.
    pub memory_available: Option<i64>,
    /// Shares of the time in which somebody waited for a processor, for memory, for I/O.
    pub stalls: [Option<f64>; 3],
    /// Bytes read and written per second.
    pub bytes: [Option<f64>; 2],
    /// Bytes of the file system of the data directory, in all and free.
    pub disk: [Option<i64>; 2],
    /// Sessions of clients, those at work, and how many there may be.
    pub sessions: [Option<i32>; 3],
    /// Transactions per second.
    pub transactions: Option<f64>,
    /// Seconds that a replica is behind.
    pub lag: Option<f64>,
    /// Number of processors.
    pub cpus: Option<i32>,
}

/// Adds an observation of a node, if it still is one.
pub fn insert_sample(name: &str, at: i64, sample: &NodeSample) -> Result<()> {
    spi::run(
        "INSERT INTO repart.node_samples
         SELECT $1::name, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20
          WHERE $1 = 'local' OR EXISTS (SELECT FROM repart.node_list n WHERE n.node = $1::name)
         ON CONFLICT DO NOTHING",
        &[
            name.into(),
            time::to_sql(at).into(),
            sample.seconds.into(),
            sample.cpu.into(),
            sample.load.into(),
            sample.memory_total.into(),
            sample.memory_available.into(),
            sample.stalls[0].into(),
            sample.stalls[1].into(),
            sample.stalls[2].into(),
            sample.bytes[0].into(),
            sample.bytes[1].into(),
            sample.disk[0].into(),
            sample.disk[1].into(),
            sample.sessions[0].into(),
            sample.sessions[1].into(),
            sample.sessions[2].into(),
            sample.transactions.into(),
            sample.lag.into(),
            sample.cpus.into(),
        ],
    )?;
    Ok(())
}

/// Deletes at most `limit` observations that are older than `before`.
pub fn purge(before: i64, limit: i64) -> Result<u64> {
    spi::run(
        "DELETE FROM repart.node_samples
          WHERE ctid = ANY (ARRAY(SELECT ctid FROM repart.node_samples WHERE at < $1 ORDER BY at LIMIT $2))",
        &[time::to_sql(before).into(), limit.into()],
    )
}
