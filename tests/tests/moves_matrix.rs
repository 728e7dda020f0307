//! The crash matrix of migrations in which nodes have a part (see `repart_tests::moves`): without a human, each row is in
//! one place afterwards, nothing is in doubt, and nothing is left on any server.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on must stop

use repart_tests::moves::{Family, Strike, run};

#[test]
fn moves_survive_every_failure_in_every_state() {
    run(Family::Moves, &Strike::all_of(Family::Moves));
}

#[test]
fn shards_that_are_reshaped_on_a_node_survive_every_failure_in_every_state() {
    run(Family::Reshapes, &Strike::all_of(Family::Reshapes));
}
