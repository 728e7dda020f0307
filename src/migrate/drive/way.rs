//! What is done in one way where all happens on this server, and in another where a node has a part.

use super::here::Here;
use super::there::There;
use super::{Drive, Next};
use crate::catalog::journal::Migration;
use crate::error::Result;
use crate::migrate::copy::Batch;
use crate::migrate::job::Job;

/// The steps of either way. Unless it is said, outside of a transaction.
pub(super) trait Way {
    /// Makes the private objects, and starts change capture.
    fn prepare(&self, drive: &mut Drive, migration: &Migration) -> Result<Next>;

    /// Copies one batch. Inside a transaction, which the caller commits.
    fn batch(&self, drive: &mut Drive, job: &Job) -> Result<Batch>;

    /// What comes after the rows: their last duplicates go, indexes and proofs are made, one transaction each.
    fn finish_copy(&self, drive: &mut Drive, job: &Job) -> Result<Next>;

    /// Applies what the log has now; returns the number of entries.
    fn round(&self, drive: &mut Drive, job: &Job) -> Result<i64>;

    /// Number of captured changes that wait. Inside a transaction.
    fn pending(&self, drive: &mut Drive, job: &Job) -> Result<i64>;

    /// Empties the pages of the log of what was consumed.
    fn vacuum_log(&self, drive: &mut Drive, job: &Job) -> Result<()>;

    /// Compares all rows, and keeps the log short meanwhile.
    fn verify(&self, drive: &mut Drive, job: &Job, group: &[Migration]) -> Result<Next>;

    /// After the switch: tells other servers what was decided, and drops what was made there.
    fn tell(&self, migration: &Migration) -> Result<()>;
}

/// How a migration is carried out.
pub(super) fn of(migration: &Migration) -> &'static dyn Way {
    if migration.spec.is_away() {
        &There
    } else {
        &Here
    }
}
