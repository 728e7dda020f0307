//! A histogram of durations with a fixed layout, so that it can be counted in shared memory and subtracted.
//!
//! The layout is that of HdrHistogram with three significant bits: below 8 µs each value has a bucket of its
//! own, above it each power of two is divided into eight. A value read from it is off by at most 1/16.

/// Buckets of a histogram: up to 2²⁸ µs, some 268 s; what took longer counts in the last one.
pub const BUCKETS: usize = 208;

/// Buckets per power of two.
const PARTS: u64 = 8;

/// Its logarithm.
const PART_BITS: u32 = 3;

/// The bucket of a duration in µs.
pub fn bucket(micros: u64) -> usize {
    if micros < PARTS {
        return micros as usize;
    }
    let power = 63 - micros.leading_zeros() - PART_BITS;
    let part = (micros >> power) - PARTS;
    let index = u64::from(power + 1) * PARTS + part;
    (index as usize).min(BUCKETS - 1)
}

/// The durations that a bucket counts, from the first up to but without the second, µs.
pub fn range(bucket: usize) -> (f64, f64) {
    let bucket = bucket.min(BUCKETS - 1) as u64;
    if bucket < PARTS {
        return (bucket as f64, bucket as f64 + 1.0);
    }
    let power = bucket / PARTS - 1;
    let from = (PARTS + bucket % PARTS) << power;
    (from as f64, (from + (1 << power)) as f64)
}

/// The duration that a share of all stays below, ms; `None` where none was counted.
///
/// `counts` has one number per bucket; within a bucket, durations are taken to be spread evenly.
pub fn quantile(counts: &[u64], share: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let wanted = share.clamp(0.0, 1.0) * total as f64;
    let mut below = 0.0;
    for (index, count) in counts.iter().enumerate() {
        let count = *count as f64;
        if count > 0.0 && below + count >= wanted {
            let (from, to) = range(index);
            let inside = ((wanted - below) / count).clamp(0.0, 1.0);
            return Some((from + inside * (to - from)) / 1000.0);
        }
        below += count;
    }
    None
}

/// What was counted since an earlier reading of the same histogram; all of it where it began anew.
pub fn since(now: &[u64], before: &[u64]) -> Vec<u64> {
    let earlier = |index: usize| before.get(index).copied().unwrap_or(0);
    let grew = now
        .iter()
        .enumerate()
        .all(|(index, count)| *count >= earlier(index));
    now.iter()
        .enumerate()
        .map(|(index, count)| if grew { count - earlier(index) } else { *count })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(values: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; BUCKETS];
        for value in values {
            counts[bucket(*value)] += 1;
        }
        counts
    }

    #[test]
    fn buckets_follow_each_other_without_gap() {
        for index in 1..BUCKETS {
            assert_eq!(range(index - 1).1, range(index).0, "before {index}");
        }
        assert_eq!(range(BUCKETS - 1).1, 268_435_456.0);
    }

    #[test]
    fn the_median_of_even_durations_is_in_the_middle() {
        let counts = counted(&(1..=1000).map(|n| n * 10).collect::<Vec<_>>());
        let median = quantile(&counts, 0.5).unwrap();
        assert!((median - 5.0).abs() < 0.1, "{median}");
        let last = quantile(&counts, 0.99).unwrap();
        assert!((last - 9.9).abs() < 0.3, "{last}");
        assert_eq!(quantile(&[0; BUCKETS], 0.5), None);
    }

    #[test]
    fn a_histogram_that_began_anew_is_not_subtracted() {
        assert_eq!(since(&[3, 5], &[1, 5]), [2, 0]);
        assert_eq!(since(&[3, 1], &[1, 5]), [3, 1]);
    }

    proptest! {
        #[test]
        fn every_duration_lies_in_its_bucket(micros in 0u64..268_435_456) {
            let (from, to) = range(bucket(micros));
            let value = micros as f64;
            prop_assert!(from <= value && value < to, "{from} {value} {to}");
            prop_assert!(to - from <= 1.0 + from / 8.0);
        }

        #[test]
        fn any_duration_has_a_bucket(micros in any::<u64>()) {
            prop_assert!(bucket(micros) < BUCKETS);
        }
    }
}
