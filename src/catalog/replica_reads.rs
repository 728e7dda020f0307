//! What replicas of this server have served, and is in no sample yet: `repart.replica_reads`. The watcher, which asks
//! them, adds to it; the observer, which samples, takes it.

use std::collections::HashMap;

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::spi;

/// What was served of one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    /// Rows read.
    pub rows: f64,
    /// Bytes read.
    pub bytes: f64,
    /// Statements, where the access sampler counted them.
    pub statements: Option<Statements>,
}

/// What the access sampler of a replica counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statements {
    /// How many.
    pub number: f64,
    /// Milliseconds of execution.
    pub busy_ms: f64,
    /// Histogram of execution times; see `repart_core::latency`.
    pub times: Vec<u64>,
}

impl Served {
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        let Some(more) = other.statements else {
            return;
        };
        let sum = self.statements.get_or_insert_with(Statements::default);
        sum.number += more.number;
        sum.busy_ms += more.busy_ms;
        if sum.times.is_empty() {
            sum.times = more.times;
            return;
        }
        for (sum, count) in sum.times.iter_mut().zip(&more.times) {
            *sum = sum.saturating_add(*count);
        }
    }
}

/// Adds what a replica has served since it was last asked, if it still is one.
pub fn add(node: &str, served: &[(pg_sys::Oid, Served)]) -> Result<()> {
    let column = |value: fn(&Served) -> f64| {
        let values = served.iter().map(|(_, served)| value(served));
        values.collect::<Vec<f64>>()
    };
    let statements = |value: fn(&Statements) -> f64| {
        let of = |served: &Served| served.statements.as_ref().map(value);
        let values = served.iter().map(|(_, served)| of(served));
        values.collect::<Vec<Option<f64>>>()
    };
    let times: Vec<Option<String>> = served
        .iter()
        .map(|(_, served)| Some(literal(&served.statements.as_ref()?.times)))
        .collect();
    spi::run(
        "INSERT INTO repart.replica_reads (shard, rows, bytes, statements, busy_ms, latency)
         SELECT u.shard, u.rows, u.bytes, u.statements, u.busy_ms, u.latency::int8[]
           FROM unnest($2::oid[], $3::float8[], $4::float8[], $5::float8[], $6::float8[], $7::text[])
                u (shard, rows, bytes, statements, busy_ms, latency)
          WHERE EXISTS (SELECT FROM repart.node_list n WHERE n.node = $1::name)",
        &[
            node.into(),
            served
                .iter()
                .map(|(shard, _)| *shard)
                .collect::<Vec<pg_sys::Oid>>()
                .into(),
            column(|served| served.rows).into(),
            column(|served| served.bytes).into(),
            statements(|statements| statements.number).into(),
            statements(|statements| statements.busy_ms).into(),
            times.into(),
        ],
    )?;
    Ok(())
}

/// An array as SQL writes it: unnest takes no arrays of arrays of rows.
fn literal(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}

/// Takes what all replicas have served, by shard: it is in the sample that the running transaction makes.
pub fn take() -> Result<HashMap<pg_sys::Oid, Served>> {
    let rows = spi::query(
        "DELETE FROM repart.replica_reads RETURNING shard, rows, bytes, statements, busy_ms, latency",
        &[],
        |row| {
            let times = row.optional::<Vec<i64>>(6)?;
            let statements = match (row.optional(4)?, row.optional(5)?, times) {
                (Some(number), Some(busy_ms), Some(times)) => Some(Statements {
                    number,
                    busy_ms,
                    times: times.into_iter().map(i64::unsigned_abs).collect(),
                }),
                _ => None,
            };
            let served = Served {
                rows: row.get(2)?,
                bytes: row.get(3)?,
                statements,
            };
            Ok((row.get::<pg_sys::Oid>(1)?, served))
        },
    )?;
    let mut sums: HashMap<pg_sys::Oid, Served> = HashMap::new();
    for (shard, served) in rows {
        sums.entry(shard).or_default().add(served);
    }
    Ok(sums)
}
