//! The watcher: looks after the nodes of one database, as long as there are any.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::catalog::{extension, nodes, two_phase};
use crate::error::Result;
use crate::nodes::watch::Watch;
use crate::pg::{background, guc, shared, txn};
use crate::settings;

/// One that has not begun, or ended by an error, is not started again sooner than this, in µs.
const RESTART_AFTER: i64 = 5_000_000;

/// The longest time between two looks at the nodes; usually a commit wakes the watcher. What nobody wakes it for is a
/// transaction that a node prepared after everybody had given it up.
const LOOK: Duration = Duration::from_secs(10);

/// As above, while nodes are being connected to.
const LOOK_SOON: Duration = Duration::from_millis(100);

/// As above, while decisions wait to be carried out.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Starts the watcher of this database, if there are nodes and none runs.
pub fn ensure() -> Result<()> {
    let database = background::my_database();
    let now = background::now();
    if !txn::run(|| Ok(!nodes::all()?.is_empty()))? {
        return Ok(());
    }
    let wanted = shared::workers(|workers| {
        let Some(slot) = workers.database_mut(database) else {
            return false;
        };
        let is_due = now - slot.watcher_asked_at > RESTART_AFTER;
        if is_due {
            slot.watcher_asked_at = now;
        }
        is_due && !background::is_running(slot.watcher)
    });
    if !wanted {
        return Ok(());
    }
    background::start(
        "repart watcher",
        "repart_watcher_main",
        &database.to_u32().to_string(),
    )
}

/// Entry point of the process.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn repart_watcher_main(_argument: pg_sys::Datum) {
    background::attach_signals();
    let Ok(number) = background::my_argument().parse::<u32>() else {
        log!("repart watcher: started without a database");
        return;
    };
    let database = pg_sys::Oid::from(number);
    background::connect(database);
    background::report_name("repart watcher");
    guc::set("search_path", "pg_catalog, pg_temp");
    guc::set("statement_timeout", "0");
    guc::set("idle_in_transaction_session_timeout", "0");
    for (name, value) in guc::TRANSMISSION_MODES {
        guc::set(name, value);
    }
    if !take_place(database) {
        return;
    }
    watch_nodes();
    shared::workers(|workers| {
        if let Some(slot) = workers.database_mut(database) {
            slot.watcher = 0;
            slot.watcher_asked_at = 0;
        }
    });
}

/// Notes this process as the watcher; `false` if there is another one.
fn take_place(database: pg_sys::Oid) -> bool {
    let me = background::my_pid();
    shared::workers(|workers| {
        let Some(slot) = workers.database_mut(database) else {
            return false;
        };
        if slot.watcher != me && background::is_running(slot.watcher) {
            return false;
        }
        slot.watcher = me;
        true
    })
}

/// Until there are no nodes any more.
fn watch_nodes() {
    let mut watch = Watch::default();
    let mut measured: Option<Instant> = None;
    let mut retried: Option<Instant> = None;
    let mut logged = String::new();
    loop {
        let interval = settings::sample_interval();
        let due = is_due(&mut measured, interval);
        // One that hangs is waited for half of the time, beside the others.
        let patience = interval.min(LOOK).max(2 * settings::node_timeout());
        let retry = is_due(&mut retried, patience);
        background::report_active("looking after nodes");
        let pause = match look(&mut watch, due, retry) {
            Ok(None) => return,
            Ok(Some(pause)) => {
                logged.clear();
                pause
            }
            Err(error) => {
                note(&mut logged, &error.to_string());
                LOOK_AGAIN
            }
        };
        background::report_idle("waiting");
        let left = measured.map_or(pause, |at| interval.saturating_sub(at.elapsed()));
        background::wait(pause.min(left).max(Duration::from_millis(1)));
    }
}

/// Whether something is to be done again; it is, then.
fn is_due(last: &mut Option<Instant>, interval: Duration) -> bool {
    let due = last.is_none_or(|at| at.elapsed() >= interval);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// One look; how soon to look again. `None` once there are no nodes.
fn look(watch: &mut Watch, due: bool, retry: bool) -> Result<Option<Duration>> {
    if !txn::run(|| Ok(extension::is_installed()? && !nodes::all()?.is_empty()))? {
        return Ok(None);
    }
    watch.round(due, retry)?;
    if watch.is_connecting() {
        return Ok(Some(LOOK_SOON));
    }
    let is_open = !txn::run(two_phase::open)?.is_empty();
    Ok(Some(if is_open { LOOK_AGAIN } else { LOOK }))
}

/// An error that stays is logged once.
fn note(logged: &mut String, error: &str) {
    if logged != error {
        log!("repart watcher: {error}");
        error.clone_into(logged);
    }
}
