//! Shared memory: which workers run, and when each table was last cut over. Fixed in size; progress and
//! hints only, since the tables are the truth and no snapshot outlives a restart.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::prelude::*;
use pgrx::{AssertPGRXSharedMemory, PgAtomic, PgLwLock, pg_shmem_init};

use crate::pg::background;
use crate::pg::snapshot_guard::Cutovers;

/// Databases that can have an observer at the same time.
pub const MAX_DATABASES: usize = 128;

/// Movers that can run at the same time in the whole cluster.
pub const MAX_MOVERS: usize = 64;

/// What the launcher knows of a database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Not looked at since the server started, or since something was announced there.
    Unknown,
    /// An observer was asked for and may be starting.
    Starting,
    /// Its observer runs.
    Running,
    /// It has no extension repart.
    Absent,
}

/// One database.
#[derive(Clone, Copy)]
pub struct Database {
    /// Its OID; invalid in a free slot.
    pub oid: pg_sys::Oid,
    /// What is known of it.
    pub presence: Presence,
    /// The process of its observer, once it runs.
    pub pid: i32,
    /// When the observer was last asked for, in µs since the PostgreSQL epoch.
    pub asked_at: i64,
    /// The process of its watcher, which looks after nodes; 0 where none has started.
    pub watcher: i32,
    /// When the watcher was last asked for, in µs since the PostgreSQL epoch.
    pub watcher_asked_at: i64,
}

/// One mover.
#[derive(Clone, Copy)]
pub struct Mover {
    /// The database it works in; invalid in a free slot.
    pub database: pg_sys::Oid,
    /// The migration it carries out.
    pub migration: i64,
    /// Its process; 0 while it starts.
    pub pid: i32,
    /// When it was asked for, in µs since the PostgreSQL epoch.
    pub asked_at: i64,
}

/// The workers of this cluster.
#[derive(Clone, Copy)]
pub struct Workers {
    /// The launcher's process; 0 before it started.
    pub launcher: i32,
    /// Known databases.
    pub databases: [Database; MAX_DATABASES],
    /// Movers, running or starting.
    pub movers: [Mover; MAX_MOVERS],
}

const NO_DATABASE: Database = Database {
    oid: pg_sys::InvalidOid,
    presence: Presence::Unknown,
    pid: 0,
    asked_at: 0,
    watcher: 0,
    watcher_asked_at: 0,
};
const NO_MOVER: Mover = Mover {
    database: pg_sys::InvalidOid,
    migration: 0,
    pid: 0,
    asked_at: 0,
};

impl Workers {
    const EMPTY: Self = Self {
        launcher: 0,
        databases: [NO_DATABASE; MAX_DATABASES],
        movers: [NO_MOVER; MAX_MOVERS],
    };

    /// The slot of a database, taking a free one for a new database; `None` when all are taken.
    pub fn database_mut(&mut self, oid: pg_sys::Oid) -> Option<&mut Database> {
        let at = self
            .databases
            .iter()
            .position(|slot| slot.oid == oid)
            .or_else(|| {
                self.databases
                    .iter()
                    .position(|slot| slot.oid == pg_sys::InvalidOid)
            })?;
        let slot = self.databases.get_mut(at)?;
        if slot.oid != oid {
            *slot = Database { oid, ..NO_DATABASE };
        }
        Some(slot)
    }

    /// Forgets databases that are gone.
    pub fn retain_databases(&mut self, existing: &[pg_sys::Oid]) {
        for slot in &mut self.databases {
            if !existing.contains(&slot.oid) {
                *slot = NO_DATABASE;
            }
        }
    }
}

// SAFETY: the names are static and unique, and both statics are initialised in `register`.
static WORKERS: PgLwLock<AssertPGRXSharedMemory<Workers>> =
    unsafe { PgLwLock::new(c"repart_workers") };
// SAFETY: as above.
static CUTOVERS: PgLwLock<AssertPGRXSharedMemory<Cutovers>> =
    unsafe { PgLwLock::new(c"repart_cutovers") };
/// The newest cutover's transaction id, 0 for none: the only thing that most statements look at.
// SAFETY: as above.
static NEWEST_CUTOVER: PgAtomic<AtomicU64> = unsafe { PgAtomic::new(c"repart_newest_cutover") };

/// Asks for the memory; from `_PG_init`, under preload only.
pub fn register() {
    pg_shmem_init!(WORKERS = shareable(Workers::EMPTY));
    pg_shmem_init!(CUTOVERS = shareable(Cutovers::EMPTY));
    pg_shmem_init!(NEWEST_CUTOVER = AtomicU64::new(0));
}

/// Vouches for a value that holds no pointers.
fn shareable<T: Copy + 'static>(value: T) -> AssertPGRXSharedMemory<T> {
    // SAFETY: the types used here are plain arrays of numbers: no pointers, no heap, no drop.
    unsafe { AssertPGRXSharedMemory::new(value) }
}

/// Reads or changes what is known of the workers. `body` must not raise errors: it holds a lock.
pub fn workers<T>(body: impl FnOnce(&mut Workers) -> T) -> T {
    body(&mut WORKERS.exclusive())
}

/// Reads or changes the recent cutovers. `body` must not raise errors: it holds a lock.
pub fn cutovers<T>(body: impl FnOnce(&mut Cutovers) -> T) -> T {
    let mut cutovers = CUTOVERS.exclusive();
    let value = body(&mut cutovers);
    NEWEST_CUTOVER
        .get()
        .store(cutovers.newest(), Ordering::Release);
    value
}

/// The newest cutover's transaction id, 0 for none.
pub fn newest_cutover() -> u64 {
    NEWEST_CUTOVER.get().load(Ordering::Acquire)
}

/// Whether something happened in this database that its workers should see to now: looks for the
/// extension again and wakes the observer.
pub fn announce(database: pg_sys::Oid) {
    let (launcher, observer, watcher) = workers(|workers| {
        let (observer, watcher) = workers.database_mut(database).map_or((0, 0), |slot| {
            if slot.presence == Presence::Absent {
                slot.presence = Presence::Unknown;
            }
            (slot.pid, slot.watcher)
        });
        (workers.launcher, observer, watcher)
    });
    background::wake(watcher);
    if !background::wake(observer) {
        background::wake(launcher);
    }
}

/// Reads the recent cutovers. `body` must not raise errors: it holds a lock.
pub fn cutovers_of<T>(body: impl FnOnce(&Cutovers) -> T) -> T {
    body(&CUTOVERS.share())
}
