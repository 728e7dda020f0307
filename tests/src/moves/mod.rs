//! The crash matrix of migrations in which nodes have a part: what fails × every state and finer point × each kind.
//!
//! Nothing here lists the states: each kind first runs undisturbed, and the cells are those of the states that it went
//! through. A transition of `repart_core::state` that no kind makes must be excused in [`plan`], with the reason; a point
//! inside a step at which the code can be held and which [`plan::POINTS`] lacks is an error.
//!
//! All cells of a row are held at once, each on a table of its own with a client of its own, when one failure comes. A
//! table goes through one kind in each row, and begins the next row where it arrived: so every row has every kind at every
//! point, and nothing has to be brought into place in between.

pub mod cell;
pub mod kind;
pub mod plan;
pub mod row;
pub mod strike;

pub use kind::Family;
pub use row::run;
pub use strike::Strike;
