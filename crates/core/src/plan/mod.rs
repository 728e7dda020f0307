//! From a snapshot to a plan: what to do, when, and why.
//!
//! [`plan`] is a pure function. It looks at every shard (`model`), proposes candidates for those that
//! are or will be hot (`hot`, `shift`) and for cold neighbours (`cold`), prices them in one unit
//! (`objective`), and lets the most urgent through a gate (`gate`) that also finds each its time
//! (`schedule`). Where there are several nodes (`fleet`), shards are moved between them (`moves`): after the hot ones
//! were dealt with, before the cold ones. Everything not done keeps the rule that forbade it (`explain`).

mod candidate;
mod cold;
mod effort;
mod explain;
mod fleet;
mod gate;
mod grid;
mod hot;
pub mod input;
mod model;
mod moves;
mod objective;
mod obstacle;
mod schedule;
mod shift;
mod split;
pub mod step;
pub mod synthetic;
#[cfg(test)]
mod tests;

pub use input::Snapshot;
pub use step::{Action, Plan, Reason, Step};

use candidate::{Proposal, Rejected};
use cold::ColdTally;
use gate::{Accepted, Gate};
use model::Model;

/// The most alternatives that one row shows.
const ALTERNATIVES: usize = 3;

/// The plan for a snapshot. The same snapshot always gives the same plan.
///
/// The plan is never empty: when there is nothing to do, it is one row that says why.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let model = Model::new(snapshot);
    let mut gate = Gate::new(&model);
    let (mut accepted, mut held_back) = choose(&mut gate, hot_ones(&model));
    let (moved, held) = moves::choose(&model, &mut gate);
    accepted.extend(moved);
    held_back.extend(held);
    let (proposals, tally) = cold_ones(&model);
    let (merged, held) = choose(&mut gate, proposals);
    accepted.extend(merged);
    held_back.extend(held);
    if accepted.is_empty() {
        return Plan {
            steps: vec![nothing(&model, &held_back, tally)],
        };
    }
    let mut rows = accepted;
    hand_out(&mut rows, held_back);
    rows.sort_by_key(|(accepted, _)| {
        let candidate = &accepted.candidate;
        let deadline = candidate.deadline.unwrap_or(i64::MAX);
        (
            accepted.timing.start,
            deadline,
            candidate.table,
            candidate.sources.start,
        )
    });
    Plan {
        steps: rows
            .iter()
            .filter_map(|(accepted, rejected)| step(&model, accepted, rejected))
            .collect(),
    }
}

/// What could be done about hot shards, the most urgent first.
fn hot_ones(model: &Model) -> Vec<Proposal> {
    let tables = model.views.iter().enumerate();
    let mut proposals: Vec<Proposal> = tables
        .flat_map(|(table, views)| (0..views.len()).map(move |shard| (table, shard)))
        .filter_map(|(table, shard)| hot::proposal(model, table, shard))
        .collect();
    proposals.sort_by(by_urgency);
    proposals
}

/// What could be done about cold ones, and how many of them wait.
fn cold_ones(model: &Model) -> (Vec<Proposal>, ColdTally) {
    let mut proposals = Vec::new();
    let mut tally = ColdTally::default();
    for table in 0..model.views.len() {
        let (groups, waiting) = cold::groups(model, table);
        proposals.extend(groups);
        tally.young += waiting.young;
        tally.blocked += waiting.blocked;
        tally.large += waiting.large;
    }
    proposals.sort_by(by_urgency);
    (proposals, tally)
}

fn by_urgency(a: &Proposal, b: &Proposal) -> std::cmp::Ordering {
    let deadline = |proposal: &Proposal| proposal.deadline.unwrap_or(i64::MAX);
    deadline(a)
        .cmp(&deadline(b))
        .then(b.severity.total_cmp(&a.severity))
        .then((a.table, a.subject).cmp(&(b.table, b.subject)))
}

type Row = (Accepted, Vec<Rejected>);

/// For each proposal its best candidate that passes the gate, with what was rejected beside it; and
/// what belongs to no step.
fn choose(gate: &mut Gate, proposals: Vec<Proposal>) -> (Vec<Row>, Vec<Rejected>) {
    let mut rows: Vec<Row> = Vec::new();
    let mut held_back = Vec::new();
    for proposal in proposals {
        let mut chosen: Option<Accepted> = None;
        let mut rejected = Vec::new();
        for candidate in &proposal.candidates {
            if chosen.is_some() {
                rejected.push(gate.second_best(candidate));
                continue;
            }
            match gate.judge(candidate) {
                Ok(accepted) => chosen = Some(accepted),
                Err(refusal) => rejected.push(refusal),
            }
        }
        rejected.extend(proposal.rejected);
        match chosen {
            Some(accepted) => rows.push((accepted, rejected)),
            None => held_back.extend(rejected),
        }
    }
    (rows, held_back)
}

/// Gives what was held back to the first step of the same table that has room, or else to the first
/// step with room.
fn hand_out(rows: &mut [Row], held_back: Vec<Rejected>) {
    for rejected in held_back {
        let room = |row: &Row| row.1.len() < ALTERNATIVES;
        let same = |row: &Row| row.0.candidate.table == rejected.table;
        let at = rows
            .iter()
            .position(|row| room(row) && same(row))
            .or_else(|| rows.iter().position(room));
        match at.and_then(|at| rows.get_mut(at)) {
            Some(row) => row.1.push(rejected),
            None => return,
        }
    }
}

/// The row of an accepted candidate.
fn step(model: &Model, accepted: &Accepted, rejected: &[Rejected]) -> Option<Step> {
    let candidate = &accepted.candidate;
    let (owner, _) = model.table(candidate.table)?;
    let sources = owner.shards.get(candidate.sources.clone())?;
    let (first, last) = (sources.first()?, sources.last()?);
    let placement = placement(first);
    let to = candidate
        .to
        .as_ref()
        .and_then(|to| model.nodes.get(to.node));
    Some(Step {
        action: candidate.action,
        table: owner.id,
        sources: sources.iter().map(|shard| shard.id).collect(),
        boundaries: candidate.boundaries.clone(),
        key_from: first.lower.clone(),
        key_to: last.upper.clone(),
        target: to.map_or_else(|| placement.clone(), |node| node.name.to_owned()),
        source: placement,
        bytes: candidate.effort.bytes,
        reason: candidate.reason,
        why: explain::why(model, accepted),
        load_before: candidate.load_before(model),
        load_after: candidate.load_after(model),
        benefit: accepted.value.benefit,
        cost: accepted.value.cost,
        start_by: accepted.timing.start_by,
        planned_start: accepted.timing.start,
        deadline: candidate.deadline,
        duration: candidate.duration(model),
        pause: candidate.effort.pause(model),
        will_miss: accepted.timing.will_miss,
        confidence: candidate.confidence,
        alternatives: explain::alternatives(model, rejected),
    })
}

/// The one row of a plan without steps: about the first candidate held back, or the busiest shard.
fn nothing(model: &Model, held_back: &[Rejected], tally: ColdTally) -> Step {
    let first = held_back.first();
    let about = first
        .map(|held| (held.table, held.sources.start))
        .or_else(|| explain::busiest(model));
    let shard = about.and_then(|(table, shard)| model.shard(table, shard));
    let owner = about.and_then(|(table, _)| model.table(table));
    let placement = shard.map(|(shard, _)| placement(shard)).unwrap_or_default();
    let peak = shard.map_or(0.0, |(_, view)| view.peak().1);
    Step {
        action: Action::None,
        table: owner.map_or(0, |(table, _)| table.id),
        sources: shard.iter().map(|(shard, _)| shard.id).collect(),
        boundaries: Vec::new(),
        key_from: shard.and_then(|(shard, _)| shard.lower.clone()),
        key_to: shard.and_then(|(shard, _)| shard.upper.clone()),
        source: placement.clone(),
        target: placement,
        bytes: 0.0,
        reason: first.map_or(Reason::NoAction, |held| held.rule),
        why: explain::nothing(model, held_back, tally),
        load_before: peak,
        load_after: peak,
        benefit: 0.0,
        cost: 0.0,
        start_by: None,
        planned_start: model.snapshot.now,
        deadline: None,
        duration: 0.0,
        pause: 0.0,
        will_miss: false,
        confidence: shard.map_or(0.0, |(_, view)| view.confidence),
        alternatives: explain::alternatives(model, held_back),
    }
}

/// `node` or `node/tablespace`.
fn placement(shard: &input::Shard) -> String {
    match &shard.tablespace {
        Some(tablespace) => format!("{}/{tablespace}", shard.node),
        None => shard.node.clone(),
    }
}
