//! Dividing a shard: the edges of its buckets that part the load most evenly.

use super::{Bucket, SINGLE_KEY, finite};

/// The boundaries that divide a shard into `parts` of about equal load.
///
/// They are strictly inside the shard, ascending and distinct, and are edges of `buckets`; `lower` is
/// the shard's own lower bound. `None`: there are too few edges.
pub fn split_points(lower: Option<&str>, buckets: &[Bucket], parts: usize) -> Option<Vec<String>> {
    let upper = buckets.last().and_then(|bucket| bucket.upper.as_deref());
    let segments = segments(lower, upper, buckets);
    let weights: Vec<f64> = segments.iter().map(|segment| segment.share).collect();
    let cuts = balanced_cuts(&weights, parts, |_, _| true)?;
    if cuts.is_empty() {
        return None;
    }
    boundaries(&segments, &cuts)
}

/// A run of buckets between two edges that can serve as boundaries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Segment {
    /// Upper edge; `None` for the last.
    pub(crate) upper: Option<String>,
    /// Share of the shard's load; all shares sum to 1.
    pub(crate) share: f64,
    /// Share of the shard's rows; all shares sum to 1.
    pub(crate) rows_share: f64,
    /// One key has (almost) all of its load.
    pub(crate) single_key: bool,
}

/// The pieces that a shard can be cut into: buckets, joined where their edge cannot be a boundary
/// (missing, repeated, or a bound of the shard). Shares are normalised; without any, pieces are equal.
pub(crate) fn segments(
    lower: Option<&str>,
    upper: Option<&str>,
    buckets: &[Bucket],
) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::with_capacity(buckets.len());
    let mut joined = false;
    let mut edge = lower;
    for (index, bucket) in buckets.iter().enumerate() {
        let (share, rows_share) = (finite(bucket.share), finite(bucket.rows_share));
        let last = index + 1 == buckets.len();
        let usable = !last && usable_edge(bucket.upper.as_deref(), edge, lower, upper);
        let own = if usable { bucket.upper.clone() } else { None };
        match segments.last_mut() {
            Some(previous) if joined => {
                previous.single_key = single_after_join(previous, bucket);
                previous.share += share;
                previous.rows_share += rows_share;
                previous.upper = own;
            }
            _ => segments.push(Segment {
                upper: own,
                share,
                rows_share,
                single_key: bucket.single_key,
            }),
        }
        if usable {
            edge = bucket.upper.as_deref();
        }
        joined = !usable;
    }
    normalise(&mut segments);
    segments
}

/// Whether two joined pieces are still about one key: the heavier decides.
fn single_after_join(segment: &Segment, bucket: &Bucket) -> bool {
    let share = finite(bucket.share);
    let total = segment.share + share;
    (segment.single_key && segment.share >= SINGLE_KEY * total)
        || (bucket.single_key && share >= SINGLE_KEY * total)
}

fn usable_edge(
    candidate: Option<&str>,
    previous: Option<&str>,
    lower: Option<&str>,
    upper: Option<&str>,
) -> bool {
    candidate.is_some() && candidate != previous && candidate != lower && candidate != upper
}

fn normalise(segments: &mut [Segment]) {
    let load: f64 = segments.iter().map(|s| s.share).sum();
    let rows: f64 = segments.iter().map(|s| s.rows_share).sum();
    let equal = 1.0 / segments.len().max(1) as f64;
    for segment in segments {
        segment.share = if load > 0.0 {
            segment.share / load
        } else {
            equal
        };
        segment.rows_share = if rows > 0.0 {
            segment.rows_share / rows
        } else {
            segment.share
        };
    }
}

/// The upper edges of the segments before each cut.
pub(crate) fn boundaries(segments: &[Segment], cuts: &[usize]) -> Option<Vec<String>> {
    cuts.iter()
        .map(|cut| {
            cut.checked_sub(1)
                .and_then(|i| segments.get(i))
                .and_then(|s| s.upper.clone())
        })
        .collect()
}

/// Cuts a row of weights into `parts` contiguous runs with the least sum of squared run weights, which
/// is the evenest division; ties go to the earliest cuts. `allowed(from, to)` may forbid a run.
/// Returns the positions before which to cut; `None` if it cannot be done. O(parts × weights²).
pub(crate) fn balanced_cuts(
    weights: &[f64],
    parts: usize,
    allowed: impl Fn(usize, usize) -> bool,
) -> Option<Vec<usize>> {
    let count = weights.len();
    if parts == 0 || parts > count {
        return None;
    }
    let mut prefix = Vec::with_capacity(count + 1);
    prefix.push(0.0);
    prefix.extend(weights.iter().scan(0.0, |sum, weight| {
        *sum += weight;
        Some(*sum)
    }));
    let run = |from: usize, to: usize| match (prefix.get(from), prefix.get(to)) {
        (Some(a), Some(b)) if allowed(from, to) => (b - a) * (b - a),
        _ => f64::INFINITY,
    };
    // best[end] = least cost of the first `end` weights in as many runs as there are rows of `from`.
    let mut best: Vec<f64> = (0..=count)
        .map(|end| if end == 0 { f64::INFINITY } else { run(0, end) })
        .collect();
    let mut from: Vec<Vec<usize>> = Vec::with_capacity(parts);
    for _ in 1..parts {
        let (costs, starts) = (0..=count)
            .map(|end| best_last_run(&best, end, &run))
            .unzip();
        best = costs;
        from.push(starts);
    }
    if !best.last().is_some_and(|cost| cost.is_finite()) {
        return None;
    }
    let mut end = count;
    let mut cuts = Vec::with_capacity(parts - 1);
    for starts in from.iter().rev() {
        end = *starts.get(end)?;
        cuts.push(end);
    }
    cuts.reverse();
    Some(cuts)
}

/// The cheapest way to add one more run that ends at `end`: its cost and where it starts.
fn best_last_run(best: &[f64], end: usize, run: &impl Fn(usize, usize) -> f64) -> (f64, usize) {
    let mut least = (f64::INFINITY, 0);
    for (start, before) in best.iter().enumerate().take(end).skip(1) {
        let cost = before + run(start, end);
        if cost < least.0 {
            least = (cost, start);
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::super::from_sorted_sample;
    use super::*;
    use proptest::prelude::*;

    fn keys(values: &[u32]) -> Vec<String> {
        values.iter().map(|value| format!("{value:05}")).collect()
    }

    #[test]
    fn split_points_halve_the_load_and_not_the_key_space() {
        let mut buckets = from_sorted_sample(&keys(&(0..100).collect::<Vec<_>>()), 10);
        for (index, bucket) in buckets.iter_mut().enumerate() {
            bucket.share = if index < 2 { 0.4 } else { 0.025 };
        }
        let points = split_points(Some("00000"), &buckets, 2).unwrap();
        assert_eq!(points, [buckets[0].upper.clone().unwrap()]);
    }

    #[test]
    fn what_cannot_be_divided_gives_no_points() {
        assert_eq!(split_points(None, &[], 2), None);
        let one = from_sorted_sample(&keys(&[7, 7, 7, 7]), 4);
        assert_eq!(split_points(None, &one, 2), None);
        let bucket = |upper: Option<&str>| Bucket {
            upper: upper.map(Into::into),
            share: 0.5,
            ..Bucket::default()
        };
        assert_eq!(
            split_points(Some("a"), &[bucket(Some("a")), bucket(None)], 2),
            None
        );
        assert_eq!(
            split_points(None, &[bucket(Some("a")), bucket(None)], 1),
            None
        );
    }

    proptest! {
        #[test]
        fn no_other_cut_into_two_is_more_even(weights in prop::collection::vec(0.0f64..1.0, 2..40)) {
            let total: f64 = weights.iter().sum();
            let uneven = |cut: usize| (total - 2.0 * weights[..cut].iter().sum::<f64>()).abs();
            let cuts = balanced_cuts(&weights, 2, |_, _| true).unwrap();
            prop_assert!((1..weights.len()).all(|other| uneven(cuts[0]) <= uneven(other) + 1e-9));
        }
    }
}
