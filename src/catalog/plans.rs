//! Stored plans, `repart.plan_steps`. A row's `spec` is the whole step as the planner made it.

use pgrx::{JsonB, pg_sys};
use repart_core::plan::{Plan, Step};

use crate::error::{Error, Result};
use crate::pg::{spi, time};

/// Stores a plan; returns its number.
pub fn store(plan: &Plan) -> Result<i64> {
    let id = spi::query_value::<i64>("SELECT pg_catalog.nextval('repart.plan_id')", &[])?
        .ok_or_else(|| Error::Internal("no number for a plan".to_owned()))?;
    let numbers: Vec<i32> = (1..).take(plan.steps.len()).collect();
    let tables: Vec<Option<pg_sys::Oid>> = plan
        .steps
        .iter()
        .map(|step| (step.table != 0).then(|| pg_sys::Oid::from(step.table)))
        .collect();
    let specs = plan
        .steps
        .iter()
        .map(|step| Ok(JsonB(serde_json::to_value(step)?)))
        .collect::<Result<Vec<_>>>()?;
    spi::run(
        "INSERT INTO repart.plan_steps (plan_id, step, relation, relation_name, spec)
         SELECT $1, s.step, s.relation, c.relname, s.spec
           FROM unnest($2::int4[], $3::oid[], $4::jsonb[]) AS s (step, relation, spec)
           LEFT JOIN pg_catalog.pg_class c ON c.oid = s.relation",
        &[id.into(), numbers.into(), tables.into(), specs.into()],
    )?;
    Ok(id)
}

/// The steps of a plan with their numbers, in the plan's order; none where there is no such plan.
pub fn steps(plan: i64) -> Result<Vec<(i32, Step)>> {
    spi::query(
        "SELECT step, spec FROM repart.plan_steps WHERE plan_id = $1 ORDER BY step",
        &[plan.into()],
        read_step,
    )
}

/// The steps of a plan that no migration carries out yet.
pub fn open_steps(plan: i64) -> Result<Vec<(i32, Step)>> {
    spi::query(
        "SELECT step, spec FROM repart.plan_steps WHERE plan_id = $1 AND migration IS NULL ORDER BY step",
        &[plan.into()],
        read_step,
    )
}

fn read_step(row: &spi::Row) -> Result<(i32, Step)> {
    Ok((row.get(1)?, serde_json::from_value(row.get::<JsonB>(2)?.0)?))
}

/// Whether there is a plan of this number.
pub fn exists(plan: i64) -> Result<bool> {
    Ok(spi::query_value(
        "SELECT EXISTS (SELECT FROM repart.plan_steps WHERE plan_id = $1)",
        &[plan.into()],
    )?
    .unwrap_or(false))
}

/// The number of the latest plan.
pub fn latest() -> Result<Option<i64>> {
    spi::query_value("SELECT max(plan_id) FROM repart.plan_steps", &[])
}

/// Notes which migration carries a step out.
pub fn set_migration(plan: i64, step: i32, migration: i64) -> Result<()> {
    spi::run(
        "UPDATE repart.plan_steps SET migration = $3 WHERE plan_id = $1 AND step = $2",
        &[plan.into(), step.into(), migration.into()],
    )?;
    Ok(())
}

/// Deletes at most `limit` steps of plans made before `before`, and no plan in part.
pub fn purge(before: i64, limit: i64) -> Result<u64> {
    spi::run(
        "DELETE FROM repart.plan_steps
          WHERE plan_id IN (SELECT plan_id FROM (SELECT plan_id, sum(count(*)) OVER (ORDER BY plan_id) AS steps
                                                   FROM repart.plan_steps GROUP BY plan_id
                                                 HAVING max(made_at) < $1) p
                             WHERE p.steps <= $2)",
        &[time::to_sql(before).into(), limit.into()],
    )
}
