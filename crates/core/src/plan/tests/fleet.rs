//! Several nodes: who gives, who receives, and who is left alone.

use super::support::*;
use super::{Action, Plan, Reason, plan};
use crate::plan::Step;
use crate::plan::input::{CoAccess, Node, SECOND, Shard, Snapshot};
use proptest::prelude::*;

/// One processor.
const PROCESSOR: f64 = 1_000.0;

fn node(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        capacity: PROCESSOR,
        utilisation: Some(0.0),
        disk: Some((500e9, 1e12)),
        ..Node::default()
    }
}

/// A shard on a node. Each row takes a millisecond, so that 100 rows/s are a tenth of a processor.
fn on(home: &str, index: usize, q90: Vec<f64>) -> Shard {
    Shard {
        node: home.to_owned(),
        cost: 1.0,
        mergeable_with_next: false,
        ..shard(index, q90)
    }
}

/// Shards that are never too hot by themselves, on nodes.
fn fleet(nodes: Vec<Node>, shards: Vec<Shard>) -> Snapshot {
    let mut snapshot = snapshot(shards);
    for shard in &mut snapshot.tables[0].shards {
        shard.mergeable_with_next = false;
    }
    snapshot.policy.shard_capacity = 100_000.0;
    snapshot.nodes = nodes;
    snapshot
}

/// `north` is used to 0.9, `south` to 0.2.
fn uneven() -> Snapshot {
    let mut shards: Vec<Shard> = (0..3).map(|i| on("north", i, constant(300.0))).collect();
    shards.push(on("south", 3, constant(200.0)));
    fleet(vec![node("north"), node("south")], shards)
}

fn moves(plan: &Plan) -> Vec<&Step> {
    let is_move = |step: &&Step| step.action == Action::Move;
    plan.steps.iter().filter(is_move).collect()
}

fn only_move(plan: &Plan) -> &Step {
    assert_eq!((plan.steps.len(), moves(plan).len()), (1, 1), "{plan:#?}");
    &plan.steps[0]
}

/// The rule that kept the only row of a plan from doing anything.
fn held_by(snapshot: &Snapshot) -> (Reason, String) {
    let plan = plan(snapshot);
    assert_eq!(plan.steps.len(), 1, "{plan:#?}");
    assert_eq!(plan.steps[0].action, Action::None, "{plan:#?}");
    (plan.steps[0].reason, plan.steps[0].why.clone())
}

/// Lets the moves of a plan come true.
fn carry_out(snapshot: &mut Snapshot, plan: &Plan) {
    for step in moves(plan) {
        for shard in &mut snapshot.tables[0].shards {
            if step.sources.contains(&shard.id) {
                shard.node.clone_from(&step.target);
            }
        }
    }
}

#[test]
fn a_node_that_is_used_too_much_gives_a_shard_to_a_cooler_one() {
    let mut snapshot = uneven();
    let first = plan(&snapshot);
    let step = only_move(&first);
    assert_eq!((step.reason, step.deadline), (Reason::HotNow, Some(NOW)));
    assert_eq!(
        (step.source.as_str(), step.target.as_str()),
        ("north", "south")
    );
    assert!((step.bytes - 1e9).abs() < 1.0 && step.benefit > 2.0 * step.cost);
    for part in [
        "node north uses 90 % of its capacity now (limit 70 %)",
        "moving orders_p0 to node south leaves node north at most 60 % and node south at most 50 %",
        "it copies the shard: 1.0 GB to write take 52 s",
    ] {
        assert!(step.why.contains(part), "{}", step.why);
    }
    carry_out(&mut snapshot, &first);
    assert_eq!(held_by(&snapshot).0, Reason::NoAction);
}

#[test]
fn a_forecast_peak_is_met_before_it_comes() {
    let mut snapshot = uneven();
    for shard in snapshot.tables[0].shards.iter_mut().take(3) {
        *shard = on("north", (shard.id - 100) as usize, peak_at(8, 100.0, 310.0));
    }
    let plan = plan(&snapshot);
    let step = only_move(&plan);
    assert_eq!(
        (step.reason, step.deadline),
        (Reason::PredictedHot, Some(NOW + 8 * HOUR))
    );
    assert!(step.start_by.unwrap() < NOW + 8 * HOUR && !step.will_miss);
    assert!(
        step.why
            .contains("node north is forecast to use 93 % of its capacity (limit 70 %), in 8 h"),
        "{}",
        step.why
    );
}

#[test]
fn what_a_node_does_besides_counts_where_it_is_and_stays_there() {
    // The shards use 0.6, and something else 0.3: a forecast of all of it, and a measurement.
    for by_forecast in [true, false] {
        let mut snapshot = uneven();
        snapshot.tables[0].shards.remove(2);
        let north = &mut snapshot.nodes[0];
        north.utilisation = Some(0.9);
        if by_forecast {
            north.forecast = Some(curve(constant(0.9)));
        }
        let plan = plan(&snapshot);
        let step = only_move(&plan);
        assert!(
            step.why
                .contains("leaves node north at most 60 % and node south at most 50 %"),
            "{}",
            step.why
        );
    }
    // The same elsewhere keeps that node from receiving.
    let mut snapshot = uneven();
    snapshot.nodes[1].utilisation = Some(0.85);
    assert_eq!(held_by(&snapshot).0, Reason::NoAction);
}

#[test]
fn rows_of_different_price_are_compared_by_the_time_they_take() {
    // As many rows on both nodes, but those on north take nine times as long.
    let mut snapshot = uneven();
    for shard in &mut snapshot.tables[0].shards {
        let rows = constant(900.0);
        let cost = if shard.node == "north" { 0.3 } else { 0.03 };
        *shard = Shard {
            cost,
            ..on(&shard.node.clone(), (shard.id - 100) as usize, rows)
        };
    }
    assert_eq!(only_move(&plan(&snapshot)).source, "north");
    // Where no times are known, a shard at its capacity keeps one processor at work.
    for shard in &mut snapshot.tables[0].shards {
        shard.cost = 0.0;
    }
    snapshot.policy.shard_capacity = 3_000.0;
    let plan = plan(&snapshot);
    assert!(
        only_move(&plan).why.contains("node north uses 90 %"),
        "{plan:#?}"
    );
}

#[test]
fn a_stronger_node_takes_more_and_a_weaker_one_less() {
    let mut snapshot = uneven();
    snapshot.nodes[0].capacity = 2.0 * PROCESSOR;
    assert_eq!(held_by(&snapshot).0, Reason::NoAction);
    let mut snapshot = uneven();
    snapshot.nodes[0].weight = 2.0;
    assert_eq!(held_by(&snapshot).0, Reason::NoAction);
    let mut snapshot = uneven();
    snapshot.nodes[1].weight = 0.4;
    assert_eq!(
        held_by(&snapshot).0,
        Reason::NoAction,
        "0.5 + 0.75 is more than it can serve"
    );
}

#[test]
fn nothing_goes_to_a_node_that_cannot_take_it() {
    let open = plan(&uneven());
    assert_eq!(only_move(&open).target, "south");
    let changes: [fn(&mut Node); 5] = [
        |south| south.away = true,
        |south| south.closed = Some("it is short of memory".to_owned()),
        // Less than the copy and its log.
        |south| south.disk = Some((1.9e9, 10e9)),
        // Less than a tenth left.
        |south| south.disk = Some((100e9, 1e12)),
        |south| south.draining = true,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut snapshot = uneven();
        change(&mut snapshot.nodes[1]);
        let plan = plan(&snapshot);
        assert!(
            moves(&plan).iter().all(|step| step.target != "south"),
            "{number}: {plan:#?}"
        );
    }
}

#[test]
fn a_node_that_stays_too_hot_says_what_is_in_the_way() {
    let mut snapshot = uneven();
    for shard in snapshot.tables[0].shards.iter_mut().take(3) {
        *shard = on("north", (shard.id - 100) as usize, constant(320.0));
    }
    snapshot.nodes[1].closed = Some("it is short of memory".to_owned());
    let (rule, why) = held_by(&snapshot);
    assert_eq!(rule, Reason::NoCapacity);
    assert!(
        why.contains("node north is forecast to use 96 %")
            && why.contains("no other node can take it: south (it is short of memory)"),
        "{why}"
    );
}

#[test]
fn shards_of_a_node_that_is_away_stay_where_they_are() {
    let mut snapshot = uneven();
    snapshot.nodes[0].away = true;
    assert_eq!(moves(&plan(&snapshot)).len(), 0);
}

#[test]
fn tables_and_shards_that_cannot_leave_stay_where_they_are() {
    let mut snapshot = uneven();
    snapshot.tables[0].bound = Some("it has unique indexes (orders_pkey)".to_owned());
    assert_eq!(moves(&plan(&snapshot)).len(), 0);
    // Where that leaves a node too hot, it is said.
    snapshot.nodes[0].utilisation = Some(0.95);
    let (rule, why) = held_by(&snapshot);
    assert_eq!(rule, Reason::NoCapacity);
    assert!(
        why.contains("node north is forecast to use 95 %") && why.contains("it has unique indexes"),
        "{why}"
    );
    snapshot.nodes[0].draining = true;
    let (rule, why) = held_by(&snapshot);
    assert_eq!(rule, Reason::Unmovable);
    assert!(
        why.contains("shards of orders cannot leave their node: it has unique"),
        "{why}"
    );

    let mut snapshot = uneven();
    for shard in &mut snapshot.tables[0].shards {
        shard.last_change = Some(NOW - 60 * SECOND);
    }
    assert_eq!(moves(&plan(&snapshot)).len(), 0);
}

#[test]
fn what_cannot_be_reshaped_can_still_move() {
    let mut snapshot = uneven();
    for shard in &mut snapshot.tables[0].shards {
        shard.indivisible = Some("it is on another server".to_owned());
    }
    assert_eq!(only_move(&plan(&snapshot)).source, "north");
    // A hot one of them is not split.
    snapshot.policy.shard_capacity = 310.0;
    snapshot.nodes.truncate(1);
    snapshot.tables[0].shards.truncate(3);
    let (rule, why) = held_by(&snapshot);
    assert_eq!(rule, Reason::Unmovable);
    assert!(
        why.contains("cannot be reshaped: it is on another server"),
        "{why}"
    );
}

#[test]
fn a_node_that_is_to_be_emptied_is_emptied_and_its_shards_are_spread() {
    let mut shards: Vec<Shard> = (0..6).map(|i| on("north", i, constant(100.0))).collect();
    shards.push(on("south", 6, constant(200.0)));
    let nodes = vec![node("east"), node("north"), node("south")];
    let mut snapshot = fleet(nodes, shards);
    snapshot.nodes[1].draining = true;
    let first = plan(&snapshot);
    assert_eq!(moves(&first).len(), 6, "{first:#?}");
    assert!(first.steps.iter().all(|step| step.reason == Reason::Drain));
    let to_east = first
        .steps
        .iter()
        .filter(|step| step.target == "east")
        .count();
    assert_eq!(to_east, 4, "both end up at 0.4: {first:#?}");
    assert!(
        first.steps[0]
            .why
            .contains("node north is to be emptied and holds 6 shards"),
        "{}",
        first.steps[0].why
    );
    // One after the other, as one may run at a time on a node, and none waits for a quieter hour.
    let last = first
        .steps
        .iter()
        .map(|step| step.planned_start)
        .max()
        .unwrap();
    assert!(first.steps[0].planned_start == NOW && last < NOW + HOUR);
    carry_out(&mut snapshot, &first);
    assert_eq!(held_by(&snapshot).0, Reason::NoAction);
}

#[test]
fn a_shard_without_a_place_keeps_its_node_from_being_emptied_and_the_row_says_why() {
    let mut snapshot = fleet(
        vec![node("north"), node("south")],
        vec![
            on("north", 0, constant(100.0)),
            on("south", 1, constant(850.0)),
        ],
    );
    snapshot.nodes[0].draining = true;
    snapshot.nodes[1].utilisation = Some(0.85);
    let (rule, why) = held_by(&snapshot);
    assert_eq!(rule, Reason::NoCapacity);
    assert!(
        why.contains("no other node can take it: south (it would use 95 % of its capacity)"),
        "{why}"
    );
}

#[test]
fn shards_that_are_used_together_come_together() {
    let shards = vec![
        on("north", 0, constant(100.0)),
        on("south", 1, constant(100.0)),
    ];
    let mut snapshot = fleet(vec![node("north"), node("south")], shards);
    snapshot.co_access = vec![CoAccess {
        a: 100,
        b: 101,
        weight: 40.0,
    }];
    let first = plan(&snapshot);
    let step = only_move(&first);
    assert_eq!(step.reason, Reason::Gather);
    assert!(
        step.why
            .contains("40.0 transactions per second use both orders_p")
            && step
                .why
                .contains("40.0 transactions per second less use two nodes"),
        "{}",
        step.why
    );
    carry_out(&mut snapshot, &first);
    assert_eq!(held_by(&snapshot).0, Reason::NoAction);
}

#[test]
fn few_common_transactions_and_common_nodes_that_are_full_are_no_reason_to_move() {
    let both = |weight: f64, load: f64| {
        let shards = vec![
            on("north", 0, constant(load)),
            on("south", 1, constant(load)),
        ];
        let mut snapshot = fleet(vec![node("north"), node("south")], shards);
        snapshot.co_access = vec![CoAccess {
            a: 100,
            b: 101,
            weight,
        }];
        plan(&snapshot).steps[0].action
    };
    assert_eq!(both(40.0, 100.0), Action::Move);
    // 2 ms of 100 ms/s: 0.4 transactions per second are less than 2 % of what a node does.
    assert_eq!(both(0.4, 100.0), Action::None);
    assert_eq!(both(40.0, 400.0), Action::None, "one node would use 0.8");
}

#[test]
fn a_move_for_the_load_goes_to_what_the_shard_is_used_with() {
    let mut shards: Vec<Shard> = (0..3).map(|i| on("north", i, constant(300.0))).collect();
    shards.push(on("west", 3, constant(100.0)));
    let nodes = vec![node("east"), node("north"), node("west")];
    let mut snapshot = fleet(nodes, shards);
    assert_eq!(only_move(&plan(&snapshot)).target, "east");
    snapshot.co_access = vec![CoAccess {
        a: 101,
        b: 103,
        weight: 20.0,
    }];
    let plan = plan(&snapshot);
    let step = only_move(&plan);
    assert_eq!((step.target.as_str(), &step.sources), ("west", &vec![101]));
}

#[test]
fn companions_count_for_the_shard_that_stands_for_them() {
    let mut low = on("north", 0, constant(100.0));
    low.companions = vec![900];
    let shards = vec![low, on("south", 1, constant(100.0))];
    let mut snapshot = fleet(vec![node("north"), node("south")], shards);
    snapshot.co_access = vec![CoAccess {
        a: 101,
        b: 900,
        weight: 40.0,
    }];
    assert_eq!(only_move(&plan(&snapshot)).reason, Reason::Gather);
}

#[test]
fn moves_keep_to_the_churn_budget_and_the_alternatives_say_so() {
    let mut shards: Vec<Shard> = (0..12).map(|i| on("north", i, constant(150.0))).collect();
    shards.push(on("south", 12, constant(1.0)));
    let nodes = ["east", "north", "south", "west"].map(node).to_vec();
    let mut snapshot = fleet(nodes, shards);
    snapshot.policy.churn_budget = 0.25;
    let plan = plan(&snapshot);
    let bytes: f64 = plan.steps.iter().map(|step| step.bytes).sum();
    assert_eq!(moves(&plan).len(), 3, "{plan:#?}");
    assert!(bytes <= 0.25 * 13e9);
    let alternatives: String = plan
        .steps
        .iter()
        .map(|s| s.alternatives.to_string())
        .collect();
    assert!(alternatives.contains("CHURN_BUDGET"), "{alternatives}");
}

#[test]
fn no_more_migrations_run_at_once_than_may() {
    let shards = (0..8).map(|i| on(if i < 4 { "a" } else { "b" }, i, constant(230.0)));
    let nodes = ["a", "b", "c", "d"].map(node).to_vec();
    let mut snapshot = fleet(nodes, shards.collect());
    let starts = |snapshot: &Snapshot| {
        let plan = plan(snapshot);
        let mut starts: Vec<i64> = moves(&plan).iter().map(|step| step.planned_start).collect();
        starts.sort_unstable();
        starts
    };
    let apart = starts(&snapshot);
    assert_eq!(
        (apart.len(), apart[0], apart[1]),
        (2, NOW, NOW),
        "from different nodes"
    );
    snapshot.policy.max_running = 1;
    let in_turn = starts(&snapshot);
    assert!(in_turn[0] == NOW && in_turn[1] > NOW, "{in_turn:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn constant_load_below_the_limit_moves_nothing(
        loads in prop::collection::vec(0.0f64..99.0, 1..28), extra in 0.0f64..0.1,
    ) {
        let nodes: Vec<Node> = ["a", "b", "c", "d"]
            .map(|name| Node { utilisation: Some(extra), ..node(name) })
            .to_vec();
        let shards = loads.iter().enumerate().map(|(i, load)| {
            on(["a", "b", "c", "d"][i % 4], i, constant(*load))
        });
        let plan = plan(&fleet(nodes, shards.collect()));
        prop_assert_eq!(moves(&plan).len(), 0, "{:#?}", plan);
    }

    #[test]
    fn plans_of_any_fleet_are_repeatable_never_overload_a_node_and_come_to_rest(
        loads in prop::collection::vec((0.0f64..500.0, 0usize..4, 1e8f64..5e9), 1..24),
        pairs in prop::collection::vec((0u32..24, 0u32..24, 0.0f64..60.0), 0..12),
        draining in any::<bool>(),
    ) {
        let names = ["a", "b", "c", "d"];
        let mut nodes = names.map(node).to_vec();
        nodes[0].draining = draining;
        let shards = loads.iter().enumerate().map(|(i, (load, home, bytes))| Shard {
            bytes: *bytes,
            ..on(names[*home], i, peak_at(5, load / 2.0, *load))
        });
        let mut snapshot = fleet(nodes, shards.collect());
        snapshot.co_access = pairs
            .iter()
            .map(|(a, b, weight)| CoAccess { a: 100 + a, b: 100 + b, weight: *weight })
            .collect();
        let used = |snapshot: &Snapshot, name: &str| -> f64 {
            let shards = snapshot.tables[0].shards.iter().filter(|shard| shard.node == name);
            let peak = |shard: &Shard| shard.forecast.as_ref().unwrap().q90[23];
            shards.map(peak).sum::<f64>() / PROCESSOR
        };
        for _ in 0..12 {
            let next = plan(&snapshot);
            prop_assert_eq!(&next, &plan(&snapshot));
            let before = names.map(|name| used(&snapshot, name));
            let moved = moves(&next).len();
            for step in moves(&next) {
                prop_assert!(step.source != step.target && !step.why.contains("NaN"));
                prop_assert!(!(draining && step.target == "a"));
            }
            carry_out(&mut snapshot, &next);
            for (name, before) in names.iter().zip(before) {
                let after = used(&snapshot, name);
                prop_assert!(after <= before.max(0.9) + 1e-9, "{} {} -> {}", name, before, after);
            }
            if moved == 0 {
                return Ok(());
            }
        }
        prop_assert!(false, "still moving");
    }
}
