//! Load series: resampling, gaps, resets and lineage.

use proptest::prelude::*;
use repart_core::series::{
    Counters, MAX_STEPS, Sample, Series, SeriesError, inherit, natural_step, rates,
};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;

fn sample(at: i64, seconds: f64, value: f64) -> Sample {
    Sample { at, seconds, value }
}

/// One sample per minute, ending at minutes 1, 2, 3 …, shifted by some seconds.
fn minutely(values: &[f64], shift: i64) -> Vec<Sample> {
    let numbered = (1_i64..).zip(values);
    numbered
        .map(|(i, v)| sample(i * MINUTE + shift * SECOND, 60.0, *v))
        .collect()
}

#[test]
fn samples_on_the_grid_become_the_series_unchanged() {
    let series = Series::from_samples(&minutely(&[1.0, 2.0, 3.0], 0), MINUTE).unwrap();
    assert_eq!((series.start, series.end()), (0, 3 * MINUTE));
    assert_eq!(series.values, [1.0, 2.0, 3.0]);
}

#[test]
fn a_sample_across_two_steps_is_split_by_time() {
    let samples = [
        sample(90 * SECOND, 90.0, 10.0),
        sample(120 * SECOND, 30.0, 40.0),
    ];
    let series = Series::from_samples(&samples, MINUTE).unwrap();
    assert_eq!(series.values, [10.0, 25.0]);
}

#[test]
fn an_outage_is_a_gap_and_ragged_ends_are_dropped() {
    let mut samples = minutely(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 5);
    samples.drain(3..5);
    let series = Series::from_samples(&samples, MINUTE).unwrap();
    // The last five seconds reach into an eighth step: too little to count.
    assert_eq!((series.start, series.len()), (0, 7));
    assert!(
        series.values[3].is_nan(),
        "five seconds are no measurement of a minute"
    );
    assert!(series.values[4].is_nan());
    assert!(series.fill_gaps().values.iter().all(|v| v.is_finite()));
}

#[test]
fn gaps_are_filled_linearly_and_at_the_ends_with_the_nearest() {
    let values = vec![f64::NAN, 2.0, f64::NAN, f64::INFINITY, 8.0, -1.0];
    let series = Series {
        start: 0,
        step: 1,
        values,
    };
    assert_eq!(series.fill_gaps().values, [2.0, 2.0, 4.0, 6.0, 8.0, 8.0]);
    let nothing = Series {
        start: 0,
        step: 1,
        values: vec![f64::NAN; 2],
    };
    assert_eq!(nothing.fill_gaps().values, [0.0, 0.0]);
}

#[test]
fn unusable_input_is_a_clear_error() {
    assert_eq!(
        Series::from_samples(&[], MINUTE),
        Err(SeriesError::NoSamples)
    );
    let bad = [sample(0, 1.0, f64::NAN), sample(1, 1.0, -3.0)];
    assert_eq!(
        Series::from_samples(&bad, MINUTE),
        Err(SeriesError::NoSamples)
    );
    assert_eq!(
        Series::from_samples(&bad, 0),
        Err(SeriesError::BadStep { step: 0 })
    );
    let far = [sample(0, 1.0, 1.0), sample(i64::MAX / 2, 1.0, 1.0)];
    assert!(matches!(
        Series::from_samples(&far, 1),
        Err(SeriesError::TooLong { .. })
    ));
    let edge = [sample(i64::MIN, 60.0, 1.0)];
    assert_eq!(
        Series::from_samples(&edge, MINUTE),
        Err(SeriesError::OutOfRange)
    );
}

#[test]
fn the_natural_step_is_the_median_spacing_snapped_and_coarsened() {
    let every = |step: i64, count: i64| -> Vec<Sample> {
        (0..count).map(|i| sample(i * step, 1.0, 1.0)).collect()
    };
    let hourly = every(60 * MINUTE, 100);
    assert_eq!(natural_step(&hourly, 1000), Some(60 * MINUTE));
    assert_eq!(natural_step(&hourly, 50), Some(120 * MINUTE));
    assert_eq!(natural_step(&hourly, 0), None);
    assert_eq!(natural_step(&hourly[..1], 10), None);
    assert_eq!(
        natural_step(&every(MINUTE + 12_345, 100), 1000),
        Some(MINUTE)
    );
    assert_eq!(
        natural_step(&every(7 * 1440 * MINUTE, 9), 1000),
        Some(7 * 1440 * MINUTE)
    );
    assert_eq!(
        natural_step(&every(90 * SECOND, 9), 1000),
        Some(90 * SECOND)
    );
    assert_eq!(
        natural_step(&every(SECOND / 10, 9), 1000),
        Some(SECOND / 10)
    );
}

#[test]
fn a_merged_shard_inherits_the_sum_of_shards_sampled_at_different_instants() {
    let left = minutely(&[10.0; 20], 0);
    let right = minutely(&[5.0; 20], 7);
    let merged = inherit(&[], &[(1.0, &left), (1.0, &right)], 21 * MINUTE);
    assert_eq!(merged.len(), 20);
    assert!(
        merged.iter().all(|s| (s.value - 15.0).abs() < 1e-9),
        "{merged:?}"
    );
}

#[test]
fn own_samples_follow_the_inherited_ones_without_gap_or_overlap() {
    let parent = minutely(&[8.0; 10], 0);
    let own = minutely(&[3.0; 20], 30);
    let born = 8 * MINUTE + 15 * SECOND;
    let child = inherit(&own, &[(0.25, &parent)], born);
    let before: Vec<&Sample> = child.iter().filter(|s| s.at <= born).collect();
    assert_eq!(before.len(), 9);
    assert!(before.iter().all(|s| s.value == 2.0));
    assert!(child.iter().filter(|s| s.at > born).all(|s| s.value == 3.0));
    let covered: f64 = child.iter().map(|s| s.seconds).sum();
    let end = child.last().unwrap().at;
    assert!(
        (covered - end as f64 / 1e6).abs() < 1e-6,
        "{covered} of {end}"
    );
}

#[test]
fn an_interval_that_one_ancestor_does_not_cover_is_left_out() {
    let long = minutely(&[10.0; 20], 0);
    let short: Vec<Sample> = minutely(&[5.0; 20], 0).split_off(12);
    let merged = inherit(&[], &[(1.0, &short), (1.0, &long)], 30 * MINUTE);
    assert_eq!(merged.len(), 8);
    assert!(merged.iter().all(|s| s.value == 15.0));
    let beside_empty = inherit(&[], &[(1.0, &[]), (1.0, &long)], 30 * MINUTE);
    assert_eq!(beside_empty, long);
}

fn counters(at: i64, n: i64) -> Counters {
    Counters {
        at,
        reads: n,
        writes: n,
        blocks: n,
    }
}

#[test]
fn rates_are_differences_per_second() {
    let rates = rates(&counters(0, 100), &counters(2 * SECOND, 300), 8192).unwrap();
    assert_eq!(
        (rates.seconds, rates.reads, rates.writes),
        (2.0, 100.0, 100.0)
    );
    assert_eq!(rates.bytes, 819_200.0);
}

#[test]
fn a_reset_or_a_clock_that_goes_back_gives_no_rate() {
    let before = counters(SECOND, 100);
    assert_eq!(rates(&before, &counters(2 * SECOND, 99), 8192), None);
    let one_reset = Counters {
        blocks: 0,
        ..counters(2 * SECOND, 200)
    };
    assert_eq!(rates(&before, &one_reset, 8192), None);
    assert_eq!(rates(&before, &counters(SECOND, 200), 8192), None);
    assert_eq!(rates(&before, &counters(0, 200), 8192), None);
    assert_eq!(rates(&before, &counters(SECOND + 10, 200), 8192), None);
    assert_eq!(rates(&before, &counters(i64::MAX, 200), 8192), None);
    assert_eq!(rates(&before, &counters(2 * SECOND, i64::MAX), 8192), None);
    assert_eq!(rates(&before, &counters(2 * SECOND, 200), 0), None);
}

fn any_sample() -> impl Strategy<Value = Sample> {
    (any::<i64>(), any::<f64>(), any::<f64>())
        .prop_map(|(at, seconds, value)| sample(at, seconds, value))
}

fn usual_samples() -> impl Strategy<Value = Vec<Sample>> {
    let usual = (0_i64..100_000 * SECOND, 0.0..200.0, 0.0..1e6);
    let usual = usual.prop_map(|(at, seconds, value)| sample(at, seconds, value));
    prop::collection::vec(usual, 1..60)
}

proptest! {
    #[test]
    fn resampling_never_panics(samples in prop::collection::vec(any_sample(), 0..20), step in any::<i64>()) {
        if let Ok(series) = Series::from_samples(&samples, step) {
            prop_assert!(series.len() <= MAX_STEPS && !series.is_empty());
            prop_assert!(series.values.iter().all(|v| v.is_nan() || (v.is_finite() && *v >= 0.0)));
        }
        prop_assert!(natural_step(&samples, 100).is_none_or(|step| step > 0));
    }

    #[test]
    fn resampling_stays_within_the_range_of_the_samples(
        samples in usual_samples(),
        step in SECOND..1_000 * SECOND,
    ) {
        let series = Series::from_samples(&samples, step).unwrap();
        let least = samples.iter().map(|s| s.value).fold(f64::INFINITY, f64::min);
        let most = samples.iter().map(|s| s.value).fold(0.0, f64::max);
        for value in series.values.iter().filter(|v| !v.is_nan()) {
            prop_assert!(*value >= least - 1e-6 && *value <= most + 1e-6);
        }
    }

    #[test]
    fn the_natural_step_keeps_to_the_points_allowed(samples in usual_samples(), points in 2_usize..500) {
        if let Some(step) = natural_step(&samples, points) {
            let times = || samples.iter().map(|s| s.at);
            let span = times().max().unwrap() - times().min().unwrap();
            prop_assert!(step > 0 && span / step <= points as i64);
        }
    }

    #[test]
    fn rates_are_never_negative_or_absurd(a in any::<[i64; 4]>(), b in any::<[i64; 4]>(), block in any::<i64>()) {
        let of = |c: [i64; 4]| Counters { at: c[0], reads: c[1], writes: c[2], blocks: c[3] };
        if let Some(r) = rates(&of(a), &of(b), block) {
            for value in [r.reads, r.writes, r.bytes] {
                prop_assert!(value.is_finite() && (0.0..=1e15).contains(&value));
            }
            prop_assert!(r.seconds > 0.0);
        }
    }

    #[test]
    fn plausible_counters_give_their_rate(
        reads in 0_i64..1_000_000_000,
        more in 0_i64..1_000_000,
        seconds in 1_i64..3600,
    ) {
        let rates = rates(&counters(0, reads), &counters(seconds * SECOND, reads + more), 8192).unwrap();
        prop_assert!((rates.reads * seconds as f64 - more as f64).abs() < 1e-3);
    }

    #[test]
    fn the_children_of_a_split_sum_to_their_parent(
        values in prop::collection::vec(0.0..1e9, 1..50),
        weights in prop::collection::vec(0.01_f64..1.0, 2..6),
        born in 1_i64..60,
    ) {
        let parent = minutely(&values, 0);
        let total: f64 = weights.iter().sum();
        let born_at = born * MINUTE - 30 * SECOND;
        let child = |weight: &f64| inherit(&[], &[(weight / total, &parent)], born_at);
        let children: Vec<Vec<Sample>> = weights.iter().map(child).collect();
        let expected: Vec<&Sample> = parent.iter().filter(|s| s.at - MINUTE < born_at).collect();
        prop_assert_eq!(children[0].len(), expected.len());
        for (i, whole) in expected.into_iter().enumerate() {
            let sum: f64 = children.iter().map(|c| c[i].value).sum();
            prop_assert!((sum - whole.value).abs() <= whole.value * 1e-9);
            prop_assert_eq!(children[0][i].at, whole.at.min(born_at));
        }
    }

    #[test]
    fn inheriting_never_panics(
        own in prop::collection::vec(any_sample(), 0..10),
        left in prop::collection::vec(any_sample(), 0..10),
        right in prop::collection::vec(any_sample(), 0..10),
        shares in any::<[f64; 2]>(),
        born in any::<i64>(),
    ) {
        let all = inherit(&own, &[(shares[0], &left), (shares[1], &right)], born);
        prop_assert!(all.windows(2).all(|w| w[0].at <= w[1].at));
        prop_assert!(all.iter().all(|s| s.value.is_finite() && s.value >= 0.0 && s.seconds > 0.0));
    }
}
