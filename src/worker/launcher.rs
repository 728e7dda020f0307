//! The launcher: keeps an observer running in every database that has the extension.

use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::shared::{self, Presence};
use crate::pg::{background, databases, snapshot_guard};
use crate::worker::observer;

/// How often it looks by itself; it is woken when an extension is created.
const INTERVAL: Duration = Duration::from_secs(5);

/// An observer that ended is not started again sooner than this, in µs: no tight loop of failures.
const RESTART_AFTER: i64 = 2_000_000;

/// Registers the worker; from `_PG_init`, under preload only.
pub fn register() {
    BackgroundWorkerBuilder::new("repart launcher")
        .set_type("repart launcher")
        .set_library("repart")
        .set_function("repart_launcher_main")
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .enable_spi_access()
        .load();
}

/// Entry point of the process.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn repart_launcher_main(_argument: pg_sys::Datum) {
    background::attach_signals();
    background::connect(pg_sys::InvalidOid);
    background::report_name("repart launcher");
    shared::workers(|workers| workers.launcher = background::my_pid());
    loop {
        background::report_active("looking for databases with the extension repart");
        if let Err(error) = look_after_databases() {
            log!("repart launcher: {error}");
        }
        snapshot_guard::forget_old();
        background::report_idle("waiting");
        background::wait(INTERVAL);
    }
}

fn look_after_databases() -> Result<()> {
    let existing = databases::connectable()?;
    shared::workers(|workers| workers.retain_databases(&existing));
    for database in existing {
        if wants_observer(database) {
            observer::start(database)?;
        }
    }
    Ok(())
}

/// Whether an observer must be started now; if so, notes that it is starting.
fn wants_observer(database: pg_sys::Oid) -> bool {
    let now = background::now();
    let Some((presence, pid, asked_at)) = shared::workers(|workers| {
        workers
            .database_mut(database)
            .map(|slot| (slot.presence, slot.pid, slot.asked_at))
    }) else {
        log!(
            "repart launcher: more than {} databases, some are not observed",
            shared::MAX_DATABASES
        );
        return false;
    };
    let wanted = match presence {
        Presence::Absent => false,
        Presence::Unknown => true,
        Presence::Running => !background::is_running(pid) && now - asked_at > RESTART_AFTER,
        // Not yet started, or ended before it could say so.
        Presence::Starting => !background::is_running(pid) && now - asked_at > 5 * RESTART_AFTER,
    };
    if wanted {
        shared::workers(|workers| {
            if let Some(slot) = workers.database_mut(database) {
                slot.presence = Presence::Starting;
                slot.pid = 0;
                slot.asked_at = now;
            }
        });
    }
    wanted
}
