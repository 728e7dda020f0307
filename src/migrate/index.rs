//! What follows the copy: taking out rows that may have been copied twice, indexes, constraints,
//! statistics, and before the switch the visibility map.

use crate::catalog::journal::{self, Position, Target};
use crate::error::Result;
use crate::migrate::definition::{self, Index};
use crate::migrate::job::Job;
use crate::migrate::{capture, names};
use crate::pg::{guc, role, spi, txn};

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
/// transaction each: no snapshot is held for longer than one index takes.
pub fn build_next(job: &Job) -> Result<bool> {
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
pub fn vacuum(job: &Job) -> Result<()> {
    counted(|| {
        job.rebuilt_targets()
            .try_for_each(|(n, _)| txn::vacuum(&format!("VACUUM {}", job.target_name(n))))
    })
}

/// Unlike what a copy reads and writes, this must reach the statistics that autovacuum goes by.
fn counted(body: impl FnOnce() -> Result<()>) -> Result<()> {
    guc::set("track_counts", "on");
    let outcome = body();
    guc::set("track_counts", "off");
    outcome
}
