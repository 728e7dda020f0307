//! `repart_forecast` and `repart_set_model`.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{notice, pg_sys};
use repart_core::forecast::{Forecast, Model};

use crate::api::regclass::{Regclass, require_owner_or_monitor, required};
use crate::catalog::{forecasts, tables};
use crate::decide::options::{Options, parse_model};
use crate::decide::table;
use crate::error::{Result, SqlResult};
use crate::observe::history::{self, Metric};
use crate::pg::{relation, role, time};

/// One step of a forecast, as [`repart_forecast`] names its columns.
type Row = (
    Regclass,
    &'static str,
    TimestampWithTimeZone,
    f64,
    f64,
    f64,
    String,
    f64,
);

/// Forecasts rows read, rows written and bytes accessed per second of every shard of a managed table. Each
/// row speaks of the step that ends at `at`, as a sample does of the time before its own. Stores nothing.
#[pg_extern(stable, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn repart_forecast(
    relation: Option<Regclass>,
    horizon: default!(Option<Interval>, "NULL"),
    model: default!(Option<&str>, "NULL"),
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(shard, Regclass),
            name!(metric, &'static str),
            name!(at, TimestampWithTimeZone),
            name!(q50, f64),
            name!(q90, f64),
            name!(q99, f64),
            name!(model, String),
            name!(skill, f64),
        ),
    >,
    ErrorReport,
> {
    let table = required(relation, "relation")?;
    require_owner_or_monitor(table)?;
    tables::require(table)?;
    let mut options = Options::new(horizon.as_ref(), model)?;
    options = match model {
        Some(_) => options.with_events_of(table)?,
        None => options.with_model_of(table)?,
    };
    Ok(TableIterator::new(role::as_superuser(|| {
        rows(table, &options)
    })?))
}

/// Chooses the forecasting model of one table, for plans and for `repart_forecast`; NULL leaves it to
/// `repart.model` again.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_set_model(
    relation: Option<Regclass>,
    model: default!(Option<&str>, "NULL"),
) -> SqlResult<()> {
    let table = required(relation, "relation")?;
    relation::require_owner(table)?;
    tables::require(table)?;
    let model = model
        .map(|name| parse_model("model", name))
        .transpose()?
        .map(Model::name);
    Ok(forecasts::choose_model(table, model)?)
}

fn rows(table: pg_sys::Oid, options: &Options) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let shards = table::shards_of(table)?;
    let mut too_short = 0;
    for shard in &shards {
        let history = history::history(shard.oid, crate::observe::oldest())?;
        let before = rows.len();
        for metric in Metric::SHOWN {
            if let Some((_, made)) =
                table::forecast(&shard.name, &history.samples(metric), options, 0)?
            {
                append(&mut rows, shard.oid, metric, &made);
            }
        }
        too_short += usize::from(rows.len() == before);
    }
    if too_short > 0 {
        let name = relation::display_name(table)?;
        let all = shards.len();
        notice!(
            "{too_short} of {all} shards of \"{name}\" have fewer than two samples and cannot be forecast yet"
        );
    }
    Ok(rows)
}

fn append(rows: &mut Vec<Row>, shard: pg_sys::Oid, metric: Metric, made: &Forecast) {
    let steps = made.q50.iter().zip(&made.q90).zip(&made.q99);
    let ends = (1..).map(|number| made.start.saturating_add(made.step.saturating_mul(number)));
    rows.extend(ends.zip(steps).map(|(end, ((q50, q90), q99))| {
        let at = time::to_sql(end);
        (
            Regclass(shard),
            metric.as_str(),
            at,
            *q50,
            *q90,
            *q99,
            made.model.clone(),
            made.skill,
        )
    }));
}
