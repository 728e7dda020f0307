//! What a shard must be to be replaced.

use crate::catalog::journal::Source;
use crate::error::{Error, Result};
use crate::migrate::{definition, target};
use crate::pg::spi;

/// Fails where a shard's replacement could not be all that the shard is.
pub fn check(source: &Source, blocking: bool) -> Result<()> {
    if source.remote.is_some() {
        return Ok(());
    }
    let relation = source.relation();
    let kind = spi::value::<String>(
        "SELECT relkind::text || relpersistence::text FROM pg_catalog.pg_class WHERE oid = $1",
        &[relation.into()],
    )?;
    if kind.as_deref() != Some("rp") {
        return Err(Error::WrongObject {
            what: format!("shard \"{}\" is not an ordinary, logged table", source.name),
            hint: "Foreign, unlogged and sub-partitioned shards cannot be migrated.".to_owned(),
        });
    }
    if !blocking {
        definition::identity_key(relation)?;
    }
    target::refusals::check(source)
}
