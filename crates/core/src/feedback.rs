//! What finished migrations teach the planner: how fast copies are, how long pauses last, and whether
//! the promised gain came.
//!
//! Everything is a recency-weighted quantile, so that one odd migration changes little. A migration
//! counts for the copy rate by the time it copied: one that copied for milliseconds says nothing about
//! it.

use crate::heat::finite;
use crate::plan::Action;
use crate::plan::input::Learned;
use serde::{Deserialize, Serialize};

/// A finished migration: what was predicted and what it really took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What it did.
    pub kind: Action,
    /// Bytes rewritten.
    pub bytes: f64,
    /// Rows rewritten.
    pub rows: f64,
    /// The duration that its plan promised, s; 0 = none, it was started by hand.
    pub predicted_duration: f64,
    /// The duration without waiting in the queue, s.
    pub duration: f64,
    /// The pause of its cutover, s.
    pub pause: f64,
    /// The part of `duration` spent copying, s.
    pub copy_seconds: f64,
    /// The benefit that its plan promised, overload-seconds; 0 = none.
    pub benefit_predicted: f64,
    /// The benefit that was measured; `None` = not known yet.
    pub benefit_realised: Option<f64>,
    /// Rows that changed tables inside its cutover.
    #[serde(default)]
    pub moved: Moved,
}

/// Rows that changed tables inside a cutover, and how long that took.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Moved {
    /// Rows deleted from kept tables.
    pub deleted: f64,
    /// Seconds for that.
    pub delete_seconds: f64,
    /// Rows inserted into kept tables.
    pub inserted: f64,
    /// Seconds for that.
    pub insert_seconds: f64,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.deleted += other.deleted;
        self.delete_seconds += other.delete_seconds;
        self.inserted += other.inserted;
        self.insert_seconds += other.insert_seconds;
    }
}

/// How many of the latest outcomes count.
const WINDOW: usize = 50;
/// What an outcome counts, relative to the next later one.
const FADE: f64 = 0.9;
/// What the default counts, relative to the latest outcome.
const PRIOR: f64 = 0.5;
/// Copying for this long makes an outcome count in full for the rate, s.
const FULL_COPY: f64 = 5.0;
/// Copying for less than this says nothing about the rate, s.
const LEAST_COPY: f64 = 0.05;
/// So many rows moved in a cutover make it count in full for the rate.
const FULL_MOVE: f64 = 10_000.0;
/// Fewer say nothing about the rate: parsing and planning take longer.
const LEAST_MOVE: f64 = 500.0;
/// The rate that four of five copies exceed.
const RATE_QUANTILE: f64 = 0.2;
/// The pause that one of twenty cutovers exceeds.
const PAUSE_QUANTILE: f64 = 0.95;
/// The overhead that one of five migrations exceeds.
const OVERHEAD_QUANTILE: f64 = 0.8;
/// A median absolute deviation in standard deviations of a normal distribution.
const MAD: f64 = 1.4826;
/// How many gains are compared with their promises.
const GAINS: usize = 10;

/// What the next plan should assume, from the defaults and the outcomes so far, oldest first.
///
/// Without outcomes these are the defaults; each outcome makes the defaults count less.
pub fn learn(defaults: &Learned, outcomes: &[Outcome]) -> Learned {
    let rates = rates(outcomes);
    let pauses = weigh(outcomes, |outcome| Some((outcome.pause, 1.0)));
    let overheads = weigh(outcomes, |o| {
        Some(((o.duration - o.copy_seconds - o.pause).max(0.0), 1.0))
    });
    let blend = |values: &[(f64, f64)], default: f64, at: f64| {
        quantile(with_prior(values, default), at).unwrap_or(default)
    };
    Learned {
        copy_rate: blend(&rates, defaults.copy_rate, RATE_QUANTILE),
        copy_rate_spread: spread(&rates, outcomes, defaults.copy_rate_spread),
        overhead: blend(&overheads, defaults.overhead, OVERHEAD_QUANTILE),
        pause: blend(&pauses, defaults.pause, PAUSE_QUANTILE),
        delete_rate: blend(
            &move_rates(outcomes, |moved| (moved.deleted, moved.delete_seconds)),
            defaults.delete_rate,
            RATE_QUANTILE,
        ),
        insert_rate: blend(
            &move_rates(outcomes, |moved| (moved.inserted, moved.insert_seconds)),
            defaults.insert_rate,
            RATE_QUANTILE,
        ),
        theta_factor: theta_factor(defaults.theta_factor, outcomes),
        gain_ratio: gain_ratio(outcomes),
        outcomes: outcomes.len(),
    }
}

/// The latest values with weights that fade with age, in steps of what came after them; values that
/// are not finite or are negative are left out.
fn weigh(outcomes: &[Outcome], value: impl Fn(&Outcome) -> Option<(f64, f64)>) -> Vec<(f64, f64)> {
    let known = |(value, _): &(f64, f64)| value.is_finite() && *value >= 0.0;
    let mut later = 0.0;
    outcomes
        .iter()
        .rev()
        .filter_map(value)
        .filter(known)
        .take(WINDOW)
        .map(|(value, weight)| {
            let faded = weight * FADE.powf(later);
            later += weight;
            (value, faded)
        })
        .collect()
}

/// Copy rates, bytes/s (those below 1 are nonsense), held within a factor 4 of their median.
fn rates(outcomes: &[Outcome]) -> Vec<(f64, f64)> {
    let mut rates = weigh(outcomes, |outcome| {
        let seconds = finite(outcome.copy_seconds);
        let telling = seconds >= LEAST_COPY && outcome.bytes >= seconds;
        telling.then(|| (outcome.bytes / seconds, (seconds / FULL_COPY).min(1.0)))
    });
    if let Some(median) = quantile(rates.clone(), 0.5) {
        for (rate, _) in &mut rates {
            *rate = rate.clamp(median / 4.0, median * 4.0);
        }
    }
    rates
}

/// Rows per second that cutovers moved.
fn move_rates(outcomes: &[Outcome], of: impl Fn(&Moved) -> (f64, f64)) -> Vec<(f64, f64)> {
    weigh(outcomes, |outcome| {
        let (rows, seconds) = of(&outcome.moved);
        let telling = rows.is_finite() && rows >= LEAST_MOVE && seconds > 0.0;
        telling.then(|| (rows / seconds, (rows / FULL_MOVE).min(1.0)))
    })
}

/// Values and the default; the latter counts less the more the values weigh.
fn with_prior(values: &[(f64, f64)], default: f64) -> Vec<(f64, f64)> {
    let weight: f64 = values.iter().map(|(_, weight)| weight).sum();
    let mut all = values.to_vec();
    all.push((default, PRIOR / (1.0 + weight)));
    all
}

/// The weighted quantile: the least value that at least this share of the weight does not exceed.
fn quantile(mut values: Vec<(f64, f64)>, at: f64) -> Option<f64> {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = values.iter().map(|(_, weight)| weight).sum();
    let mut below = 0.0;
    let reached = values.iter().find(|(_, weight)| {
        below += weight;
        below >= at * total * (1.0 - 1e-12)
    });
    reached.or(values.last()).map(|(value, _)| *value)
}

/// The relative uncertainty of a duration: the robust spread of the copy rates, or what predictions of
/// the duration usually fell short by where that is more.
fn spread(rates: &[(f64, f64)], outcomes: &[Outcome], default: f64) -> f64 {
    if rates.len() < 3 {
        return default;
    }
    let median = quantile(rates.to_vec(), 0.5).unwrap_or(0.0);
    let deviations = rates
        .iter()
        .map(|(rate, weight)| ((rate - median).abs(), *weight))
        .collect();
    let of_rates = MAD * quantile(deviations, 0.5).unwrap_or(0.0) / median.max(f64::MIN_POSITIVE);
    let overruns = weigh(outcomes, |outcome| {
        let predicted = finite(outcome.predicted_duration);
        (predicted > 0.0).then(|| ((outcome.duration / predicted - 1.0).max(0.0), 1.0))
    });
    let overrun = quantile(overruns, 0.68).unwrap_or(0.0);
    of_rates.max(overrun).clamp(0.05, 1.0)
}

/// Realised / promised benefit of the outcomes that have both, oldest first.
fn gains(outcomes: &[Outcome]) -> impl DoubleEndedIterator<Item = (f64, f64)> + '_ {
    outcomes.iter().filter_map(|outcome| {
        let realised = outcome
            .benefit_realised
            .filter(|realised| realised.is_finite())?;
        (finite(outcome.benefit_predicted) > 0.0).then_some((realised, outcome.benefit_predicted))
    })
}

/// Broken promises make the gate stricter by a quarter each, kept ones a little laxer.
fn theta_factor(default: f64, outcomes: &[Outcome]) -> f64 {
    gains(outcomes).fold(default, |factor, (realised, promised)| {
        let change = match realised / promised {
            kept if kept < 0.5 => 1.25,
            kept if kept > 0.9 => 0.95,
            _ => 1.0,
        };
        (factor * change).clamp(0.5, 4.0)
    })
}

/// What the last ten migrations gained of what they promised.
fn gain_ratio(outcomes: &[Outcome]) -> Option<f64> {
    let last: Vec<(f64, f64)> = gains(outcomes).rev().take(GAINS).collect();
    let (realised, promised) = last
        .iter()
        .fold((0.0, 0.0), |sum, (r, p)| (sum.0 + r, sum.1 + p));
    (last.len() == GAINS).then(|| realised / promised)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn copied(bytes: f64, copy_seconds: f64) -> Outcome {
        Outcome {
            kind: Action::Split,
            bytes,
            rows: bytes / 100.0,
            predicted_duration: 0.0,
            duration: copy_seconds + 1.0,
            pause: 0.02,
            copy_seconds,
            benefit_predicted: 0.0,
            benefit_realised: None,
            moved: Moved::default(),
        }
    }

    fn gained(promised: f64, realised: f64) -> Outcome {
        let benefit = Outcome {
            benefit_predicted: promised,
            ..copied(1e9, 10.0)
        };
        Outcome {
            benefit_realised: Some(realised),
            ..benefit
        }
    }

    #[test]
    fn without_outcomes_the_defaults_stand() {
        let defaults = Learned::default();
        assert_eq!(learn(&defaults, &[]), defaults);
    }

    #[test]
    fn the_rate_is_on_the_careful_side_of_what_was_seen() {
        let outcomes: Vec<Outcome> = [50e6, 60e6, 70e6, 80e6, 90e6]
            .map(|rate| copied(rate * 10.0, 10.0))
            .to_vec();
        let learned = learn(&Learned::default(), &outcomes);
        assert!((50e6..70e6).contains(&learned.copy_rate), "{learned:?}");
        assert_eq!(learned.outcomes, 5);
        assert!((learned.pause - 0.02).abs() < 0.031);
        assert!((learned.overhead - 0.98).abs() < 1e-6);
    }

    #[test]
    fn small_migrations_do_not_wreck_the_rate() {
        let mut outcomes = vec![copied(1e9, 10.0); 5];
        outcomes.extend(vec![copied(8192.0, 0.01); 40]);
        let learned = learn(&Learned::default(), &outcomes);
        assert!((learned.copy_rate - 100e6).abs() < 1.0, "{learned:?}");
    }

    #[test]
    fn one_outlier_changes_little() {
        let mut outcomes = vec![copied(1e9, 10.0); 9];
        outcomes.push(copied(1e6, 10.0));
        let learned = learn(&Learned::default(), &outcomes);
        assert!((learned.copy_rate - 100e6).abs() < 1.0, "{learned:?}");
        assert!(learned.copy_rate_spread <= 0.3);
    }

    #[test]
    fn even_among_few_an_outlier_counts_no_more_than_a_quarter_of_the_median() {
        let outcomes = [copied(1e9, 10.0), copied(1e9, 10.0), copied(1e6, 10.0)];
        let defaults = Learned {
            copy_rate: 200e6,
            ..Learned::default()
        };
        assert!((learn(&defaults, &outcomes).copy_rate - 25e6).abs() < 1.0);
    }

    #[test]
    fn a_lasting_slowdown_is_learned() {
        let mut outcomes = vec![copied(1e9, 10.0); 10];
        outcomes.extend(vec![copied(1e9, 40.0); 5]);
        assert!((learn(&Learned::default(), &outcomes).copy_rate - 25e6).abs() < 1.0);
    }

    #[test]
    fn the_rates_of_moving_rows_are_learned_from_cutovers_that_moved_many() {
        let moved = |rows: f64| Outcome {
            moved: Moved {
                deleted: rows,
                delete_seconds: rows / 200_000.0,
                ..Moved::default()
            },
            ..copied(1e9, 10.0)
        };
        let defaults = Learned::default();
        let learned = learn(&defaults, &vec![moved(20_000.0); 5]);
        assert!((learned.delete_rate - 200_000.0).abs() < 1.0, "{learned:?}");
        assert_eq!(learned.insert_rate, defaults.insert_rate);
        let few = learn(&defaults, &vec![moved(100.0); 5]);
        assert_eq!(few.delete_rate, defaults.delete_rate);
    }

    #[test]
    fn overruns_widen_the_spread() {
        let late = Outcome {
            predicted_duration: 5.5,
            ..copied(1e9, 10.0)
        };
        let learned = learn(&Learned::default(), &vec![late; 10]);
        assert!((learned.copy_rate_spread - 1.0).abs() < 1e-9);
    }

    #[test]
    fn broken_promises_make_the_gate_stricter_and_are_reported() {
        let learned = learn(&Learned::default(), &vec![gained(100.0, 20.0); 10]);
        assert!((learned.gain_ratio.unwrap() - 0.2).abs() < 1e-9);
        assert!((learned.theta_factor - 4.0).abs() < 1e-9);
        let kept = learn(&Learned::default(), &vec![gained(100.0, 95.0); 3]);
        assert!(kept.theta_factor < 1.0);
        assert_eq!(kept.gain_ratio, None);
    }

    proptest! {
        #[test]
        fn whatever_happened_the_result_is_usable(
            numbers in prop::collection::vec((prop::num::f64::ANY, prop::num::f64::ANY, prop::num::f64::ANY), 0..60),
        ) {
            let outcomes: Vec<Outcome> = numbers.iter().map(|(a, b, c)| Outcome {
                pause: *c,
                duration: *b,
                benefit_predicted: *a,
                benefit_realised: Some(*b),
                predicted_duration: *c,
                moved: Moved { deleted: *a, delete_seconds: *b, inserted: *b, insert_seconds: *c },
                ..copied(*a, *b)
            }).collect();
            let learned = learn(&Learned::default(), &outcomes);
            prop_assert!(learned.copy_rate > 0.0 && learned.copy_rate.is_finite());
            prop_assert!(learned.delete_rate >= 0.0 && learned.delete_rate.is_finite());
            prop_assert!(learned.pause >= 0.0 && learned.pause.is_finite());
            prop_assert!((0.05..=1.0).contains(&learned.copy_rate_spread));
            prop_assert!((0.5..=4.0).contains(&learned.theta_factor));
        }
    }
}
