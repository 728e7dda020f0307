//! The nodes as a plan sees them: what they can serve, what they do and will do, and whether they may receive anything.
//! What is foreseen of each is stored too, for admitting migrations.

use repart_core::plan::input::{CoAccess, Node, Table};
use repart_core::series::Sample;

use crate::catalog::nodes::{self, LOCAL};
use crate::catalog::usage::{self, History, Latest, Resource};
use crate::decide::many;
use crate::decide::options::Options;
use crate::error::Result;
use crate::observe;
use crate::pg::sampler::read;
use crate::settings;

/// Milliseconds of execution per second that a processor can serve.
const PROCESSOR: f64 = 1_000.0;

/// A node with less of its memory available takes nothing more.
const LEAST_MEMORY: f64 = 0.05;

/// All nodes but replicas, this server first. Forecasts what is used of them.
pub fn nodes(options: &Options) -> Result<Vec<Node>> {
    let (weight, draining) = nodes::own()?;
    let mut fleet = vec![Node {
        name: LOCAL.to_owned(),
        weight,
        draining,
        ..Node::default()
    }];
    for node in nodes::all()? {
        if node.replica_of.is_none() {
            fleet.push(Node {
                away: nodes::is_away(&node.name)?,
                name: node.name,
                weight: node.weight,
                draining: node.draining,
                ..Node::default()
            });
        }
    }
    let names: Vec<String> = fleet.iter().map(|node| node.name.clone()).collect();
    let histories = usage::histories(&names, observe::oldest())?;
    for node in &mut fleet {
        if let Some(latest) = usage::latest(&node.name, settings::sample_interval())? {
            describe(node, &latest);
        }
    }
    foresee(&mut fleet, &histories, options)?;
    Ok(fleet)
}

/// What a node is now.
fn describe(node: &mut Node, latest: &Latest) {
    node.capacity = latest.cpus.map_or(0.0, |cpus| f64::from(cpus) * PROCESSOR);
    node.utilisation = latest.busiest();
    node.disk = latest.disk;
    if latest.memory.is_some_and(|used| used > 1.0 - LEAST_MEMORY) {
        node.closed = Some("it is short of memory".to_owned());
    }
}

/// Forecasts what will be used of each node: for the plan the busier of processors and I/O, for admission each by itself.
fn foresee(fleet: &mut [Node], histories: &[(String, History)], options: &Options) -> Result<()> {
    for (name, history) in histories {
        let used = |value: &dyn Fn(usize) -> Option<f64>| -> Vec<Sample> {
            let spans = history.at.iter().zip(&history.seconds).enumerate();
            spans
                .filter_map(|(n, (at, seconds))| {
                    Some(Sample {
                        at: *at,
                        seconds: *seconds,
                        value: value(n)?,
                    })
                })
                .collect()
        };
        let mut loads = vec![(name.as_str(), used(&|n| history.busiest(n)))];
        for resource in Resource::ALL {
            loads.push((name.as_str(), used(&|n| history.of(resource, n))));
        }
        let mut foreseen = many::foresee(&loads, options)?.into_iter();
        if let Some(curve) = foreseen.next().and_then(many::Foreseen::into_curve)
            && let Some(node) = fleet.iter_mut().find(|node| node.name == *name)
        {
            node.forecast = Some(curve);
        }
        for (resource, foreseen) in Resource::ALL.into_iter().zip(foreseen) {
            let curve = foreseen.into_curve();
            usage::store_curve(name, resource, curve.as_ref())?;
        }
    }
    Ok(())
}

/// The pairs of these tables' shards that the same transactions use. A transaction that only a node saw is not known here.
pub fn used_together(tables: &[Table]) -> Vec<CoAccess> {
    let is_planned = |shard: u32| {
        let mut shards = tables.iter().flat_map(|table| &table.shards);
        shards.any(|one| one.id == shard || one.companions.contains(&shard))
    };
    let mut pairs: Vec<CoAccess> = read::together()
        .into_iter()
        .map(|pair| CoAccess {
            a: pair.one.to_u32().min(pair.other.to_u32()),
            b: pair.one.to_u32().max(pair.other.to_u32()),
            weight: (pair.rate - pair.error).max(0.0),
        })
        .filter(|pair| pair.weight > 0.0 && is_planned(pair.a) && is_planned(pair.b))
        .collect();
    pairs.sort_by_key(|pair| (pair.a, pair.b));
    pairs
}
