//! The rules that hold steps back.

use super::support::*;
use super::{Action, Reason, only, plan};
use crate::plan::input::{Node, SECOND, Shard, Snapshot};

fn hot_now() -> Snapshot {
    snapshot(vec![shard(0, constant(900.0))])
}

fn held_by(snapshot: &Snapshot) -> Reason {
    let plan = plan(snapshot);
    let row = only(&plan);
    assert_eq!(row.action, Action::None, "{row:#?}");
    row.reason
}

fn with(change: impl Fn(&mut Shard)) -> Snapshot {
    let mut snapshot = hot_now();
    change(&mut snapshot.tables[0].shards[0]);
    snapshot
}

#[test]
fn a_busy_shard_is_left_alone() {
    assert_eq!(held_by(&with(|shard| shard.busy = true)), Reason::Busy);
}

#[test]
fn an_unmovable_shard_is_left_alone_and_the_row_says_why() {
    let snapshot = with(|shard| shard.unmovable = Some("it has inbound foreign keys".into()));
    assert_eq!(held_by(&snapshot), Reason::Unmovable);
    assert!(
        plan(&snapshot).steps[0]
            .why
            .contains("it has inbound foreign keys")
    );
}

#[test]
fn a_shard_rests_after_a_migration() {
    assert_eq!(
        held_by(&with(|shard| shard.last_change = Some(NOW - 60 * SECOND))),
        Reason::Dwell
    );
    let rested = with(|shard| shard.last_change = Some(NOW - 600 * SECOND));
    assert_eq!(only(&plan(&rested)).action, Action::Split);
}

#[test]
fn what_costs_more_than_it_gains_is_not_done() {
    let mut snapshot = snapshot(vec![shard(0, constant(720.0))]);
    snapshot.learned.copy_rate = 1e5;
    assert_eq!(held_by(&snapshot), Reason::BelowBenefit);
    let row = &plan(&snapshot).steps[0];
    assert!(row.alternatives[0]["cost"].as_f64() > row.alternatives[0]["benefit"].as_f64());
}

#[test]
fn reversals_raise_the_bar_and_an_emergency_lowers_it() {
    let with_reversals = |load: f64, reversals: u32| {
        let mut snapshot = snapshot(vec![shard(0, constant(load))]);
        snapshot.tables[0].shards[0].reversals = reversals;
        snapshot
    };
    assert_eq!(only(&plan(&with_reversals(800.0, 1))).action, Action::Split);
    assert_eq!(held_by(&with_reversals(800.0, 12)), Reason::BelowBenefit);
    assert_eq!(
        only(&plan(&with_reversals(960.0, 12))).action,
        Action::Split
    );
}

#[test]
fn the_churn_budget_lets_the_most_urgent_step_through_and_no_more() {
    let mut snapshot = snapshot(
        (0..10)
            .map(|i| shard(i, peak_at(9 - i, 500.0, 1300.0)))
            .collect(),
    );
    snapshot.policy.churn_budget = 0.09;
    let plan = plan(&snapshot);
    let step = only(&plan);
    assert_eq!((step.action, &step.sources), (Action::Split, &vec![109]));
    let rules: Vec<_> = (0..3)
        .map(|i| step.alternatives[i]["rule"].as_str().unwrap())
        .collect();
    assert!(rules.contains(&"CHURN_BUDGET"), "{rules:?}");
}

#[test]
fn a_forecast_without_confidence_is_only_watched() {
    let mut snapshot = snapshot(vec![shard(0, peak_at(6, 300.0, 1200.0))]);
    let unsure = |snapshot: &mut Snapshot, load_now: f64| {
        let shard = &mut snapshot.tables[0].shards[0];
        shard.load_now = load_now;
        shard.forecast.as_mut().unwrap().confidence = 0.1;
    };
    unsure(&mut snapshot, 300.0);
    assert_eq!(held_by(&snapshot), Reason::LowConfidence);
    unsure(&mut snapshot, 900.0);
    let plan = plan(&snapshot);
    assert_eq!(only(&plan).reason, Reason::HotNow);
    assert!(only(&plan).confidence < 0.5);
}

#[test]
fn without_history_only_the_load_now_counts() {
    let without = |load_now: f64, recent_peak: f64| {
        with(|shard| {
            shard.forecast = None;
            shard.load_now = load_now;
            shard.recent_peak = recent_peak;
        })
    };
    assert_eq!(held_by(&without(300.0, 300.0)), Reason::NoAction);
    assert_eq!(held_by(&without(300.0, 900.0)), Reason::NoHistory);
    assert_eq!(only(&plan(&without(900.0, 900.0))).reason, Reason::HotNow);
}

#[test]
fn a_small_part_of_a_node_is_left_alone_while_it_stays_below_the_hard_limit() {
    let with_peak = |peak: f64| {
        let mut shards: Vec<_> = (1..100).map(|i| shard(i, constant(600.0))).collect();
        shards.insert(0, shard(0, peak_at(20, 300.0, peak)));
        snapshot(shards)
    };
    assert_eq!(held_by(&with_peak(800.0)), Reason::BelowBenefit);
    assert_eq!(only(&plan(&with_peak(950.0))).action, Action::Split);
}

#[test]
fn a_table_gets_no_more_shards_than_it_may_have() {
    let mut snapshot = snapshot(vec![shard(0, constant(2000.0)), shard(1, constant(650.0))]);
    snapshot.policy.max_shards = 3;
    assert_eq!(only(&plan(&snapshot)).boundaries.len(), 1);
    snapshot.policy.max_shards = 2;
    assert_eq!(held_by(&snapshot), Reason::MaxShards);
}

#[test]
fn a_split_leaves_no_shard_below_the_least_size() {
    let mut snapshot = hot_now();
    snapshot.policy.min_shard_bytes = 0.6e9;
    assert_eq!(held_by(&snapshot), Reason::TooSmall);
}

#[test]
fn migrations_on_one_node_take_turns() {
    let both = |movers: usize| {
        let hot = |i| shard(i, constant(650.0 + 800.0 * (i % 2) as f64));
        let mut snapshot = snapshot(vec![hot(1), hot(0), hot(3)]);
        snapshot.policy.max_movers = movers;
        let plan = plan(&snapshot);
        assert_eq!(plan.steps.len(), 2, "{plan:#?}");
        let end = plan.steps[0].planned_start + (plan.steps[0].duration * 1e6).round() as i64;
        (plan.steps[1].planned_start, end)
    };
    let (second, first_ends) = both(1);
    assert!(second >= first_ends);
    assert_eq!(both(2).0, NOW);
}

#[test]
fn a_stronger_node_may_carry_more() {
    let mut snapshot = hot_now();
    snapshot.nodes = vec![Node {
        name: "local".into(),
        weight: 2.0,
        ..Node::default()
    }];
    assert_eq!(held_by(&snapshot), Reason::NoAction);
}

#[test]
fn cold_neighbours_wait_for_two_seasons_of_history() {
    let mut snapshot = snapshot((0..3).map(|i| shard(i, constant(20.0))).collect());
    for shard in &mut snapshot.tables[0].shards {
        shard.history_span = 2 * DAY - 1;
    }
    assert_eq!(held_by(&snapshot), Reason::NoAction);
    assert!(
        plan(&snapshot).steps[0]
            .why
            .contains("2 for a history of two seasons")
    );
}

#[test]
fn a_shard_that_was_busy_last_season_is_not_cold() {
    let mut snapshot = snapshot((0..2).map(|i| shard(i, constant(20.0))).collect());
    snapshot.tables[0].shards[1].recent_peak = 500.0;
    assert_eq!(held_by(&snapshot), Reason::NoAction);
}

#[test]
fn shards_with_a_gap_or_another_placement_between_them_are_not_merged() {
    let mut snapshot = snapshot((0..2).map(|i| shard(i, constant(20.0))).collect());
    snapshot.tables[0].shards[0].mergeable_with_next = false;
    assert_eq!(held_by(&snapshot), Reason::NoAction);
}

#[test]
fn without_a_capacity_nothing_is_done_for_load() {
    let mut snapshot = hot_now();
    snapshot.policy.shard_capacity = 0.0;
    assert_eq!(held_by(&snapshot), Reason::NoAction);
    assert!(
        plan(&snapshot).steps[0]
            .why
            .contains("capacity of a shard is not known")
    );
}

#[test]
fn a_load_that_is_over_before_a_step_could_end_is_let_pass() {
    let mut load = constant(100.0);
    load[0] = 900.0;
    let mut hot = shard(0, load);
    hot.bytes = 100e9;
    assert_eq!(held_by(&snapshot(vec![hot])), Reason::BelowBenefit);
}

#[test]
fn only_what_comes_after_the_cutover_counts_as_gain() {
    let mut hot = shard(0, constant(4000.0));
    hot.bytes = 20e6 * 12.0 * 3600.0;
    let mut snapshot = snapshot(vec![hot]);
    snapshot.policy.discount = 1.0;
    let plan = plan(&snapshot);
    let step = only(&plan);
    let penalty = |u: f64| 20.0 * (u - 0.7f64).powi(2) + 200.0 * (u - 0.9f64).powi(2);
    let left = 24.0 * 3600.0 - step.duration;
    assert!((step.duration - 12.0 * 3600.0).abs() < 5.0);
    let gain = (penalty(4.0) - 4.0 * penalty(1.0)) * left;
    assert!(
        (step.benefit / gain - 1.0).abs() < 1e-6,
        "{} {gain}",
        step.benefit
    );
}

#[test]
fn a_load_that_no_forecast_foresaw_is_acted_upon() {
    let surprised = |shard: &mut Shard| {
        shard.forecast = Some(curve(constant(300.0)));
        shard.load_now = 900.0;
    };
    let plan = plan(&with(surprised));
    let step = only(&plan);
    assert_eq!((step.action, step.reason), (Action::Split, Reason::HotNow));
    assert!(
        step.why.contains("start now, ready in 52 s"),
        "{}",
        step.why
    );
}

#[test]
fn an_uncertain_copy_rate_makes_the_start_earlier() {
    let mut snapshot = snapshot(vec![shard(0, peak_at(6, 300.0, 1200.0))]);
    for spread in [0.0, 0.5] {
        snapshot.learned.copy_rate_spread = spread;
        let plan = plan(&snapshot);
        let step = only(&plan);
        let lead = (step.deadline.unwrap() - step.start_by.unwrap()) as f64 / 1e6;
        assert!((lead - step.duration * (1.0 + 1.65 * spread)).abs() < 1e-3);
    }
}
