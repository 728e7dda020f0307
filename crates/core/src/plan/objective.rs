//! What is bad, in one unit: overload-seconds.
//!
//! A shard at utilisation u = load / capacity costs `20 (u − limit)²₊ + 200 (u − hard limit)²₊` per
//! second (research/planning.md 7.2): nothing below the limit, 0.2 at u = 0.80, 3.8 at u = 1.00 for the
//! default limit of 0.70. The hard limit lies two thirds of the way from the limit to 1. Acting costs in
//! the same unit: a tax while bytes are copied, the pause, a fixed price, a price per shard.

use super::grid::Grid;
use super::input::{Learned, Policy};
use crate::heat::finite;

const SOFT_WEIGHT: f64 = 20.0;
const HARD_WEIGHT: f64 = 200.0;

/// The parts of the horizon from one to the next of which the future counts less by the discount.
const DISCOUNT_PARTS: f64 = 48.0;

/// The penalty function over the slots of a plan.
#[derive(Debug, Clone)]
pub(super) struct Objective {
    /// Utilisation to stay below.
    pub(super) limit: f64,
    /// Utilisation that must not be reached.
    pub(super) hard_limit: f64,
    /// Start, end and discount of each slot.
    slots: Vec<(i64, i64, f64)>,
}

impl Objective {
    /// The objective of a policy on a grid.
    pub(super) fn new(policy: &Policy, grid: &Grid) -> Objective {
        let limit = policy.target_utilisation;
        let begin = grid.start_of(0);
        // By time, not by slot: how finely a load is sampled does not make its future less certain.
        let part = (grid.end().saturating_sub(begin) as f64 / DISCOUNT_PARTS).max(1.0);
        let discount = |start: i64| {
            policy
                .discount
                .powf(start.saturating_sub(begin) as f64 / part)
        };
        let slots = grid
            .slots()
            .map(|(start, end)| (start, end, discount(start)))
            .collect();
        Objective {
            limit,
            hard_limit: limit + (1.0 - limit) * 2.0 / 3.0,
            slots,
        }
    }

    /// Overload-seconds per second at a utilisation.
    pub(super) fn penalty(&self, utilisation: f64) -> f64 {
        let soft = (utilisation - self.limit).max(0.0);
        let hard = (utilisation - self.hard_limit).max(0.0);
        SOFT_WEIGHT * soft * soft + HARD_WEIGHT * hard * hard
    }

    /// Overload-seconds from a moment to the end of the horizon, discounted, of a shard whose
    /// utilisation in slot k is `utilisation(k)`.
    pub(super) fn overload(&self, from: i64, utilisation: impl Fn(usize) -> f64) -> f64 {
        let mut sum = 0.0;
        for (slot, (start, end, discount)) in self.slots.iter().enumerate() {
            if *end > from {
                let seconds = (end - from.max(*start)) as f64 / 1e6;
                sum += self.penalty(utilisation(slot)) * seconds * discount;
            }
        }
        sum
    }

    /// The length of the horizon, s, discounted.
    pub(super) fn horizon(&self) -> f64 {
        self.slots
            .iter()
            .map(|(start, end, discount)| (end - start) as f64 / 1e6 * discount)
            .sum()
    }
}

/// How long rewriting so many bytes takes, s: preparing, copying, and a cutover of the given pause.
pub(super) fn duration(learned: &Learned, bytes: f64, pause: f64) -> f64 {
    learned.overhead + bytes / learned.copy_rate + pause
}

/// The overload-seconds spent on a migration.
///
/// `utilisation` is that of the sources at the cutover, which lasts for `pause` s, `extra_shards` what the table gains in shards,
/// each of which is paid for over the `horizon`.
pub(super) fn cost(
    policy: &Policy,
    learned: &Learned,
    bytes: f64,
    pause: f64,
    utilisation: f64,
    extra_shards: f64,
    horizon: f64,
) -> f64 {
    let copying = policy.copy_tax * bytes / learned.copy_rate;
    let pausing = policy.pause_price * pause * utilisation;
    copying + pausing + policy.fixed_cost + policy.shard_price * extra_shards.max(0.0) * horizon
}

/// The overload-seconds that a merge spares by leaving fewer shards.
pub(super) fn merge_benefit(policy: &Policy, fewer_shards: f64) -> f64 {
    policy.shard_price * fewer_shards * policy.merge_payback as f64 / 1e6
}

/// The policy with every number in its range, so that nothing below has to check.
pub(super) fn checked(policy: &Policy) -> Policy {
    let default = Policy::default();
    let within = |value: f64, low: f64, high: f64, otherwise: f64| {
        if value.is_finite() {
            value.clamp(low, high)
        } else {
            otherwise
        }
    };
    Policy {
        target_utilisation: within(
            policy.target_utilisation,
            0.01,
            0.99,
            default.target_utilisation,
        ),
        shard_capacity: finite(policy.shard_capacity),
        min_shard_bytes: finite(policy.min_shard_bytes),
        max_shard_bytes: finite(policy.max_shard_bytes),
        dwell: policy.dwell.max(0),
        theta: within(policy.theta, 0.0, 1e6, default.theta),
        churn_budget: within(policy.churn_budget, 0.0, 1.0, default.churn_budget),
        max_steps: policy.max_steps.max(1),
        max_movers: policy.max_movers.max(1),
        max_parts: policy.max_parts.clamp(2, 64),
        max_merge: policy.max_merge.clamp(2, 1_000),
        cold_fraction: within(policy.cold_fraction, 0.0, 0.8, default.cold_fraction),
        min_confidence: within(policy.min_confidence, 0.0, 1.0, default.min_confidence),
        min_impact: within(policy.min_impact, 0.0, 1.0, default.min_impact),
        reactive_span: policy.reactive_span.max(1),
        discount: within(policy.discount, 0.0, 1.0, default.discount),
        copy_tax: finite(policy.copy_tax),
        pause_price: finite(policy.pause_price),
        fixed_cost: finite(policy.fixed_cost),
        shard_price: finite(policy.shard_price),
        merge_payback: policy.merge_payback.max(0),
        max_pause: finite(policy.max_pause),
        max_running: policy.max_running.max(1),
        cross_node: finite(policy.cross_node),
        min_free_disk: within(policy.min_free_disk, 0.0, 1.0, default.min_free_disk),
        max_shards: policy.max_shards,
    }
}

/// What was learned, with every number in its range.
pub(super) fn checked_learned(learned: &Learned) -> Learned {
    let default = Learned::default();
    let positive = |value: f64, otherwise: f64| match finite(value) {
        value if value > 0.0 => value,
        _ => otherwise,
    };
    let factor = learned.theta_factor;
    Learned {
        copy_rate: positive(learned.copy_rate, default.copy_rate),
        copy_rate_spread: finite(learned.copy_rate_spread).min(4.0),
        overhead: finite(learned.overhead),
        pause: finite(learned.pause),
        delete_rate: positive(learned.delete_rate, default.delete_rate),
        insert_rate: positive(learned.insert_rate, default.insert_rate),
        theta_factor: if factor.is_finite() {
            factor.clamp(0.25, 4.0)
        } else {
            1.0
        },
        gain_ratio: learned.gain_ratio,
        outcomes: learned.outcomes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::input::{SECOND, Snapshot};

    fn objective() -> Objective {
        let policy = Policy {
            discount: 1.0,
            ..Policy::default()
        };
        Objective::new(&policy, &Grid::new(&Snapshot::default(), 120 * SECOND))
    }

    #[test]
    fn nothing_below_the_limit_costs_and_overload_grows_ever_faster() {
        let objective = objective();
        assert!((objective.hard_limit - 0.9).abs() < 1e-9);
        assert!(objective.penalty(0.70) < 1e-12);
        assert!((objective.penalty(0.80) - 0.2).abs() < 1e-9);
        assert!((objective.penalty(1.00) - 3.8).abs() < 1e-9);
    }

    #[test]
    fn only_the_time_after_a_moment_counts() {
        let objective = objective();
        let all = objective.overload(0, |_| 0.8);
        assert!((all - 120.0 * 0.2).abs() < 1e-6);
        assert!((objective.overload(90 * SECOND, |_| 0.8) - all / 4.0).abs() < 1e-6);
        assert!(objective.overload(500 * SECOND, |_| 0.8) < 1e-12);
    }

    #[test]
    fn a_policy_of_nonsense_is_brought_into_range() {
        let nonsense = Policy {
            target_utilisation: f64::NAN,
            theta: f64::INFINITY,
            max_parts: 0,
            ..Policy::default()
        };
        let policy = checked(&nonsense);
        assert_eq!(
            (policy.target_utilisation, policy.theta, policy.max_parts),
            (0.70, 2.0, 2)
        );
        let learned = checked_learned(&Learned {
            copy_rate: 0.0,
            pause: f64::NAN,
            ..Learned::default()
        });
        assert!(learned.copy_rate > 0.0 && learned.pause == 0.0);
    }
}
