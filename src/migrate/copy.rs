//! Copying: the sources in physical order, in short transactions, each of which also advances the journal.
//!
//! Only rows that existed when capture began need to be copied: later ones are in the log. A row that an
//! UPDATE moves between two batches can be copied twice; its key is in the log, and `index.rs` takes all
//! logged keys out of the targets before unique indexes are built.

use std::time::Instant;

use crate::catalog::journal::{self, Position, Source};
use crate::error::{Error, Result};
use crate::migrate::job::Job;
use crate::migrate::locks;
use crate::pg::{role, spi};
use crate::settings;

/// Blocks of the first batch: 2 MB with the usual block size.
const FIRST_BATCH: i64 = 256;

/// Blocks of the largest batch: 256 MB.
const LARGEST_BATCH: i64 = 32_768;

/// How fast the copy goes; kept between batches, forgotten at a restart.
pub struct Pace {
    blocks: i64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            blocks: FIRST_BATCH,
        }
    }
}

/// What a batch did.
pub enum Batch {
    /// It copied something; before the next one, wait this long to keep to `repart.max_copy_rate`.
    Copied(std::time::Duration),
    /// Everything is copied.
    Finished,
}

impl Pace {
    /// Blocks of the next batch: what was measured, or what `repart.max_copy_rate` allows in the time of one
    /// batch, so that the rate is kept by many small pauses and not by a burst and a long one.
    fn batch(&self) -> i64 {
        let allowed = settings::max_copy_rate().map_or(f64::INFINITY, |rate| {
            rate * settings::batch_duration().as_secs_f64() / block_size() as f64
        });
        (self.blocks as f64).min(allowed).max(1.0) as i64
    }

    /// Aims at `repart.batch_duration`: at most twice or half as many blocks as before.
    fn adapt(&mut self, seconds: f64) {
        let aim = settings::batch_duration().as_secs_f64();
        let next = (self.blocks as f64 * (aim / seconds.max(1e-6)).clamp(0.5, 2.0)) as i64;
        self.blocks = next.clamp(1, LARGEST_BATCH);
    }
}

/// Copies one batch. One transaction; the caller commits it.
pub fn batch(job: &Job, pace: &mut Pace) -> Result<Batch> {
    let mut position = job.migration.position.clone();
    let Some(source) = job.migration.spec.sources.get(position.source) else {
        return Ok(Batch::Finished);
    };
    locks::lock(&source.qualified(), "ACCESS SHARE")?;
    let file = file_of(source)?;
    let blocks = match position.blocks {
        Some(_) if position.file != file => return restart(job),
        Some(blocks) => blocks,
        None => {
            position.file = file;
            blocks_of(source)?
        }
    };
    position.blocks = Some(blocks);
    let until = blocks.min(position.block + pace.batch());
    let begun = Instant::now();
    let copied = copy_blocks(job, &position, source, until)?;
    let rows: i64 = copied.iter().sum();
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = (until - position.block) * block_size();
    position.note(copied);
    position.block = until;
    if until >= blocks {
        position = Position {
            source: position.source + 1,
            block: 0,
            blocks: None,
            file: 0,
            ..position
        };
    }
    journal::advance(&job.migration, &position, rows, bytes, seconds)?;
    pace.adapt(seconds);
    Ok(Batch::Copied(throttle(bytes, seconds)))
}

/// How long to wait after so many bytes in so many seconds, to keep to `repart.max_copy_rate`.
pub fn throttle(bytes: i64, seconds: f64) -> std::time::Duration {
    let wait = settings::max_copy_rate().map_or(0.0, |rate| bytes as f64 / rate - seconds);
    std::time::Duration::from_secs_f64(wait.clamp(0.0, 3600.0))
}

/// Somebody rewrote the source (TRUNCATE, VACUUM FULL, CLUSTER, ALTER TABLE): block numbers mean nothing
/// any more.
fn restart(job: &Job) -> Result<Batch> {
    job.truncate_targets()?;
    let position = Position {
        fingerprint: job.migration.position.fingerprint.clone(),
        triggers: job.migration.position.triggers.clone(),
        ..Position::default()
    };
    journal::restart_copy(&job.migration, &position)?;
    journal::event(
        "notice",
        Some(&job.migration),
        "a source was rewritten; the copy starts again",
    )?;
    Ok(Batch::Copied(std::time::Duration::ZERO))
}

/// Copies `[position.block, until)` of a source into the targets; returns the rows of each target.
fn copy_blocks(job: &Job, position: &Position, source: &Source, until: i64) -> Result<Vec<i64>> {
    let columns = job.writable_columns()?;
    let mut copied = Vec::new();
    for (n, target) in job.targets() {
        let sql = format!(
            "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM ONLY {}
              WHERE ctid >= '({},0)'::tid AND ctid < '({until},0)'::tid AND {}",
            job.target_name(n),
            source.qualified(),
            position.block,
            job.belongs_to(target),
        );
        let rows = role::as_owner(job.owner, || spi::execute(&sql))?;
        copied.push(i64::try_from(rows).unwrap_or(i64::MAX));
    }
    Ok(copied)
}

/// Rows and bytes that are to be copied, for progress: an estimate.
pub fn totals(job: &Job) -> Result<(i64, i64)> {
    let mut blocks = 0;
    for source in &job.migration.spec.sources {
        blocks += blocks_of(source)?;
    }
    let rows = spi::query_value::<f64>(
        "SELECT coalesce(sum(greatest(reltuples, 0)), 0)::float8 FROM pg_catalog.pg_class WHERE oid = ANY ($1)",
        &[job.source_oids().into()],
    )?;
    Ok((rows.unwrap_or(0.0) as i64, blocks * block_size()))
}

fn blocks_of(source: &Source) -> Result<i64> {
    let bytes = spi::query_value::<i64>(
        "SELECT pg_catalog.pg_relation_size($1::oid)",
        &[source.relation().into()],
    )?;
    bytes
        .map(|bytes| bytes / block_size())
        .ok_or_else(|| gone(source))
}

fn file_of(source: &Source) -> Result<u32> {
    spi::query_value::<pgrx::pg_sys::Oid>(
        "SELECT pg_catalog.pg_relation_filenode($1::oid)",
        &[source.relation().into()],
    )?
    .map(|file| file.to_u32())
    .ok_or_else(|| gone(source))
}

fn gone(source: &Source) -> Error {
    Error::Missing {
        what: format!("shard \"{}\" no longer exists", source.name),
        hint: "Somebody dropped or detached it during the migration.".to_owned(),
    }
}

fn block_size() -> i64 {
    i64::from(pgrx::pg_sys::BLCKSZ)
}

impl Position {
    /// Adds the rows that a batch copied from the current source into each target.
    fn note(&mut self, copied: Vec<i64>) {
        while self.copied.len() <= self.source {
            self.copied.push(Vec::new());
        }
        if let Some(sums) = self.copied.get_mut(self.source) {
            sums.resize(copied.len(), 0);
            for (sum, rows) in sums.iter_mut().zip(copied) {
                *sum += rows;
            }
        }
    }

    /// Which share of a source's rows went into a target: how its history is inherited.
    pub fn share(&self, source: usize, target: usize) -> f64 {
        let Some(sums) = self.copied.get(source) else {
            return 0.0;
        };
        let all: i64 = sums.iter().sum();
        match (all, sums.get(target)) {
            (1.., Some(rows)) => *rows as f64 / all as f64,
            // An empty source: its history is spread evenly.
            _ => 1.0 / sums.len().max(1) as f64,
        }
    }
}
