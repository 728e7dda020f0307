//! Tests inside a backend: each runs in one transaction that is rolled back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod forecast;
mod manage;
mod observe;
mod plan;
mod preflight;
