//! Which migrations need a mover now, and which wait for a node that does not answer: nobody works at those, and they
//! take no mover's place.

use crate::error::Result;
use crate::pg::spi;

/// An unfinished migration that somebody has to work at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Runnable {
    /// Its number.
    pub id: i64,
    /// Whether its mover only keeps up, since it is paused, or only ends it, since it was cancelled while it waited.
    pub rests: bool,
    /// Whether it has begun, and a node with a part in it does not answer: its mover is about to notice.
    pub away: bool,
    /// While it waits for a node: when to look for that node, µs since the Unix epoch.
    pub look_at: Option<i64>,
    /// Whether it is to begin, and begins by itself: a plan asked for it, and nobody has cancelled it.
    pub waits: bool,
    /// When the limit that it is to keep is passed, µs since the Unix epoch, if a plan said so.
    pub deadline: Option<i64>,
    /// How long it is expected to take, s; 0 where nobody said.
    pub duration: f64,
}

/// Unfinished migrations that need a mover now or once their node is back, oldest first. A paused one that has begun
/// needs it too: somebody must keep its log short. Without those that another one leads.
pub fn all() -> Result<Vec<Runnable>> {
    spi::select(
        "SELECT j.id,
                p.paused OR w.ends,
                EXISTS (SELECT FROM repart.node_objects o JOIN repart.node_state n ON n.node = o.node
                         WHERE o.migration = j.id AND n.error IS NOT NULL),
                CASE WHEN NOT w.ends THEN (extract(epoch FROM j.retry_at) * 1e6)::int8 END,
                j.state = 'queued' AND j.plan_id IS NOT NULL AND NOT j.cancel_requested,
                (s.spec ->> 'deadline')::int8, coalesce((j.predicted ->> 'duration')::float8, 0)
           FROM repart.journal j
           LEFT JOIN repart.plan_steps s ON s.plan_id = j.plan_id AND s.step = j.step
          CROSS JOIN LATERAL (SELECT j.paused_by IS NOT NULL OR EXISTS (SELECT FROM repart.pause) AS paused) p
          CROSS JOIN LATERAL (SELECT j.waits_for IS NOT NULL AND j.cancel_requested AND j.state <> 'cleaning' AS ends) w
          WHERE j.state NOT IN ('done', 'cancelled', 'failed') AND j.leader IS NULL
            AND (j.state <> 'queued' OR j.cancel_requested
                 OR j.start_at <= pg_catalog.clock_timestamp() AND NOT p.paused)
          ORDER BY j.state = 'queued', j.start_at, j.id",
        &[],
        |row| {
            Ok(Runnable {
                id: row.get(1)?,
                rests: row.get(2)?,
                away: row.get(3)?,
                look_at: row.optional(4)?,
                waits: row.get(5)?,
                deadline: row.optional(6)?,
                duration: row.get(7)?,
            })
        },
    )
}

/// Lets a migration wait for a node that could not be reached, and says why. It is looked for after a second, and then
/// less and less often, once a minute at last; that attempt is not held against the migration. Those that are queued
/// and need the same node wait with it, so that each of them does not find out for itself.
pub fn put_off(id: i64, node: &str, reason: &str) -> Result<()> {
    spi::run(
        "UPDATE repart.journal
            SET reason = $3, waits_for = $2::name,
                waiting_since = CASE WHEN waits_for = $2::name THEN waiting_since ELSE pg_catalog.clock_timestamp() END,
                retry_at = pg_catalog.clock_timestamp()
                           + least(greatest(CASE WHEN waits_for = $2::name THEN pg_catalog.clock_timestamp() - waiting_since END,
                                            interval '1 s'), interval '1 min'),
                attempts = CASE WHEN id = $1 AND waits_for IS NULL THEN greatest(attempts - 1, 0) ELSE attempts END
          WHERE id = $1 AND state NOT IN ('done', 'cancelled', 'failed')
             OR state = 'queued' AND waits_for IS NULL AND leader IS NULL AND NOT cancel_requested
                AND (spec @> pg_catalog.jsonb_build_object('targets', pg_catalog.jsonb_build_array(
                                 pg_catalog.jsonb_build_object('node', $2)))
                     OR spec @> pg_catalog.jsonb_build_object('sources', pg_catalog.jsonb_build_array(
                                 pg_catalog.jsonb_build_object('remote', pg_catalog.jsonb_build_object('node', $2)))))",
        &[id.into(), node.into(), reason.into()],
    )?;
    Ok(())
}

/// Notes that a queued migration, which is looked at all the time, does not start while a node is away. Nobody has to look
/// for that node: the watcher does, and lets the migration go on.
pub fn wait_for(id: i64, node: &str) -> Result<()> {
    let reason = format!("waits for node \"{node}\", which does not answer");
    spi::run(
        "UPDATE repart.journal
            SET reason = $3, waits_for = $2::name, waiting_since = pg_catalog.clock_timestamp(), retry_at = NULL
          WHERE id = $1 AND state = 'queued' AND waits_for IS DISTINCT FROM $2::name",
        &[id.into(), node.into(), reason.into()],
    )?;
    Ok(())
}

/// Lets the migrations that wait for a node go on; returns how many these are. The time that they waited is none in
/// which their switch was tried.
pub fn release(node: &str) -> Result<u64> {
    spi::run(
        "UPDATE repart.journal
            SET waits_for = NULL, waiting_since = NULL, retry_at = NULL, reason = NULL,
                resumed_at = pg_catalog.clock_timestamp()
          WHERE waits_for = $1::name",
        &[node.into()],
    )
}
