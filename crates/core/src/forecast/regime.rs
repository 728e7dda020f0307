//! Changes of the shape: where the load began to follow another pattern, what came before teaches nothing.
//!
//! Repeating the last season fails for one season after such a change, and then is right again. So a change is
//! believed where it failed as never before, has been right since, and the pattern since is not that from before:
//! a day off, or an outage, is followed by the old pattern and changes nothing.

/// The seasons back in which a change is looked for.
const REACH: usize = 14;

/// The seasons before a change that show what is usual: the days of a week differ.
const MIN_BEFORE: usize = 8;

/// Candidates per season; and the part of a season that must follow the new pattern before it is believed.
const PER_SEASON: usize = 8;

/// By how much a change must exceed what is usual, and the pattern before fit worse than that since. An outage
/// that leaves traces in the days after it reaches two.
const CLEAR: f64 = 3.0;

/// The first step of the present pattern; `None` if there was no change. Values are without gaps.
pub(super) fn begin(values: &[f64], season: usize) -> Option<usize> {
    let stride = season.div_ceil(PER_SEASON);
    let newest = values.len().checked_sub(season + stride)?;
    let oldest = values
        .len()
        .saturating_sub(REACH * season)
        .max(MIN_BEFORE * season);
    if season < PER_SEASON || oldest > newest {
        return None;
    }
    let sums = differences(values, season);
    let candidates = (oldest..=newest).rev().step_by((stride / 2).max(1));
    candidates
        .filter_map(|at| Some((at, strength(values, &sums, season, at)?)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(at, _)| at)
}

/// Sums of the absolute differences to one season before, up to each step.
fn differences(values: &[f64], season: usize) -> Vec<f64> {
    let mut sum = 0.0;
    let mut sums = vec![0.0; season.min(values.len()) + 1];
    for (now, then) in values.iter().skip(season).zip(values) {
        sum += (now - then).abs();
        sums.push(sum);
    }
    sums
}

/// By how much the season after a step differs more from the one before than seasons usually do; `None` if
/// no change of the pattern begins there.
fn strength(values: &[f64], sums: &[f64], season: usize, at: usize) -> Option<f64> {
    let mean = |from: usize, to: usize| {
        Some((sums.get(to)? - sums.get(from)?) / (to - from).max(1) as f64)
    };
    let jump = mean(at, at + season)?;
    let since = mean(at + season, values.len())?;
    let windows =
        (1..MIN_BEFORE).filter_map(|back| mean(at - back * season, at - (back - 1) * season));
    let usual = windows.fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    // The steps since then beside the same phase of the last season before.
    let across = |index: usize| {
        let back = (index - at) / season + 1;
        Some((values.get(index)? - values.get(index - back * season)?).abs())
    };
    let steps = at + season..values.len();
    let count = steps.len().max(1) as f64;
    let across = steps.filter_map(across).sum::<f64>() / count;
    let is_change = jump > CLEAR * usual && across > CLEAR * usual && across > CLEAR * since;
    is_change.then_some(jump / usual)
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

    fn load(count: usize, change: usize, shift: f64) -> Vec<f64> {
        let wave = |i: f64| 100.0 + 60.0 * (i * TAU / 24.0).sin();
        let value =
            |i: usize| wave(i as f64 + if i < change { 0.0 } else { shift }) + 20.0 * noise(i);
        (0..count).map(value).collect()
    }

    #[test]
    fn another_phase_is_found_as_soon_as_it_repeats_and_remembered() {
        for later in [28, 40, 70, 200] {
            let found = begin(&load(500 + later, 500, 6.0), 24);
            assert!(
                found.is_some_and(|at| at.abs_diff(500) <= 4),
                "{later}: {found:?}"
            );
        }
        assert_eq!(begin(&load(510, 500, 6.0), 24), None);
    }

    #[test]
    fn weekends_a_day_off_an_outage_and_noise_change_nothing() {
        let mut weeks = load(24 * 35, 24 * 35, 0.0);
        for (index, value) in weeks.iter_mut().enumerate() {
            *value *= if index / 24 % 7 >= 5 { 0.5 } else { 1.0 };
        }
        for length in 24 * 20..weeks.len() {
            assert_eq!(begin(&weeks[..length], 24), None, "{length} hours");
        }
        let mut off = load(600, 600, 0.0);
        off.iter_mut().skip(480).take(24).for_each(|v| *v *= 0.1);
        for length in 500..600 {
            assert_eq!(begin(&off[..length], 24), None, "{length} hours");
        }
        let walk: Vec<f64> = (0..600).map(noise).collect();
        assert_eq!(begin(&walk, 24), None);
        assert_eq!(begin(&[1.0; 600], 24), None);
        assert_eq!(begin(&[1.0; 30], 24), None);
        assert_eq!(begin(&[], 0), None);
    }
}
