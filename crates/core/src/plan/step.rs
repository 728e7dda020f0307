//! What a plan is: steps, each with its reason, its price and its time.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The steps to carry out, ordered by planned start.
///
/// Never empty: when there is nothing to do it is exactly one row with [`Action::None`] that says why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// One shard becomes several.
    Split,
    /// Several adjacent shards become one.
    Merge,
    /// The boundary between two adjacent shards moves.
    Shift,
    /// A shard goes to another node.
    Move,
    /// A shard is loaded into its node's cache. Not yet proposed by the planner.
    Prewarm,
    /// Nothing is done; the row explains why.
    None,
}

impl Action {
    /// The word for it in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Split => "split",
            Action::Merge => "merge",
            Action::Shift => "shift",
            Action::Move => "move",
            Action::Prewarm => "prewarm",
            Action::None => "none",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a step is proposed, or why none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The forecast goes above the limit.
    PredictedHot,
    /// The load is above the limit already.
    HotNow,
    /// The shard is larger than `max_shard_bytes`.
    TooLarge,
    /// Neighbours have been cold for two seasons and will stay so.
    ColdGroup,
    /// The shard's node is to be emptied.
    Drain,
    /// Shards on two nodes are used by the same transactions.
    Gather,
    /// All is well.
    NoAction,
    /// The gain does not justify the cost, or the shard does not matter on its node.
    BelowBenefit,
    /// The shard was migrated a short time ago.
    Dwell,
    /// The plan rewrites enough already.
    ChurnBudget,
    /// One key carries the load; no boundary can divide it.
    SingleKeyHot,
    /// The load follows the keys that are appended; a boundary would leave all of it on one side.
    AppendHot,
    /// The forecast is not good enough to act upon, and the load is below the limit now.
    LowConfidence,
    /// There is no forecast yet.
    NoHistory,
    /// The distribution of keys inside the shard is not known, or too coarse to divide.
    UnknownKeys,
    /// A split would leave a shard smaller than `min_shard_bytes`.
    TooSmall,
    /// The table has `max_shards` shards.
    MaxShards,
    /// A migration of the shard is queued or running, or another step of this plan has it.
    Busy,
    /// A migration of the shard would be refused.
    Unmovable,
    /// No neighbour, or no other node, could take the load.
    NoCapacity,
    /// Another candidate for the same shard has the better benefit/cost.
    LowerRatio,
}

impl Reason {
    /// The code shown in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::PredictedHot => "PREDICTED_HOT",
            Reason::HotNow => "HOT_NOW",
            Reason::TooLarge => "TOO_LARGE",
            Reason::ColdGroup => "COLD_GROUP",
            Reason::Drain => "DRAIN",
            Reason::Gather => "GATHER",
            Reason::NoAction => "NO_ACTION",
            Reason::BelowBenefit => "BELOW_BENEFIT",
            Reason::Dwell => "DWELL",
            Reason::ChurnBudget => "CHURN_BUDGET",
            Reason::SingleKeyHot => "SINGLE_KEY_HOT",
            Reason::AppendHot => "APPEND_HOT",
            Reason::LowConfidence => "LOW_CONFIDENCE",
            Reason::NoHistory => "NO_HISTORY",
            Reason::UnknownKeys => "UNKNOWN_KEYS",
            Reason::TooSmall => "TOO_SMALL",
            Reason::MaxShards => "MAX_SHARDS",
            Reason::Busy => "BUSY",
            Reason::Unmovable => "UNMOVABLE",
            Reason::NoCapacity => "NO_CAPACITY",
            Reason::LowerRatio => "LOWER_RATIO",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One row of a plan.
///
/// The targets of a step cover exactly the range of its sources: they are the ranges between
/// `key_from`, the `boundaries` and `key_to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// The table's oid; 0 in a row about no table.
    pub table: u32,
    /// The oids of the shards that are replaced, adjacent and ascending by range. In a row with
    /// [`Action::None`]: the shard that the row speaks of, if any.
    pub sources: Vec<u32>,
    /// The boundaries between the targets, ascending. Empty for merge and move.
    pub boundaries: Vec<String>,
    /// Lower bound of the first source; `None` = MINVALUE.
    pub key_from: Option<String>,
    /// Upper bound of the last source; `None` = MAXVALUE.
    pub key_to: Option<String>,
    /// Placement of the sources: `node` or `node/tablespace`.
    pub source: String,
    /// Placement of the targets.
    pub target: String,
    /// Bytes that are rewritten.
    pub bytes: f64,
    /// Why, as a code.
    pub reason: Reason,
    /// Why, as one sentence with numbers.
    pub why: String,
    /// Peak load (q90) of the hottest source, rows/s.
    pub load_before: f64,
    /// Peak load (q90) of the hottest target, rows/s.
    pub load_after: f64,
    /// Overload-seconds saved, if the forecast comes true.
    pub benefit: f64,
    /// Overload-seconds spent.
    pub cost: f64,
    /// The last moment to start that still makes the deadline; `None` = no hurry.
    pub start_by: Option<i64>,
    /// When to start.
    pub planned_start: i64,
    /// When the load passes the limit without the step; `None` = no hurry.
    pub deadline: Option<i64>,
    /// How long it is expected to take, s.
    pub duration: f64,
    /// The expected pause of the cutover, s.
    pub pause: f64,
    /// It is expected to be ready only after the deadline.
    pub will_miss: bool,
    /// How sure the reason is, 0..1; the gate counts `confidence × benefit`.
    pub confidence: f64,
    /// Up to three rejected alternatives, each with the rule that rejected it and its numbers.
    pub alternatives: serde_json::Value,
}
