//! The crash matrix: what fails × every state that a migration can be in.
//!
//! Nothing here lists the states. Each row first lets every scenario run undisturbed and observes which
//! transitions it makes; what `repart_core::state` has and no scenario makes is an error that says what to
//! add. So a new state on a known way is tested by itself, and a new way cannot be forgotten.
//!
//! All cells of a row are made at once: one table each, with its own clients and its own mover, held at its own
//! point when the failure comes. So one crash meets a migration in every state, and the recovery is that of
//! many migrations at the same time.

pub mod cell;
pub mod failure;
pub mod observed;
pub mod row;
pub mod scenario;

pub use failure::Failure;
pub use row::run_row;
