//! Words for moves between nodes.

use super::{count, moment, number, percent, worth};
use crate::plan::candidate::Value;
use crate::plan::fleet::Fleet;
use crate::plan::moves::Cell;
use crate::plan::step::Reason;

fn node<'a>(fleet: &Fleet<'_, 'a>, node: usize) -> &'a str {
    fleet.model.nodes.get(node).map_or("", |node| node.name)
}

fn shard<'a>(fleet: &Fleet<'_, 'a>, shard: usize) -> (&'a str, &'a str) {
    let placed = fleet.shards.get(shard);
    let name = placed
        .and_then(|placed| fleet.model.shard(placed.table, placed.shard))
        .map_or("", |(shard, _)| shard.name.as_str());
    (name, placed.map_or("", |placed| node(fleet, placed.node)))
}

/// What gives rise to emptying a node.
pub(in crate::plan) fn draining(fleet: &Fleet, position: usize) -> String {
    let (name, home) = shard(fleet, position);
    let left = fleet
        .shards
        .get(position)
        .and_then(|placed| fleet.members.get(placed.node))
        .map_or(0, |member| member.shards.len());
    format!(
        "node {home} is to be emptied and holds {}, {name} among them",
        count(left, "shard")
    )
}

/// What gives rise to relieving a node.
pub(in crate::plan) fn overloaded(fleet: &Fleet, cell: Cell, reason: Reason) -> String {
    let model = fleet.model;
    let (name, limit) = (node(fleet, cell.node), percent(model.objective.limit));
    if reason == Reason::HotNow {
        let now = fleet
            .members
            .get(cell.node)
            .map_or(0.0, |member| member.now);
        return format!(
            "node {name} uses {} of its capacity now (limit {limit}) and {} {}",
            percent(now),
            percent(cell.used),
            moment(model, model.grid.start_of(cell.slot))
        );
    }
    format!(
        "node {name} is forecast to use {} of its capacity (limit {limit}), {}",
        percent(cell.used),
        moment(model, model.grid.start_of(cell.slot))
    )
}

/// What gives rise to bringing two shards together.
pub(in crate::plan) fn together(fleet: &Fleet, one: usize, other: usize, weight: f64) -> String {
    let ((one, home), (other, its)) = (shard(fleet, one), shard(fleet, other));
    format!(
        "{} transactions per second use both {one} on node {home} and {other} on node {its}",
        number(weight)
    )
}

/// What a move does.
pub(in crate::plan) fn deed(fleet: &Fleet, position: usize, to: usize) -> String {
    let Some(target) = fleet.model.nodes.get(to) else {
        return String::new();
    };
    let (name, home) = shard(fleet, position);
    let now = fleet.model.snapshot.now;
    let change = fleet.change(position, to, now);
    let disk = match fleet.members.get(to).and_then(|member| member.disk) {
        Some(_) => String::new(),
        None => " (how much its disk has left is not known)".to_owned(),
    };
    let joined = match change.joined {
        joined if joined > 0.005 => format!(
            ", and {} transactions per second less use two nodes",
            number(joined)
        ),
        joined if joined < -0.005 => format!(
            ", and {} transactions per second more use two nodes",
            number(-joined)
        ),
        _ => String::new(),
    };
    format!(
        "moving {name} to node {}{disk} leaves node {home} at most {} and node {} at most {}{joined}",
        target.name,
        percent(change.source_peak),
        target.name,
        percent(change.target_peak)
    )
}

/// Why a move lost against another one.
pub(in crate::plan) fn second(fleet: &Fleet, position: usize, to: usize, value: Value) -> String {
    let (name, _) = shard(fleet, position);
    format!(
        "moving {name} to node {} gains less: {}",
        node(fleet, to),
        worth(value)
    )
}

/// Why there is no node for a shard.
pub(in crate::plan) fn no_room(fleet: &Fleet, position: usize) -> String {
    let home = fleet.shards.get(position).map(|placed| placed.node);
    let reasons: Vec<String> = (0..fleet.model.nodes.len())
        .filter(|other| Some(*other) != home)
        .map(|other| {
            let why = match fleet.closed(other) {
                Some(why) => why,
                None if !fleet.has_room(position, other) => "its disk is short of space".to_owned(),
                None => {
                    let now = fleet.model.snapshot.now;
                    let peak = fleet.change(position, other, now).target_peak;
                    format!("it would use {} of its capacity", percent(peak))
                }
            };
            format!("{} ({why})", node(fleet, other))
        })
        .take(3)
        .collect();
    if reasons.is_empty() {
        return "there is no other node".to_owned();
    }
    format!("no other node can take it: {}", reasons.join(", "))
}

/// Why a node stays too hot: `impediment` keeps its largest shard there, or else there is no place for it.
pub(in crate::plan) fn stuck(
    fleet: &Fleet,
    cell: Cell,
    largest: usize,
    impediment: Option<String>,
) -> String {
    let part = percent(fleet.part(largest, cell.node, cell.slot));
    let (name, _) = shard(fleet, largest);
    let subject = overloaded(fleet, cell, Reason::PredictedHot);
    let why = impediment.unwrap_or_else(|| no_room(fleet, largest));
    format!(
        "{subject}, but no move relieves it: its largest shard, {name}, takes {part} of it; {why}"
    )
}
