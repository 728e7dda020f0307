//! Extended statistics: made under a private name before ANALYZE, so that the planner has them from the first
//! second on, and named inside the switch.

use pgrx::pg_sys;

use crate::error::Result;
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::pg::spi;

/// Facts, for the comparison of shards and the fingerprint.
pub const PARTS: &str = "
SELECT s.oid, 'fact', 110, format('statistics object \"%s\"', x.stxname),
       concat_ws('|', x.stxname, x.stxnamespace, x.stxowner, x.stxkind::text, x.stxstattarget,
                 pg_get_statisticsobjdef_columns(x.oid), obj_description(x.oid, 'pg_statistic_ext')),
       concat_ws('|', x.stxkind::text, pg_get_statisticsobjdef_columns(x.oid))
  FROM s JOIN pg_statistic_ext x ON x.stxrelid = s.oid";

/// A statistics object of a shard.
#[derive(Clone, Debug)]
pub struct Statistics {
    schema: String,
    name: String,
    owner: String,
    /// ` (kinds) ON columns`, as CREATE STATISTICS has it after the name.
    definition: String,
    target: Option<i32>,
    comment: Option<String>,
}

/// The statistics objects of a table.
pub fn read(table: pg_sys::Oid) -> Result<Vec<Statistics>> {
    spi::query_kept(
        "SELECT n.nspname::text, x.stxname::text, pg_get_userbyid(x.stxowner)::text,
                coalesce((SELECT ' (' || string_agg(CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies'
                                                           WHEN 'm' THEN 'mcv' END, ', ') || ')'
                            FROM unnest(x.stxkind) k WHERE k <> 'e'), '')
                || ' ON ' || pg_get_statisticsobjdef_columns(x.oid),
                x.stxstattarget::int4, obj_description(x.oid, 'pg_statistic_ext')
           FROM pg_statistic_ext x JOIN pg_namespace n ON n.oid = x.stxnamespace
          WHERE x.stxrelid = $1 ORDER BY x.oid",
        &[table.into()],
        |row| {
            Ok(Statistics {
                schema: row.get(1)?,
                name: row.get(2)?,
                owner: row.get(3)?,
                definition: row.get(4)?,
                target: row.optional(5)?.filter(|target| *target >= 0),
                comment: row.optional(6)?,
            })
        },
    )
}

/// Makes the statistics objects of a source on the target `n`, under private names.
pub fn create(job: &Job, n: usize, source: pg_sys::Oid) -> Result<()> {
    let table = job.target_name(n);
    for (k, statistics) in read(source)?.iter().enumerate() {
        let name = names::statistics(job.id(), n, k);
        spi::execute(&format!(
            "CREATE STATISTICS {name}{} FROM {table}",
            statistics.definition
        ))?;
        if let Some(target) = statistics.target {
            spi::execute(&format!("ALTER STATISTICS {name} SET STATISTICS {target}"))?;
        }
        if let Some(comment) = &statistics.comment {
            spi::execute(&format!(
                "COMMENT ON STATISTICS {name} IS {}",
                spi::quote_literal(comment)
            ))?;
        }
        spi::execute(&format!(
            "ALTER STATISTICS {name} OWNER TO {}",
            spi::quote_identifier(&statistics.owner)
        ))?;
    }
    Ok(())
}

/// Gives the statistics objects of the target `n` their schema and name: as the source's, with the table's name
/// replaced.
pub fn publish(
    job: &Job,
    n: usize,
    source_table: &str,
    target_table: &str,
    of: &[Statistics],
) -> Result<()> {
    for (k, statistics) in of.iter().enumerate() {
        let name = names::public_dependent(source_table, &statistics.name, target_table, k, "stat");
        rename(
            (names::SCHEMA, &names::private_statistics(job.id(), n, k)),
            (&statistics.schema, &name),
        )?;
    }
    Ok(())
}

/// Takes the statistics objects of the source `n` out of the users' sight.
pub fn retire(job: &Job, n: usize, of: &[Statistics]) -> Result<()> {
    for (k, statistics) in of.iter().enumerate() {
        let name = names::private_retired_statistics(job.id(), n, k);
        rename(
            (&statistics.schema, &statistics.name),
            (names::SCHEMA, &name),
        )?;
    }
    Ok(())
}

/// A statistics object changes its schema first where its new name is a private one, else last: so no name of the
/// users' is ever in the way of a private one, nor the other way round.
fn rename(from: (&str, &str), to: (&str, &str)) -> Result<()> {
    let passing = if to.0 == names::SCHEMA { to.1 } else { from.1 };
    let rename = |schema: &str, from: &str, to: &str| {
        if from == to {
            return Ok(0);
        }
        spi::execute(&format!(
            "ALTER STATISTICS {} RENAME TO {}",
            spi::quote_qualified_identifier(schema, from),
            spi::quote_identifier(to)
        ))
    };
    rename(from.0, from.1, passing)?;
    if from.0 != to.0 {
        spi::execute(&format!(
            "ALTER STATISTICS {} SET SCHEMA {}",
            spi::quote_qualified_identifier(from.0, passing),
            spi::quote_identifier(to.0)
        ))?;
    }
    rename(to.0, passing, to.1)?;
    Ok(())
}
