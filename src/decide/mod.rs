//! Deciding: forecasts and plans, from what was observed. The decisions are those of `repart-core`; here
//! its input is gathered and its output stored.
//!
//! - [`options`]: what the settings and arguments ask for;
//! - [`table`]: the forecasts of one table, and all that a plan needs to know of it;
//! - [`group`]: colocated tables, which are planned as one;
//! - [`fleet`]: the nodes;
//! - [`plan`]: a plan for some tables;
//! - [`learn`]: what finished migrations teach.

pub mod fleet;
pub mod group;
pub mod learn;
pub mod many;
pub mod options;
pub mod plan;
pub mod table;
