//! Foreign keys, in either direction.

use crate::catalog::journal::Source;
use crate::error::{Error, Result};
use crate::pg::spi;

/// Refuses a shard on which triggers of foreign keys are disabled: those of its replacement would be enabled.
pub fn check(source: &Source) -> Result<()> {
    let disabled = spi::query_value::<String>(
        "SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%s on table %s', k.conname, k.conrelid::regclass), ', ')
           FROM pg_catalog.pg_trigger t
           JOIN pg_catalog.pg_constraint c ON c.oid = t.tgconstraint AND c.contype = 'f'
           JOIN pg_catalog.pg_constraint k ON k.oid = CASE c.conparentid WHEN 0 THEN c.oid ELSE c.conparentid END
          WHERE t.tgrelid = $1 AND t.tgisinternal AND t.tgenabled <> 'O'",
        &[source.relation().into()],
    )?;
    match disabled {
        None => Ok(()),
        Some(keys) => Err(Error::Unsupported {
            what: format!(
                "triggers of foreign keys are disabled on shard \"{}\"",
                source.name
            ),
            detail: format!("Foreign keys: {keys}. They would be enabled on its replacement."),
            hint: "Enable them with ALTER TABLE … ENABLE TRIGGER ALL.".to_owned(),
        }),
    }
}
