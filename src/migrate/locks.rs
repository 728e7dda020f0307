//! Locks on users' tables: nobody may queue behind repart for longer than `repart.lock_timeout`.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{guc, relation, spi};
use crate::settings;

/// From here to the end of the transaction, a lock that is not to be had soon is an error, which is
/// transient: the mover tries again later.
pub fn be_polite() {
    let milliseconds = settings::lock_timeout().as_millis();
    guc::set_for_transaction("lock_timeout", &milliseconds.to_string());
}

/// Locks one table, not its partitions. `table` is as SQL writes it.
pub fn lock(table: &str, mode: &str) -> Result<()> {
    spi::execute(&format!("LOCK TABLE ONLY {table} IN {mode} MODE"))?;
    Ok(())
}

/// Locks tables, not their partitions, in the order given.
pub fn lock_all(relations: &[pg_sys::Oid], mode: &str) -> Result<()> {
    for table in relations {
        let name = relation::existing_name(*table)?.ok_or_else(|| Error::Missing {
            what: format!("a table with OID {} no longer exists", table.to_u32()),
            hint: "Somebody dropped it during the migration.".to_owned(),
        })?;
        lock(&name, mode)?;
    }
    Ok(())
}
