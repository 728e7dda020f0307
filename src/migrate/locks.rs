//! Locks on users' tables: nobody may queue behind repart for longer than `repart.lock_timeout`.

use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::{guc, lock, relation, spi};
use crate::settings;

/// How long a lock of ours may be waited for. Less than `deadlock_timeout` in any case: a client who holds a
/// shard and asks for another, or for the table, would be made the victim of a deadlock, and must never be.
pub fn limit() -> Duration {
    settings::lock_timeout().min(lock::deadlock_timeout() / 2)
}

/// From here to the end of the transaction, a lock that is not to be had soon is an error, which is
/// transient: the mover tries again later.
pub fn be_polite() {
    set_timeout(limit());
}

/// From here on, a lock that only maintenance conflicts with, and that no client waits for, may be waited for until
/// PostgreSQL has cancelled an autovacuum for it, which it does when it looks for a deadlock. Not much longer: a
/// client's own maintenance that closes a circle with it must not become the victim.
pub fn outlast_autovacuum() {
    set_timeout(lock::deadlock_timeout().mul_f64(1.2));
}

fn set_timeout(timeout: Duration) {
    // 0 would mean for ever.
    guc::set_for_transaction("lock_timeout", &timeout.as_millis().max(1).to_string());
}

/// How long several locks may be waited for, together: others queue behind the first while the last is waited
/// for.
pub struct Patience(Instant);

impl Patience {
    /// Begins now.
    pub fn begin() -> Self {
        Self(Instant::now() + limit())
    }

    /// Locks one table, not its partitions, or fails when the time is over.
    pub fn lock(&self, table: pg_sys::Oid, mode: &str) -> Result<()> {
        set_timeout(self.0.saturating_duration_since(Instant::now()));
        lock_all(&[table], mode)
    }
}

/// Locks one table, not its partitions. `table` is as SQL writes it.
pub fn lock(table: &str, mode: &str) -> Result<()> {
    spi::execute(&format!("LOCK TABLE ONLY {table} IN {mode} MODE"))?;
    Ok(())
}

/// Locks tables, not their partitions, in the order given.
pub fn lock_all(relations: &[pg_sys::Oid], mode: &str) -> Result<()> {
    relations.iter().try_for_each(|table| {
        if relation::is_foreign(*table)? {
            lock::foreign(*table, mode);
            return Ok(());
        }
        lock(&name(*table)?, mode)
    })
}

/// A table that is to be locked, as SQL writes it.
pub fn name(table: pg_sys::Oid) -> Result<String> {
    relation::existing_name(table)?.ok_or_else(|| Error::Missing {
        what: format!("a table with OID {} no longer exists", table.to_u32()),
        hint: "Somebody dropped it during the migration.".to_owned(),
    })
}
