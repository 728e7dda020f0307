//! A developer option for tests of crash recovery: the mover waits at a named point.
//!
//! `repart.hold_at` lists points, separated by commas, each `point[#visit][@migration]`. A point is the name
//! of a state, where the mover waits each time before it does a step of that state (with `#visit`, only before
//! its so many-th), or one of those inside a step, where it waits in the transaction just before it commits.

use std::time::Duration;

use crate::catalog::journal;
use crate::pg::{background, txn};
use crate::settings;

/// How often a held mover looks whether it may go on, if nobody tells it that the settings have changed.
const LOOK: Duration = Duration::from_millis(500);

/// Waits while `repart.hold_at` names this point; the journal says so. Outside of a transaction. Returns
/// whether it waited: what the journal said before may no longer be so.
pub fn outside(migration: i64, point: &str, visit: u32) -> bool {
    if !is_named(&settings::hold_at(), migration, point, visit) {
        return false;
    }
    let note = |reason: Option<&str>| {
        if let Err(error) = txn::run(|| journal::set_reason(migration, reason)) {
            pgrx::log!("repart mover: {error}");
        }
    };
    note(Some(&format!("held at {point}")));
    wait(migration, point, visit);
    note(None);
    true
}

/// Waits while `repart.hold_at` names this point, inside a transaction.
pub fn inside(migration: i64, point: &str) {
    wait(migration, point, 1);
}

fn wait(migration: i64, point: &str, visit: u32) {
    while is_named(&settings::hold_at(), migration, point, visit) {
        background::report_active(&format!("held at {point}"));
        background::wait(LOOK);
    }
}

fn is_named(list: &str, migration: i64, point: &str, visit: u32) -> bool {
    list.split(',').any(|entry| {
        let (rest, of) = entry
            .trim()
            .split_once('@')
            .map_or_else(|| (entry.trim(), None), |(rest, id)| (rest, Some(id)));
        let (name, at) = rest
            .split_once('#')
            .map_or((rest, None), |(name, visit)| (name, Some(visit)));
        name == point
            && of.is_none_or(|id| id.parse() == Ok(migration))
            && at.is_none_or(|at| at.parse() == Ok(visit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_alone_by_visit_and_by_migration() {
        assert!(is_named("copying", 7, "copying", 3));
        assert!(is_named("switched, copying#3@7", 7, "copying", 3));
        for other in [
            "",
            "copying#2",
            "copying@8",
            "copying#3@8",
            "copied",
            "copying#x",
        ] {
            assert!(!is_named(other, 7, "copying", 3), "{other}");
        }
    }
}
