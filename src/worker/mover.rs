//! The mover: carries one migration out.

use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::migrate::drive::Drive;
use crate::pg::shared::{self, Mover};
use crate::pg::{background, guc, spi, txn};

/// First key of the advisory lock by which two movers never work on one migration.
const LOCK_CLASS: i32 = 0x7265_7061;

/// A mover that has not begun after this time, in µs, never will.
const START_TIMEOUT: i64 = 10_000_000;

/// Asks PostgreSQL to start a mover for a migration of this database, unless one runs already.
pub fn start(migration: i64) -> Result<()> {
    let database = background::my_database();
    let now = background::now();
    let reserved = shared::workers(|workers| {
        if workers
            .movers
            .iter()
            .any(|mover| mover.database == database && mover.migration == migration)
        {
            return None;
        }
        let slot = workers
            .movers
            .iter_mut()
            .find(|mover| mover.database == pg_sys::InvalidOid)?;
        *slot = Mover {
            database,
            migration,
            pid: 0,
            asked_at: now,
        };
        Some(())
    });
    if reserved.is_none() {
        return Ok(());
    }
    let started = background::start(
        "repart mover",
        "repart_mover_main",
        &format!("{} {migration}", database.to_u32()),
    );
    if started.is_err() {
        release(database, migration);
    }
    started
}

/// Forgets movers of this database that ended; returns the migrations of those that run or start.
pub fn running() -> Vec<i64> {
    let database = background::my_database();
    let now = background::now();
    let known = shared::workers(|workers| workers.movers);
    let mine = known.iter().filter(|mover| mover.database == database);
    let (alive, dead): (Vec<&Mover>, Vec<&Mover>) = mine.partition(|mover| match mover.pid {
        0 => now - mover.asked_at < START_TIMEOUT,
        pid => background::is_running(pid),
    });
    for mover in dead {
        release(database, mover.migration);
    }
    alive.into_iter().map(|mover| mover.migration).collect()
}

/// The process of the mover of a migration in this database; 0 if there is none.
pub fn process_of(migration: i64) -> i32 {
    let database = background::my_database();
    shared::workers(|workers| {
        workers
            .movers
            .iter()
            .find(|mover| mover.database == database && mover.migration == migration)
            .map_or(0, |mover| mover.pid)
    })
}

fn release(database: pg_sys::Oid, migration: i64) {
    shared::workers(|workers| {
        for mover in &mut workers.movers {
            if mover.database == database && mover.migration == migration {
                mover.database = pg_sys::InvalidOid;
            }
        }
    });
}

/// Entry point of the process.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn repart_mover_main(_argument: pg_sys::Datum) {
    background::attach_signals();
    let Some((database, migration)) = parse(&background::my_argument()) else {
        log!("repart mover: started without a migration");
        return;
    };
    background::connect(database);
    background::report_name(&format!("repart mover {migration}"));
    shared::workers(|workers| {
        let slot = workers
            .movers
            .iter_mut()
            .find(|mover| mover.database == database && mover.migration == migration);
        if let Some(slot) = slot {
            slot.pid = background::my_pid();
        }
    });
    if let Err(error) = carry_out(migration) {
        log!("repart mover: migration {migration}: {error}");
    }
    release(database, migration);
    shared::announce(database);
}

fn parse(argument: &str) -> Option<(pg_sys::Oid, i64)> {
    let (database, migration) = argument.split_once(' ')?;
    Some((
        pg_sys::Oid::from(database.parse::<u32>().ok()?),
        migration.parse().ok()?,
    ))
}

fn carry_out(migration: i64) -> Result<()> {
    prepare_session();
    let alone = txn::run(|| {
        spi::query_value::<bool>(
            "SELECT pg_catalog.pg_try_advisory_lock($1, ($2 % 2147483647)::int4)",
            &[LOCK_CLASS.into(), migration.into()],
        )
    })?;
    if alone != Some(true) {
        return Err(Error::Internal("another mover is at work".to_owned()));
    }
    Drive::new(migration).run()
}

/// Settings on which correctness or politeness depends; nobody else sees this session.
fn prepare_session() {
    // Literals of boundaries, and rows compared as text, must read the same everywhere.
    for (name, value) in guc::TRANSMISSION_MODES {
        guc::set(name, value);
    }
    for (name, value) in [
        ("search_path", "pg_catalog, pg_temp"),
        ("statement_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("lock_timeout", "5s"),
        // A new shard goes where its source is, not where the server would put new tables.
        ("default_tablespace", ""),
        // What a copy reads and writes is no load of the users.
        ("track_counts", "off"),
        ("row_security", "on"),
        ("default_transaction_read_only", "off"),
        ("synchronous_commit", "on"),
        // It takes longer than what it would make faster here, of all places while clients wait for a switch.
        ("jit", "off"),
        // What a copy has written goes to the disk soon. Else the kernel collects it, until a client's commit waits
        // for all of it.
        ("backend_flush_after", "512kB"),
    ] {
        guc::set(name, value);
    }
}
