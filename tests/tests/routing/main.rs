//! Routing copies: clients that connect to another server, which has the same table, see every switch at the moment at
//! which those of the coordinator see it, whoever dies; and nothing is lost, doubled or left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

mod cut;
mod killed;
mod refused;
mod roles;
mod switch;
mod tables;
mod two;
