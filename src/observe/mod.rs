//! Observing the load: what every shard was used for, as rates per second.
//!
//! - [`sample`] reads PostgreSQL's statistics and makes rates of what they counted since the last time;
//! - [`history`] puts a shard's own samples behind those of the shards that it was made of;
//! - [`heat`] says where inside a shard the load falls, by what the access sampler has seen;
//! - [`import`] reads load that something else has recorded;
//! - [`purge`] forgets what is older than `repart.retention`.

pub mod heat;
pub mod history;
pub mod import;
mod sample;

pub use sample::{Accessed, access_rates, sample};

use crate::catalog::{retention, samples};
use crate::error::Result;
use crate::pg::time;
use crate::settings;

/// Rows that one call of [`purge`] deletes from one table at most: a transaction of well below a second.
const PURGE_ROWS: i64 = 10_000;

/// The oldest time that history is kept of, µs since the Unix epoch.
pub fn oldest() -> i64 {
    time::now().saturating_sub(time::span(settings::retention()))
}

/// Deletes samples, lineage, plans, outcomes, events and finished migrations older than
/// `repart.retention`, and what is known of shards that are gone; a bounded number of rows. Returns
/// whether there may be more: then call it again, in a transaction of its own.
pub fn purge() -> Result<bool> {
    samples::forget_gone_shards()?;
    let (_, more) = retention::purge(oldest(), PURGE_ROWS)?;
    Ok(more)
}
