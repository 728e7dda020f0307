//! `repart_plan`.

use pgrx::JsonB;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use repart_core::plan::Step;

use crate::api::regclass::{Regclass, is_monitor, require_owner_or_monitor};
use crate::catalog::{plans, tables};
use crate::decide::plan;
use crate::error::Result;
use crate::pg::{relation, role, time};

/// One step of a plan, as [`repart_plan`] names its columns.
type Row = (
    i64,
    i32,
    &'static str,
    Option<Regclass>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    i64,
    &'static str,
    String,
    f64,
    f64,
    f64,
    f64,
    Option<TimestampWithTimeZone>,
    Option<TimestampWithTimeZone>,
    f64,
    JsonB,
);

/// Plans for one managed table, or for all that the caller may plan for: those it owns, or every one for
/// members of `pg_monitor`. Changes no table of the user; stores the forecasts and the plan.
#[pg_extern(parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn repart_plan(
    relation: default!(Option<Regclass>, "NULL"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(plan_id, i64),
            name!(step, i32),
            name!(action, &'static str),
            name!(relation, Option<Regclass>),
            name!(shard, Option<String>),
            name!(key_from, Option<String>),
            name!(key_to, Option<String>),
            name!(source, Option<String>),
            name!(target, Option<String>),
            name!(bytes, i64),
            name!(reason, &'static str),
            name!(why, String),
            name!(load_before, f64),
            name!(load_after, f64),
            name!(benefit, f64),
            name!(cost, f64),
            name!(start_by, Option<TimestampWithTimeZone>),
            name!(deadline, Option<TimestampWithTimeZone>),
            name!(confidence, f64),
            name!(alternatives, JsonB),
        ),
    >,
    ErrorReport,
> {
    let tables = plannable(relation)?;
    let rows = role::as_superuser(|| {
        let id = plan::make_plan_for(&tables)?;
        plans::steps(id)?
            .into_iter()
            .map(|(number, step)| row(id, number, step))
            .collect::<Result<Vec<Row>>>()
    })?;
    Ok(TableIterator::new(rows))
}

/// The tables that the caller asks for and may plan for.
fn plannable(relation: Option<Regclass>) -> Result<Vec<pg_sys::Oid>> {
    if let Some(Regclass(table)) = relation {
        require_owner_or_monitor(table)?;
        tables::require(table)?;
        return Ok(vec![table]);
    }
    let all = tables::all()?.into_iter().map(|table| table.relation);
    if is_monitor()? {
        return Ok(all.collect());
    }
    let mut owned = Vec::new();
    for table in all {
        if role::can_act_for(relation::owner(table)?) {
            owned.push(table);
        }
    }
    Ok(owned)
}

fn row(id: i64, number: i32, step: Step) -> Result<Row> {
    let about_shards = !step.sources.is_empty();
    let bound = |bound: Option<String>, open: &str| {
        about_shards.then(|| bound.unwrap_or_else(|| open.to_owned()))
    };
    let names = step
        .sources
        .iter()
        .map(|shard| relation::display_name(pg_sys::Oid::from(*shard)))
        .collect::<Result<Vec<_>>>()?;
    let filled = |text: String| (!text.is_empty()).then_some(text);
    Ok((
        id,
        number,
        step.action.as_str(),
        (step.table != 0).then(|| Regclass(pg_sys::Oid::from(step.table))),
        filled(names.join(", ")),
        bound(step.key_from, "MINVALUE"),
        bound(step.key_to, "MAXVALUE"),
        filled(step.source),
        filled(step.target),
        step.bytes as i64,
        step.reason.as_str(),
        step.why,
        step.load_before,
        step.load_after,
        step.benefit,
        step.cost,
        step.start_by.map(time::to_sql),
        step.deadline.map(time::to_sql),
        step.confidence,
        JsonB(step.alternatives),
    ))
}
