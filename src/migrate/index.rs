//! What follows the copy: taking out rows that may have been copied twice, indexes, constraints,
//! statistics, and before the switch the visibility map.

use pgrx::pg_sys;

use crate::catalog::journal::{self, Position, Target};
use crate::error::Result;
use crate::migrate::definition::{self, Index};
use crate::migrate::job::Job;
use crate::migrate::{capture, names};
use crate::pg::{guc, role, spi, txn};
use crate::settings;

/// Milliseconds; that of autovacuum.
const COST_DELAY_MS: f64 = 2.0;

/// `vacuum_cost_limit` as by default.
const AUTOVACUUM_LIMIT: i64 = 200;

/// `vacuum_cost_page_hit` and `vacuum_cost_page_dirty` as by default: every page is found in memory and marked.
const PAGE_COST: f64 = 21.0;

/// Takes all logged keys out of the targets, before unique indexes are built. The log is kept: catch-up
/// brings the rows back.
pub fn deduplicate(job: &Job) -> Result<()> {
    if capture::truncated(&job.migration)? {
        capture::apply_truncations(job)?;
    }
    let keys = capture::logged_keys(&job.migration, &job.identity);
    for (n, _) in job.rebuilt_targets() {
        let sql = format!(
            "DELETE FROM {} t USING {keys} l WHERE {}",
            job.target_name(n),
            capture::key_matches(&job.identity, "t", "l")
        );
        role::as_owner(job.owner, || spi::execute(&sql))?;
    }
    let position = Position {
        deduplicated: true,
        ..job.migration.position.clone()
    };
    journal::advance(&job.migration, &position, 0, 0, 0.0)
}

/// Builds the next missing index of a target; when all are there, gathers statistics and returns `false`. One
/// transaction each: no snapshot is held for longer than one index takes. With `alone`, no more than one process
/// works at it.
pub fn build_next(job: &Job, alone: bool) -> Result<bool> {
    if alone {
        guc::set_for_transaction("max_parallel_maintenance_workers", "0");
    }
    let indexes = definition::indexes(job.first_source()?)?;
    for (n, target) in job.rebuilt_targets() {
        for (k, index) in indexes.iter().enumerate() {
            let name = names::private_index(job.id(), n, k);
            if !exists(&name)? {
                build(job, n, target, index, &name)?;
                return Ok(true);
            }
        }
    }
    analyze(job)?;
    Ok(false)
}

fn exists(index: &str) -> Result<bool> {
    let found = spi::value::<bool>(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = $1 AND relnamespace = $2::regnamespace)",
        &[index.into(), names::SCHEMA.into()],
    )?;
    Ok(found.unwrap_or(false))
}

fn build(job: &Job, n: usize, target: &Target, index: &Index, name: &str) -> Result<()> {
    let table = job.target_name(n);
    let tablespace = target.tablespace.as_deref().unwrap_or(&index.tablespace);
    guc::set_for_transaction("default_tablespace", tablespace);
    let exclusion = index
        .constraint
        .as_ref()
        .filter(|constraint| constraint.exclusion);
    if let Some(constraint) = exclusion {
        spi::execute(&format!(
            "ALTER TABLE {table} ADD CONSTRAINT {name} {}",
            constraint.definition
        ))?;
    } else {
        let unique = if index.unique { "UNIQUE " } else { "" };
        spi::execute(&format!(
            "CREATE {unique}INDEX {name} ON {table} USING {}",
            index.tail
        ))?;
        if let Some(constraint) = &index.constraint {
            spi::execute(&format!(
                "ALTER TABLE {table} ADD CONSTRAINT {name} {} USING INDEX {name}{}",
                constraint.definition, constraint.deferrable
            ))?;
        }
    }
    settle(index, &table, name)
}

/// What an index has besides its definition.
fn settle(index: &Index, table: &str, name: &str) -> Result<()> {
    let qualified = spi::quote_qualified_identifier(names::SCHEMA, name);
    if index
        .constraint
        .as_ref()
        .is_some_and(|constraint| constraint.exclusion)
        && !index.options.is_empty()
    {
        spi::execute(&format!("ALTER INDEX {qualified} SET ({})", index.options))?;
    }
    for (column, target) in &index.statistics {
        spi::execute(&format!(
            "ALTER INDEX {qualified} ALTER COLUMN {column} SET STATISTICS {target}"
        ))?;
    }
    if let Some(comment) = &index.comment {
        spi::execute(&format!(
            "COMMENT ON INDEX {qualified} IS {}",
            spi::quote_literal(comment)
        ))?;
    }
    let comment = index
        .constraint
        .as_ref()
        .and_then(|constraint| constraint.comment.as_ref());
    if let Some(comment) = comment {
        spi::execute(&format!(
            "COMMENT ON CONSTRAINT {name} ON {table} IS {}",
            spi::quote_literal(comment)
        ))?;
    }
    if index.clustered {
        spi::execute(&format!("ALTER TABLE {table} CLUSTER ON {name}"))?;
    }
    if index.replica_identity {
        spi::execute(&format!(
            "ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name}"
        ))?;
    }
    Ok(())
}

/// Gives the planner statistics of the targets, from now on: catch-up and comparison read them too.
fn analyze(job: &Job) -> Result<()> {
    counted(|| {
        job.rebuilt_targets().try_for_each(|(n, _)| {
            spi::execute(&format!("ANALYZE {}", job.target_name(n))).map(|_| ())
        })
    })
}

/// Gives the targets a visibility map, so that index-only scans work from the first second.
///
/// It keeps to `repart.max_copy_rate`, and where others want the machine to the pace of autovacuum.
pub fn vacuum(job: &Job, gives_way: bool) -> Result<()> {
    let limit = cost_limit(gives_way);
    if let Some(limit) = limit {
        guc::set("vacuum_cost_delay", &format!("{COST_DELAY_MS}ms"));
        guc::set("vacuum_cost_limit", &limit.to_string());
    }
    let outcome = counted(|| {
        job.rebuilt_targets()
            .try_for_each(|(n, _)| txn::vacuum(&format!("VACUUM {}", job.target_name(n))))
    });
    if limit.is_some() {
        // The log is vacuumed right before a switch, which must not fall behind the writers meanwhile.
        guc::set("vacuum_cost_delay", "0");
    }
    outcome
}

/// What VACUUM may do, in PostgreSQL's units, before it sleeps for [`COST_DELAY_MS`]; `None` for as much as it can.
fn cost_limit(gives_way: bool) -> Option<i64> {
    let rate = settings::max_copy_rate().map(|rate| {
        let pages = rate / f64::from(pg_sys::BLCKSZ);
        (pages * PAGE_COST * COST_DELAY_MS / 1000.0).clamp(1.0, 10_000.0) as i64
    });
    let polite = gives_way.then_some(AUTOVACUUM_LIMIT);
    rate.into_iter().chain(polite).min()
}

/// Unlike what a copy reads and writes, this must reach the statistics that autovacuum goes by.
fn counted(body: impl FnOnce() -> Result<()>) -> Result<()> {
    guc::set("track_counts", "on");
    let outcome = body();
    guc::set("track_counts", "off");
    outcome
}
