//! Locks on users' tables: nobody may queue behind repart for longer than `repart.lock_timeout`.

use crate::error::Result;
use crate::pg::{guc, spi};
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
