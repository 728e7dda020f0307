//! Why a migration could not go on, in the words of what somebody did to its table, where an error only says
//! what was not found any more.

use crate::catalog::journal::Migration;
use crate::catalog::shards;
use crate::error::{Error, Result};
use crate::migrate::job::Job;
use crate::pg::spi;

/// The reason behind an error, or the error itself.
pub fn of(migration: &Migration, error: Error) -> Error {
    match behind(migration, &error) {
        Ok(Some(reason)) => reason,
        // Looking for the reason may meet the same trouble.
        Ok(None) | Err(_) => error,
    }
}

fn behind(migration: &Migration, error: &Error) -> Result<Option<Error>> {
    let table = &migration.relation_name;
    let exists = spi::value::<bool>(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = $1)",
        &[migration.relation.into()],
    )?;
    if exists != Some(true) {
        return Ok(Some(Error::Missing {
            what: format!("table \"{table}\" no longer exists"),
            hint: "Somebody dropped it before its migration had ended.".to_owned(),
        }));
    }
    let current = shards::of(migration.relation)?;
    for source in &migration.spec.sources {
        let unchanged = current.iter().any(|shard| {
            shard.oid == source.relation()
                && shard.schema == source.schema
                && shard.name == source.name
                && shard.lower == source.lower
                && shard.upper == source.upper
        });
        if !unchanged {
            return Ok(Some(Error::Missing {
                what: format!(
                    "shard \"{}\" of table \"{table}\" no longer exists, or was changed",
                    source.name
                ),
                hint: "See SELECT * FROM repart.shards.".to_owned(),
            }));
        }
    }
    let made = !migration.position.fingerprint.is_empty();
    if made && matches!(error, Error::Sql { .. }) {
        return Ok(Job::load(migration.clone())?.require_unchanged().err());
    }
    Ok(None)
}
