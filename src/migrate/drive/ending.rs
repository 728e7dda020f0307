//! Ending migrations before their switch, leaving nothing behind.

use std::time::{Duration, Instant};

use repart_core::state::State;

use super::{BACKOFF, Drive};
use crate::catalog::journal::Migration;
use crate::error::{Error, Result};
use crate::migrate::{away, cause, clean};
use crate::pg::background;
use crate::pg::txn;

/// How long a migration that ends tries to get the locks for dropping everything at once.
const CLEAN_PATIENCE: Duration = Duration::from_secs(2);

impl Drive {
    /// Ends the migrations, leaving nothing behind; tries again until the locks for that are to be had.
    pub(super) fn give_up(
        &mut self,
        migration: &Migration,
        group: &[Migration],
        error: Error,
    ) -> Result<()> {
        pgrx::log!("repart mover: migration {} failed: {error}", self.id);
        let error = txn::run(|| Ok(cause::of(migration, error)))?;
        self.end(group, State::Failed, Some(&error))
    }

    /// All of them in one transaction: they end alike.
    pub(super) fn end(
        &mut self,
        group: &[Migration],
        end: State,
        error: Option<&Error>,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            let how = if begun.elapsed() < CLEAN_PATIENCE {
                clean::How::Thoroughly
            } else {
                clean::How::InPart
            };
            let abandon = |migration| clean::abandon(migration, end, error, how);
            match txn::run(|| group.iter().try_for_each(abandon)) {
                Err(cause) if cause.is_transient() => background::wait(self.backoff),
                // A user's cancel was first: it has ended already.
                Err(Error::Superseded(_)) => return Ok(()),
                Err(error) => return Err(error),
                Ok(()) => {
                    self.links.close();
                    return group.iter().try_for_each(away::clean::after_end);
                }
            }
            self.backoff = (self.backoff * 2).min(BACKOFF.1);
        }
    }
}
