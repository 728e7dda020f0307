//! Rolling-origin evaluation of the forecasting models of `repart-core` on traces in CSV files.
//!
//! Each trace is cut in three: the first part is only ever history, the middle part is for choosing
//! parameters (`--part validation`), the last part is what is reported. At each of a few dozen origins
//! a model sees what came before, and is compared with what was measured after.

pub mod arguments;
pub mod clock;
pub mod fleet;
pub mod hindsight;
pub mod m4;
pub mod references;
pub mod report;
pub mod rolling;
pub mod score;
pub mod trace;

use thiserror::Error;

/// Why there is no evaluation.
#[derive(Debug, Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// What was to be read.
        path: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A file is not a trace.
    #[error("{path} is not a trace: {reason}")]
    NotATrace {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
}
