//! The planner at the scale that it is made for: 10,000 shards on 100 nodes, 48 half hours ahead. How long that takes,
//! `make bench TESTS=planner` prints.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use repart_core::plan::synthetic::{fleet, usage};
use repart_core::plan::{Action, plan};

#[test]
fn ten_thousand_shards_on_a_hundred_nodes_are_balanced_by_moving_a_tenth_of_their_bytes() {
    let snapshot = fleet(10_000, 100, 48, 0.55);
    let before = usage(&snapshot, None);
    let made = plan(&snapshot);
    let after = usage(&snapshot, Some(&made));
    println!("before {before:?}\nafter  {after:?}");
    assert!(
        before.peak > 2.0 && before.hot_cells > 500,
        "nothing to do: {before:?}"
    );
    assert!(after.peak <= 0.82, "{after:?}");
    assert_eq!(after.hot_cells, 0, "{after:?}");
    assert!(after.moved <= 0.10, "{after:?}");
    assert!(made.steps.iter().all(|step| step.action == Action::Move));
    assert!(
        made.steps
            .iter()
            .all(|step| step.planned_start >= snapshot.now)
    );
    assert_eq!(
        made,
        plan(&snapshot),
        "the same snapshot gives the same plan"
    );
}

#[test]
fn a_balanced_fleet_is_left_alone() {
    let mut snapshot = fleet(2_000, 20, 48, 0.25);
    // The same load all the time.
    for shard in &mut snapshot.tables[0].shards {
        let curve = shard.forecast.as_mut().unwrap();
        let mean = curve.q90.iter().sum::<f64>() / curve.q90.len() as f64;
        curve.q90.fill(mean);
        shard.load_now = mean;
    }
    snapshot.co_access.clear();
    assert!(usage(&snapshot, None).peak < 0.7);
    let made = plan(&snapshot);
    assert_eq!(made.steps.len(), 1);
    assert_eq!(made.steps[0].action, Action::None, "{made:?}");
}
