//! What the tests of control share: states, refusals, reverts, and a table as it was.

use postgres::error::SqlState;
use repart_core::state::State;

use crate::aftermath::{assert_nothing_left, assert_sound};
use crate::repart::Session;

/// The states in which a migration can still end with the old shards, in the order of its life.
pub fn states_before_the_switch() -> Vec<State> {
    let states: Vec<State> = State::all()
        .filter(|state| state.is_before_switch() && !state.is_final())
        .collect();
    assert!(states.len() >= 6, "{states:?}");
    states
}

/// The SQLSTATE, message and hint with which a statement fails.
pub fn refusal(session: &mut Session, sql: &str) -> (SqlState, String, String) {
    let error = session.client().batch_execute(sql).unwrap_err();
    let error = error.as_db_error().unwrap();
    (
        error.code().clone(),
        error.message().to_owned(),
        error.hint().unwrap_or_default().to_owned(),
    )
}

/// Checks that the table is as it was created.
pub fn assert_as_before(session: &mut Session, table: &str) {
    assert_eq!(session.bounds(table), [3_000]);
    let names: Vec<String> = session
        .shards(table)
        .into_iter()
        .map(|shard| shard.name)
        .collect();
    assert_eq!(names, [format!("{table}1"), format!("{table}2")]);
    assert_nothing_left(session);
    assert_sound(session, table);
}

/// The names of the shards of a table, in key order.
pub fn names(session: &mut Session, table: &str) -> Vec<String> {
    session
        .shards(table)
        .into_iter()
        .map(|shard| shard.name)
        .collect()
}

/// Reverts a migration and waits for it; returns the number of the reverse.
pub fn revert(session: &mut Session, id: i64) -> i64 {
    let reverse = session.queue(&format!("repart_revert({id})"));
    session.wait_done(reverse);
    assert_eq!(
        session.query(
            "SELECT reverts FROM repart.migrations WHERE id = $1",
            &[&reverse]
        )[0]
        .get::<_, Option<i64>>(0),
        Some(id)
    );
    reverse
}

/// How many rows a migration has copied.
pub fn rows_copied(session: &mut Session, id: i64) -> i64 {
    session.number(&format!(
        "SELECT rows_done FROM repart.migrations WHERE id = {id}"
    ))
}

/// Lets the time for which old shards are kept pass.
pub fn expire(session: &mut Session) {
    session
        .run("UPDATE repart.journal SET retained_until = now() WHERE retained_until IS NOT NULL");
}
