//! What was found out about nodes: `repart.node_state`.

use crate::error::Result;
use crate::pg::spi;

/// Bytes that were free on a node's disk when it was last looked at, if it says.
pub fn disk_free(name: &str) -> Result<Option<i64>> {
    spi::query_value(
        "SELECT disk_free FROM repart.node_samples WHERE node = $1::name ORDER BY at DESC LIMIT 1",
        &[name.into()],
    )
}

/// Whether a node did not answer when it was last asked, or never has.
pub fn is_away(name: &str) -> Result<bool> {
    let answers = spi::query_value::<bool>(
        "SELECT seen_at IS NOT NULL AND error IS NULL FROM repart.node_state WHERE node = $1::name",
        &[name.into()],
    )?;
    Ok(answers != Some(true))
}

/// What was last found out about each node, as it was stored.
pub fn facts() -> Result<Vec<(String, String)>> {
    spi::query(
        "SELECT t.node::text, t.facts::text FROM repart.node_state t JOIN repart.node_list n USING (node)
          WHERE t.facts IS NOT NULL ORDER BY t.node",
        &[],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// What was last found out about a node, as it was stored.
pub fn facts_of(name: &str) -> Result<Option<String>> {
    spi::query_value(
        "SELECT facts::text FROM repart.node_state WHERE node = $1::name",
        &[name.into()],
    )
}

/// Notes that a node answered, and what it said of itself, as JSON; returns whether it had not answered before that.
pub fn note_seen(name: &str, facts: &str) -> Result<bool> {
    let was_away = spi::query_value(
        "WITH before AS (SELECT error FROM repart.node_state WHERE node = $1::name AND error IS NOT NULL),
              noted AS (
              INSERT INTO repart.node_state AS t (node, seen_at, facts)
              SELECT $1::name, pg_catalog.clock_timestamp(), $2::jsonb
               WHERE $1 = 'local' OR EXISTS (SELECT FROM repart.node_list n WHERE n.node = $1::name)
              ON CONFLICT (node) DO UPDATE
                 SET seen_at = excluded.seen_at, facts = excluded.facts, error = NULL, error_since = NULL)
         SELECT EXISTS (SELECT FROM before)",
        &[name.into(), facts.into()],
    )?;
    Ok(was_away.unwrap_or(false))
}

/// Notes that a node did not answer, and why; returns whether it did before that.
pub fn note_failure(name: &str, error: &str) -> Result<bool> {
    let is_new = spi::query_value(
        "WITH before AS (SELECT error FROM repart.node_state WHERE node = $1::name AND error IS NOT NULL),
              noted AS (
              INSERT INTO repart.node_state AS t (node, error, error_since)
              SELECT n.node, $2, pg_catalog.clock_timestamp() FROM repart.node_list n WHERE n.node = $1::name
              ON CONFLICT (node) DO UPDATE
                 SET error = excluded.error, error_since = coalesce(t.error_since, excluded.error_since))
         SELECT NOT EXISTS (SELECT FROM before)",
        &[name.into(), error.into()],
    )?;
    Ok(is_new.unwrap_or(false))
}
