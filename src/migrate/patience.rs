//! What a migration says while it waits for others, and how long it waits for its switch.

use crate::catalog::journal::Migration;
use crate::error::{Error, Result};
use crate::migrate::obstacle;
use crate::pg::txn;
use crate::settings;

/// Why a lock was not to be had, as far as it can be seen afterwards: who has one now. Outside of a transaction.
pub fn reason<'a>(migrations: impl IntoIterator<Item = &'a Migration>, error: &Error) -> String {
    if let Error::Waiting(reason) = error {
        return reason.clone();
    }
    // Looking for the reason may meet the same trouble.
    let holder = txn::run(|| {
        let mut relations = Vec::new();
        for migration in migrations {
            relations.extend(obstacle::concerned(migration)?);
        }
        obstacle::holder(&relations)
    });
    holder
        .ok()
        .flatten()
        .unwrap_or_else(|| format!("waits for a lock: {error}"))
}

/// Fails once the switch of a group has been tried for longer than `repart.cutover_timeout`, naming whom it waits for.
pub fn require(group: &[Migration], reason: &str) -> Result<()> {
    let Some(limit) = settings::cutover_timeout() else {
        return Ok(());
    };
    // It is tried since the last of them is ready.
    let tried = group.iter().map(|member| member.state_seconds);
    let seconds = tried.fold(f64::INFINITY, f64::min);
    if seconds < limit.as_secs_f64() {
        return Ok(());
    }
    Err(Error::CutoverTimeout {
        seconds: seconds as u64,
        reason: reason.to_owned(),
    })
}
