//! Old shards that are kept after a switch, as the journal knows them, and private objects that nobody needs.

use pgrx::{JsonB, pg_sys};
use repart_core::state::State;
use serde::{Deserialize, Serialize};

use crate::catalog::journal::{Kind, Migration, NEXT_NUMBER, Position, Spec};
use crate::error::{Error, Result};
use crate::pg::spi;

/// Old shards, ready to be the targets of the migration that takes their replacement back. Tables, log,
/// triggers and trigger function are named as that migration's, whose number is reserved for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Retained {
    /// The reserved number.
    pub number: i64,
    /// What that migration would do.
    pub spec: Spec,
    /// Where it would begin.
    pub position: Position,
}

/// A migration whose old shards are kept.
pub struct Keeper {
    /// Its number.
    pub id: i64,
    /// The reverse migration, as far as it exists.
    pub reverse: Migration,
    /// Whether the time is over.
    pub is_expired: bool,
}

impl Keeper {
    /// The number under which everything is named.
    pub fn number(&self) -> i64 {
        self.reverse.id
    }
}

/// A number for a migration that may come.
pub fn reserve_number() -> Result<i64> {
    spi::query_value(&format!("SELECT {NEXT_NUMBER}"), &[])?
        .ok_or_else(|| Error::Internal("a sequence without a number".to_owned()))
}

/// Stores that the old shards of a migration are kept for so many seconds from now.
pub fn store(id: i64, retained: &Retained, seconds: f64) -> Result<()> {
    spi::run(
        "UPDATE repart.journal
            SET retained = $2,
                retained_until = pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => $3)
          WHERE id = $1",
        &[
            id.into(),
            JsonB(serde_json::to_value(retained)?).into(),
            seconds.into(),
        ],
    )?;
    Ok(())
}

/// Notes that the old shards of a migration are not kept any more.
pub fn forget(id: i64) -> Result<()> {
    spi::run(
        "UPDATE repart.journal SET retained = NULL, retained_until = NULL WHERE id = $1",
        &[id.into()],
    )?;
    Ok(())
}

/// Ends the time for which old shards of a table are kept.
pub fn expire(relation: pg_sys::Oid) -> Result<()> {
    spi::run(
        "UPDATE repart.journal SET retained_until = pg_catalog.now()
          WHERE relation = $1 AND retained_until IS NOT NULL",
        &[relation.into()],
    )?;
    Ok(())
}

const KEEPER: &str = "SELECT id, kind, relation, relation_name, retained,
        retained_until <= pg_catalog.clock_timestamp()
   FROM repart.journal WHERE retained_until IS NOT NULL";

fn read(row: &spi::Row) -> Result<Keeper> {
    let retained: Retained = serde_json::from_value(row.get::<JsonB>(5)?.0)?;
    Ok(Keeper {
        id: row.get(1)?,
        reverse: Migration {
            id: retained.number,
            kind: Kind::parse(&row.get::<String>(2)?)?.reverse(),
            relation: row.get(3)?,
            relation_name: row.get(4)?,
            spec: retained.spec,
            state: State::CatchingUp,
            cancel_requested: false,
            attempts: 0,
            position: retained.position,
            rows_done: 0,
            bytes_done: 0,
            copy_seconds: 0.0,
            predicted: None,
            running_seconds: 0.0,
            pause_ms: None,
            is_uncommitted: false,
            is_paused: false,
            state_seconds: 0.0,
            leader: None,
            tables: 1,
            waits_for: None,
        },
        is_expired: row.get(6)?,
    })
}

/// All migrations whose old shards are kept.
pub fn all() -> Result<Vec<Keeper>> {
    spi::select(&format!("{KEEPER} ORDER BY id"), &[], read)
}

/// A migration, if its old shards are kept; nobody else can take or drop them until the transaction ends.
pub fn hold(id: i64) -> Result<Option<Keeper>> {
    let found = spi::query(
        &format!("{KEEPER} AND id = $1 FOR UPDATE"),
        &[id.into()],
        read,
    )?;
    Ok(found.into_iter().next())
}

/// Migrations that keep what one of these shards replaced.
pub fn replaced_by(shards: &[pg_sys::Oid]) -> Result<Vec<i64>> {
    spi::select(
        "SELECT DISTINCT j.id
           FROM repart.journal j, pg_catalog.jsonb_array_elements(j.retained -> 'spec' -> 'sources') s
          WHERE j.retained_until IS NOT NULL AND (s ->> 'oid')::oid = ANY ($1) ORDER BY j.id",
        &[shards.to_vec().into()],
        |row| row.get(1),
    )
}

/// The later migration that changed a shard with these bounds, if one did: its number and kind.
pub fn changed_by(migration: &Migration, target: usize) -> Result<Option<(i64, String)>> {
    let Some(target) = migration.spec.targets.get(target) else {
        return Ok(None);
    };
    spi::select_first(
        "SELECT j.id, j.kind
           FROM repart.journal j, pg_catalog.jsonb_array_elements(j.spec -> 'sources') s
          WHERE j.relation = $1 AND j.state = 'done'
            AND j.finished_at > (SELECT o.finished_at FROM repart.journal o WHERE o.id = $2)
            AND s ->> 'lower' IS NOT DISTINCT FROM $3 AND s ->> 'upper' IS NOT DISTINCT FROM $4
          ORDER BY j.finished_at DESC LIMIT 1",
        &[
            migration.relation.into(),
            migration.id.into(),
            target.lower.clone().into(),
            target.upper.clone().into(),
        ],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// Numbers that private objects of schema `repart` are named by, and that neither an unfinished migration nor
/// kept old shards have: what a migration left because somebody's transaction held a lock, or a restored
/// dump brought along. Looked for by what depends on the schema: that has an index, unlike names in a schema.
pub fn leftovers() -> Result<Vec<i64>> {
    spi::select(
        r"SELECT DISTINCT number FROM (
            SELECT pg_catalog.regexp_match(c.relname, '^(?:t|old)_(\d{1,18})_\d+$|^log_(\d{1,18})$') AS found
              FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
             WHERE d.classid = 'pg_catalog.pg_class'::regclass AND c.relkind IN ('r', 'f')
               AND d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = 'repart'::regnamespace
             UNION ALL
            SELECT pg_catalog.regexp_match(p.proname, '^capture_(\d{1,18})$')
              FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc p ON p.oid = d.objid
             WHERE d.classid = 'pg_catalog.pg_proc'::regclass
               AND d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = 'repart'::regnamespace
             UNION ALL
            SELECT pg_catalog.regexp_match(conname, '^repart_default_(\d{1,18})$') FROM pg_catalog.pg_constraint
             WHERE contype = 'c' AND conname >= 'repart_default_' AND conname < 'repart_default`') x
          CROSS JOIN LATERAL (SELECT coalesce(x.found[1], x.found[2])::bigint AS number) n
          WHERE number IS NOT NULL
            AND NOT EXISTS (SELECT FROM repart.journal j
                             WHERE j.id = number AND j.state NOT IN ('done', 'cancelled', 'failed'))
            AND NOT EXISTS (SELECT FROM repart.journal j
                             WHERE (j.retained ->> 'number')::bigint = number AND j.retained_until IS NOT NULL)
          ORDER BY number",
        &[],
        |row| row.get(1),
    )
}
