//! Migrating: sources become targets that cover exactly the same range. The state machine is
//! `repart_core::state`; `drive.rs` takes one migration from where the journal says it is to its end.

pub mod apply;
pub mod away;
pub mod blocking;
pub mod capture;
pub mod catch_up;
pub mod cause;
pub mod choice;
pub mod clean;
pub mod colocated;
pub mod copy;
pub mod cutover;
pub mod default_partition;
pub mod definition;
pub mod drive;
pub mod flows;
pub mod hold;
pub mod inbound;
pub mod index;
pub mod janitor;
pub mod job;
pub mod locks;
pub mod names;
pub mod obstacle;
pub mod pace;
pub mod patience;
pub mod preflight;
pub mod prepare;
pub mod publications;
pub mod queue;
pub mod request;
pub mod retain;
pub mod revert;
pub mod routing;
pub mod target;
pub mod verify;
