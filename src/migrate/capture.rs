//! Change capture: triggers on the sources write the keys of changed rows to a log.
//!
//! Plain plpgsql, no logical decoding: no plugin to be allowed, no slot that pins WAL, and it works on
//! nodes without repart. Only keys are written, since catch-up is state-based.

use pgrx::pg_sys;

use crate::catalog::journal::Migration;
use crate::error::Result;
use crate::migrate::definition::{KeyColumn, range_condition};
use crate::migrate::flows::Overlap;
use crate::migrate::job::Job;
use crate::migrate::{flows, names, request};
use crate::pg::{role, spi};

/// The first OID that PostgreSQL gives to an object of a user's.
const FIRST_USER_OID: u32 = 16_384;

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
    spi::execute(&format!(
        "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
             SET search_path = pg_catalog, pg_temp AS {}",
        names::capture_function(job.id()),
        spi::quote_literal(function_body(job, &log)?),
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

/// The condition, about a record of the trigger function, that its key lies in a range whose rows stay in
/// their table: their changes concern no target that is rebuilt, and need not be captured. `false` where a
/// comparison could run a user's code: the function runs with the rights of a superuser.
fn stays(job: &Job, staying: &[Overlap], record: &str) -> String {
    let is_builtin = job.key.type_oid.to_u32() < FIRST_USER_OID
        && job.key.less.starts_with("OPERATOR(pg_catalog.");
    if staying.is_empty() || !is_builtin {
        return "false".to_owned();
    }
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
    ranges.join(" OR ")
}

/// `*<>` compares images, so that no operator of a user's type is looked up. The casts make it one comparison
/// of two records: `ROW(…) *<> ROW(…)` would look for an operator `*<>` of each column's type, and there is none.
fn function_body(job: &Job, log: &str) -> Result<String> {
    let staying = flows::overlaps(job)?;
    let staying: Vec<Overlap> = staying.into_iter().filter(|o| job.stays(o)).collect();
    let row = |record: &str| {
        let columns: Vec<String> = job
            .identity
            .iter()
            .map(|column| format!("{record}.{}", spi::quote_identifier(&column.name)))
            .collect();
        columns.join(", ")
    };
    let (old, new) = (row("OLD"), row("NEW"));
    let (old_stays, new_stays) = (stays(job, &staying, "OLD"), stays(job, &staying, "NEW"));
    Ok(format!(
        "BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO {log} (op, source) VALUES ('t', TG_RELID);
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        IF NOT ({old_stays}) THEN
            INSERT INTO {log} VALUES ('k', NULL, {old});
            IF TG_OP = 'DELETE' OR ROW({old})::record *= ROW({new})::record THEN
                RETURN NULL;
            END IF;
        ELSIF TG_OP = 'DELETE' THEN
            RETURN NULL;
        END IF;
    END IF;
    IF NOT ({new_stays}) THEN
        INSERT INTO {log} VALUES ('k', NULL, {new});
    END IF;
    RETURN NULL;
END"
    ))
}

/// Puts the triggers on the sources. From the commit on, every change is captured: the lock that
/// CREATE TRIGGER takes waits for running writers.
pub fn start(migration: &Migration) -> Result<()> {
    let function = names::capture_function(migration.id);
    for source in &migration.spec.sources {
        let table = source.qualified();
        for (trigger, event) in [
            (
                names::row_trigger(migration.id),
                "AFTER INSERT OR UPDATE OR DELETE",
            ),
            (names::truncate_trigger(migration.id), "AFTER TRUNCATE"),
        ] {
            let level = if event.ends_with("TRUNCATE") {
                "STATEMENT"
            } else {
                "ROW"
            };
            spi::execute(&format!(
                "CREATE TRIGGER {trigger} {event} ON {table} FOR EACH {level} EXECUTE FUNCTION {function}()"
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

/// Number of captured changes that wait.
pub fn pending(migration: &Migration) -> Result<i64> {
    Ok(spi::query_value(
        &format!("SELECT count(*) FROM {}", names::log(migration.id)),
        &[],
    )?
    .unwrap_or(0))
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
