//! What is done once the running transaction has committed.

use pgrx::{PgXactCallbackEvent, register_xact_callback};

use crate::pg::{background, preload, sampler, shared};

/// Lets the workers of this database look at what this transaction changed, as soon as they can see it.
/// Nothing happens if it rolls back, or where the library is not preloaded.
pub fn wake_workers() {
    if !preload::is_preloaded() {
        return;
    }
    let database = background::my_database();
    register_xact_callback(PgXactCallbackEvent::Commit, move || {
        shared::announce(database);
        sampler::forget_relations();
    });
}

/// As [`wake_workers`], also if the transaction rolls back: for what it did elsewhere has to be undone then.
pub fn wake_workers_in_any_case() {
    wake_workers();
    let database = background::my_database();
    register_xact_callback(PgXactCallbackEvent::Abort, move || {
        shared::announce(database)
    });
}

/// Cancels the running statement of a worker, so that it looks at once at what this transaction changed.
pub fn interrupt(pid: i32) {
    if pid != 0 {
        register_xact_callback(PgXactCallbackEvent::Commit, move || {
            background::cancel_statement(pid)
        });
    }
}
