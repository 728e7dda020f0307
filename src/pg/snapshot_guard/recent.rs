//! The cutovers that some running snapshot may predate, as shared memory holds them.

use pgrx::pg_sys;

/// Relations whose cutover may be newer than some running transaction's snapshot.
const MAX_CUTOVERS: usize = 2048;

/// One relation that was cut over.
#[derive(Clone, Copy)]
struct Cutover {
    database: pg_sys::Oid,
    relation: pg_sys::Oid,
    /// Full transaction id of the cutover; 0 in a free slot.
    xid: u64,
}

/// The cutovers that some snapshot may predate. When there are too many, the newest of those that do
/// not fit counts for every relation: an error too many, never a wrong answer.
#[derive(Clone, Copy)]
pub struct Cutovers {
    entries: [Cutover; MAX_CUTOVERS],
    overflow: u64,
}

impl Cutovers {
    /// No cutover.
    pub const EMPTY: Self = Self {
        entries: [Cutover {
            database: pg_sys::InvalidOid,
            relation: pg_sys::InvalidOid,
            xid: 0,
        }; MAX_CUTOVERS],
        overflow: 0,
    };

    /// The newest cutover's transaction id, 0 for none.
    pub fn newest(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| entry.xid)
            .max()
            .unwrap_or(0)
            .max(self.overflow)
    }

    /// Notes a cutover.
    pub fn record(&mut self, database: pg_sys::Oid, relation: pg_sys::Oid, xid: u64) {
        let same = |entry: &&mut Cutover| {
            entry.xid != 0 && entry.database == database && entry.relation == relation
        };
        if let Some(entry) = self.entries.iter_mut().find(same) {
            // An aborted attempt may have left its id: the newer one is the stricter one.
            entry.xid = entry.xid.max(xid);
            return;
        }
        match self.entries.iter_mut().find(|entry| entry.xid == 0) {
            Some(free) => {
                *free = Cutover {
                    database,
                    relation,
                    xid,
                }
            }
            None => self.overflow = self.overflow.max(xid),
        }
    }

    /// Forgets cutovers that every snapshot sees whose horizon is `oldest`.
    pub fn forget_before(&mut self, oldest: u64) {
        for entry in &mut self.entries {
            if entry.xid < oldest {
                entry.xid = 0;
            }
        }
        if self.overflow < oldest {
            self.overflow = 0;
        }
    }

    /// The newest cutover of a relation.
    pub fn of(&self, database: pg_sys::Oid, relation: pg_sys::Oid) -> u64 {
        self.entries
            .iter()
            .filter(|entry| {
                entry.xid != 0 && entry.database == database && entry.relation == relation
            })
            .map(|entry| entry.xid)
            .max()
            .unwrap_or(0)
            .max(self.overflow)
    }
}
