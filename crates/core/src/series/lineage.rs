//! What a shard inherits from the shards that it was made from.

use super::{MICROS, Sample};

/// The history of a shard that was made by a split or a merge: before `born_at` the share-weighted sum
/// of its ancestors, from then on its own samples.
///
/// `ancestors` are pairs of a share (0 to 1, the part of the ancestor's load that this shard took over;
/// others are clamped, NaN is 0) and the ancestor's samples, which may have been taken at slightly
/// different instants. The intervals of the ancestor with the most samples are kept, and the others
/// contribute their time-weighted mean over each, so that the sum over the children of a split is the
/// parent, sample by sample. An interval that some ancestor with a history does not touch is left out:
/// half a sum would look like a jump of the load. Sorted by time; unusable samples are dropped.
pub fn inherit(own: &[Sample], ancestors: &[(f64, &[Sample])], born_at: i64) -> Vec<Sample> {
    let histories: Vec<(f64, Vec<Sample>)> = ancestors
        .iter()
        .map(|(share, samples)| (clamp_share(*share), clipped(samples, i64::MIN, born_at)))
        .filter(|(_, samples)| !samples.is_empty())
        .collect();
    // The first of the longest, so that the order of equals is the caller's.
    let grid = histories
        .iter()
        .rev()
        .max_by_key(|(_, samples)| samples.len());
    let mut result: Vec<Sample> = grid.map_or_else(Vec::new, |(_, samples)| {
        let mut cursors = vec![0; histories.len()];
        samples
            .iter()
            .filter_map(|slot| sum_over(slot, &histories, &mut cursors))
            .collect()
    });
    result.extend(clipped(own, born_at, i64::MAX));
    result
}

fn clamp_share(share: f64) -> f64 {
    if share.is_nan() {
        0.0
    } else {
        share.clamp(0.0, 1.0)
    }
}

/// The usable samples, sorted by time, cut to the part after `from` and up to `to`. A sample whose
/// length is unknown covers the time since the one before it.
fn clipped(samples: &[Sample], from: i64, to: i64) -> Vec<Sample> {
    let mut sorted: Vec<Sample> = samples.iter().copied().filter(Sample::is_usable).collect();
    sorted.sort_by_key(|s| s.at);
    let mut previous: Option<i64> = None;
    let mut kept = Vec::with_capacity(sorted.len());
    for sample in sorted {
        let since = previous.map_or(1, |at| sample.at.saturating_sub(at));
        previous = Some(sample.at);
        let (begin, end) = sample.interval(since);
        let (low, high) = (begin.max(i128::from(from)), end.min(i128::from(to)));
        if high <= low {
            continue;
        }
        let known = sample.seconds.is_finite() && sample.seconds > 0.0;
        let whole = known && low == begin && high == end;
        kept.push(Sample {
            at: i64::try_from(high).unwrap_or(sample.at),
            seconds: if whole {
                sample.seconds
            } else {
                (high - low) as f64 / MICROS
            },
            value: sample.value,
        });
    }
    kept
}

/// The share-weighted sum of all histories over the interval of `slot`; `None` if one does not touch it.
/// `cursors` remember where each history was left, as slots come in order of time.
fn sum_over(
    slot: &Sample,
    histories: &[(f64, Vec<Sample>)],
    cursors: &mut [usize],
) -> Option<Sample> {
    let (from, to) = slot.interval(1);
    let mut value = 0.0;
    for ((share, samples), cursor) in histories.iter().zip(cursors) {
        while samples
            .get(*cursor)
            .is_some_and(|s| i128::from(s.at) <= from)
        {
            *cursor += 1;
        }
        value += share * mean_over(from, to, samples.get(*cursor..).unwrap_or(&[]))?;
    }
    Some(Sample {
        value: value.min(f64::MAX),
        ..*slot
    })
}

/// The time-weighted mean of the samples over `[from, to)`, or `None` if none overlaps it.
fn mean_over(from: i128, to: i128, samples: &[Sample]) -> Option<f64> {
    let (mut covered, mut mean) = (0.0, 0.0);
    for sample in samples {
        let (begin, end) = sample.interval(1);
        let overlap = (end.min(to) - begin.max(from)) as f64;
        if overlap > 0.0 {
            covered += overlap;
            mean += (sample.value - mean) * (overlap / covered);
        }
        if end >= to {
            break;
        }
    }
    (covered > 0.0).then_some(mean)
}
