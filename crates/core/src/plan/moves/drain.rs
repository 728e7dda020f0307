//! Emptying nodes that are to be.

use super::Search;
use crate::plan::explain::moves as words;
use crate::plan::gate::Case;
use crate::plan::step::Reason;

impl Search<'_, '_, '_> {
    /// Empties the nodes that are to be, the largest shards first.
    pub(super) fn drain(&mut self) {
        for node in 0..self.model.nodes.len() {
            let known = self.model.nodes.get(node).and_then(|node| node.known);
            if !known.is_some_and(|node| node.draining) {
                continue;
            }
            let mut shards = match self.fleet.members.get(node) {
                Some(member) => member.shards.clone(),
                None => continue,
            };
            let bytes = |shard: &usize| self.fleet.view(*shard).map_or(0.0, |view| view.bytes);
            shards.sort_by(|a, b| bytes(b).total_cmp(&bytes(a)).then(a.cmp(b)));
            for shard in shards {
                if self.full {
                    return;
                }
                self.evacuate(shard);
            }
        }
    }

    /// Finds a place for a shard of a node that is to be emptied.
    fn evacuate(&mut self, shard: usize) {
        let Some(placed) = self.fleet.shards.get(shard).copied() else {
            return;
        };
        if self.gate.is_used(placed.table, placed.shard) {
            return;
        }
        let subject = words::draining(&self.fleet, shard);
        if let Some((rule, why)) = self.obstacle(placed) {
            return self.hold_back(shard, rule, format!("{subject}, but {why}"));
        }
        let hard = self.model.objective.hard_limit;
        let now = self.model.snapshot.now;
        let mut best: Option<(f64, f64, usize)> = None;
        for node in &self.open {
            if *node == placed.node || !self.fleet.has_room(shard, *node) {
                continue;
            }
            let change = self.fleet.change(shard, *node, now);
            if change.target_peak > hard {
                continue;
            }
            let arriving = self.fleet.arriving(shard, *node, now);
            let price = arriving - self.fleet.crossing(change.joined);
            let better = |(least, peak, _): &(f64, f64, usize)| {
                price < least - 1e-9 || price <= least + 1e-9 && change.target_peak < *peak
            };
            if best.as_ref().is_none_or(better) {
                best = Some((price, change.target_peak, *node));
            }
        }
        let Some((_, _, node)) = best else {
            let why = words::no_room(&self.fleet, shard);
            return self.hold_back(shard, Reason::NoCapacity, format!("{subject}, but {why}"));
        };
        let candidate = self.candidate(shard, node, Reason::Drain, None, 1.0, subject);
        let case = Case {
            emergency: false,
            impact: None,
        };
        self.judge(candidate, shard, node, case, Vec::new());
    }
}
