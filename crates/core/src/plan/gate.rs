//! Whether a candidate may be carried out: the rules that keep the planner calm.

use super::candidate::{Candidate, Rejected, Value};
use super::explain;
use super::hot::Refusal;
use super::model::Model;
use super::schedule::{Lanes, Task, Timing, micros};
use super::step::Reason;

/// Above this share of its capacity a shard is an emergency: break-even is good enough.
pub(super) const EMERGENCY: f64 = 0.95;

/// θ doubles with each reversal, so many times at most.
const MAX_DOUBLINGS: u32 = 16;

/// A candidate that may be carried out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Accepted {
    pub(super) candidate: Candidate,
    pub(super) timing: Timing,
    pub(super) value: Value,
}

/// How urgent a candidate is, and how much it matters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Case {
    /// Break-even is good enough.
    pub(super) emergency: bool,
    /// The share of its node's load that is at stake; `None` where that is no question.
    pub(super) impact: Option<f64>,
}

/// What the steps accepted so far have used up.
pub(super) struct Gate<'m, 'a> {
    model: &'m Model<'a>,
    lanes: Lanes,
    /// Per table and shard: taken by a step.
    used: Vec<Vec<bool>>,
    /// Shards per table once the steps are done.
    shards: Vec<usize>,
    bytes: f64,
    steps: usize,
}

impl<'m, 'a> Gate<'m, 'a> {
    /// A gate that has let nothing through yet.
    pub(super) fn new(model: &'m Model<'a>) -> Gate<'m, 'a> {
        Gate {
            model,
            lanes: Lanes::default(),
            used: model
                .views
                .iter()
                .map(|views| vec![false; views.len()])
                .collect(),
            shards: model.views.iter().map(Vec::len).collect(),
            bytes: 0.0,
            steps: 0,
        }
    }

    /// Lets a candidate through, or says which rule forbids it.
    pub(super) fn judge(&mut self, candidate: &Candidate) -> Result<Accepted, Rejected> {
        let case = Case {
            emergency: self.is_emergency(candidate),
            impact: self.impact(candidate),
        };
        let value = |finish| candidate.value(self.model, finish);
        self.judge_as(candidate, case, value)
    }

    /// As [`Gate::judge`], of a candidate whose value at a time of its cutover somebody else knows.
    pub(super) fn judge_as(
        &mut self,
        candidate: &Candidate,
        case: Case,
        value: impl Fn(i64) -> Value,
    ) -> Result<Accepted, Rejected> {
        self.room(candidate)
            .map_err(|(rule, why)| candidate.reject(rule, self.sentence(candidate, &why), None))?;
        let nodes = self.nodes(candidate);
        let timing = self.lanes.place(
            self.model,
            Task {
                nodes: &nodes,
                duration: candidate.duration(self.model),
                deadline: candidate.deadline,
                soon: candidate.reason == Reason::Drain,
            },
        );
        let value = value(timing.finish);
        self.worth(candidate, case, value).map_err(|(rule, why)| {
            candidate.reject(rule, self.sentence(candidate, &why), Some(value))
        })?;
        self.take(candidate, &nodes, &timing);
        Ok(Accepted {
            candidate: candidate.clone(),
            timing,
            value,
        })
    }

    /// A candidate that lost against a better one for the same shard.
    pub(super) fn second_best(&self, candidate: &Candidate) -> Rejected {
        let finish = self
            .model
            .snapshot
            .now
            .saturating_add(micros(candidate.duration(self.model)));
        let value = candidate.value(self.model, finish);
        let why = format!(
            "a {} gains less for its cost: {}",
            candidate.action,
            explain::worth(value)
        );
        candidate.reject(Reason::LowerRatio, why, Some(value))
    }

    fn sentence(&self, candidate: &Candidate, why: &str) -> String {
        let subject = explain::candidate_subject(self.model, candidate);
        format!("{subject}, but {why}")
    }

    /// The nodes that a candidate keeps at work.
    fn nodes(&self, candidate: &Candidate) -> Vec<usize> {
        let from = self
            .model
            .shard(candidate.table, candidate.subject)
            .map_or(0, |(_, view)| view.node);
        let to = candidate.to.as_ref().map(|to| to.node);
        std::iter::once(from).chain(to).collect()
    }

    /// Whether a step of this plan changes a shard already.
    pub(super) fn is_used(&self, table: usize, shard: usize) -> bool {
        let used = self.used.get(table).and_then(|used| used.get(shard));
        used.copied().unwrap_or(true)
    }

    /// Rules that need no price: shards taken, number of shards, number of steps, churn.
    fn room(&self, candidate: &Candidate) -> Result<(), Refusal> {
        let policy = &self.model.policy;
        let used = self
            .used
            .get(candidate.table)
            .map(Vec::as_slice)
            .unwrap_or_default();
        if candidate
            .sources
            .clone()
            .any(|shard| used.get(shard).copied().unwrap_or(true))
        {
            let why = "another step of this plan changes one of its shards".to_owned();
            return Err((Reason::Busy, why));
        }
        let shards = self
            .shards
            .get(candidate.table)
            .copied()
            .unwrap_or_default();
        let after = shards + candidate.targets.len() - candidate.sources.len();
        if after > shards && after > policy.max_shards {
            return Err((
                Reason::MaxShards,
                format!(
                    "the table would have {after} shards and may have {}",
                    policy.max_shards
                ),
            ));
        }
        if self.steps >= policy.max_steps {
            return Err((
                Reason::ChurnBudget,
                format!("this plan has {} steps already", self.steps),
            ));
        }
        let budget = policy.churn_budget * self.model.total_bytes;
        if self.steps > 0 && self.bytes + candidate.effort.bytes > budget {
            let (more, spent) = (
                explain::bytes(candidate.effort.bytes),
                explain::bytes(self.bytes),
            );
            let share = explain::percent(policy.churn_budget);
            let why = format!(
                "its {more} on top of the {spent} of more urgent steps exceed {share} of all bytes"
            );
            return Err((Reason::ChurnBudget, why));
        }
        Ok(())
    }

    /// Whether the gain justifies the price. A size limit is a rule, not a trade.
    fn worth(&self, candidate: &Candidate, case: Case, value: Value) -> Result<(), Refusal> {
        if matches!(candidate.reason, Reason::TooLarge | Reason::Drain) {
            return Ok(());
        }
        let theta = self.theta(candidate, case.emergency);
        let sure = explain::percent(candidate.confidence);
        if value.benefit <= 0.0 || candidate.confidence * value.benefit < theta * value.cost {
            let worth = explain::worth(value);
            let why = format!(
                "a {} {worth}; at a confidence of {sure} that is less than {theta:.3} times",
                candidate.action
            );
            return Err((Reason::BelowBenefit, why));
        }
        match case.impact {
            Some(share) if share < self.model.policy.min_impact => {
                let (share, least) = (
                    explain::percent(share),
                    explain::percent(self.model.policy.min_impact),
                );
                Err((
                    Reason::BelowBenefit,
                    format!(
                        "it stays below the hard limit and carries {share} of the load of its node, less than {least}"
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// How many times the cost the benefit must be.
    fn theta(&self, candidate: &Candidate, emergency: bool) -> f64 {
        let theta = self.model.policy.theta * self.model.learned.theta_factor;
        if emergency {
            return theta.min(1.0);
        }
        let sources = candidate
            .sources
            .clone()
            .filter_map(|at| self.model.shard(candidate.table, at));
        let reversals = sources
            .map(|(shard, _)| shard.reversals)
            .max()
            .unwrap_or_default();
        theta * f64::from(1u32 << reversals.min(MAX_DOUBLINGS))
    }

    fn is_emergency(&self, candidate: &Candidate) -> bool {
        let subject = self.model.shard(candidate.table, candidate.subject);
        subject.is_some_and(|(_, view)| view.now > EMERGENCY * view.capacity)
    }

    /// The share of its node's load that a predicted hot shard carries; `None` where that is no
    /// question: it is too hot already, or will be above the hard limit.
    fn impact(&self, candidate: &Candidate) -> Option<f64> {
        let (_, view) = self.model.shard(candidate.table, candidate.subject)?;
        let hard = self.model.objective.hard_limit * view.capacity;
        if candidate.reason != Reason::PredictedHot || view.peak().1 > hard {
            return None;
        }
        let node = self.model.volume(&self.model.nodes.get(view.node)?.load);
        (node > 0.0).then(|| self.model.volume(&view.load) / node)
    }

    fn take(&mut self, candidate: &Candidate, nodes: &[usize], timing: &Timing) {
        self.lanes.reserve(nodes, timing);
        if let Some(used) = self.used.get_mut(candidate.table) {
            for flag in used
                .iter_mut()
                .take(candidate.sources.end)
                .skip(candidate.sources.start)
            {
                *flag = true;
            }
        }
        if let Some(shards) = self.shards.get_mut(candidate.table) {
            *shards = (*shards + candidate.targets.len()).saturating_sub(candidate.sources.len());
        }
        self.bytes += candidate.effort.bytes;
        self.steps += 1;
    }
}
