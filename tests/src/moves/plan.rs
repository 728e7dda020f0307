//! Which cells there are: from the table of transitions, and from the points at which the code can be held.

use std::fs;
use std::path::Path;

use repart_core::state::State;

use super::kind::{Family, Kind, Place};
use crate::matrix::cell::Moment;
use crate::matrix::observed::{Edge, edges_of_table};
use crate::matrix::scenario::is_forced_end;

/// Points inside of steps, at which something is committed on one server and not yet on the other: `repart.hold_at`, and
/// the state that the journal has then.
pub const POINTS: &[(State, &str)] = &[
    (State::Preparing, "created"),
    (State::Preparing, "captured"),
    (State::Copying, "copying#2"),
    (State::Copying, "copied"),
    (State::Copying, "deduplicated"),
    (State::Copying, "indexed"),
    (State::CatchingUp, "applied"),
    (State::CuttingOver, "locked"),
    (State::CuttingOver, "switched"),
    (State::Cleaning, "told"),
    (State::Cleaning, "cleaned"),
];

/// Points that these migrations do not come by, and why.
const OTHER_POINTS: &[(&str, &str)] = &[
    ("blocking", "no node has a part in it: tests/tests/crash.rs"),
    (
        "routed",
        "only where the table has routing copies: tests/tests/routing.rs kills everybody there",
    ),
];

/// Transitions that no migration with nodes makes.
const LOCAL_EDGES: &[(State, State, &str)] = &[
    (
        State::Preparing,
        State::CuttingOver,
        "shards without a key go to no node",
    ),
    (
        State::Preparing,
        State::CatchingUp,
        "sources on other servers are not retained",
    ),
    (
        State::CuttingOver,
        State::Preparing,
        "nothing is kept in place between servers",
    ),
];

/// Whether a migration of this kind comes by this point.
pub fn has(kind: Kind, moment: &Moment) -> bool {
    // Nothing is prepared on the server that decides.
    moment.name() != "told" || kind.giver() != Place::Local
}

/// The moments of a family, from the transitions that its kinds made undisturbed.
///
/// # Panics
/// Panics when a transition or a point is missing.
pub fn moments(family: Family, reached: &[Edge]) -> Vec<Moment> {
    require_all_transitions(family, reached);
    require_all_points();
    let states: Vec<State> = reached.iter().flat_map(|&(from, to)| [from, to]).collect();
    Moment::all_of(POINTS, &states)
}

fn require_all_transitions(family: Family, reached: &[Edge]) {
    let table = edges_of_table();
    for (from, to, why) in LOCAL_EDGES {
        let edge = (*from, *to);
        assert!(table.contains(&edge), "{from} → {to} does not exist");
        assert!(
            !reached.contains(&edge),
            "{family:?} make {from} → {to}, which is excused because {why}"
        );
    }
    let missing: Vec<String> = table
        .into_iter()
        .filter(|edge| !is_forced_end(edge) && !reached.contains(edge))
        .filter(|edge| {
            !LOCAL_EDGES
                .iter()
                .any(|(from, to, _)| (*from, *to) == *edge)
        })
        .map(|(from, to)| format!("{from} → {to}"))
        .collect();
    assert!(
        missing.is_empty(),
        "{family:?} do not make the transitions {missing:?}: add a kind that does to tests/src/moves/kind.rs, or say in \
         tests/src/moves/plan.rs why migrations with nodes do not"
    );
}

/// Every point at which the code can be held is known here.
fn require_all_points() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/migrate");
    let mut found = Vec::new();
    find_points(&source, &mut found);
    assert!(!found.is_empty(), "no points in {}", source.display());
    for point in &found {
        let is_known = POINTS.iter().any(|(_, known)| known == point);
        assert!(
            is_known || OTHER_POINTS.iter().any(|(other, _)| other == point),
            "the code can be held at {point}: add it to POINTS or OTHER_POINTS in tests/src/moves/plan.rs"
        );
    }
    for (point, why) in OTHER_POINTS {
        assert!(
            found.iter().any(|found| found == point),
            "the code cannot be held at {point} any more, which is left out because: {why}"
        );
    }
    for (_, point) in POINTS.iter().filter(|(_, point)| !point.contains('#')) {
        assert!(
            found.iter().any(|found| found == point),
            "the code cannot be held at {point} any more"
        );
    }
}

/// The names in calls of `hold::inside`.
fn find_points(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find_points(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for call in text.split("hold::inside(").skip(1) {
            let arguments = call.split(';').next().unwrap_or_default();
            let name = arguments.split('"').nth(1);
            let name = name.unwrap_or_else(|| panic!("{}: {arguments}", path.display()));
            found.push(name.to_owned());
        }
    }
}
