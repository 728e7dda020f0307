//! A developer option for tests of crash recovery: the mover waits at a named point.

use std::time::Duration;

use crate::catalog::journal;
use crate::pg::{background, txn};
use crate::settings;

/// How often a held mover looks whether it may go on.
const LOOK: Duration = Duration::from_millis(20);

/// Waits while `repart.hold_at` names this point; the journal says so. Outside of a transaction.
pub fn outside(migration: i64, point: &str) {
    if settings::hold_at() != point {
        return;
    }
    let note = |reason: Option<&str>| {
        if let Err(error) = txn::run(|| journal::set_reason(migration, reason)) {
            pgrx::log!("repart mover: {error}");
        }
    };
    note(Some(&format!("held at {point}")));
    inside(point);
    note(None);
}

/// Waits while `repart.hold_at` names this point, inside a transaction.
pub fn inside(point: &str) {
    while settings::hold_at() == point {
        background::report_active(&format!("held at {point}"));
        background::wait(LOOK);
    }
}
