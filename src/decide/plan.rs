//! A plan for some tables: gathered, made by the core, stored.

use pgrx::pg_sys;
use repart_core::plan::input::{Node, Policy, Snapshot, Table};
use repart_core::plan::{self, Action, Plan, Reason, Step};

use crate::catalog::{groups, plans, tables};
use crate::decide::{fleet, learn, options::Options, table};
use crate::error::Result;
use crate::pg::{time, txn};
use crate::settings;

/// Forecasts the load of every shard of one managed table and makes a plan for it; of all managed tables
/// for `None`. Both are stored; returns the number of the plan. Takes no sample.
pub fn make_plan(relation: Option<pg_sys::Oid>) -> Result<i64> {
    let relations = match relation {
        Some(relation) => vec![tables::require(relation)?.relation],
        None => tables::all()?
            .into_iter()
            .map(|table| table.relation)
            .collect(),
    };
    make_plan_for(&relations)
}

/// As [`make_plan`], for some tables.
pub fn make_plan_for(relations: &[pg_sys::Oid]) -> Result<i64> {
    let options = Options::from_settings()?;
    let tables = planned(relations)?
        .into_iter()
        .map(|relation| table::prepare(relation, &options))
        .collect::<Result<Vec<_>>>()?;
    store(tables, fleet::nodes(&options)?)
}

/// What stands for these tables in a plan: of each colocation group its first table.
fn planned(relations: &[pg_sys::Oid]) -> Result<Vec<pg_sys::Oid>> {
    let mut planned = Vec::new();
    for relation in relations {
        let first = groups::members(*relation)?.first().copied();
        let first = first.unwrap_or(*relation);
        if !planned.contains(&first) {
            planned.push(first);
        }
    }
    Ok(planned)
}

/// As [`make_plan`] for all tables, for workers, outside of a transaction: each table has a transaction of
/// its own, and one that fails is left out of the plan. Returns the plan, and what failed.
pub fn make_plan_isolated() -> Result<(i64, Vec<(pg_sys::Oid, crate::error::Error)>)> {
    let relations = txn::run(|| {
        let all = tables::all()?.into_iter().map(|table| table.relation);
        planned(&all.collect::<Vec<_>>())
    })?;
    let mut prepared = Vec::new();
    let mut failed = Vec::new();
    for relation in relations {
        match txn::run(|| table::prepare(relation, &Options::from_settings()?)) {
            Ok(table) => prepared.push(table),
            Err(error) => failed.push((relation, error)),
        }
    }
    let nodes = txn::run(|| fleet::nodes(&Options::from_settings()?))?;
    Ok((txn::run(|| store(prepared, nodes))?, failed))
}

/// Plans for tables that are prepared, and stores the plan.
fn store(tables: Vec<Table>, nodes: Vec<Node>) -> Result<i64> {
    let plan = if tables.is_empty() {
        nothing_managed()?
    } else {
        plan::plan(&snapshot(tables, nodes)?)
    };
    plans::store(&plan)
}

fn snapshot(tables: Vec<Table>, nodes: Vec<Node>) -> Result<Snapshot> {
    Ok(Snapshot {
        now: time::now(),
        co_access: fleet::used_together(&tables),
        tables,
        nodes,
        policy: policy(),
        learned: learn::learned()?,
    })
}

/// What the settings ask for.
fn policy() -> Policy {
    Policy {
        target_utilisation: settings::target_utilisation(),
        shard_capacity: settings::shard_capacity(),
        min_shard_bytes: settings::min_shard_size(),
        max_shard_bytes: settings::max_shard_size(),
        dwell: time::span(settings::dwell()),
        max_shards: settings::max_shards(),
        max_movers: settings::max_movers().max(1),
        max_running: settings::max_movers().max(1),
        max_pause: settings::max_pause().as_secs_f64(),
        ..Policy::default()
    }
}

/// The plan for no table at all: one row that says why.
fn nothing_managed() -> Result<Plan> {
    let why = if tables::all()?.is_empty() {
        "nothing to do: no table is managed; run SELECT repart_manage('your_table') first"
    } else {
        "nothing to do: you own no managed table"
    };
    let step = Step {
        action: Action::None,
        table: 0,
        sources: Vec::new(),
        boundaries: Vec::new(),
        key_from: None,
        key_to: None,
        source: String::new(),
        target: String::new(),
        bytes: 0.0,
        reason: Reason::NoAction,
        why: why.to_owned(),
        load_before: 0.0,
        load_after: 0.0,
        benefit: 0.0,
        cost: 0.0,
        start_by: None,
        planned_start: time::now(),
        deadline: None,
        duration: 0.0,
        pause: 0.0,
        will_miss: false,
        confidence: 1.0,
        alternatives: serde_json::Value::Array(Vec::new()),
    };
    Ok(Plan { steps: vec![step] })
}
