//! A colocation group as a plan sees it: as one table. A step reshapes all of its tables, so that what counts is
//! the load, the size and the past of each range in all of them together.

use pgrx::pg_sys;
use repart_core::plan::input::Shard;
use repart_core::series;

use crate::catalog::shards::{self, Shard as Partition};
use crate::decide::many;
use crate::decide::options::Options;
use crate::decide::table::Forecasted;
use crate::error::{Error, Result};
use crate::migrate::colocated;
use crate::pg::relation;

/// The shards of the first table of a group, each with what the others have in its range.
pub fn together(
    first: &Forecasted,
    others: &[Forecasted],
    options: &Options,
) -> Result<Vec<Shard>> {
    let mut sums = first.shards.clone();
    for other in others {
        if differs(first, other)? {
            let why = format!(
                "it is colocated with table \"{}\", which has other shards",
                relation::display_name(other.relation)?
            );
            for sum in &mut sums {
                sum.unmovable = Some(why.clone());
            }
            return Ok(sums);
        }
        for (sum, shard) in sums.iter_mut().zip(&other.shards) {
            add(sum, shard);
        }
    }
    if !others.is_empty() {
        for (n, sum) in sums.iter_mut().enumerate() {
            let members = [first].into_iter().chain(others);
            sum.cost = cost(members.filter_map(|table| table.shards.get(n)));
        }
        for (n, sum) in sums.iter_mut().enumerate() {
            let loads: Vec<(f64, &[series::Sample])> = [first]
                .into_iter()
                .chain(others)
                .filter_map(|table| Some((1.0, table.loads.get(n)?.as_slice())))
                .collect();
            // What several shards together "leave" to one is the sum of their histories.
            let load = series::inherit(&[], &loads, i64::MAX);
            let name = sum.name.clone();
            for foreseen in many::foresee(&[(name.as_str(), load)], options)? {
                foreseen.fill(sum);
            }
        }
    }
    Ok(sums)
}

fn differs(one: &Forecasted, other: &Forecasted) -> Result<bool> {
    let key = shards::key(one.relation)?;
    let difference = colocated::first_difference(&key, &one.partitions, &other.partitions)?;
    Ok(difference.is_some())
}

/// What a row takes in these shards, each weighed by the load that it has now; 0 where that is not known.
fn cost<'s>(shards: impl Iterator<Item = &'s Shard>) -> f64 {
    let known = shards.filter(|shard| shard.cost > 0.0);
    let (busy, rows) = known.fold((0.0, 0.0), |(busy, rows), shard| {
        let load = shard.load_now.max(1e-3);
        (busy + shard.cost * load, rows + load)
    });
    if rows > 0.0 { busy / rows } else { 0.0 }
}

/// Adds what is no series. The load is summed as one, and forecast anew.
fn add(sum: &mut Shard, shard: &Shard) {
    sum.rows += shard.rows;
    sum.bytes += shard.bytes;
    sum.last_change = sum.last_change.max(shard.last_change);
    sum.reversals = sum.reversals.max(shard.reversals);
    sum.busy |= shard.busy;
    sum.mergeable_with_next &= shard.mergeable_with_next;
    if sum.unmovable.is_none() {
        sum.unmovable.clone_from(&shard.unmovable);
    }
    if sum.indivisible.is_none() {
        sum.indivisible.clone_from(&shard.indivisible);
    }
    sum.companions.push(shard.id);
    sum.forecast = None;
    (sum.load_now, sum.recent_peak, sum.history_span) = (0.0, 0.0, 0);
}

/// Which table has the most load, or else the most bytes, in the range of the n-th shard: how its keys are
/// distributed decides where the range is divided.
pub fn heaviest(tables: &[Forecasted], n: usize) -> Result<(pg_sys::Oid, &Partition)> {
    let weight = |table: &Forecasted| {
        let shard = table.shards.get(n);
        shard.map_or((0.0, 0.0), |shard| {
            (shard.load_now.max(shard.recent_peak), shard.bytes)
        })
    };
    tables
        .iter()
        .reduce(|best, next| {
            let ((load, bytes), (best_load, best_bytes)) = (weight(next), weight(best));
            let heavier = load > best_load || load >= best_load && bytes > best_bytes;
            if heavier { next } else { best }
        })
        .and_then(|table| Some((table.relation, table.partitions.get(n)?)))
        .ok_or_else(|| Error::Internal("a group without shards".to_owned()))
}
