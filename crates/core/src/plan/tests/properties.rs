//! What holds for every plan.

use super::support::*;
use super::{Action, Reason, plan};
use crate::plan::Snapshot;
use crate::plan::input::Shard;
use proptest::prelude::*;

/// A shard with any load, size and distribution.
fn any_shard() -> impl Strategy<Value = Shard> {
    let curve = prop::collection::vec(0.0f64..1600.0, 24);
    let shares = prop::collection::vec(0.0f64..1.0, 0..10);
    (curve, shares, 0.0f64..1e11, 0.0f64..1.0, any::<[bool; 4]>()).prop_map(
        |(q90, shares, bytes, level, flags)| {
            let q90 = q90.into_iter().map(|load| load * level).collect();
            let mut shard = shard(0, q90);
            shard.buckets = buckets(0, &shares);
            shard.bytes = bytes;
            shard.rows = bytes / 100.0;
            shard.busy = flags[0] && flags[1];
            shard.mergeable_with_next = flags[2] || flags[3];
            shard
        },
    )
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    prop::collection::vec(any_shard(), 1..12).prop_map(|shards| {
        let place = |(index, mut shard): (usize, Shard)| {
            let own = super::support::shard(index, Vec::new());
            let shares: Vec<f64> = shard.buckets.iter().map(|bucket| bucket.share).collect();
            shard.buckets = buckets(index * 1000, &shares);
            Shard {
                id: own.id,
                name: own.name,
                lower: own.lower,
                upper: own.upper,
                ..shard
            }
        };
        let mut snapshot = snapshot(shards.into_iter().enumerate().map(place).collect());
        snapshot.policy.max_shard_bytes = 8e10;
        snapshot.policy.churn_budget = 0.5;
        snapshot
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_step_tiles_the_range_of_its_sources_and_no_shard_has_two(mut snapshot in any_snapshot()) {
        let plan = plan(&snapshot);
        let mut id = 1000;
        for step in plan.steps.iter().filter(|step| step.action != Action::None) {
            // Fails if a source is gone: every shard is in at most one step.
            apply(&mut snapshot, step, &mut id);
        }
        let shards = &snapshot.tables[0].shards;
        prop_assert!(shards.windows(2).all(|pair| pair[0].upper == pair[1].lower));
        prop_assert_eq!((&shards[0].lower, &shards.last().unwrap().upper), (&None, &None));
    }

    #[test]
    fn the_same_snapshot_gives_the_same_plan(snapshot in any_snapshot()) {
        let once = serde_json::to_string(&plan(&snapshot)).unwrap();
        prop_assert_eq!(once, serde_json::to_string(&plan(&snapshot)).unwrap());
    }

    #[test]
    fn there_is_one_explained_row_or_there_are_steps(snapshot in any_snapshot()) {
        let plan = plan(&snapshot);
        let none = plan.steps.iter().filter(|step| step.action == Action::None).count();
        prop_assert!(none == 0 || plan.steps.len() == 1);
        for step in &plan.steps {
            prop_assert!(!step.why.is_empty() && !step.why.contains("NaN") && !step.why.contains("inf"));
            prop_assert!(step.alternatives.as_array().unwrap().len() <= 3);
            prop_assert!(step.planned_start >= snapshot.now);
            prop_assert!(step.start_by.is_none_or(|start_by| start_by < step.deadline.unwrap()));
            let late = step.deadline.is_some_and(|d| step.planned_start + (step.duration * 1e6) as i64 > d + 1);
            prop_assert_eq!(step.will_miss, late);
        }
    }

    #[test]
    fn plans_come_to_rest(mut snapshot in any_snapshot()) {
        let mut id = 1000;
        for _ in 0..40 {
            let plan = plan(&snapshot);
            if plan.steps[0].action == Action::None {
                return Ok(());
            }
            for step in &plan.steps {
                apply(&mut snapshot, step, &mut id);
            }
        }
        prop_assert!(false, "still acting: {:#?}", plan(&snapshot).steps);
    }

    #[test]
    fn constant_load_below_the_limit_is_no_reason_to_act(
        levels in prop::collection::vec(141.0f64..700.0, 1..40), confidence in 0.0f64..1.0,
    ) {
        let shards = levels.iter().enumerate().map(|(i, level)| {
            let mut shard = shard(i, constant(*level));
            shard.forecast.as_mut().unwrap().confidence = confidence;
            shard
        });
        let plan = plan(&snapshot(shards.collect()));
        prop_assert_eq!(plan.steps.len(), 1);
        prop_assert_eq!((plan.steps[0].action, plan.steps[0].reason), (Action::None, Reason::NoAction));
    }

    #[test]
    fn constant_load_above_the_limit_is_split_once_and_then_left_alone(level in 735.0f64..1390.0) {
        let mut snapshot = snapshot(vec![shard(0, constant(level)), shard(1, constant(600.0))]);
        let first = plan(&snapshot);
        prop_assert_eq!((first.steps[0].action, first.steps[0].reason), (Action::Split, Reason::HotNow));
        apply(&mut snapshot, &first.steps[0], &mut 1000);
        let second = plan(&snapshot);
        prop_assert_eq!(second.steps[0].action, Action::None, "{:#?}", second);
    }

    #[test]
    fn nonsense_in_the_snapshot_gives_a_plan_all_the_same(
        numbers in prop::collection::vec(prop::num::f64::ANY, 12), times in any::<[i64; 5]>(),
    ) {
        let mut odd = shard(0, numbers[..4].to_vec());
        odd.buckets = buckets(0, &numbers[4..8]);
        odd.bytes = numbers[8];
        odd.last_change = Some(times[0]);
        odd.history_span = times[1];
        let curve = odd.forecast.as_mut().unwrap();
        (curve.start, curve.step, curve.confidence) = (times[2], times[3], numbers[9]);
        let mut snapshot = snapshot(vec![odd, shard(1, constant(900.0))]);
        snapshot.now = times[4];
        snapshot.policy.theta = numbers[10];
        snapshot.learned.copy_rate = numbers[11];
        prop_assert!(!plan(&snapshot).steps.is_empty());
    }
}
