//! What one process knows: the relations it has seen, and the statements that it is executing.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use pgrx::pg_sys;

use super::keys::Watch;
use super::pairs::MAX_TOGETHER;
use super::statistics::Scanned;

/// Statements that one session can have open at the same time, nested ones and cursors, and have followed.
const MAX_FRAMES: usize = 64;

/// What is known of a relation is asked again after this time, µs: a standby is told of nothing.
pub const KNOWN_FOR: i64 = 10_000_000;

/// What a relation is to the sampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No shard of a managed table.
    Other,
    /// A shard, with its slot.
    Shard(u32),
    /// A shard that got no slot.
    Unplaced,
    /// An index of a shard.
    Index,
}

/// A relation that this process has seen.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// What it is.
    pub kind: Kind,
    /// When that was found out, in µs since the PostgreSQL epoch, and of which generation it is.
    pub asked_at: i64,
    /// See [`super::memory::Header::generation`].
    pub generation: u64,
    /// The shard key's column; 0 for none whose values can be kept.
    pub key: KeyColumn,
    /// What was read of it when it was last looked at.
    pub scanned: Scanned,
    /// Open statements that read it.
    pub readers: u32,
    /// The transaction to which `changed` belongs.
    pub transaction: u64,
    /// Rows that were inserted, updated and deleted in it when it was last looked at.
    pub changed: [i64; 3],
    /// The statement that looks at it, and its place in the list of that.
    pub place: (u64, usize),
}

impl Known {
    /// A relation of which nothing was looked at yet.
    pub fn new(kind: Kind, asked_at: i64, generation: u64, key: KeyColumn) -> Self {
        Self {
            kind,
            asked_at,
            generation,
            key,
            scanned: Scanned::default(),
            readers: 0,
            transaction: 0,
            changed: [0; 3],
            place: (0, 0),
        }
    }
}

/// The shard key's column in a shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyColumn {
    /// Its number; 0 for none.
    pub number: i16,
    /// Its type.
    pub type_oid: u32,
    /// The length of its values; -1 for a variable one.
    pub length: i16,
    /// Whether they are passed by value.
    pub by_value: bool,
    /// Whether the beginning of a value is a value.
    pub is_text: bool,
}

/// A relation that a statement may read.
#[derive(Clone, Copy)]
pub struct Touch {
    /// The table or index, open until the statement ends.
    pub relation: pg_sys::Relation,
    /// Its OID.
    pub oid: u32,
    /// The shard: itself, or the table of the index.
    pub shard: u32,
    /// Whose rows count.
    pub scan: Scan,
    /// How many workers the Gather above it has launched; null for none.
    pub workers: *const i32,
}

/// How the rows of a scan are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scan {
    /// At the table: sequential and bitmap scans.
    Table,
    /// By rows fetched through the index.
    Index,
    /// By entries of the index.
    IndexOnly,
    /// At the table, which another entry does.
    Bitmap,
    /// By the server that has them; here only that it was used.
    Foreign,
}

/// A statement that is being executed.
pub struct Frame {
    /// Which one.
    pub query: *const pg_sys::QueryDesc,
    /// The depth of subtransactions at its start.
    pub depth: i32,
    /// Whether it changes rows.
    pub writes: bool,
    /// Whether it uses shards without slots.
    pub has_unplaced: bool,
    /// Whether its keys are looked at.
    pub detailed: bool,
    /// What it may read.
    pub touches: Vec<Touch>,
    /// When it began to run, ns; 0 before.
    pub running_since: u64,
    /// How long it has run, ns.
    pub ran: u64,
    /// WAL that this process had written at its start, bytes.
    pub wal: u64,
    /// WAL that statements inside it have written, bytes.
    pub wal_inside: u64,
    /// Its number.
    pub serial: u64,
}

/// What one statement did to one shard.
#[derive(Clone, Copy)]
pub struct Share {
    /// The shard.
    pub shard: u32,
    /// Its slot.
    pub slot: u32,
    /// The open relation; null if only an index of it was read.
    pub relation: pg_sys::Relation,
    /// Whether it was read at all.
    pub read: bool,
    /// Whether rows were routed to it, be it in vain.
    pub routed: bool,
    /// Rows that were read.
    pub rows_read: i64,
    /// Blocks that were asked for.
    pub blocks: i64,
    /// Rows inserted, updated and deleted.
    pub changed: [i64; 3],
}

impl Share {
    /// Rows written.
    pub fn rows_written(&self) -> i64 {
        self.changed.iter().sum()
    }

    /// Whether the statement wrote to the shard, or tried to.
    pub fn is_write(&self) -> bool {
        self.routed || self.rows_written() > 0
    }

    /// Whether the statement used the shard.
    pub fn is_use(&self) -> bool {
        self.read || self.is_write()
    }
}

/// All of it.
pub struct Process {
    /// Relations by OID.
    pub known: HashMap<u32, Known, BuildHasherDefault<OidHasher>>,
    /// Open statements, the innermost last.
    pub frames: Vec<Frame>,
    /// Lists of frames that ended, to be used again.
    spare: Vec<Vec<Touch>>,
    /// What the statement that ends now did.
    pub shares: Vec<Share>,
    /// Relations of the statement that begins now, of which more must be known.
    pub unknown: Vec<pg_sys::Relation>,
    /// The names of the shards that this transaction has used.
    pub together: [u32; MAX_TOGETHER],
    /// How many; more than there is room for: too many.
    pub together_count: usize,
    /// The keys of the detailed statements.
    pub watch: Watch,
    /// Counts transactions.
    pub transaction: u64,
    /// Counts statements.
    pub serial: u64,
    /// Statements until the next that is detailed.
    pub countdown: u32,
    random: u64,
}

/// The process's own.
struct Own(UnsafeCell<Option<Process>>);

// SAFETY: a backend has one thread, and signal handlers do not come here.
unsafe impl Sync for Own {}

static OWN: Own = Own(UnsafeCell::new(None));

/// What this process knows.
///
/// # Safety
/// The caller must not hold another reference to it while it uses this one.
#[inline]
pub unsafe fn process() -> &'static mut Process {
    // SAFETY: see the contract and `Own`.
    match unsafe { &mut *OWN.0.get() } {
        Some(process) => process,
        missing => missing.insert(Process::new()),
    }
}

impl Process {
    #[cold]
    fn new() -> Self {
        // SAFETY: globals of this process.
        let seed =
            unsafe { pg_sys::MyProcPid as u64 ^ (pg_sys::GetCurrentTimestamp() as u64) << 16 };
        Self {
            known: HashMap::default(),
            frames: Vec::with_capacity(MAX_FRAMES),
            spare: Vec::with_capacity(MAX_FRAMES),
            shares: Vec::with_capacity(64),
            unknown: Vec::with_capacity(64),
            together: [0; MAX_TOGETHER],
            together_count: 0,
            watch: Watch::new(),
            transaction: 1,
            serial: 0,
            countdown: 0,
            random: seed | 1,
        }
    }

    /// A random number, by xorshift64*.
    pub fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// An exponentially distributed number with mean 1.
    pub fn chance(&mut self) -> f32 {
        let unit = ((self.random() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -unit.ln() as f32
    }

    /// Whether to look at the keys of the next statement: one in `rate`, at random distances.
    pub fn is_next_detailed(&mut self, rate: u32) -> bool {
        if self.countdown > 0 {
            self.countdown -= 1;
            return false;
        }
        // Uniform on 0 .. 2 * (rate - 1): a mean of rate - 1 in between.
        let spread = u64::from(rate).saturating_mul(2).saturating_sub(1).max(1);
        self.countdown = (self.random() % spread) as u32;
        true
    }

    /// Begins to follow a statement; false if too many are open.
    pub fn push(
        &mut self,
        query: *const pg_sys::QueryDesc,
        depth: i32,
        writes: bool,
        wal: u64,
    ) -> bool {
        if self.frames.len() >= MAX_FRAMES {
            return false;
        }
        self.serial += 1;
        let touches = self.spare.pop().unwrap_or_default();
        self.frames.push(Frame {
            query,
            depth,
            writes,
            has_unplaced: false,
            detailed: false,
            touches,
            running_since: 0,
            ran: 0,
            wal,
            wal_inside: 0,
            serial: self.serial,
        });
        true
    }

    /// The place of a statement among the open ones.
    #[inline]
    pub fn position(&self, query: *const pg_sys::QueryDesc) -> Option<usize> {
        self.frames.iter().rposition(|frame| frame.query == query)
    }

    /// Keeps a list for the next statement.
    pub fn recycle(&mut self, mut touches: Vec<Touch>) {
        touches.clear();
        self.spare.push(touches);
    }

    /// Forgets statements that ended without saying so, because of an error: those that are at least so deep.
    pub fn drop_frames(&mut self, depth: i32) {
        while let Some(position) = self.frames.iter().rposition(|frame| frame.depth >= depth) {
            let frame = self.frames.remove(position);
            for touch in &frame.touches {
                if let Some(known) = self.known.get_mut(&touch.oid) {
                    known.readers = known.readers.saturating_sub(1);
                }
            }
            self.recycle(frame.touches);
        }
    }

    /// Notes that this transaction uses a shard.
    #[inline]
    pub fn note_together(&mut self, name: u32) {
        let held = self.together_count.min(MAX_TOGETHER);
        if self.together.iter().take(held).any(|other| *other == name) {
            return;
        }
        if let Some(place) = self.together.get_mut(self.together_count) {
            *place = name;
        }
        self.together_count = held + 1;
    }
}

/// Spreads OIDs, which are given out one after the other.
#[derive(Default)]
pub struct OidHasher(u64);

impl Hasher for OidHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(self.0 as u32 ^ u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        let hash = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = hash ^ (hash >> 32);
    }
}
