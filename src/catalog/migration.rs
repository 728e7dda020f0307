//! What the journal says of a migration, as types.

use pgrx::pg_sys;
use repart_core::feedback::Moved;
use repart_core::state::State;
use serde::{Deserialize, Serialize};

use crate::catalog::bounds::Bound;
use crate::error::{Error, Result};
use crate::pg::spi;

/// What kind of step a migration carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One shard becomes several.
    Split,
    /// Several adjacent shards become one.
    Merge,
    /// The boundary between two neighbours moves.
    Shift,
    /// A shard changes its place.
    Move,
}

impl Kind {
    /// Its name in the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Merge => "merge",
            Self::Shift => "shift",
            Self::Move => "move",
        }
    }

    /// What takes it back.
    pub fn reverse(self) -> Self {
        match self {
            Self::Split => Self::Merge,
            Self::Merge => Self::Split,
            Self::Shift | Self::Move => self,
        }
    }

    /// The kind of that name.
    pub fn parse(text: &str) -> Result<Self> {
        [Self::Split, Self::Merge, Self::Shift, Self::Move]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| Error::Internal(format!("unknown kind \"{text}\"")))
    }
}

/// A table on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// The node.
    pub node: String,
    /// The table's schema there.
    pub schema: String,
    /// The table's name there.
    pub table: String,
}

impl Remote {
    /// Its name as SQL writes it.
    pub fn qualified(&self) -> String {
        spi::quote_qualified_identifier(&self.schema, &self.table)
    }
}

/// A shard that a migration replaces.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// Its relation.
    pub oid: u32,
    /// Its schema when the migration was queued.
    pub schema: String,
    /// Its name when the migration was queued.
    pub name: String,
    /// The lowest key; `None` for MINVALUE.
    pub lower: Bound,
    /// The first key above; `None` for MAXVALUE.
    pub upper: Bound,
    /// Its tablespace when the migration was queued; `None` for the database's default.
    #[serde(default)]
    pub tablespace: Option<String>,
    /// The table that a foreign shard stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
}

impl Source {
    /// Its relation.
    pub fn relation(&self) -> pg_sys::Oid {
        pg_sys::Oid::from(self.oid)
    }

    /// Its name as SQL writes it.
    pub fn qualified(&self) -> String {
        spi::quote_qualified_identifier(&self.schema, &self.name)
    }
}

/// A shard that a migration makes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Target {
    /// Its name once it is visible; `None` until the migration begins and chooses one. That of the source
    /// where it keeps one's table.
    pub name: Option<String>,
    /// The lowest key; `None` for MINVALUE.
    pub lower: Bound,
    /// The first key above; `None` for MAXVALUE.
    pub upper: Bound,
    /// Its tablespace; `None` for the source's.
    pub tablespace: Option<String>,
    /// Ordinal of the source whose table this target *is*: it keeps its OID, name, indexes and grants, and
    /// only the rows that leave it or arrive in it are moved. `None` where the target is rebuilt. At most
    /// one target keeps a source.
    #[serde(default)]
    pub keeps: Option<usize>,
    /// Whether it was to keep a source's table and more rows would have had to be moved than fit the pause,
    /// so that it is rebuilt whatever their number is now.
    #[serde(default)]
    pub outgrown: bool,
    /// The node that it is to be on; `None` for this server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its table there, once the migration has begun and chosen its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
}

/// What is to be done: adjacent sources become adjacent targets that cover exactly the same range.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// The sources, ascending.
    pub sources: Vec<Source>,
    /// The targets, ascending.
    pub targets: Vec<Target>,
    /// Whether writers wait while the rows are copied: only where no key identifies a row, and on request.
    #[serde(default)]
    pub blocking: bool,
}

impl Spec {
    /// The relations of the sources.
    pub fn source_oids(&self) -> Vec<pg_sys::Oid> {
        self.sources.iter().map(Source::relation).collect()
    }

    /// Whether a node has a part in it.
    pub fn is_away(&self) -> bool {
        let of_source = self.sources.iter().any(|source| source.remote.is_some());
        of_source || self.targets.iter().any(|target| target.node.is_some())
    }

    /// The source from which definitions are taken.
    pub fn first_source(&self) -> Result<&Source> {
        self.sources
            .first()
            .ok_or_else(|| Error::Internal("a migration without sources".to_owned()))
    }
}

/// One migration.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Its number.
    pub id: i64,
    /// What it does.
    pub kind: Kind,
    /// The sharded table.
    pub relation: pg_sys::Oid,
    /// The sharded table's name when it was queued.
    pub relation_name: String,
    /// Sources and targets.
    pub spec: Spec,
    /// Where it is.
    pub state: State,
    /// Whether a user asked to stop it.
    pub cancel_requested: bool,
    /// How often a mover took it up.
    pub attempts: i32,
    /// Where the copy is.
    pub position: Position,
    /// Rows copied so far.
    pub rows_done: i64,
    /// Bytes copied so far.
    pub bytes_done: i64,
    /// Seconds spent copying so far.
    pub copy_seconds: f64,
    /// What the plan predicted, if it came from one.
    pub predicted: Option<serde_json::Value>,
    /// Seconds since a mover first took it up.
    pub running_seconds: f64,
    /// Milliseconds of the switch, once it was made.
    pub pause_ms: Option<f64>,
    /// Whether the running transaction itself queued or changed it.
    pub is_uncommitted: bool,
    /// Whether a user has paused it, or all.
    pub is_paused: bool,
    /// Seconds since it came into its state, or was resumed in it.
    pub state_seconds: f64,
    /// The migration of a colocated table that it is carried out with; `None` for one that a mover runs.
    pub leader: Option<i64>,
    /// How many tables are cut over together, its own included.
    pub tables: i64,
    /// The node that it waits for, which does not answer; nobody works at it meanwhile.
    pub waits_for: Option<String>,
}

/// How far the copy is; stored in the same transaction as the rows it speaks of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// Hash of the table's definition when the targets were created.
    #[serde(default)]
    pub fingerprint: String,
    /// What the capture triggers were like when capture began; see `capture::triggers`.
    #[serde(default)]
    pub triggers: String,
    /// What is to be copied, in order.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// Which part is being copied.
    #[serde(default)]
    pub part: usize,
    /// The next block of it, where it is read in physical order.
    #[serde(default)]
    pub block: i64,
    /// Number of blocks to copy of it, fixed when its copy began; `None` before.
    #[serde(default)]
    pub blocks: Option<i64>,
    /// File of its source when its copy began: another one means that the rows were rewritten.
    #[serde(default)]
    pub file: u32,
    /// The next key of it, where it is read in key order; `None` at its beginning.
    #[serde(default)]
    pub key: Bound,
    /// Whether rows that were changed meanwhile have been taken out of the targets.
    #[serde(default)]
    pub deduplicated: bool,
    /// Rows copied from each source into each target: `copied[source][target]`.
    #[serde(default)]
    pub copied: Vec<Vec<i64>>,
    /// Whether the targets are shards that an earlier migration replaced and kept, so that nothing is copied.
    #[serde(default)]
    pub retained: bool,
    /// Rows that changed tables inside the cutover.
    #[serde(default)]
    pub moved: Moved,
    /// Number of the last batch that was written to a node, which counts them too.
    #[serde(default)]
    pub batch: i64,
    /// The columns that identify a row of a source on a node.
    #[serde(default)]
    pub identity: Vec<KeyColumn>,
    /// The timelines of this server and of the nodes that have a part: another one means that a standby took a place.
    #[serde(default)]
    pub timelines: String,
    /// Hash of the definition of a source on a node when the target was created.
    #[serde(default)]
    pub remote_fingerprint: String,
}

/// A column of the key that identifies rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumn {
    /// Its name.
    pub name: String,
    /// Its type and collation, as SQL writes them.
    pub type_name: String,
}

/// A part of the copy: rows of one source.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// Ordinal of the source.
    pub source: usize,
    /// Ordinals of the targets that its rows are copied into.
    pub targets: Vec<usize>,
    /// Whether they are found through the index, in key order (of one target then), instead of reading the
    /// whole source in physical order.
    pub by_index: bool,
    /// How many rows there are to copy, an estimate.
    pub rows: f64,
    /// Bytes of one, an estimate.
    pub row_bytes: f64,
}
