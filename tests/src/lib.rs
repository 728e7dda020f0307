//! Harness of the client-side tests: real servers, real clients, real crashes.
//!
//! - [`cluster`]: throwaway PostgreSQL clusters with repart preloaded;
//! - [`repart`]: the SQL surface of repart as the tests call it;
//! - [`fleet`]: a coordinator with nodes and a replica of one; [`namespace`] or [`proxy`] cuts one off (with `REPART_PROXY`
//!   in the environment always the latter);
//! - [`routing`]: a table with a routing copy on a node;
//! - [`matrix`]: what fails × every state of a migration, made from the table of transitions;
//! - [`moves`]: the same for migrations in which nodes have a part;
//! - [`disk`]: a small file system to fill;
//! - [`snapshot`]: transactions that are older than a cutover;
//! - [`upgrade`]: a next version of the extension;
//! - [`aftermath`]: what must not be left when a migration has ended;
//! - [`describe`]: what a shard is made of, to compare it with its replacement;
//! - [`workload`]: clients that remember what they committed and so notice every wrong answer;
//! - [`family`]: the same on two colocated tables with a foreign key between them;
//! - [`wait`]: waiting for something to become true, with a deadline.
//!
//! Run them with `make client`: it installs the extension in a copy of the server and removes everything
//! afterwards. `tests/bin/throwaway --install cargo test -p repart-tests` is the same by hand.

// A harness has nobody to return an error to: a test that cannot go on must stop, saying where.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod aftermath;
pub mod cluster;
pub mod control;
pub mod describe;
pub mod disk;
pub mod family;
pub mod fleet;
pub mod matrix;
pub mod moves;
pub mod namespace;
pub mod proxy;
pub mod repart;
pub mod routing;
pub mod run_dir;
pub mod snapshot;
pub mod upgrade;
pub mod wait;
pub mod workload;
