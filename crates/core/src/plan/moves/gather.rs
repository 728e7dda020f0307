//! Bringing shards together that the same transactions use.

use super::{Chance, PAIRS_CONFIDENCE, Search, TRIED_PAIRS};
use crate::plan::candidate::Rejected;
use crate::plan::explain::moves as words;
use crate::plan::gate::Case;
use crate::plan::step::Reason;

impl Search<'_, '_, '_> {
    /// Brings shards together that the same transactions use.
    pub(super) fn gather(&mut self) {
        let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
        for (one, others) in self.fleet.together.iter().enumerate() {
            for (other, weight) in others.iter().filter(|(other, _)| *other > one) {
                if self.home(one) != self.home(*other) {
                    pairs.push((*weight, one, *other));
                }
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        for (weight, one, other) in pairs.into_iter().take(TRIED_PAIRS) {
            if self.full {
                return;
            }
            self.join(one, other, weight);
        }
    }

    fn home(&self, shard: usize) -> usize {
        self.fleet.shards.get(shard).map_or(0, |placed| placed.node)
    }

    /// Moves one of two shards to the other, if one of the ways is worth it.
    fn join(&mut self, one: usize, other: usize, weight: f64) {
        let mut options = Vec::new();
        for (shard, to) in [(one, other), (other, one)] {
            let node = self.home(to);
            if node == self.home(shard)
                || !self.free.get(shard).copied().unwrap_or(false)
                || !self.open.contains(&node)
            {
                continue;
            }
            let found = self.options_of(shard, &[node]);
            options.extend(
                found
                    .into_iter()
                    .filter(|option| option.node == node)
                    .map(|o| (o, to)),
            );
        }
        let limit = self.model.objective.limit;
        let now = self.model.snapshot.now;
        options.retain(|(option, _)| {
            let change = self.fleet.change(option.shard, option.node, now);
            change.joined > 0.0 && change.target_peak <= limit
        });
        options.sort_by(|a, b| b.0.net.total_cmp(&a.0.net));
        let Some((best, partner)) = options.first().copied() else {
            return;
        };
        let case = Case {
            emergency: false,
            impact: self.share_of_crossing(best),
        };
        let subject = words::together(&self.fleet, best.shard, partner, weight);
        let others = options
            .get(1)
            .map(|(other, _)| self.second_best(*other, Reason::Gather));
        let others: Vec<Rejected> = others.into_iter().collect();
        let (shard, node) = (best.shard, best.node);
        let candidate =
            self.candidate(shard, node, Reason::Gather, None, PAIRS_CONFIDENCE, subject);
        self.judge(candidate, shard, node, case, others);
    }

    /// What joining a shard with its partners spares, as a share of what its node does.
    fn share_of_crossing(&self, option: Chance) -> Option<f64> {
        let node = self.home(option.shard);
        let member = self.fleet.members.get(node)?;
        let capacity = self.model.nodes.get(node)?.capacity;
        let busy = member.now * capacity;
        let joined = self.fleet.joined(option.shard, option.node);
        let spared = joined * self.model.policy.cross_node * 1e3;
        (busy > 0.0).then(|| spared / busy)
    }
}
