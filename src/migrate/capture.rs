//! Change capture: triggers on the sources write the keys of changed rows to a log; `pg::capture` is what they run.
//!
//! No logical decoding: no plugin to be allowed, no slot that pins WAL. Only keys are written, since catch-up is
//! state-based.

use pgrx::pg_sys;

use crate::catalog::journal::{Migration, Source};
use crate::error::{Error, Result};
use crate::migrate::definition::{KeyColumn, range_condition};
use crate::migrate::flows::Overlap;
use crate::migrate::job::Job;
use crate::migrate::{flows, names, request};
use crate::pg::capture::UNKNOWN;
use crate::pg::{role, spi};

/// Creates the log and the trigger function. Nothing of it is visible to users.
pub fn create(job: &Job, owner: &str) -> Result<()> {
    let log = names::log(job.id());
    let columns: Vec<String> = job
        .identity
        .iter()
        .enumerate()
        .map(|(n, column)| format!("repart_key_{n} {}", column.type_name))
        .collect();
    spi::execute(&format!(
        "CREATE TABLE {log} (op \"char\" NOT NULL, source oid, {}) TABLESPACE {}",
        columns.join(", "),
        spi::quote_identifier(log_tablespace(&job.migration)?)
    ))?;
    // Catch-up joins log and rows as the table's owner.
    spi::execute(&format!(
        "GRANT SELECT ON {log} TO {}",
        spi::quote_identifier(owner)
    ))?;
    // One for each migration, so that it can be silenced.
    spi::execute(&format!(
        "CREATE FUNCTION {}() RETURNS trigger LANGUAGE c AS '$libdir/repart', 'repart_capture'",
        names::capture_function(job.id()),
    ))?;
    spi::execute(&format!(
        "REVOKE ALL ON FUNCTION {}() FROM PUBLIC",
        names::capture_function(job.id())
    ))?;
    Ok(())
}

/// Where the log goes: a place that no target fills, if there is one, since a full log is an error of the
/// user's own write. The database's own tablespace rather than a source's; where both are also a target's,
/// writes of rows would fail as well.
fn log_tablespace(migration: &Migration) -> Result<String> {
    let default = request::default_tablespace()?;
    let mut places = vec![default.clone()];
    for source in &migration.spec.sources {
        let own = spi::value::<String>(
            "SELECT t.spcname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_tablespace t ON t.oid = c.reltablespace
              WHERE c.oid = $1",
            &[source.relation().into()],
        )?;
        places.push(own.unwrap_or_else(|| default.clone()));
    }
    let of_first_source = places.get(1).unwrap_or(&default);
    let is_filled = |place: &String| {
        let mut targets = migration.spec.targets.iter();
        targets.any(|target| target.tablespace.as_ref().unwrap_or(of_first_source) == place)
    };
    let quiet = places.iter().find(|place| !is_filled(place));
    Ok(quiet.unwrap_or(&default).clone())
}

/// The condition, about a record of a trigger, that its key lies in a range whose rows stay in their table: their
/// changes concern no target that is rebuilt, and need not be captured.
fn stays(job: &Job, staying: &[Overlap], record: &str) -> String {
    let key = format!("{record}.{}", spi::quote_identifier(&job.key.column));
    let value = |bound: &str| format!("{}::{}", spi::quote_literal(bound), job.key.type_name);
    let ranges: Vec<String> = staying
        .iter()
        .map(|overlap| {
            let mut conditions = vec![format!("{key} IS NOT NULL")];
            if let Some(lower) = overlap.lower.as_deref() {
                conditions.push(format!("NOT {}", job.key.before(&key, &value(lower))));
            }
            if let Some(upper) = overlap.upper.as_deref() {
                conditions.push(job.key.before(&key, &value(upper)));
            }
            conditions.join(" AND ")
        })
        .collect();
    format!("({})", ranges.join(" OR "))
}

/// The triggers on each source: name, event and condition. One for all changes of rows where each is captured.
fn events(job: &Job) -> Result<Vec<(String, &'static str, String)>> {
    let staying = flows::overlaps(job)?;
    let staying: Vec<Overlap> = staying.into_iter().filter(|o| job.stays(o)).collect();
    let [row, update, delete, truncate] = names::capture_triggers(job.id());
    let truncate = (truncate, "AFTER TRUNCATE", "STATEMENT".to_owned());
    if staying.is_empty() {
        let all = "AFTER INSERT OR UPDATE OR DELETE";
        return Ok(vec![(row, all, "ROW".to_owned()), truncate]);
    }
    let (old, new) = (stays(job, &staying, "OLD"), stays(job, &staying, "NEW"));
    let when = |condition: String| format!("ROW WHEN ({condition})");
    Ok(vec![
        (row, "AFTER INSERT", when(format!("NOT {new}"))),
        (
            update,
            "AFTER UPDATE",
            when(format!("NOT {old} OR NOT {new}")),
        ),
        (delete, "AFTER DELETE", when(format!("NOT {old}"))),
        truncate,
    ])
}

/// The arguments of the triggers on a source: the log's name and the numbers of the key's columns, which need not be
/// the same in every source.
fn arguments(job: &Job, source: &Source) -> Result<String> {
    let names: Vec<String> = job.identity.iter().map(|key| key.name.clone()).collect();
    let numbers = spi::query::<String>(
        "SELECT pg_catalog.quote_literal(a.attnum::text) FROM unnest($2::text[]) WITH ORDINALITY k (name, n)
           JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attname = k.name AND NOT a.attisdropped ORDER BY k.n",
        &[source.relation().into(), names.into()],
        |row| row.get(1),
    )?;
    if numbers.len() != job.identity.len() {
        return Err(Error::Internal(
            "a source without a column of the key".to_owned(),
        ));
    }
    let log = spi::quote_literal(names::private_log(job.id()));
    Ok(format!("{log}, {}", numbers.join(", ")))
}

/// Puts the triggers on the sources. From the commit on, every change is captured: the lock that
/// CREATE TRIGGER takes waits for running writers.
pub fn start(job: &Job) -> Result<()> {
    let function = names::capture_function(job.id());
    let events = events(job)?;
    for source in &job.migration.spec.sources {
        let table = source.qualified();
        let arguments = arguments(job, source)?;
        for (trigger, event, each) in &events {
            spi::execute(&format!(
                "CREATE TRIGGER {trigger} {event} ON {table} FOR EACH {each} EXECUTE FUNCTION {function}({arguments})"
            ))?;
            // Also for sessions that replay replicated changes.
            spi::execute(&format!(
                "ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER {trigger}"
            ))?;
        }
    }
    Ok(())
}

/// What must stay as it is for every change to be captured. Somebody who disables the triggers, as is usual
/// before a bulk load, writes their catalog rows anew, also where he enables them again afterwards.
pub fn triggers(migration: &Migration) -> Result<String> {
    let lines = spi::query_value(
        "SELECT pg_catalog.string_agg(pg_catalog.concat_ws('|', tgrelid, tgname, tgenabled, xmin), ' '
                                      ORDER BY tgrelid, tgname COLLATE \"C\")
           FROM pg_catalog.pg_trigger WHERE tgfoid = pg_catalog.to_regproc($1)::oid",
        &[names::capture_function(migration.id).as_str().into()],
    )?;
    Ok(lines.unwrap_or_default())
}

/// Makes capture do nothing, without a lock on the table that it is on. The log stays, since a running statement
/// may still write to it.
pub fn silence(id: i64) -> Result<()> {
    let function = names::capture_function(id);
    let exists = spi::query_value::<bool>(
        "SELECT pg_catalog.to_regproc($1) IS NOT NULL",
        &[function.as_str().into()],
    )?;
    if exists == Some(true) {
        spi::execute(&format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                 SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'"
        ))?;
    }
    Ok(())
}

/// Number of captured changes that wait. Fails when one could not be captured.
pub fn pending(migration: &Migration) -> Result<i64> {
    let sql = format!(
        "SELECT count(*), count(*) FILTER (WHERE op = '{UNKNOWN}') FROM {}",
        names::log(migration.id)
    );
    let counts = spi::query(&sql, &[], |row| Ok((row.get(1)?, row.get::<i64>(2)?)))?;
    match counts.first() {
        Some((_, 1..)) => Err(Error::DefinitionChanged(migration.relation_name.clone())),
        Some((pending, _)) => Ok(*pending),
        None => Ok(0),
    }
}

/// Whether a visible entry says that a source was truncated.
pub fn truncated(migration: &Migration) -> Result<bool> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM {} WHERE op = 't')",
        names::log(migration.id)
    );
    Ok(spi::query_value(&sql, &[])?.unwrap_or(false))
}

/// Deletes from the targets what they have of truncated sources, and only of these: a target may have rows
/// of others too, which are in no log.
pub fn apply_truncations(job: &Job) -> Result<()> {
    let sql = format!(
        "SELECT DISTINCT source FROM {} WHERE op = 't'",
        names::log(job.id())
    );
    let truncated = spi::query::<pg_sys::Oid>(&sql, &[], |row| row.get(1))?;
    for source in &job.migration.spec.sources {
        if !truncated.contains(&source.relation()) {
            continue;
        }
        let range = range_condition(&job.key, source.lower.as_deref(), source.upper.as_deref());
        for (n, _) in job.rebuilt_targets() {
            let sql = format!("DELETE FROM ONLY {} WHERE {range}", job.target_name(n));
            role::as_owner(job.owner, || spi::execute(&sql))?;
        }
    }
    Ok(())
}

/// The distinct keys of the log, as a subquery.
pub fn logged_keys(migration: &Migration, key: &[KeyColumn]) -> String {
    let columns: Vec<String> = (0..key.len()).map(|n| format!("repart_key_{n}")).collect();
    format!(
        "(SELECT DISTINCT {} FROM {} WHERE op = 'k')",
        columns.join(", "),
        names::log(migration.id)
    )
}

/// The condition that a row of `table` has the key of the logged entry `entry`.
pub fn key_matches(key: &[KeyColumn], table: &str, entry: &str) -> String {
    let conditions: Vec<String> = key
        .iter()
        .enumerate()
        .map(|(n, column)| {
            format!(
                "{table}.{} = {entry}.repart_key_{n}",
                spi::quote_identifier(&column.name)
            )
        })
        .collect();
    conditions.join(" AND ")
}
