//! Why a shard may not be touched, or why touching it would not help.

use super::explain;
use super::hot::{Need, Refusal};
use super::model::{Model, View};
use super::step::Reason;
use crate::heat::Segment;

/// A shard is not split when one key has this share of its load and is too hot by itself.
const POPULAR: f64 = 0.5;

/// A shard is not split for its load where keys are appended in this order, and this share of the load is at the
/// end at which they are: the new shards would be as the old one, one idle and one hot.
const APPENDED: f64 = 0.8;
const AT_THE_END: f64 = 0.5;

/// How much of a shard, by its rows, counts as its end.
const END: f64 = 0.1;

/// Why a shard may not be reshaped now.
pub(super) fn blocked(model: &Model, table: usize, shard: usize) -> Option<Refusal> {
    let (of_shard, _) = model.shard(table, shard)?;
    if let Some(reason) = &of_shard.indivisible {
        let why = format!("{} cannot be reshaped: {reason}", of_shard.name);
        return Some((Reason::Unmovable, why));
    }
    held(model, table, shard).or_else(|| resting(model, table, shard))
}

/// Why a shard may not be touched now, whatever for.
pub(super) fn held(model: &Model, table: usize, shard: usize) -> Option<Refusal> {
    let (of_shard, _) = model.shard(table, shard)?;
    let name = &of_shard.name;
    if of_shard.busy {
        return Some((
            Reason::Busy,
            format!("a migration of {name} is queued or running"),
        ));
    }
    if let Some(reason) = &of_shard.unmovable {
        return Some((
            Reason::Unmovable,
            format!("{name} cannot be migrated: {reason}"),
        ));
    }
    None
}

/// Why a shard that was migrated of late is left alone.
pub(super) fn resting(model: &Model, table: usize, shard: usize) -> Option<Refusal> {
    let (of_shard, _) = model.shard(table, shard)?;
    let name = &of_shard.name;
    let rested = model.snapshot.now.saturating_sub(of_shard.last_change?);
    if rested >= model.policy.dwell {
        return None;
    }
    let left = explain::span(model.policy.dwell.saturating_sub(rested.max(0)));
    Some((
        Reason::Dwell,
        format!(
            "{name} was migrated {} ago and rests for {left} more",
            explain::span(rested)
        ),
    ))
}

/// Why no boundary would help.
pub(super) fn indivisible(need: &Need, view: &View, segments: &[Segment]) -> Option<Refusal> {
    let hottest = segments.iter().max_by(|a, b| a.share.total_cmp(&b.share));
    let Some(hottest) = hottest.filter(|hottest| segments.len() > 1 || hottest.single_key) else {
        let why = "it is not known how its keys are distributed (ANALYZE helps)".to_owned();
        return Some((Reason::UnknownKeys, why));
    };
    let by_itself = hottest.share * view.peak().1;
    let popular = hottest.single_key && hottest.share >= POPULAR && by_itself > view.limit;
    if segments.len() > 1 && (need.reason == Reason::TooLarge || !popular) {
        return None;
    }
    let share = explain::percent(hottest.share);
    Some((
        Reason::SingleKeyHot,
        format!("one key carries {share} of it and no boundary can divide a key"),
    ))
}

/// Why a boundary would not help against load that moves on as keys are appended.
pub(super) fn appended(need: &Need, append: f64, segments: &[Segment]) -> Option<Refusal> {
    if need.reason == Reason::TooLarge || append.abs() < APPENDED {
        return None;
    }
    let (mut rows, mut load) = (0.0, 0.0);
    let mut from_the_end: Vec<&Segment> = segments.iter().collect();
    if append > 0.0 {
        from_the_end.reverse();
    }
    for segment in from_the_end {
        // The first one counts however large it is.
        if rows > 0.0 && rows + segment.rows_share > END {
            break;
        }
        rows += segment.rows_share;
        load += segment.share;
    }
    let end = if append > 0.0 { "highest" } else { "lowest" };
    (load >= AT_THE_END).then(|| {
        let share = explain::percent(load);
        (
            Reason::AppendHot,
            format!(
                "{share} of it falls on the {end} keys, to which new ones are added in order: a split would leave it all in one shard"
            ),
        )
    })
}
