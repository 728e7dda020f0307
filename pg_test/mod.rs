//! tests
mod forecast;
mod manage;
mod observe;
mod plan;
