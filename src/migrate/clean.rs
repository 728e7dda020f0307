//! Leaving nothing behind: after the switch the sources go, before it everything that was made goes.

use pgrx::PgSqlErrorCode;
use repart_core::state::State;

use crate::catalog::journal::{self, Migration};
use crate::error::{Error, Result};
use crate::migrate::{default_partition, locks, names};
use crate::pg::spi;

/// Ends a migration that was not switched, with everything it made dropped in the same transaction.
pub fn abandon(migration: &Migration, end: State, error: Option<&Error>) -> Result<()> {
    locks::be_polite();
    drop_private(migration)?;
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

/// Drops targets, triggers, trigger function, log and the proof on a DEFAULT partition, as far as they exist.
pub fn drop_private(migration: &Migration) -> Result<()> {
    for statement in private_drops(migration)? {
        spi::execute(&statement)?;
    }
    default_partition::drop_proof(migration)
}

/// Triggers are looked up by their function's number, so that a source that was renamed meanwhile is
/// found, and one that was dropped is no error.
fn private_drops(migration: &Migration) -> Result<Vec<String>> {
    let function = names::capture_function(migration.id);
    let mut statements: Vec<String> = spi::select(
        "SELECT pg_catalog.format('DROP TRIGGER %I ON %I.%I', t.tgname, n.nspname, c.relname)
           FROM pg_catalog.pg_trigger t
           JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE NOT t.tgisinternal AND t.tgfoid = pg_catalog.to_regproc($1)::oid",
        &[function.as_str().into()],
        |row| row.get(1),
    )?;
    statements.push(format!("DROP FUNCTION IF EXISTS {function}()"));
    for n in 0..migration.spec.targets.len() {
        statements.push(format!(
            "DROP TABLE IF EXISTS {}",
            names::target(migration.id, n)
        ));
    }
    statements.push(format!("DROP TABLE IF EXISTS {}", names::log(migration.id)));
    Ok(statements)
}

/// Drops what is left of the old shards after the switch, and ends the migration.
pub fn finish(migration: &Migration) -> Result<()> {
    for n in 0..migration.spec.sources.len() {
        spi::execute(&format!(
            "DROP TABLE IF EXISTS {}",
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
