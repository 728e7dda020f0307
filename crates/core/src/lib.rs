//! What repart decides, apart from PostgreSQL: forecasting, planning and learning.
//!
//! Everything here is pure: no clock, no I/O, no randomness. The same input gives the same output,
//! on any machine, so that a plan can be explained, replayed and tested.

pub mod admission;
pub mod feedback;
pub mod forecast;
pub mod heat;
pub mod in_place;
pub mod latency;
pub mod pace;
pub mod plan;
pub mod series;
pub mod state;
