//! Side-by-side benchmarks: what repart does, and beside it the same thing done another way, in turn in one run.
//!
//! - [`options`]: how many rows and runs, from the environment;
//! - [`figure`]: medians, ranges, ratios and targets, and how they are printed;
//! - [`machine`]: what it was measured on;
//! - [`scene`]: a server and the table;
//! - [`load`]: clients whose every statement is timed;
//! - [`migration`]: a migration, watched;
//! - [`bench`]: one file for each benchmark.
//!
//! `make bench` runs them all, `make bench TESTS=rebuild` one.

// As the harness of the tests: nobody to return an error to.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod bench;
pub mod figure;
pub mod load;
pub mod machine;
pub mod migration;
pub mod options;
pub mod scene;
