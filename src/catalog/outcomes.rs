//! What finished migrations cost and gained, `repart.outcome_log`.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use repart_core::feedback::Moved;
use serde_json::Value;

use crate::error::Result;
use crate::pg::{spi, time};

/// What a migration that has just finished is known to have cost.
#[derive(Clone, Debug)]
pub struct NewOutcome {
    /// Its number.
    pub migration: i64,
    /// What it did: `split`, `merge`, `shift` or `move`.
    pub kind: String,
    /// The sharded table.
    pub relation: pg_sys::Oid,
    /// The sharded table's name.
    pub relation_name: String,
    /// Rows rewritten.
    pub rows: i64,
    /// Bytes rewritten.
    pub bytes: i64,
    /// Seconds spent copying.
    pub copy_seconds: f64,
    /// Seconds from its start to its end.
    pub duration: f64,
    /// Milliseconds of its cutover.
    pub pause_ms: f64,
    /// What its plan predicted: `duration` (s), `rate` (bytes/s), `pause_ms`, `load_after` (rows/s).
    pub predicted: Option<Value>,
    /// Peak load of its hottest source, rows/s.
    pub load_before: Option<f64>,
    /// Rows that changed tables inside its cutover.
    pub moved: Moved,
    /// The shards that it made.
    pub shards: Vec<pg_sys::Oid>,
}

/// What is known about a finished migration.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its number.
    pub migration: i64,
    /// What it did.
    pub kind: String,
    /// When it finished, µs since the Unix epoch.
    pub finished_at: i64,
    /// Rows rewritten.
    pub rows: f64,
    /// Bytes rewritten.
    pub bytes: f64,
    /// Seconds spent copying.
    pub copy_seconds: f64,
    /// Seconds from its start to its end.
    pub duration: f64,
    /// The duration that its plan promised, if there was one.
    pub predicted_duration: Option<f64>,
    /// Milliseconds of its cutover.
    pub pause_ms: Option<f64>,
    /// Peak load of its hottest source, rows/s.
    pub load_before: Option<f64>,
    /// The peak load of its hottest target that its plan promised, rows/s.
    pub predicted_load_after: Option<f64>,
    /// The peak load of its hottest target that was observed, rows/s.
    pub load_after: Option<f64>,
    /// Until when its targets were observed, µs since the Unix epoch.
    pub judged_until: Option<i64>,
    /// Rows that changed tables inside its cutover.
    pub moved: Moved,
    /// The shards that it made.
    pub shards: Vec<pg_sys::Oid>,
}

/// Records an outcome. Recording it twice, as after a crash, is harmless.
pub fn record(outcome: &NewOutcome) -> Result<()> {
    let predicted = |key: &str| {
        outcome
            .predicted
            .as_ref()
            .and_then(|value| value.get(key))
            .and_then(Value::as_f64)
    };
    let rate = (outcome.copy_seconds > 0.0).then(|| outcome.bytes as f64 / outcome.copy_seconds);
    spi::run(
        "INSERT INTO repart.outcome_log
             (migration, kind, relation, relation_name, rows, bytes, copy_seconds, duration, predicted_duration,
              rate, predicted_rate, pause_ms, predicted_pause_ms, load_before, predicted_load_after, shards,
              rows_deleted, delete_seconds, rows_inserted, insert_seconds)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)
         ON CONFLICT (migration) DO NOTHING",
        &[
            outcome.migration.into(),
            outcome.kind.as_str().into(),
            outcome.relation.into(),
            outcome.relation_name.as_str().into(),
            outcome.rows.into(),
            outcome.bytes.into(),
            outcome.copy_seconds.into(),
            outcome.duration.into(),
            predicted("duration").into(),
            rate.into(),
            predicted("rate").into(),
            outcome.pause_ms.into(),
            predicted("pause_ms").into(),
            outcome.load_before.into(),
            predicted("load_after").into(),
            outcome.shards.clone().into(),
            (outcome.moved.deleted as i64).into(),
            outcome.moved.delete_seconds.into(),
            (outcome.moved.inserted as i64).into(),
            outcome.moved.insert_seconds.into(),
        ],
    )?;
    Ok(())
}

/// The latest outcomes of all tables, at most `limit`, oldest first.
pub fn recent(limit: i64) -> Result<Vec<Recorded>> {
    spi::query(
        "SELECT * FROM (
             SELECT migration, kind, finished_at, rows::float8, bytes::float8, copy_seconds, duration,
                    predicted_duration, pause_ms, load_before, predicted_load_after, load_after, judged_until, shards,
                    rows_deleted::float8, delete_seconds, rows_inserted::float8, insert_seconds
               FROM repart.outcome_log ORDER BY finished_at DESC, migration DESC LIMIT $1) o
          ORDER BY finished_at, migration",
        &[limit.into()],
        read,
    )
}

fn read(row: &spi::Row) -> Result<Recorded> {
    Ok(Recorded {
        migration: row.get(1)?,
        kind: row.get(2)?,
        finished_at: time::from_sql(row.get::<TimestampWithTimeZone>(3)?),
        rows: row.get(4)?,
        bytes: row.get(5)?,
        copy_seconds: row.get(6)?,
        duration: row.get(7)?,
        predicted_duration: row.optional(8)?,
        pause_ms: row.optional(9)?,
        load_before: row.optional(10)?,
        predicted_load_after: row.optional(11)?,
        load_after: row.optional(12)?,
        judged_until: row
            .optional::<TimestampWithTimeZone>(13)?
            .map(time::from_sql),
        shards: row.get(14)?,
        moved: Moved {
            deleted: row.get(15)?,
            delete_seconds: row.get(16)?,
            inserted: row.get(17)?,
            insert_seconds: row.get(18)?,
        },
    })
}

/// Notes the load of a migration's targets from its end to `until`: of the shard where it is highest, the
/// rate (rows read and written per second) that 95 % of the time stays below, so that one odd sample
/// does not count. Shards of colocated tables with the same bounds count as one. Without samples nothing is noted.
pub fn judge(migration: i64, until: i64) -> Result<()> {
    spi::run(
        "UPDATE repart.outcome_log o
            SET load_after = observed.peak, judged_until = $2
           FROM (SELECT max(p.peak) AS peak
                   FROM (SELECT pg_catalog.percentile_cont(0.95) WITHIN GROUP (ORDER BY r.load) AS peak
                           FROM (SELECT coalesce(pg_catalog.pg_get_expr(c.relpartbound, c.oid), s.shard::text) AS range,
                                        sum(s.reads + s.writes) AS load
                                   FROM repart.outcome_log t
                                   JOIN repart.samples s ON s.shard = ANY (t.shards)
                                   LEFT JOIN pg_catalog.pg_class c ON c.oid = s.shard
                                  WHERE t.migration = $1 AND s.at > t.finished_at AND s.at <= $2
                                  GROUP BY 1, s.at) r
                          GROUP BY r.range) p) observed
          WHERE o.migration = $1 AND observed.peak IS NOT NULL",
        &[migration.into(), time::to_sql(until).into()],
    )?;
    Ok(())
}

/// Deletes at most `limit` outcomes of migrations that finished before `before`.
pub fn purge(before: i64, limit: i64) -> Result<u64> {
    spi::run(
        "DELETE FROM repart.outcome_log
          WHERE migration IN (SELECT migration FROM repart.outcome_log WHERE finished_at < $1
                               ORDER BY finished_at LIMIT $2)",
        &[time::to_sql(before).into(), limit.into()],
    )
}
