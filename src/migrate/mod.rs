//! Migrating: sources become targets that cover exactly the same range. The state machine is
//! `repart_core::state`; `drive.rs` takes one migration from where the journal says it is to its end.

pub mod apply;
pub mod capture;
pub mod catch_up;
pub mod cause;
pub mod clean;
pub mod colocated;
pub mod copy;
pub mod cutover;
pub mod definition;
pub mod drive;
pub mod group_keys;
pub mod hold;
pub mod index;
pub mod job;
pub mod locks;
pub mod names;
pub mod preflight;
pub mod prepare;
pub mod request;
pub mod target;
pub mod verify;
