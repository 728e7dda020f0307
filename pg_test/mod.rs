//! tests
mod forecast;
mod observe;
mod plan;
