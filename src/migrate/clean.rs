//! Leaving nothing behind: after the switch the sources go, before it everything that was made goes.
//!
//! A capture trigger can only be dropped under a lock that somebody's open transaction may deny for hours. Then
//! what others could notice is made inert at once, the migration ends, and the observer drops the rest as soon
//! as it can.

use pgrx::{PgSqlErrorCode, pg_sys};
use repart_core::state::State;

use crate::catalog::journal::{self, Migration};
use crate::error::{Error, Result};
use crate::migrate::{capture, default_partition, locks, names, obstacle};
use crate::pg::{guc, spi};

/// How private objects are dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// All, or an error that says for whom to wait.
    Thoroughly,
    /// What no user's transaction can be in the way of; capture is silenced.
    InPart,
}

/// Ends a migration that was not switched, with everything it made dropped in the same transaction, as far as
/// `how` says.
pub fn abandon(migration: &Migration, end: State, error: Option<&Error>, how: How) -> Result<()> {
    drop_private(migration.id, how)?;
    if let Some(error) = error {
        journal::set_error(migration.id, &described(error))?;
        journal::event(
            "error",
            Some(migration),
            &format!("migration {} failed: {error}", migration.id),
        )?;
    } else {
        journal::event(
            "notice",
            Some(migration),
            &format!("migration {} was cancelled", migration.id),
        )?;
    }
    journal::transition(migration, end)
}

fn described(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(detail) = error.detail() {
        text += &format!("\nDETAIL: {detail}");
    }
    if let Some(hint) = error.hint() {
        text += &format!("\nHINT: {hint}");
    }
    // What a program can tell causes by: a full disk is not a broken constraint.
    if matches!(error, Error::Sql { .. } | Error::DiskFull { .. }) {
        text += &format!("\nSQLSTATE: {}", sqlstate(error.code()));
    }
    text
}

/// The five characters of an error code, of six bits each, the first one lowest.
fn sqlstate(code: PgSqlErrorCode) -> String {
    let packed = code as isize;
    (0..5)
        .map(|place| char::from((packed >> (6 * place) & 0x3F) as u8 + b'0'))
        .collect()
}

/// Drops the targets, triggers, trigger function, log and proof on a DEFAULT partition of the migration of this
/// number, as far as they exist.
pub fn drop_private(id: i64, how: How) -> Result<()> {
    if how == How::Thoroughly
        && let Some(reason) = obstacle::find(&marked_tables(id)?)?
    {
        return Err(Error::Waiting(reason));
    }
    // First what clients need not wait for: only autovacuum can be in the way there.
    guc::set_for_transaction("lock_timeout", "5s");
    drop_tables(&format!("^t_{id}_[0-9]+$"))?;
    if how == How::InPart {
        return capture::silence(id);
    }
    locks::be_polite();
    drop_tables(&format!("^old_{id}_[0-9]+$"))?;
    default_partition::drop_proof(id)?;
    for statement in trigger_drops(id)? {
        spi::execute(&statement)?;
    }
    spi::execute(&format!(
        "DROP FUNCTION IF EXISTS {}()",
        names::capture_function(id)
    ))?;
    spi::execute(&format!("DROP TABLE IF EXISTS {}", names::log(id)))?;
    Ok(())
}

/// Drops the private tables whose names match.
fn drop_tables(pattern: &str) -> Result<()> {
    let tables: Vec<String> = spi::query(
        "SELECT pg_catalog.format('DROP %s IF EXISTS %I.%I',
                                  CASE relkind WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, $1, relname)
           FROM pg_catalog.pg_class
          WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'f') AND relname ~ $2",
        &[names::SCHEMA.into(), pattern.into()],
        |row| row.get(1),
    )?;
    tables
        .iter()
        .try_for_each(|drop| spi::execute(drop).map(|_| ()))
}

/// Triggers are looked up by their function's number, so that a source that was renamed meanwhile is
/// found, and one that was dropped is no error.
fn trigger_drops(id: i64) -> Result<Vec<String>> {
    spi::query(
        "SELECT pg_catalog.format('DROP TRIGGER %I ON %I.%I', t.tgname, n.nspname, c.relname)
           FROM pg_catalog.pg_trigger t
           JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE NOT t.tgisinternal AND t.tgfoid = pg_catalog.to_regproc($1)::oid",
        &[names::capture_function(id).into()],
        |row| row.get(1),
    )
}

/// The users' tables that have a trigger or a constraint of the migration.
fn marked_tables(id: i64) -> Result<Vec<pg_sys::Oid>> {
    spi::query(
        "SELECT tgrelid FROM pg_catalog.pg_trigger
          WHERE NOT tgisinternal AND tgfoid = pg_catalog.to_regproc($1)::oid
          UNION
         SELECT conrelid FROM pg_catalog.pg_constraint WHERE conname = $2::name AND contype = 'c'",
        &[
            names::capture_function(id).into(),
            names::default_constraint(id).into(),
        ],
        |row| row.get(1),
    )
}

/// Drops what is left of the old shards after the switch, and ends the migration. Those that are kept have
/// other names by now.
pub fn finish(migration: &Migration) -> Result<()> {
    // Dropping a table with foreign keys locks the tables that they reference.
    locks::be_polite();
    for (n, source) in migration.spec.sources.iter().enumerate() {
        let kind = match source.remote {
            Some(_) => "FOREIGN TABLE",
            None => "TABLE",
        };
        spi::execute(&format!(
            "DROP {kind} IF EXISTS {}",
            names::retired(migration.id, n)
        ))?;
    }
    spi::execute(&format!(
        "DROP FUNCTION IF EXISTS {}()",
        names::capture_function(migration.id)
    ))?;
    spi::execute(&format!(
        "DROP TABLE IF EXISTS {}",
        names::log(migration.id)
    ))?;
    journal::transition(migration, State::Done)
}
