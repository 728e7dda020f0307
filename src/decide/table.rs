//! One sharded table, or one colocation group, as a plan sees it: shards with their forecasts, buckets and past.

use std::collections::HashMap;

use pgrx::pg_sys;
use repart_core::forecast::{self, Forecast};
use repart_core::plan::input::{Shard, Table};
use repart_core::series::{Sample, Series};

use crate::catalog::forecasts::{self, Curve as StoredCurve};
use crate::catalog::lineage::{self, Link};
use crate::catalog::shards::{self, Shard as Partition, ShardKey};
use crate::catalog::{groups, journal, keys, nodes, samples, tables};
use crate::decide::group;
use crate::decide::many::{self, Foreseen};
use crate::decide::options::Options;
use crate::error::{Error, Result};
use crate::manage::leaf_keys;
use crate::observe::heat;
use crate::observe::history::{self, History, Metric};
use crate::pg::relation;
use crate::pg::time::{self, SECOND};
use crate::settings;

/// What a row takes is that of so long, µs: as it is now, and with the quiet hours of a day.
const COST_SPAN: i64 = 24 * 3_600 * SECOND;

/// Keys are looked at when the load comes this close to the limit: a little before the planner acts, so
/// that rounding does not matter.
const NEARLY: f64 = 0.95;

/// Of a table with more shards only the load is forecast for a plan, not each metric too: a forecast takes
/// tens of milliseconds. `repart_forecast` makes them on demand.
const DETAILED_SHARDS: usize = 64;

/// Forecasts the load of every shard of a managed table, stores that, and gathers what a plan needs. Of a colocation
/// group, given by its first table, one table is made: it is planned as one.
pub fn prepare(relation: pg_sys::Oid, options: &Options) -> Result<Table> {
    tables::require(relation)?;
    let options = &options.with_model_of(relation)?;
    let tables = groups::members(relation)?
        .into_iter()
        .map(|member| Forecasted::of(member, options))
        .collect::<Result<Vec<_>>>()?;
    let Some((first, others)) = tables.split_first() else {
        return Err(Error::NotManaged(relation::display_name(relation)?));
    };
    let mut prepared = group::together(first, others, options)?;
    for (n, shard) in prepared.iter_mut().enumerate() {
        if may_be_divided(shard) {
            let (table, partition) = group::heaviest(&tables, n)?;
            divide(shard, &shards::key(table)?, partition)?;
        }
    }
    let names = others
        .iter()
        .map(|other| relation::display_name(other.relation));
    Ok(Table {
        id: first.relation.to_u32(),
        name: relation::display_name(first.relation)?,
        shards: prepared,
        bound: bound(&tables)?,
        colocated: names.collect::<Result<_>>()?,
    })
}

/// Why the shards of a group cannot go to other nodes, where there are any.
fn bound(tables: &[Forecasted]) -> Result<Option<String>> {
    if nodes::all()?.is_empty() {
        return Ok(None);
    }
    for table in tables {
        let indexes = leaf_keys::obstacles(table.relation)?;
        if !indexes.is_empty() {
            let name = relation::display_name(table.relation)?;
            return Ok(Some(format!(
                "{name} has unique indexes ({}), with which PostgreSQL admits no shards on other servers; repart_manage(..., leaf_keys => true) moves them to the shards",
                indexes.join(", ")
            )));
        }
    }
    Ok(None)
}

/// One table with its forecasts.
pub struct Forecasted {
    /// The table.
    pub relation: pg_sys::Oid,
    /// Its shards, ascending.
    pub partitions: Vec<Partition>,
    /// The same with their forecasts, without buckets.
    pub shards: Vec<Shard>,
    /// Their load so far.
    pub loads: Vec<Vec<Sample>>,
}

impl Forecasted {
    fn of(relation: pg_sys::Oid, options: &Options) -> Result<Self> {
        let options = &options.with_model_of(relation)?;
        let partitions = shards_of(relation)?;
        let past = Past::of(relation, &partitions)?;
        let (mut histories, mut loads) = (Vec::new(), Vec::new());
        for partition in &partitions {
            let history = history::of_family(partition.oid, &past.links, past.oldest)?;
            loads.push((partition.name.as_str(), history.samples(Metric::Load)));
            // Those of all shards of a large table would be too much to keep.
            histories.push((past.stored.len() > 1).then_some(history));
        }
        let mut shards = Vec::new();
        let all = many::foresee(&loads, options)?;
        for ((partition, history), foreseen) in partitions.iter().zip(&histories).zip(all) {
            shards.push(past.shard(partition, history.as_ref(), foreseen, options)?);
        }
        let loads = loads.into_iter().map(|(_, load)| load).collect();
        mark_mergeable(&mut shards, &partitions);
        Ok(Self {
            relation,
            partitions,
            shards,
            loads,
        })
    }
}

/// Finds out how the shard's load is distributed: by its keys that were used where enough of them are known, else by
/// its rows.
fn divide(shard: &mut Shard, key: &ShardKey, partition: &Partition) -> Result<()> {
    let rows = keys::buckets(key, partition)?;
    let heat = heat::of(key, partition, &rows)?;
    shard.append = heat.as_ref().map_or(0.0, |heat| heat.append);
    shard.buckets = heat.and_then(|heat| heat.for_plan(&rows)).unwrap_or(rows);
    Ok(())
}

/// The shards of a table, without a DEFAULT partition, ascending.
pub fn shards_of(relation: pg_sys::Oid) -> Result<Vec<Partition>> {
    Ok(shards::of(relation)?
        .into_iter()
        .filter(|shard| !shard.is_default)
        .collect())
}

/// Forecasts a series of samples; `Ok(None)` for fewer than two of them. `ahead` is added to the horizon, µs.
pub fn forecast(
    shard: &str,
    samples: &[Sample],
    options: &Options,
    ahead: i64,
) -> Result<Option<(Series, Forecast)>> {
    let Some(step) = options.step(samples) else {
        return Ok(None);
    };
    let failed = |source| Error::Forecast {
        shard: shard.to_owned(),
        source,
    };
    let Ok(series) = Series::from_samples(samples, step) else {
        return Ok(None);
    };
    let asked = options.for_step(step, ahead)?;
    let made = forecast::events::forecast_with(&series, &asked, &options.events).map_err(failed)?;
    Ok(Some((series, made)))
}

/// The longest season of a forecast, µs.
pub fn season(forecast: &Forecast) -> Option<i64> {
    let steps = i64::try_from(*forecast.seasons.iter().max()?).ok()?;
    Some(steps.saturating_mul(forecast.step))
}

/// What is known of the past of a table's shards.
struct Past {
    links: Vec<Link>,
    changed_at: HashMap<pg_sys::Oid, i64>,
    busy: Vec<pg_sys::Oid>,
    /// Shards on nodes, with their names.
    homes: HashMap<pg_sys::Oid, String>,
    /// Shards that are on their way to another node: what they do is to be reckoned with there, and no more where they
    /// still are.
    destinations: HashMap<pg_sys::Oid, String>,
    /// The last known size, and what a row takes, ms.
    costs: HashMap<pg_sys::Oid, (Option<i64>, Option<f64>)>,
    oldest: i64,
    /// The metrics whose forecasts are stored.
    stored: &'static [Metric],
}

impl Past {
    fn of(relation: pg_sys::Oid, partitions: &[Partition]) -> Result<Self> {
        let shards: Vec<pg_sys::Oid> = partitions.iter().map(|partition| partition.oid).collect();
        let costs = samples::sizes_and_costs(&shards, time::now().saturating_sub(COST_SPAN))?;
        Ok(Self {
            links: lineage::of(&shards)?,
            changed_at: journal::last_changes(relation)?.into_iter().collect(),
            busy: journal::busy_shards(relation)?,
            homes: nodes::homes(relation)?.into_iter().collect(),
            destinations: journal::destinations(relation)?.into_iter().collect(),
            costs: costs
                .into_iter()
                .map(|(shard, size, cost)| (shard, (size, cost)))
                .collect(),
            oldest: crate::observe::oldest(),
            stored: if shards.len() <= DETAILED_SHARDS {
                &Metric::ALL
            } else {
                &[Metric::Load]
            },
        })
    }

    fn shard(
        &self,
        partition: &Partition,
        history: Option<&History>,
        foreseen: Foreseen,
        options: &Options,
    ) -> Result<Shard> {
        let mut shard = self.described(partition);
        forecasts::forget(partition.oid)?;
        let lag = foreseen.lag;
        if let Some(made) = foreseen.fill(&mut shard) {
            for metric in self.stored {
                store(partition, history, *metric, &made, options, lag)?;
            }
        }
        Ok(shard)
    }

    /// All but the load.
    fn described(&self, partition: &Partition) -> Shard {
        let (size, cost) = self.costs.get(&partition.oid).copied().unwrap_or_default();
        let home = self.homes.get(&partition.oid).cloned();
        let destination = self.destinations.get(&partition.oid).cloned();
        let bytes = match size {
            // Here nothing is stored of it.
            Some(size) if home.is_some() => size,
            _ => partition.bytes,
        };
        Shard {
            id: partition.oid.to_u32(),
            name: partition.name.clone(),
            lower: partition.lower.clone(),
            upper: partition.upper.clone(),
            node: destination
                .or(home)
                .unwrap_or_else(|| nodes::LOCAL.to_owned()),
            tablespace: partition.tablespace.clone(),
            rows: partition.rows,
            bytes: bytes as f64,
            cost: cost.unwrap_or(0.0),
            last_change: self.changed_at.get(&partition.oid).copied(),
            reversals: self.reversals(partition.oid),
            busy: self.busy.contains(&partition.oid),
            ..Shard::default()
        }
    }

    /// How often a merge followed a split, or a split a merge, on the way to this shard.
    fn reversals(&self, shard: pg_sys::Oid) -> u32 {
        let (mut member, mut before, mut reversals) = (shard, i64::MAX, 0);
        let mut later: Option<bool> = None;
        loop {
            let made_of: Vec<&Link> = self
                .links
                .iter()
                .filter(|link| link.shard == member && link.at < before)
                .collect();
            let Some(latest) = made_of.iter().max_by_key(|link| link.at) else {
                return reversals;
            };
            let parents = made_of
                .iter()
                .filter(|link| link.at.saturating_add(SECOND) > latest.at);
            let is_merge = parents.map(|link| link.share).sum::<f64>() > 1.0;
            if later.is_some_and(|was_merge| was_merge != is_merge) {
                reversals += 1;
            }
            (member, before, later) = (latest.ancestor, latest.at, Some(is_merge));
        }
    }
}

/// Stores the forecast of one metric; that of the load is made already.
fn store(
    partition: &Partition,
    history: Option<&History>,
    metric: Metric,
    load: &Forecast,
    options: &Options,
    ahead: i64,
) -> Result<()> {
    let made = match (metric, history) {
        (Metric::Load, _) => Some(load.clone()),
        (_, Some(history)) => forecast(&partition.name, &history.samples(metric), options, ahead)?
            .map(|(_, made)| made),
        (_, None) => None,
    };
    let Some(made) = made else { return Ok(()) };
    forecasts::store(&StoredCurve {
        shard: partition.oid,
        metric: metric.as_str(),
        start: made.start,
        step: made.step,
        season: season(&made),
        q50: made.q50,
        q90: made.q90,
        q99: made.q99,
        peak: made.peak,
        model: made.model,
        skill: made.skill,
    })
}

/// Whether the planner may want to divide the shard, so that it needs to know its keys.
fn may_be_divided(shard: &Shard) -> bool {
    let limit = NEARLY * settings::target_utilisation() * settings::shard_capacity();
    let forecast = shard
        .forecast
        .iter()
        .flat_map(|curve| &curve.q90)
        .copied()
        .fold(0.0, f64::max);
    let largest = settings::max_shard_size();
    !shard.busy
        && shard.unmovable.is_none()
        && shard.indivisible.is_none()
        && (forecast > limit || shard.load_now > limit || (largest > 0.0 && shard.bytes > largest))
}

/// Notes which neighbours share an edge and a placement.
fn mark_mergeable(shards: &mut [Shard], partitions: &[Partition]) {
    let homes: Vec<String> = shards.iter().map(|shard| shard.node.clone()).collect();
    let pairs = partitions.iter().zip(partitions.iter().skip(1));
    let homes = homes.iter().zip(homes.iter().skip(1));
    for (shard, ((one, next), (home, next_home))) in shards.iter_mut().zip(pairs.zip(homes)) {
        shard.mergeable_with_next = one.upper.is_some()
            && one.upper == next.lower
            && one.tablespace == next.tablespace
            && home == next_home;
    }
}
