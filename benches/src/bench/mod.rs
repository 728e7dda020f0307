//! The benchmarks.

mod capture;
mod carve;
mod clients;
mod cross_node;
mod held;
mod in_place;
mod partman;
mod pause;
mod planner;
mod rebuild;
mod sampler;
mod watched;

use crate::figure::Findings;
use crate::options::Options;

/// A benchmark: its name, and what it does.
pub type Benchmark = (&'static str, fn(&Options) -> Findings);

/// All of them, in the order in which they are run.
pub const ALL: [Benchmark; 10] = [
    ("rebuild", rebuild::run),
    ("carve", carve::run),
    ("clients", clients::run),
    ("held", held::run),
    ("capture", capture::run),
    ("in_place", in_place::run),
    ("pause", pause::run),
    ("cross_node", cross_node::run),
    ("sampler", sampler::run),
    ("planner", planner::run),
];

/// How a number of rows is written.
fn thousands(rows: i64) -> String {
    let digits = rows.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The bytes as MB.
fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}
