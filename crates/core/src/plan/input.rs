//! What a plan is made from: shards with their forecasts, nodes, the policy and what was learned.
//!
//! A [`Snapshot`] is complete: [`super::plan`] reads nothing else, so the same snapshot gives the same
//! plan, byte for byte. Times are µs since the Unix epoch and spans are µs, both `i64`. Loads are
//! rows/s, reads and writes together. Keys are text literals of the key type which the caller has put
//! in order; the planner never compares two keys, it uses their positions. Numbers that are not finite,
//! or are negative where that makes no sense, count as 0.

use serde::{Deserialize, Serialize};

pub use crate::heat::Bucket;
use crate::in_place;

/// One second, in µs.
pub const SECOND: i64 = 1_000_000;

/// Everything a plan depends on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the snapshot was taken.
    pub now: i64,
    /// The sharded tables to plan for.
    pub tables: Vec<Table>,
    /// The nodes that hold shards. A node that is missing here counts as one of weight 1.
    #[serde(default)]
    pub nodes: Vec<Node>,
    /// What the user wants.
    #[serde(default)]
    pub policy: Policy,
    /// What past migrations taught.
    #[serde(default)]
    pub learned: Learned,
    /// Pairs of shards, of any of the tables, that are used together.
    #[serde(default)]
    pub co_access: Vec<CoAccess>,
}

/// A sharded table.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Table {
    /// The table's oid.
    pub id: u32,
    /// The table's name, for texts.
    pub name: String,
    /// Its shards, ascending by range.
    pub shards: Vec<Shard>,
    /// Why its shards cannot go to another node; `None` = they can.
    #[serde(default)]
    pub bound: Option<String>,
    /// The names of the tables that are colocated with it: every step reshapes them too. Loads, rows and bytes of
    /// its shards are those of all of them together.
    #[serde(default)]
    pub colocated: Vec<String>,
}

/// One shard: the rows whose key is in `[lower, upper)`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Shard {
    /// The partition's oid.
    pub id: u32,
    /// The partition's name, for texts.
    pub name: String,
    /// Lower bound, inclusive; `None` = MINVALUE.
    pub lower: Option<String>,
    /// Upper bound, exclusive; `None` = MAXVALUE.
    pub upper: Option<String>,
    /// The node that holds it: `local` or the name of a foreign server.
    pub node: String,
    /// Its tablespace; `None` = the default one.
    #[serde(default)]
    pub tablespace: Option<String>,
    /// Live rows, estimated.
    #[serde(default)]
    pub rows: f64,
    /// Size on disk with indexes and TOAST, bytes.
    #[serde(default)]
    pub bytes: f64,
    /// Equi-depth sub-ranges, ascending. Empty = the distribution of keys is not known.
    #[serde(default)]
    pub buckets: Vec<Bucket>,
    /// Whether its rows are written in the order of their keys: 1 ascending, -1 descending, 0 without order.
    #[serde(default)]
    pub append: f64,
    /// The forecast of the load; `None` = no history yet.
    #[serde(default)]
    pub forecast: Option<Curve>,
    /// The highest load of the last season (of the whole history where no season is known), rows/s.
    #[serde(default)]
    pub recent_peak: f64,
    /// The load now, rows/s: the median of the last three samples, so that one odd sample is no reason
    /// to act.
    #[serde(default)]
    pub load_now: f64,
    /// How far its history goes back, µs.
    #[serde(default)]
    pub history_span: i64,
    /// When a migration last touched it.
    #[serde(default)]
    pub last_change: Option<i64>,
    /// How many recent migrations of it were undone by a later one (split then merged, or merged then
    /// split); the caller lets old ones expire.
    #[serde(default)]
    pub reversals: u32,
    /// A migration of it is queued or running.
    #[serde(default)]
    pub busy: bool,
    /// It and the next shard of the table share an edge and a placement.
    #[serde(default)]
    pub mergeable_with_next: bool,
    /// Why a migration of it would be refused; `None` = it can be migrated.
    #[serde(default)]
    pub unmovable: Option<String>,
    /// Why it cannot be divided, merged or go to another tablespace, though it can go to another node; `None` = it can.
    #[serde(default)]
    pub indivisible: Option<String>,
    /// What a row of its load costs its node: milliseconds of execution, waits for I/O included. 0 = not known; then
    /// that of the other shards counts.
    #[serde(default)]
    pub cost: f64,
    /// The oids of the colocated shards that go with it.
    #[serde(default)]
    pub companions: Vec<u32>,
}

/// The forecast load of one shard, on a regular grid.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Curve {
    /// Start of the first slot.
    pub start: i64,
    /// Length of a slot, µs; above 0.
    pub step: i64,
    /// Median of the load in each slot, rows/s.
    pub q50: Vec<f64>,
    /// 90 % quantile, rows/s: the one that plans are made from.
    pub q90: Vec<f64>,
    /// 99 % quantile, rows/s.
    pub q99: Vec<f64>,
    /// How far the forecast can be acted upon, 0 to 1; see `Forecast::confidence`.
    pub confidence: f64,
    /// The model that made it.
    pub model: String,
    /// The season, µs, where there is one.
    #[serde(default)]
    pub season: Option<i64>,
}

/// Two shards that the same transactions touch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CoAccess {
    /// One shard's oid.
    pub a: u32,
    /// The other shard's oid.
    pub b: u32,
    /// Transactions per second that touch both.
    pub weight: f64,
}

/// A server that holds shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// `local` or the name of a foreign server.
    pub name: String,
    /// Relative strength: a shard on a node of weight 2 may serve twice [`Policy::shard_capacity`], and a processor of it
    /// does twice as much.
    pub weight: f64,
    /// Milliseconds of execution that it can serve per second: 1,000 for each processor. 0 = not known; then that of the
    /// weakest node of which it is known, times the weight.
    pub capacity: f64,
    /// The forecast of its measured utilisation, a share of 1, by all that it does: its shards' load included.
    pub forecast: Option<Curve>,
    /// The same now; `None` = not measured.
    pub utilisation: Option<f64>,
    /// Bytes free on its disk, and in all; `None` = not known.
    pub disk: Option<(f64, f64)>,
    /// It is to be emptied.
    pub draining: bool,
    /// It does not answer: nothing goes there, and nothing can leave it.
    pub away: bool,
    /// Why nothing may go there; `None` = it may. Draining and being away are reasons by themselves.
    pub closed: Option<String>,
}

impl Default for Node {
    fn default() -> Self {
        Node {
            name: String::new(),
            weight: 1.0,
            capacity: 0.0,
            forecast: None,
            utilisation: None,
            disk: None,
            draining: false,
            away: false,
            closed: None,
        }
    }
}

/// What the user wants: limits, prices and budgets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// The share of its capacity that a shard should stay below, 0..1. The *limit* of a shard is this
    /// times its capacity; its *hard limit* lies two thirds of the way from there to the capacity
    /// (0.90 for the default 0.70).
    pub target_utilisation: f64,
    /// The load that one shard may serve on a node of weight 1, rows/s. 0 = not known: then nothing
    /// is done for load.
    pub shard_capacity: f64,
    /// No split or shift leaves a shard smaller than this, bytes. 0 = no limit.
    pub min_shard_bytes: f64,
    /// A larger shard is split, bytes. 0 = no limit.
    pub max_shard_bytes: f64,
    /// How long a shard rests after a migration, µs: it takes that long until its new load is known.
    pub dwell: i64,
    /// No split makes a table have more shards than this.
    pub max_shards: usize,
    /// A step must promise this many times what it costs. Multiplied by [`Learned::theta_factor`].
    pub theta: f64,
    /// The share of all bytes that one plan may rewrite, 0..1 (9 %: the figure of Google's Slicer).
    pub churn_budget: f64,
    /// The most steps of one plan; the next plan takes up the rest.
    pub max_steps: usize,
    /// How many migrations may run at once on one node.
    pub max_movers: usize,
    /// How many migrations may run at once in all.
    pub max_running: usize,
    /// The most parts that one step splits a shard into.
    pub max_parts: usize,
    /// The most shards that one step merges.
    pub max_merge: usize,
    /// Neighbours are cold when together they stay below this share of the limit. The distance to 1 is
    /// what keeps merges and splits from undoing each other.
    pub cold_fraction: f64,
    /// A forecast with less confidence is not acted upon.
    pub min_confidence: f64,
    /// A shard that stays below the hard limit is worth a step only if it carries this share of the
    /// load of its node (2 %: the figure of CockroachDB's rebalancer).
    pub min_impact: f64,
    /// How long a load without a usable forecast is taken to last, µs.
    pub reactive_span: i64,
    /// What a 48th part of the horizon counts, relative to the part before it: the further, the less.
    pub discount: f64,
    /// Overload-seconds that one second of copying costs. 0.2 = what a shard at 80 % of its capacity
    /// costs.
    pub copy_tax: f64,
    /// Overload-seconds per second of pause at full load. 20 = what a shard at 120 % costs.
    pub pause_price: f64,
    /// Overload-seconds that each migration costs, however small (locks, plans made anew).
    pub fixed_cost: f64,
    /// Overload-seconds per second that a shard costs by being there (planning, locks, vacuum).
    pub shard_price: f64,
    /// How long a merge is taken to spare the price of a shard, µs.
    pub merge_payback: i64,
    /// The longest pause of a cutover, s: a table is kept in place where the rows that leave and enter it
    /// can be moved in that time; see [`crate::in_place`].
    pub max_pause: f64,
    /// What a transaction costs more when the shards that it uses are on two nodes, s: the round trips to the second
    /// one, and its commit.
    pub cross_node: f64,
    /// The share of its disk that a node keeps free when it takes a shard.
    pub min_free_disk: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            target_utilisation: 0.70,
            shard_capacity: 0.0,
            min_shard_bytes: 0.0,
            max_shard_bytes: 0.0,
            dwell: 600 * SECOND,
            max_shards: 10_000,
            theta: 2.0,
            churn_budget: 0.09,
            max_steps: 64,
            max_movers: 1,
            max_running: usize::MAX,
            max_parts: 4,
            max_merge: 8,
            cold_fraction: 0.40,
            min_confidence: 0.20,
            min_impact: 0.02,
            reactive_span: 3_600 * SECOND,
            discount: 0.98,
            copy_tax: 0.2,
            pause_price: 20.0,
            fixed_cost: 0.5,
            shard_price: 1e-4,
            merge_payback: 30 * 86_400 * SECOND,
            max_pause: 0.05,
            cross_node: 0.002,
            min_free_disk: 0.1,
        }
    }
}

/// What past migrations taught; [`crate::feedback::learn`] makes it from their outcomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Learned {
    /// The copy rate that the next plan assumes, bytes/s; on the careful side.
    pub copy_rate: f64,
    /// Its relative uncertainty (standard deviation / mean).
    pub copy_rate_spread: f64,
    /// What a migration takes apart from copying, s: preparing, verifying, cleaning.
    pub overhead: f64,
    /// The pause of a cutover, s; on the careful side.
    pub pause: f64,
    /// Rows per second that a cutover deletes; on the careful side.
    pub delete_rate: f64,
    /// Rows per second that a cutover inserts; on the careful side.
    pub insert_rate: f64,
    /// Multiplies [`Policy::theta`]: above 1 after promises that were not kept.
    pub theta_factor: f64,
    /// Realised / promised benefit of the last ten migrations; `None` until there are ten.
    pub gain_ratio: Option<f64>,
    /// How many outcomes this was learned from.
    pub outcomes: usize,
}

impl Default for Learned {
    fn default() -> Self {
        Learned {
            copy_rate: 20e6,
            copy_rate_spread: 0.3,
            overhead: 2.0,
            pause: 0.05,
            delete_rate: in_place::DELETE_RATE,
            insert_rate: in_place::INSERT_RATE,
            theta_factor: 1.0,
            gain_ratio: None,
            outcomes: 0,
        }
    }
}
