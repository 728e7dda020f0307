//! The durable journal of migrations, `repart.journal`.

use pgrx::{JsonB, pg_sys};

pub use crate::catalog::migration::{
    KeyColumn, Kind, Migration, Part, Position, Remote, Source, Spec, Target,
};
use crate::catalog::retained::Retained;
use repart_core::state::State;

use crate::error::{Error, Result};
use crate::pg::spi;

const COLUMNS: &str = "id, kind, relation, relation_name, spec, state, cancel_requested, attempts,
    coalesce(position, '{}'), rows_done, bytes_done, copy_seconds, predicted,
    coalesce(extract(epoch FROM clock_timestamp() - started_at), 0)::float8, pause_ms,
    xmin = pg_catalog.pg_current_xact_id_if_assigned()::xid,
    paused_by IS NOT NULL OR EXISTS (SELECT FROM repart.pause),
    extract(epoch FROM clock_timestamp() - greatest(state_since, resumed_at))::float8, leader,
    1 + (SELECT count(*) FROM repart.journal f WHERE f.leader = coalesce(journal.leader, journal.id)),
    waits_for::text";

/// Numbers a migration before it is stored.
pub(super) const NEXT_NUMBER: &str =
    "pg_catalog.nextval(pg_catalog.pg_get_serial_sequence('repart.journal', 'id'))";

fn read(row: &spi::Row) -> Result<Migration> {
    Ok(Migration {
        id: row.get(1)?,
        kind: Kind::parse(&row.get::<String>(2)?)?,
        relation: row.get(3)?,
        relation_name: row.get(4)?,
        spec: serde_json::from_value(row.get::<JsonB>(5)?.0)?,
        state: row.get::<String>(6)?.parse()?,
        cancel_requested: row.get(7)?,
        attempts: row.get(8)?,
        position: serde_json::from_value(row.get::<JsonB>(9)?.0)?,
        rows_done: row.get(10)?,
        bytes_done: row.get(11)?,
        copy_seconds: row.get(12)?,
        predicted: row.optional::<JsonB>(13)?.map(|json| json.0),
        running_seconds: row.get(14)?,
        pause_ms: row.optional(15)?,
        is_uncommitted: row.optional(16)?.unwrap_or(false),
        is_paused: row.get(17)?,
        state_seconds: row.get(18)?,
        leader: row.optional(19)?,
        tables: row.get(20)?,
        waits_for: row.optional(21)?,
    })
}

/// A migration, if there is one of that number.
pub fn find(id: i64) -> Result<Option<Migration>> {
    spi::select_first(
        &format!("SELECT {COLUMNS} FROM repart.journal WHERE id = $1"),
        &[id.into()],
        read,
    )
}

/// A migration and those that are carried out with it, the one that leads first; none if there is no such one.
pub fn with_followers(leader: i64) -> Result<Vec<Migration>> {
    spi::select(
        &format!(
            "SELECT {COLUMNS} FROM repart.journal WHERE id = $1 OR leader = $1
              ORDER BY leader NULLS FIRST, id"
        ),
        &[leader.into()],
        read,
    )
}

/// A migration to be queued.
pub struct Request<'a> {
    /// What it does.
    pub kind: Kind,
    /// The sharded table.
    pub relation: pg_sys::Oid,
    /// Sources and targets.
    pub spec: &'a Spec,
    /// The step of the stored plan that it carries out, if any.
    pub plan_step: Option<(i64, i32)>,
    /// What the plan predicted.
    pub predicted: Option<serde_json::Value>,
    /// Earliest start in µs since the Unix epoch; `None` for at once.
    pub start_at: Option<i64>,
    /// Who asked for it.
    pub requested_by: String,
    /// The migration that it takes back.
    pub reverts: Option<i64>,
    /// The old shards of that one, if they were kept: its number and position are those of the migration.
    pub retained: Option<&'a Retained>,
    /// The migration that it is carried out with.
    pub leader: Option<i64>,
}

/// Queues a migration; returns its number.
pub fn insert(request: Request) -> Result<i64> {
    let (plan_id, step) = request.plan_step.unzip();
    let position = match request.retained {
        Some(retained) => Some(JsonB(serde_json::to_value(&retained.position)?)),
        None => None,
    };
    spi::query_value(
        &format!(
            "INSERT INTO repart.journal
                 (kind, relation, relation_name, spec, plan_id, step, predicted, start_at, requested_by,
                  reverts, id, position, leader)
             OVERRIDING SYSTEM VALUE
             SELECT $1, c.oid, c.relname, $3, $4, $5, $6,
                    coalesce(pg_catalog.to_timestamp($7::float8 / 1e6), pg_catalog.now()), $8,
                    $9, coalesce($10, {NEXT_NUMBER}), $11, $12
               FROM pg_catalog.pg_class c WHERE c.oid = $2
             RETURNING id"
        ),
        &[
            request.kind.as_str().into(),
            request.relation.into(),
            JsonB(serde_json::to_value(request.spec)?).into(),
            plan_id.into(),
            step.into(),
            request.predicted.map(JsonB).into(),
            request.start_at.into(),
            request.requested_by.into(),
            request.reverts.into(),
            request.retained.map(|retained| retained.number).into(),
            position.into(),
            request.leader.into(),
        ],
    )?
    .ok_or_else(|| Error::Internal("a migration was not queued".to_owned()))
}

/// The nodes on which a migration and those that follow it have sources or targets.
pub fn nodes_of(id: i64) -> Result<Vec<String>> {
    spi::query(
        "WITH m AS (SELECT spec FROM repart.journal WHERE id = $1 OR leader = $1)
         SELECT coalesce(v.srvname::text, 'local')
           FROM m CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(m.spec -> 'sources') s
           LEFT JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = (s ->> 'oid')::oid
           LEFT JOIN pg_catalog.pg_foreign_server v ON v.oid = f.ftserver
          UNION
         SELECT coalesce(t ->> 'node', 'local')
           FROM m CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(m.spec -> 'targets') t
          ORDER BY 1",
        &[id.into()],
        |row| row.get(1),
    )
}

/// Takes a migration up, with those that follow it: counts the attempt, and notes the time of the first one.
pub fn take_up(id: i64) -> Result<()> {
    spi::run(
        "UPDATE repart.journal
            SET attempts = attempts + 1, started_at = coalesce(started_at, pg_catalog.clock_timestamp()), reason = NULL
          WHERE id = $1 OR leader = $1",
        &[id.into()],
    )?;
    Ok(())
}

/// Moves a migration to another state, which the table of transitions must have. Progress proves that
/// the mover works, so attempts start again. A migration that is to be cancelled goes no further: whoever
/// was told that it will be must not find it done.
pub fn transition(migration: &Migration, to: State) -> Result<()> {
    migration.state.require_transition(to)?;
    let changed = spi::run(
        "UPDATE repart.journal
            SET state = $2, state_since = pg_catalog.clock_timestamp(), reason = NULL, attempts = least(attempts, 1),
                waits_for = NULL, waiting_since = NULL, retry_at = NULL,
                finished_at = CASE WHEN $2 IN ('done', 'cancelled', 'failed') THEN pg_catalog.clock_timestamp() END
          WHERE id = $1 AND state = $3
            AND (NOT cancel_requested OR state = 'cleaning' OR $2 IN ('cancelled', 'failed'))",
        &[migration.id.into(), to.as_str().into(), migration.state.as_str().into()],
    )?;
    if changed == 1 {
        return Ok(());
    }
    Err(Error::Superseded(migration.id))
}

/// Stores where the copy is, and what a batch added.
pub fn advance(
    migration: &Migration,
    position: &Position,
    rows: i64,
    bytes: i64,
    seconds: f64,
) -> Result<()> {
    spi::run(
        "UPDATE repart.journal
            SET position = $2, rows_done = rows_done + $3, bytes_done = bytes_done + $4,
                copy_seconds = copy_seconds + $5
          WHERE id = $1",
        &[
            migration.id.into(),
            JsonB(serde_json::to_value(position)?).into(),
            rows.into(),
            bytes.into(),
            seconds.into(),
        ],
    )?;
    Ok(())
}

/// Forgets what was copied: the copy starts again.
pub fn restart_copy(migration: &Migration, position: &Position) -> Result<()> {
    spi::run(
        "UPDATE repart.journal SET position = $2, rows_done = 0, bytes_done = 0 WHERE id = $1",
        &[
            migration.id.into(),
            JsonB(serde_json::to_value(position)?).into(),
        ],
    )?;
    Ok(())
}

/// Stores what is to be done, once the names of the targets are chosen.
pub fn set_spec(migration: &Migration) -> Result<()> {
    spi::run(
        "UPDATE repart.journal SET spec = $2 WHERE id = $1",
        &[
            migration.id.into(),
            JsonB(serde_json::to_value(&migration.spec)?).into(),
        ],
    )?;
    Ok(())
}

/// Stores how much there is to copy.
pub fn set_totals(id: i64, rows: i64, bytes: i64) -> Result<()> {
    spi::run(
        "UPDATE repart.journal SET rows_total = $2, bytes_total = $3 WHERE id = $1",
        &[id.into(), rows.into(), bytes.into()],
    )?;
    Ok(())
}

/// Stores what the migration waits for, or `None`.
pub fn set_reason(id: i64, reason: Option<&str>) -> Result<()> {
    spi::run(
        "UPDATE repart.journal SET reason = $2 WHERE id = $1 AND reason IS DISTINCT FROM $2",
        &[id.into(), reason.into()],
    )?;
    Ok(())
}

/// Stores the number of captured changes not yet applied.
pub fn set_lag(id: i64, lag: i64) -> Result<()> {
    spi::run(
        "UPDATE repart.journal SET lag = $2 WHERE id = $1 AND lag <> $2",
        &[id.into(), lag.into()],
    )?;
    Ok(())
}

/// Stores how long the switch took.
pub fn set_pause(id: i64, milliseconds: f64) -> Result<()> {
    spi::run(
        "UPDATE repart.journal SET pause_ms = $2 WHERE id = $1",
        &[id.into(), milliseconds.into()],
    )?;
    Ok(())
}

/// Stores why a migration failed.
pub fn set_error(id: i64, error: &str) -> Result<()> {
    spi::run(
        "UPDATE repart.journal SET error = $2 WHERE id = $1",
        &[id.into(), error.into()],
    )?;
    Ok(())
}

/// The unfinished migration that uses one of these shards, if any.
pub fn conflicting(shards: &[pg_sys::Oid]) -> Result<Option<i64>> {
    spi::query_value(
        "SELECT j.id FROM repart.journal j, pg_catalog.jsonb_array_elements(j.spec -> 'sources') s
          WHERE j.state NOT IN ('done', 'cancelled', 'failed') AND (s ->> 'oid')::oid = ANY ($1) LIMIT 1",
        &[shards.to_vec().into()],
    )
}

/// Shards of a table that an unfinished migration uses.
pub fn busy_shards(relation: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    spi::select(
        "SELECT (s ->> 'oid')::oid FROM repart.journal j, pg_catalog.jsonb_array_elements(j.spec -> 'sources') s
          WHERE j.state NOT IN ('done', 'cancelled', 'failed') AND j.relation = $1",
        &[relation.into()],
        |row| row.get(1),
    )
}

/// The shards of a table that are on their way to another node, or wait for that, with the node.
pub fn destinations(relation: pg_sys::Oid) -> Result<Vec<(pg_sys::Oid, String)>> {
    spi::select(
        "SELECT (j.spec -> 'sources' -> 0 ->> 'oid')::oid, coalesce(j.spec -> 'targets' -> 0 ->> 'node', 'local')
           FROM repart.journal j
          WHERE j.state NOT IN ('done', 'cancelled', 'failed') AND j.relation = $1 AND j.kind = 'move'",
        &[relation.into()],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// When each shard of a table was made by a migration, in µs since the Unix epoch.
pub fn last_changes(relation: pg_sys::Oid) -> Result<Vec<(pg_sys::Oid, i64)>> {
    spi::select(
        "SELECT l.shard, (extract(epoch FROM max(l.at)) * 1e6)::bigint
           FROM repart.lineage l JOIN pg_catalog.pg_inherits i ON i.inhrelid = l.shard AND i.inhparent = $1
          GROUP BY l.shard",
        &[relation.into()],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// Notes from which shards, with which share of their load, a new shard was made.
pub fn insert_lineage(shard: pg_sys::Oid, ancestor: pg_sys::Oid, share: f64) -> Result<()> {
    spi::run(
        "INSERT INTO repart.lineage (shard, ancestor, share, at)
         VALUES ($1, $2, least(greatest($3, 0), 1), pg_catalog.now())",
        &[shard.into(), ancestor.into(), share.into()],
    )?;
    Ok(())
}

/// Writes an event, which `repart.events` shows.
pub fn event(severity: &str, migration: Option<&Migration>, message: &str) -> Result<()> {
    spi::run(
        "INSERT INTO repart.events (severity, relation, migration, message) VALUES ($1, $2, $3, $4)",
        &[
            severity.into(),
            migration
                .map(|migration| migration.relation_name.clone())
                .into(),
            migration.map(|migration| migration.id).into(),
            message.into(),
        ],
    )?;
    Ok(())
}

/// The shards that the last migration of these made from them. A shard that kept its table is its own
/// descendant, and may have others from earlier migrations.
pub fn descendants(ancestors: &[pg_sys::Oid]) -> Result<Vec<pg_sys::Oid>> {
    spi::select(
        "SELECT DISTINCT shard FROM repart.lineage
          WHERE ancestor = ANY ($1) AND at = (SELECT max(at) FROM repart.lineage WHERE ancestor = ANY ($1))
          ORDER BY shard",
        &[ancestors.to_vec().into()],
        |row| row.get(1),
    )
}
