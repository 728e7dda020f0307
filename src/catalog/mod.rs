//! Typed reads and writes of the repart.* tables and of the catalogs: all SQL text lives here.

pub mod access;
pub mod bounds;
pub mod control;
pub mod cutovers;
pub mod events;
pub mod extension;
pub mod forecasts;
pub mod groups;
pub mod heat;
pub mod journal;
pub mod keys;
pub mod lineage;
pub mod migration;
pub mod node_objects;
pub mod nodes;
pub mod outcomes;
pub mod plans;
pub mod retained;
pub mod retention;
pub mod routes;
pub mod samples;
pub mod shards;
pub mod tables;
pub mod two_phase;
pub mod usage;
