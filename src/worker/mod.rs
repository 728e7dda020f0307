//! The processes of repart, and why there are these and no others:
//!
//! - the **launcher**, one per cluster, since only a static worker is there from the start: it finds the
//!   databases that have the extension and keeps one observer running in each;
//! - the **observer**, one per database, since a worker serves one database: it samples, forecasts, plans,
//!   starts movers and recovers what a crash left;
//! - a **watcher**, one per database that has nodes, so that a node that does not answer keeps nobody else waiting;
//! - a **mover** per running migration, so that a long copy delays neither sampling nor another migration.

mod admission;
pub mod launcher;
pub mod mover;
pub mod observer;
pub mod watcher;
