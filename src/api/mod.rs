//! The SQL functions: check rights, parse, call, shape rows.

mod control;
mod events;
mod forecast;
pub mod heat;
pub mod hosted;
pub mod manage;
mod migrate;
pub mod nodes;
mod observe;
mod plan;
pub mod regclass;
pub mod routes;
mod sampler;
mod shards;
