//! Transactions that are older than a cutover.

use postgres::error::SqlState;
use postgres::{Client, Error};

use crate::cluster::Cluster;

/// A session whose transaction took its snapshot, and read nothing yet.
pub fn with_snapshot(cluster: &Cluster, level: &str) -> Client {
    let mut client = cluster.connect("postgres");
    begin(&mut client, level);
    client
}

/// Begins a transaction and takes its snapshot.
pub fn begin(client: &mut Client, level: &str) {
    client
        .batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1"))
        .unwrap();
}

/// The number that a query returns.
///
/// # Errors
/// Whatever the server said.
pub fn count(client: &mut Client, sql: &str) -> Result<i64, Error> {
    client.query_one(sql, &[]).map(|row| row.get(0))
}

/// Proves that a statement got the error that applications retry.
///
/// # Panics
/// Panics if it got an answer, or another error.
pub fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("a snapshot older than the cutover got an answer");
    assert_eq!(
        error.code(),
        Some(&SqlState::T_R_SERIALIZATION_FAILURE),
        "{error:?}"
    );
}
