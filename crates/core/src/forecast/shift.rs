//! Level shifts: after a change of regime the history before it is brought to the level after it, so that
//! models keep the shape they learnt and need not unlearn the level.
//!
//! Bayesian online change-point detection (Adams and MacKay 2007, by `augurs-changepoint`) on the logarithm
//! of the series without its season. A change is believed only if the levels on both sides differ clearly
//! and for long; what is not a shift of the level alone is left to the recency of the ensemble's weights.

use augurs::changepoint::{Detector, NormalGammaDetector};

use super::guard::guarded;

/// The blocks that the recent history is averaged to before it is searched: the cost grows with them.
const MAX_BLOCKS: usize = 240;

/// Blocks per season: the day is removed before, so that a few are enough to see a shift early.
const BLOCKS_PER_SEASON: usize = 8;

/// The seasons before a change that show what is usual: the days of a week differ.
const MIN_SEASONS: usize = 8;

/// Blocks after a change that prove it.
const MIN_AFTER: usize = 4;

/// Levels differ clearly when they do by this factor, and by so many times the usual deviation.
const MIN_FACTOR: f64 = 1.25;
const MIN_DEVIATIONS: f64 = 4.0;

/// The largest factor by which history is rescaled: beyond, the load is another one.
const MAX_FACTOR: f64 = 20.0;

/// The name for messages.
const NAME: &str = "changepoint";

/// Rescales what came before the last shift of the level; returns where that was. Values are not negative
/// and without gaps.
pub(super) fn undo_level_shift(values: &mut [f64], season: usize) -> Option<usize> {
    let season = season.max(1);
    let width = (season / BLOCKS_PER_SEASON).max(1);
    let logs = blocks(values, width, season)?;
    let per_season = (season / width).max(1);
    let (at, factor) = last_shift(&logs, MIN_SEASONS * per_season)?;
    let skipped = values.len() - logs.len() * width;
    let change = skipped + at * width;
    let change = refine(values, change, width, season, factor);
    values.iter_mut().take(change).for_each(|v| *v *= factor);
    Some(change)
}

/// Logarithms of the means of the last blocks of `width` steps, each minus the usual one at its time of day;
/// `None` for a history too short to tell, or with blocks of zeros.
fn blocks(values: &[f64], width: usize, season: usize) -> Option<Vec<f64>> {
    let number = (values.len() / width).min(MAX_BLOCKS);
    let per_season = (season / width).max(1);
    if number < 3 * MIN_AFTER || number < 3 * per_season {
        return None;
    }
    let start = values.len() - number * width;
    let mean = |block: &[f64]| block.iter().sum::<f64>() / width as f64;
    let means: Vec<f64> = values.get(start..)?.chunks_exact(width).map(mean).collect();
    if means.iter().any(|mean| *mean <= 0.0) {
        return None;
    }
    let logs: Vec<f64> = means.into_iter().map(f64::ln).collect();
    let usual = |phase: usize| median(logs.iter().skip(phase).step_by(per_season).copied());
    let usual: Vec<f64> = (0..per_season).map(usual).collect();
    let without = |(index, log): (usize, &f64)| log - usual.get(index % per_season).unwrap_or(&0.0);
    Some(logs.iter().enumerate().map(without).collect())
}

/// The last shift, in blocks from the first and not before `earliest`, and the factor from the level before to that after.
fn last_shift(logs: &[f64], earliest: usize) -> Option<(usize, f64)> {
    let differences = logs
        .windows(2)
        .filter_map(|pair| Some((pair.get(1)? - pair.first()?).abs()));
    // 1.4826 makes a median of absolute deviations a standard deviation; √2 because it is of differences.
    let noise = (median(differences) * 1.4826 / std::f64::consts::SQRT_2).max(0.01);
    let scaled: Vec<f64> = logs.iter().map(|log| log / noise).collect();
    let found = guarded(NAME, || {
        Ok(NormalGammaDetector::default().detect_changepoints(&scaled))
    });
    let mut found = found.ok()?;
    found.sort_unstable();
    let judged = |at: usize| {
        let (before, after) = (
            logs.get(at.saturating_sub(4 * MIN_AFTER)..at)?,
            logs.get(at..)?,
        );
        if at < earliest || before.len() < MIN_AFTER || after.len() < MIN_AFTER {
            return None;
        }
        let step = median(after.iter().copied()) - median(before.iter().copied());
        let enough = step.abs() >= MIN_FACTOR.ln().max(MIN_DEVIATIONS * noise)
            && step.abs() <= MAX_FACTOR.ln();
        // All that came after must be on the new side of the middle, or it was a burst.
        let middle = median(before.iter().copied()) + step / 2.0;
        let across = after
            .iter()
            .filter(|log| (**log > middle) == (step > 0.0))
            .count();
        // What was there before is no shift: a weekend has another level than the days before it.
        let earlier = logs.get(..at)?;
        let width = after.len().min(earlier.len());
        let is_new = earlier
            .windows(width)
            .step_by((width / 4).max(1))
            .all(|window| (median(window.iter().copied()) > middle) != (step > 0.0));
        (enough && is_new && across * 10 >= after.len() * 9).then(|| (at, step.exp()))
    };
    // The detector may be a block or two late or early.
    let near = |at: usize| (at.saturating_sub(2)..=at + 2).filter_map(judged);
    let clearest =
        |found: &usize| near(*found).max_by(|a, b| a.1.ln().abs().total_cmp(&b.1.ln().abs()));
    found.iter().rev().find_map(clearest)
}

/// The step near a change of blocks at which the values leave the old level.
fn refine(values: &[f64], change: usize, width: usize, season: usize, factor: f64) -> usize {
    let from = change.saturating_sub(width);
    let to = (change + width).min(values.len());
    // Where what came before is on the old level, and what comes after on the new: by season naive.
    let cost = |at: usize| {
        let of = |index: usize| {
            let (now, then) = (values.get(index)?, values.get(index.checked_sub(season)?)?);
            let expected = if index < at { *then } else { then * factor };
            Some((now - expected).abs())
        };
        (from..to).filter_map(of).sum::<f64>()
    };
    (from..=to)
        .min_by(|a, b| cost(*a).total_cmp(&cost(*b)))
        .unwrap_or(change)
}

/// The median; 0 of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    fn noise(index: usize) -> f64 {
        let mut x = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (x >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn load(count: usize, shift: usize, factor: f64) -> Vec<f64> {
        let value = |i: usize| {
            let wave = 100.0 + 50.0 * (i as f64 * TAU / 24.0).sin() + 10.0 * noise(i);
            if i < shift { wave } else { wave * factor }
        };
        (0..count).map(value).collect()
    }

    #[test]
    fn a_shift_is_found_and_undone_within_a_season() {
        for factor in [0.4, 1.6, 3.0] {
            let mut values = load(480, 462, factor);
            let at = undo_level_shift(&mut values, 24).unwrap_or_else(|| panic!("factor {factor}"));
            assert!(at.abs_diff(462) <= 3, "{at}");
            let mean = |range: std::ops::Range<usize>| values[range].iter().sum::<f64>() / 18.0;
            let ratio = mean(438..456) / mean(462..480);
            assert!((0.85..1.15).contains(&ratio), "factor {factor}: {ratio}");
        }
    }

    #[test]
    fn a_steady_load_a_burst_and_noise_are_left_alone() {
        let mut steady = load(480, 480, 1.0);
        assert_eq!(undo_level_shift(&mut steady, 24), None);
        let mut weeks = load(24 * 28, 24 * 28, 1.0);
        for (index, value) in weeks.iter_mut().enumerate() {
            *value *= if index / 24 % 7 >= 5 { 0.5 } else { 1.0 };
        }
        for length in 24 * 10..weeks.len() {
            let found = undo_level_shift(&mut weeks[..length].to_vec(), 24);
            assert_eq!(found, None, "{length} hours");
        }
        let mut burst = load(480, 480, 1.0);
        burst.iter_mut().skip(400).take(6).for_each(|v| *v *= 5.0);
        assert_eq!(undo_level_shift(&mut burst, 24), None);
        let mut noisy: Vec<f64> = (0..480).map(|i| 1.0 + noise(i)).collect();
        assert_eq!(undo_level_shift(&mut noisy, 1), None);
        let mut idle = vec![0.0; 480];
        assert_eq!(undo_level_shift(&mut idle, 24), None);
        let mut short = load(20, 10, 3.0);
        assert_eq!(undo_level_shift(&mut short, 24), None);
    }
}
