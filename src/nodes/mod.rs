//! Nodes: the servers that can hold shards. This server is the node `local`; the others are foreign servers of
//! postgres_fdw, which serves the users' queries. repart's own work there goes over connections of its own.
//!
//! - [`connect`] makes these connections from the options of the foreign server and the user mapping;
//! - [`facts`] is what a server says of itself, here and there in the same words, and which functions of repart it has;
//! - [`check`] compares the two before a server becomes a node;
//! - [`local`] looks at this server;
//! - [`registry`] adds, removes and drains;
//! - [`servers`] looks at foreign servers on a node, by which routing copies reach shards;
//! - [`shards`] reads what PostgreSQL there counts of shards;
//! - [`two_phase`] changes several nodes at once, or none;
//! - [`usage`] reads what the machine of this server is doing;
//! - [`watch`] asks all nodes for that, again and again, without one waiting for another.

mod check;
pub mod connect;
pub mod facts;
pub mod local;
mod reading;
pub mod registry;
pub mod servers;
mod shards;
pub mod two_phase;
pub mod usage;
pub mod watch;
mod watched;
