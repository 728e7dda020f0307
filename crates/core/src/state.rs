//! The life of a migration, as a table: one row per transition. Here and not in the extension, so that the
//! tests of crash recovery are made from the same table.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A state or a change of state that does not exist.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StateError {
    /// No state has this name.
    #[error("unknown state \"{0}\"")]
    Unknown(String),
    /// The table of transitions does not have it.
    #[error("no transition from {0} to {1}")]
    NoTransition(State, State),
}

/// Where a migration is. The journal stores it as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for its start time and a free mover.
    Queued,
    /// Checks everything that would fail later, creates targets and starts change capture.
    Preparing,
    /// Copies in batches, then builds indexes.
    Copying,
    /// Applies captured changes.
    CatchingUp,
    /// Compares all rows.
    Verifying,
    /// Tries to get the locks, applies the last changes and switches.
    CuttingOver,
    /// The new shards are visible; drops what is left of the old ones.
    Cleaning,
    /// The new shards are there and nothing is left behind.
    Done,
    /// Stopped by a user; the old shards are there and nothing is left behind, but for what is inert and
    /// whose lock somebody's open transaction still denies: the observer takes that away.
    Cancelled,
    /// Given up; otherwise as above.
    Failed,
}

use State::{
    Cancelled, CatchingUp, Cleaning, Copying, CuttingOver, Done, Failed, Preparing, Queued,
    Verifying,
};

/// Every transition there is, and what must hold when it is made.
pub const TRANSITIONS: &[(State, State, &str)] = &[
    (Queued, Preparing, "a mover took it up"),
    (
        Preparing,
        Copying,
        "targets, log and triggers exist and are committed: every later change is captured",
    ),
    (
        Preparing,
        CuttingOver,
        "a table without a key, with leave to block: nothing can be captured, so that everything is copied in the \
         transaction of the switch, while writers wait",
    ),
    (
        Preparing,
        CatchingUp,
        "a retained source, which capture has followed since its switch, becomes a target: nothing to copy",
    ),
    (
        Copying,
        CatchingUp,
        "all rows that existed when capture began are copied once; targets have their indexes",
    ),
    (CatchingUp, Verifying, "few captured changes are left"),
    (
        Verifying,
        CuttingOver,
        "sources and targets are equal but for captured changes",
    ),
    (
        CuttingOver,
        Cleaning,
        "the switch is committed: from here on there is no way back",
    ),
    (
        CuttingOver,
        Preparing,
        "a kept table would have to give or take more rows than fit repart.max_pause: it is rebuilt instead",
    ),
    (
        Cleaning,
        Done,
        "sources, log and trigger function are dropped",
    ),
    (Queued, Cancelled, "nothing was made yet"),
    (
        Preparing,
        Cancelled,
        "everything made is dropped in the same transaction",
    ),
    (Copying, Cancelled, "as above"),
    (CatchingUp, Cancelled, "as above"),
    (Verifying, Cancelled, "as above"),
    (
        CuttingOver,
        Cancelled,
        "as above; the switch is not committed",
    ),
    (Queued, Failed, "its table or shards are gone"),
    (
        Preparing,
        Failed,
        "everything made is dropped in the same transaction",
    ),
    (Copying, Failed, "as above"),
    (CatchingUp, Failed, "as above"),
    (Verifying, Failed, "as above"),
    (CuttingOver, Failed, "as above; the switch is not committed"),
];

const NAMES: &[(State, &str)] = &[
    (Queued, "queued"),
    (Preparing, "preparing"),
    (Copying, "copying"),
    (CatchingUp, "catching_up"),
    (Verifying, "verifying"),
    (CuttingOver, "cutting_over"),
    (Cleaning, "cleaning"),
    (Done, "done"),
    (Cancelled, "cancelled"),
    (Failed, "failed"),
];

impl State {
    /// All states, in the order of a migration's life.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(state, _)| *state)
    }

    /// Its name in the journal and in `repart.migrations`.
    pub fn as_str(self) -> &'static str {
        NAMES
            .iter()
            .find(|(state, _)| *state == self)
            .map_or("", |(_, name)| name)
    }

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Done | Cancelled | Failed)
    }

    /// Whether it can still end with the old shards.
    pub fn is_before_switch(self) -> bool {
        !matches!(self, Cleaning | Done)
    }

    /// Fails unless the table has the transition.
    pub fn require_transition(self, to: Self) -> Result<(), StateError> {
        if TRANSITIONS
            .iter()
            .any(|(from, target, _)| *from == self && *target == to)
        {
            return Ok(());
        }
        Err(StateError::NoTransition(self, to))
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        NAMES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(state, _)| *state)
            .ok_or_else(|| StateError::Unknown(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_name_that_reads_back() {
        for (state, name) in NAMES {
            assert_eq!(state.as_str(), *name);
            assert_eq!(name.parse::<State>().expect(name), *state);
        }
    }

    #[test]
    fn final_states_have_no_way_out_and_others_have_one() {
        for (state, name) in NAMES {
            let ways = TRANSITIONS
                .iter()
                .filter(|(from, ..)| from == state)
                .count();
            assert_eq!(ways == 0, state.is_final(), "{name}");
        }
    }

    #[test]
    fn every_state_before_the_switch_can_be_cancelled_and_can_fail_and_no_later_one() {
        for (state, name) in NAMES.iter().filter(|(state, _)| !state.is_final()) {
            for end in [Cancelled, Failed] {
                assert_eq!(
                    state.require_transition(end).is_ok(),
                    state.is_before_switch(),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn done_is_reached_from_every_state_before_it() {
        for (start, name) in NAMES.iter().filter(|(state, _)| !state.is_final()) {
            let mut reached = vec![*start];
            let mut at = 0;
            while let Some(state) = reached.get(at).copied() {
                for (_, to, _) in TRANSITIONS.iter().filter(|(from, ..)| *from == state) {
                    if !reached.contains(to) {
                        reached.push(*to);
                    }
                }
                at += 1;
            }
            assert!(reached.contains(&Done), "{name}");
        }
    }
}
