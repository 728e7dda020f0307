//! What plans must and must not do, seen from outside.

mod fleet;
mod properties;
mod rules;
mod support;

use super::input::Shard;
use super::{Action, Plan, Reason, plan};
use support::*;

/// The only step of a plan.
fn only(plan: &Plan) -> &super::Step {
    assert_eq!(plan.steps.len(), 1, "{plan:#?}");
    &plan.steps[0]
}

#[test]
fn an_empty_snapshot_gives_one_row_that_says_so() {
    let plan = plan(&super::Snapshot::default());
    let row = only(&plan);
    assert_eq!((row.action, row.reason), (Action::None, Reason::NoAction));
    assert_eq!(row.why, "nothing to do: there are no shards");
}

#[test]
fn when_all_is_well_the_row_names_the_busiest_shard_and_its_peak() {
    let quiet = (0..4)
        .map(|i| shard(i, peak_at(5 + i, 200.0, 300.0 + 30.0 * i as f64)))
        .collect();
    let plan = plan(&snapshot(quiet));
    let row = only(&plan);
    assert_eq!((row.action, row.reason), (Action::None, Reason::NoAction));
    assert!(row.why.contains("4 shards"), "{}", row.why);
    assert!(
        row.why
            .contains("orders_p3 is forecast to peak at 390 rows/s, 39 %"),
        "{}",
        row.why
    );
    assert!(row.why.contains("(limit 70 %), in 8 h"), "{}", row.why);
    assert!(row.why.contains("no neighbours are cold"), "{}", row.why);
}

#[test]
fn a_rising_forecast_is_met_before_it_peaks() {
    let plan = plan(&snapshot(vec![
        shard(0, peak_at(6, 300.0, 1200.0)),
        shard(1, constant(650.0)),
    ]));
    let step = only(&plan);
    assert_eq!(
        (step.action, step.reason),
        (Action::Split, Reason::PredictedHot)
    );
    let (start_by, deadline) = (step.start_by.unwrap(), step.deadline.unwrap());
    assert_eq!(deadline, NOW + 6 * HOUR);
    assert!(step.planned_start <= start_by && start_by < deadline);
    assert!(step.planned_start + (step.duration * 1e6) as i64 <= deadline);
    assert!(!step.will_miss && step.benefit > 2.0 * step.cost);
    assert_eq!((step.load_before, step.load_after), (1200.0, 600.0));
    assert!(
        step.why.contains("start now (at the latest in 5 h"),
        "{}",
        step.why
    );
}

#[test]
fn the_start_is_the_quietest_time_that_makes_the_deadline() {
    let mut load = peak_at(8, 500.0, 1200.0);
    load[3] = 100.0;
    load[20] = 0.0;
    let plan = plan(&snapshot(vec![shard(0, load)]));
    assert_eq!(only(&plan).planned_start, NOW + 3 * HOUR);
}

#[test]
fn what_cannot_be_ready_in_time_starts_now_and_says_by_how_much_it_is_late() {
    let mut hot = shard(0, peak_at(1, 300.0, 1200.0));
    hot.bytes = 200e9;
    let plan = plan(&snapshot(vec![hot]));
    let step = only(&plan);
    assert!(step.will_miss && step.planned_start == NOW && step.start_by.unwrap() < NOW);
    assert!(step.why.contains("too late by 1 h 46 min"), "{}", step.why);
}

#[test]
fn a_split_halves_the_load_it_carries_and_not_the_key_space() {
    let mut hot = shard(0, constant(1200.0));
    hot.buckets = buckets(0, &[0.02, 0.02, 0.02, 0.02, 0.02, 0.4, 0.4, 0.1]);
    let plan = plan(&snapshot(vec![hot]));
    let step = only(&plan);
    assert_eq!((step.action, step.reason), (Action::Split, Reason::HotNow));
    assert_eq!(step.boundaries, ["000006"]);
    assert!((step.load_after - 600.0).abs() < 1e-6);
}

#[test]
fn a_very_hot_shard_is_split_into_as_many_parts_as_it_needs() {
    let plan = plan(&snapshot(vec![shard(0, constant(2000.0))]));
    let step = only(&plan);
    assert_eq!(step.boundaries.len(), 3);
    assert!((step.load_after - 500.0).abs() < 1e-6);
}

#[test]
fn a_plan_does_not_depend_on_how_finely_the_load_was_sampled() {
    let curves = |step: i64| {
        let slots = DAY / step;
        let load = |slot| {
            if slot * step >= 16 * HOUR {
                1200.0
            } else {
                300.0
            }
        };
        let mut hot = shard(0, (0..slots).map(load).collect());
        let mut calm = shard(1, vec![650.0; slots as usize]);
        for shard in [&mut hot, &mut calm] {
            shard.forecast.as_mut().unwrap().step = step;
        }
        plan(&snapshot(vec![hot, calm])).steps.remove(0)
    };
    let (coarse, fine) = (curves(HOUR), curves(HOUR / 60));
    assert_eq!((coarse.action, fine.action), (Action::Split, Action::Split));
    assert!(
        (fine.benefit / coarse.benefit - 1.0).abs() < 0.1,
        "{} {}",
        fine.benefit,
        coarse.benefit
    );
}

#[test]
fn nothing_goes_to_a_neighbour_of_which_nothing_is_known() {
    let mut hot = shard(0, constant(750.0));
    hot.buckets = buckets(0, &[0.2, 0.2, 0.2, 0.2, 0.2]);
    hot.rows = 1e5;
    let mut unknown = shard(1, constant(0.0));
    unknown.forecast = None;
    let plan = plan(&snapshot(vec![hot, unknown]));
    let step = only(&plan);
    assert_eq!((step.action, &step.sources), (Action::Split, &vec![100]));
    assert!(step.alternatives.to_string().contains("NO_HISTORY"));
}

#[test]
fn a_few_rows_go_to_a_colder_neighbour_rather_than_into_a_new_shard() {
    let mut hot = shard(0, constant(750.0));
    hot.buckets = buckets(0, &[0.2, 0.2, 0.2, 0.2, 0.2]);
    hot.rows = 1e4;
    let plan = plan(&snapshot(vec![hot, shard(1, constant(300.0))]));
    let step = only(&plan);
    assert_eq!(
        (step.action, &step.sources, &step.boundaries),
        (Action::Shift, &vec![100, 101], &vec!["000004".to_owned()])
    );
    assert!((step.bytes - 2e8).abs() < 1.0 && (step.load_after - 600.0).abs() < 1e-6);
    let way =
        "it keeps orders_p1 and orders_p0 in place and moves 2,000 rows in its cutover: 200.0 MB";
    assert!(step.why.contains(way), "{}", step.why);
    assert_eq!(step.alternatives[0]["rule"], "LOWER_RATIO");
    assert_eq!(step.alternatives[0]["action"], "split");
}

#[test]
fn a_step_that_moves_too_many_rows_for_the_pause_rebuilds_and_says_so() {
    let mut hot = shard(0, constant(1500.0));
    hot.rows = 1e4;
    let mut input = snapshot(vec![hot, shard(1, constant(650.0))]);
    let kept = only(&plan(&input)).clone();
    assert!(kept.why.contains("in place"), "{}", kept.why);
    input.policy.max_pause = 0.012;
    let rebuilt = only(&plan(&input)).clone();
    assert!(
        rebuilt
            .why
            .contains("it rebuilds every shard concerned: 1.0 GB"),
        "{}",
        rebuilt.why
    );
    assert!(rebuilt.bytes > kept.bytes && rebuilt.duration > kept.duration);
}

#[test]
fn a_busy_neighbour_is_given_nothing() {
    let hot = shard(0, constant(800.0));
    let plan = plan(&snapshot(vec![hot, shard(1, constant(600.0))]));
    let step = only(&plan);
    assert_eq!(step.action, Action::Split);
    assert_eq!(step.alternatives[0]["rule"], "NO_CAPACITY");
}

#[test]
fn a_single_hot_key_is_reported_and_not_split() {
    let mut hot = shard(0, constant(1500.0));
    hot.buckets = buckets(0, &[0.1, 0.8, 0.1]);
    hot.buckets[1].single_key = true;
    let plan = plan(&snapshot(vec![hot, shard(1, constant(650.0))]));
    let row = only(&plan);
    assert_eq!(
        (row.action, row.reason),
        (Action::None, Reason::SingleKeyHot)
    );
    assert!(
        row.why.contains("one key carries 80 % of it"),
        "{}",
        row.why
    );
    assert_eq!(row.alternatives[0]["rule"], "SINGLE_KEY_HOT");
}

#[test]
fn a_hot_end_to_which_keys_are_appended_is_reported_and_not_split() {
    let mut hot = shard(0, constant(1500.0));
    hot.buckets = buckets(0, &[0.05, 0.05, 0.05, 0.05, 0.8]);
    for bucket in &mut hot.buckets {
        bucket.rows_share = 0.2;
    }
    hot.append = 0.95;
    let appended = plan(&snapshot(vec![hot.clone()]));
    let row = only(&appended);
    assert_eq!((row.action, row.reason), (Action::None, Reason::AppendHot));
    assert!(
        row.why.contains("80 % of it falls on the highest keys"),
        "{}",
        row.why
    );

    hot.append = 0.1;
    assert_eq!(
        only(&plan(&snapshot(vec![hot.clone()]))).action,
        Action::Split
    );
    hot.append = -0.95;
    let elsewhere = plan(&snapshot(vec![hot]));
    assert_eq!(only(&elsewhere).action, Action::Split);
}

#[test]
fn unknown_keys_are_reported_with_the_remedy() {
    let mut hot = shard(0, constant(900.0));
    hot.buckets.clear();
    let plan = plan(&snapshot(vec![hot]));
    assert_eq!(only(&plan).reason, Reason::UnknownKeys);
    assert!(only(&plan).why.contains("ANALYZE"));
}

#[test]
fn an_overlarge_shard_is_split_by_rows_whatever_its_load() {
    let mut large = shard(0, constant(10.0));
    large.bytes = 150e9;
    large.buckets = buckets(0, &[0.97, 0.01, 0.01, 0.01]);
    let mut snapshot = snapshot(vec![large]);
    snapshot.policy.max_shard_bytes = 100e9;
    let plan = plan(&snapshot);
    let step = only(&plan);
    assert_eq!(
        (step.action, step.reason),
        (Action::Split, Reason::TooLarge)
    );
    assert_eq!(step.boundaries, ["000002"]);
    assert_eq!((step.deadline, step.start_by), (None, None));
}

#[test]
fn a_cold_run_is_merged_and_then_left_alone() {
    let mut shards: Vec<_> = (0..3).map(|i| shard(i, constant(20.0))).collect();
    shards.push(shard(3, constant(600.0)));
    let mut snapshot = snapshot(shards);
    let first = plan(&snapshot);
    let step = only(&first);
    assert_eq!(
        (step.action, step.reason),
        (Action::Merge, Reason::ColdGroup)
    );
    assert_eq!(step.sources, [100, 101, 102]);
    assert!(
        step.why
            .starts_with("orders_p0 to orders_p2 (3 shards) were together below 6.0 %"),
        "{}",
        step.why
    );
    apply(&mut snapshot, step, &mut 1000);
    assert_eq!(only(&plan(&snapshot)).action, Action::None);
}

#[test]
fn without_load_a_table_is_merged_to_one_shard_and_no_further() {
    let small = |i| Shard {
        bytes: 1e7,
        ..shard(i, constant(0.0))
    };
    let mut snapshot = snapshot((0..12).map(small).collect());
    let mut id = 1000;
    let mut steps = 0;
    while plan(&snapshot).steps[0].action != Action::None {
        for step in plan(&snapshot).steps {
            assert_eq!(step.reason, Reason::ColdGroup);
            apply(&mut snapshot, &step, &mut id);
            steps += 1;
        }
    }
    assert_eq!((snapshot.tables[0].shards.len(), steps), (1, 3));
}

#[test]
fn cold_shards_too_large_to_be_worth_copying_stay_as_they_are() {
    let large = |i| Shard {
        bytes: 1e12,
        ..shard(i, constant(0.0))
    };
    let plan = plan(&snapshot((0..3).map(large).collect()));
    assert_eq!(
        (only(&plan).action, only(&plan).reason),
        (Action::None, Reason::BelowBenefit)
    );
}

#[test]
#[ignore = "prints: cargo test --release -p repart-core scale_of -- --ignored --nocapture"]
fn scale_of_ten_thousand_shards() {
    let wave = |i: usize, high: f64| {
        (0..48)
            .map(|t| high * (0.5 + 0.49 * ((t + i) as f64 / 4.0).sin()))
            .collect()
    };
    let measure = |what: &str, every: usize, pieces: usize| {
        let hot_or_not = |i: usize| match i.is_multiple_of(every) {
            true => wave(i, 800.0),
            false => vec![(i % 500) as f64; 48],
        };
        let with_pieces = |i| Shard {
            buckets: buckets(i * 1000, &vec![1.0; pieces]),
            ..shard(i, hot_or_not(i))
        };
        let mut snapshot = snapshot((0..10_000).map(with_pieces).collect());
        snapshot.policy.max_shards = 20_000;
        let started = std::time::Instant::now();
        let steps = plan(&snapshot).steps.len();
        println!(
            "10,000 shards x 48 slots, {what}: {steps} steps in {:?}",
            started.elapsed()
        );
    };
    measure("one in 50 hot, 16 buckets", 50, 16);
    measure("one in 3 hot, 16 buckets", 3, 16);
    measure("all hot, 64 buckets", 1, 64);
}
