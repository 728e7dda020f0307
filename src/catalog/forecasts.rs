//! The latest forecast of each shard and metric, `repart.forecast_curves`.

use pgrx::pg_sys;

use crate::error::Result;
use crate::pg::{role, spi, time};

/// A forecast to be stored. Lists hold one value per step.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The shard.
    pub shard: pg_sys::Oid,
    /// `reads`, `writes`, `bytes` or `load`.
    pub metric: &'static str,
    /// When the first step begins, µs since the Unix epoch.
    pub start: i64,
    /// Length of a step, µs.
    pub step: i64,
    /// The median, per second.
    pub q50: Vec<f64>,
    /// The 90 % quantile, per second.
    pub q90: Vec<f64>,
    /// The 99 % quantile, per second.
    pub q99: Vec<f64>,
    /// The 90 % quantile of the highest value up to each step, per second.
    pub peak: Vec<f64>,
    /// The model that made it.
    pub model: String,
    /// How much better it is than seasonal naive, at most 1.
    pub skill: f64,
    /// The season, µs, if there is one.
    pub season: Option<i64>,
}

/// Stores a forecast in the place of the previous one of the same shard and metric.
pub fn store(curve: &Curve) -> Result<()> {
    spi::run(
        "INSERT INTO repart.forecast_curves
             (shard, metric, made_at, first_at, step, q50, q90, q99, peak, model, skill, season)
         VALUES ($1, $2, pg_catalog.now(), $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (shard, metric) DO UPDATE
            SET made_at = excluded.made_at, first_at = excluded.first_at, step = excluded.step,
                q50 = excluded.q50, q90 = excluded.q90, q99 = excluded.q99, peak = excluded.peak,
                model = excluded.model, skill = excluded.skill, season = excluded.season",
        &[
            curve.shard.into(),
            curve.metric.into(),
            time::to_sql(curve.start).into(),
            time::span_to_sql(curve.step).into(),
            curve.q50.clone().into(),
            curve.q90.clone().into(),
            curve.q99.clone().into(),
            curve.peak.clone().into(),
            curve.model.as_str().into(),
            curve.skill.into(),
            curve.season.map(time::span_to_sql).into(),
        ],
    )?;
    Ok(())
}

/// Forgets the forecasts of a shard whose history is too short, or too old, to make new ones.
pub fn forget(shard: pg_sys::Oid) -> Result<()> {
    spi::run(
        "DELETE FROM repart.forecast_curves WHERE shard = $1",
        &[shard.into()],
    )?;
    Ok(())
}

/// The model chosen for a table, by name; `None` if `repart.model` decides.
pub fn model_of(table: pg_sys::Oid) -> Result<Option<String>> {
    role::as_superuser(|| {
        spi::query_value(
            "SELECT model FROM repart.sharded_tables WHERE relation = $1 AND model IS NOT NULL",
            &[table.into()],
        )
    })
}

/// Chooses the model for a table; `None` leaves it to `repart.model`.
pub fn choose_model(table: pg_sys::Oid, model: Option<&str>) -> Result<()> {
    role::as_superuser(|| {
        spi::run(
            "UPDATE repart.sharded_tables SET model = $2 WHERE relation = $1",
            &[table.into(), model.into()],
        )
    })?;
    Ok(())
}

/// The longest season of the load of these shards, µs, if one was found.
pub fn longest_season(shards: &[pg_sys::Oid]) -> Result<Option<i64>> {
    let season = spi::query_value::<pgrx::datum::Interval>(
        "SELECT max(season) FROM repart.forecast_curves WHERE shard = ANY ($1) AND metric = 'load'",
        &[shards.to_vec().into()],
    )?;
    Ok(season.as_ref().map(time::span_from_sql))
}
