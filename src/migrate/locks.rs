//! Locks on users' tables: nobody may queue behind repart for longer than `repart.lock_timeout`.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::pg::{guc, spi};
use crate::settings;

/// From here to the end of the transaction, a lock that is not to be had soon is an error, which is
/// transient: the mover tries again later.
pub fn be_polite() {
    let milliseconds = settings::lock_timeout().as_millis();
    guc::set_for_transaction("lock_timeout", &milliseconds.to_string());
}

/// How long several locks may be waited for, together: others queue behind the first while the last is waited
/// for. Less than `deadlock_timeout` in any case: a client who holds a shard and asks for the table would be
/// made the victim of a deadlock, and must never be.
pub struct Patience(Instant);

impl Patience {
    /// Begins now.
    pub fn begin() -> Result<Self> {
        let deadlock_timeout = spi::query_value::<i32>(
            "SELECT setting::int4 FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'",
            &[],
        )?;
        let limit =
            Duration::from_millis(deadlock_timeout.unwrap_or(0).max(0).unsigned_abs().into()) / 2;
        Ok(Self(Instant::now() + settings::lock_timeout().min(limit)))
    }

    /// Locks one table, not its partitions, or fails when the time is over. `table` is as SQL writes it.
    pub fn lock(&self, table: &str, mode: &str) -> Result<()> {
        let left = self.0.saturating_duration_since(Instant::now());
        // 0 would mean for ever.
        guc::set_for_transaction("lock_timeout", &left.as_millis().max(1).to_string());
        lock(table, mode)
    }
}

/// Locks one table, not its partitions. `table` is as SQL writes it.
pub fn lock(table: &str, mode: &str) -> Result<()> {
    spi::execute(&format!("LOCK TABLE ONLY {table} IN {mode} MODE"))?;
    Ok(())
}
