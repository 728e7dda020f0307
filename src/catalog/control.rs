//! What users ask of migrations that exist: to pause, to go on, to stop.

use repart_core::state::State;

use crate::error::{Error, Result};
use crate::pg::spi;

/// What a running migration should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Proceed,
    /// Keep what is there up to date and go no further.
    Rest,
    /// End.
    Stop,
}

/// What is asked of a migration now.
pub fn wish(id: i64) -> Result<Wish> {
    read_wish(id, "")
}

/// Fails unless the migration is to go on; nobody can ask for anything else until the transaction ends.
pub fn require_wanted(id: i64) -> Result<()> {
    match read_wish(id, "FOR UPDATE OF j")? {
        Wish::Proceed => Ok(()),
        Wish::Rest | Wish::Stop => Err(Error::Superseded(id)),
    }
}

fn read_wish(id: i64, lock: &str) -> Result<Wish> {
    let found = spi::query(
        &format!(
            "SELECT cancel_requested, paused_by IS NOT NULL OR EXISTS (SELECT FROM repart.pause)
               FROM repart.journal j WHERE id = $1 {lock}"
        ),
        &[id.into()],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )?;
    Ok(match found.first() {
        None | Some((true, _)) => Wish::Stop,
        Some((false, true)) => Wish::Rest,
        Some((false, false)) => Wish::Proceed,
    })
}

/// The condition that a migration is, or is carried out with, the one whose number is $1, and has neither switched
/// nor ended: what is asked of one is asked of all of them.
const TOGETHER: &str = "state NOT IN ('cleaning', 'done', 'cancelled', 'failed')
    AND coalesce(leader, id) = (SELECT coalesce(o.leader, o.id) FROM repart.journal o WHERE o.id = $1)";

/// Asks a migration to stop, unless it has switched or ended, with those that it is carried out with; returns the
/// states in which they were asked. The rows stay locked, so that these are still their states when the caller's
/// transaction commits.
pub fn request_cancel(id: i64) -> Result<Vec<State>> {
    spi::query(
        &format!(
            "UPDATE repart.journal SET cancel_requested = true WHERE {TOGETHER} RETURNING state"
        ),
        &[id.into()],
        |row| Ok(row.get::<String>(1)?.parse()?),
    )
}

/// Pauses one migration, with those that it is carried out with; `false` if it has switched or ended. Who paused it
/// first is kept.
pub fn pause(id: i64, by: &str) -> Result<bool> {
    let changed = spi::run(
        &format!(
            "UPDATE repart.journal SET paused_by = coalesce(paused_by, $2::name) WHERE {TOGETHER}"
        ),
        &[id.into(), by.into()],
    )?;
    Ok(changed > 0)
}

/// Pauses all migrations, those that are not queued yet included.
pub fn pause_all(by: &str) -> Result<()> {
    spi::run(
        "INSERT INTO repart.pause (paused_by) VALUES ($1::name) ON CONFLICT DO NOTHING",
        &[by.into()],
    )?;
    Ok(())
}

/// Lets one migration go on, with those that it is carried out with; `false` if it has switched or ended.
pub fn resume(id: i64) -> Result<bool> {
    let changed = spi::run(
        &format!(
            "UPDATE repart.journal SET paused_by = NULL, resumed_at = pg_catalog.clock_timestamp() WHERE {TOGETHER}"
        ),
        &[id.into()],
    )?;
    Ok(changed > 0)
}

/// Lets all migrations go on, also those that were paused one by one.
pub fn resume_all() -> Result<()> {
    spi::execute("DELETE FROM repart.pause")?;
    spi::execute(
        "UPDATE repart.journal SET paused_by = NULL, resumed_at = pg_catalog.clock_timestamp()
          WHERE state NOT IN ('done', 'cancelled', 'failed')",
    )?;
    Ok(())
}

/// Who has paused all migrations, if somebody has.
pub fn paused_all_by() -> Result<Option<String>> {
    spi::query_value("SELECT paused_by::text FROM repart.pause", &[])
}
