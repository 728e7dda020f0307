//! Copying, in short transactions, each of which also advances the journal: whole sources in physical
//! order, narrow ranges of them in key order, through the index. `choice.rs` says what is read how.
//!
//! Only rows that existed when capture began need to be copied: later ones are in the log. A row that an
//! UPDATE moves between two batches (forward in its file, or to a higher key) can be copied twice; its key
//! is in the log, and `index.rs` takes all logged keys out of the targets before unique indexes are built.

use std::time::Instant;

use pgrx::pg_sys;

use crate::catalog::journal::{self, Part, Position, Source};
use crate::error::{Error, Result};
use crate::migrate::definition::range_condition;
use crate::migrate::job::Job;
use crate::migrate::{choice, flows, locks, names};
use crate::pg::writeback::Length;
use crate::pg::{relation, role, spi, transfer};
use crate::settings;

/// Blocks of the first batch: 2 MB with the usual block size.
const FIRST_BATCH: i64 = 256;

/// Blocks of the largest batch: 256 MB.
const LARGEST_BATCH: i64 = 32_768;

/// Rows of the first and the largest batch that is read in key order.
const FIRST_ROWS: i64 = 1_000;
const MOST_ROWS: i64 = 1_000_000;

/// How large batches are; kept between them, forgotten at a restart.
pub struct Batches {
    blocks: i64,
    rows: i64,
}

impl Default for Batches {
    fn default() -> Self {
        Self {
            blocks: FIRST_BATCH,
            rows: FIRST_ROWS,
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

impl Batches {
    /// Blocks of the next batch: what was measured, or what `repart.max_copy_rate` allows in the time of one
    /// batch, so that the rate is kept by many small pauses and not by a burst and a long one.
    pub fn next_blocks(&self) -> i64 {
        allowed(self.blocks, block_size() as f64)
    }

    /// Learns from the time that a batch of blocks took.
    pub fn adapt_blocks(&mut self, seconds: f64) {
        self.blocks = adapted(self.blocks, seconds, LARGEST_BATCH);
    }

    /// As [`Batches::next_blocks`], of rows of so many bytes.
    fn next_rows(&self, row_bytes: f64) -> i64 {
        allowed(self.rows, row_bytes)
    }
}

fn allowed(measured: i64, bytes: f64) -> i64 {
    let allowed = settings::max_copy_rate().map_or(f64::INFINITY, |rate| {
        rate * settings::batch_duration().as_secs_f64() / bytes.max(1.0)
    });
    (measured as f64).min(allowed).max(1.0) as i64
}

/// Aims at `repart.batch_duration`: at most twice or half as much as before.
fn adapted(size: i64, seconds: f64, most: i64) -> i64 {
    let aim = settings::batch_duration().as_secs_f64();
    let next = (size as f64 * (aim / seconds.max(1e-6)).clamp(0.5, 2.0)) as i64;
    next.clamp(1, most)
}

/// Copies one batch. One transaction; the caller commits it.
pub fn batch(job: &Job, batches: &mut Batches) -> Result<Batch> {
    let position = job.migration.position.clone();
    let Some(part) = position.parts.get(position.part).cloned() else {
        if position.parts.is_empty() && job.rebuilt_targets().next().is_some() {
            return Err(Error::Internal("nothing says what to copy".to_owned()));
        }
        return Ok(Batch::Finished);
    };
    let source = job.migration.spec.sources.get(part.source);
    let source = source.ok_or_else(|| Error::Internal("a part without source".to_owned()))?;
    locks::lock(&source.qualified(), "ACCESS SHARE")?;
    let targets = locked_targets(job, &part)?;
    let before = Length::of(&targets);
    let batch = if part.by_index {
        key_batch(job, &part, source, position, batches)?
    } else {
        block_batch(job, &part, source, position, &targets, batches)?
    };
    before.write_back_growth();
    Ok(batch)
}

/// Those of a part that rows are copied to.
fn locked_targets(job: &Job, part: &Part) -> Result<Vec<pg_sys::Oid>> {
    let mut targets = Vec::new();
    for (n, _) in job
        .rebuilt_targets()
        .filter(|(n, _)| part.targets.contains(n))
    {
        locks::lock(&job.target_name(n), "ROW EXCLUSIVE")?;
        targets.push(relation::find(&job.target_name(n))?);
    }
    Ok(targets)
}

/// The next blocks of a source that is read in physical order.
fn block_batch(
    job: &Job,
    part: &Part,
    source: &Source,
    mut position: Position,
    targets: &[pg_sys::Oid],
    batches: &mut Batches,
) -> Result<Batch> {
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
    let until = blocks.min(position.block + batches.next_blocks());
    let begun = Instant::now();
    let rows = copy_blocks(job, part, source, targets, until, &mut position)?;
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = (until - position.block) * block_size();
    position.block = until;
    if until >= blocks {
        position = next_part(position);
    }
    journal::advance(&job.migration, &position, rows, bytes, seconds)?;
    batches.adapt_blocks(seconds);
    Ok(Batch::Copied(throttle(bytes, seconds)))
}

/// The next keys of a range that is read through the index. Rows that share a key are copied together.
fn key_batch(
    job: &Job,
    part: &Part,
    source: &Source,
    mut position: Position,
    batches: &mut Batches,
) -> Result<Batch> {
    flows::through_index();
    let overlaps = flows::overlaps(job)?;
    let target = part.targets.first().copied();
    let range = overlaps
        .into_iter()
        .find(|overlap| overlap.source == part.source && Some(overlap.target) == target)
        .ok_or_else(|| Error::Internal("a part without rows".to_owned()))?;
    let lower = position.key.clone().or(range.lower);
    let begun = Instant::now();
    let next = flows::next_key(
        job,
        &source.qualified(),
        lower.as_deref(),
        range.upper.as_deref(),
        batches.next_rows(part.row_bytes),
    )?;
    let upper = next.as_deref().or(range.upper.as_deref());
    let condition = range_condition(&job.key, lower.as_deref(), upper);
    let rows = copy_rows(job, part, source, &condition, &mut position)?;
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = (rows as f64 * part.row_bytes) as i64;
    position.key = next;
    if position.key.is_none() {
        position = next_part(position);
    }
    journal::advance(&job.migration, &position, rows, bytes, seconds)?;
    batches.rows = adapted(batches.rows, seconds, MOST_ROWS);
    Ok(Batch::Copied(throttle(bytes, seconds)))
}

/// Where the copy is once a part is complete.
pub fn next_part(position: Position) -> Position {
    Position {
        part: position.part + 1,
        block: 0,
        blocks: None,
        file: 0,
        key: None,
        ..position
    }
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
    let before = &job.migration.position;
    let position = Position {
        fingerprint: before.fingerprint.clone(),
        triggers: before.triggers.clone(),
        parts: before.parts.clone(),
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

/// Copies the rows from where the copy is to the given block into the targets of a part, and notes how many each got.
fn copy_blocks(
    job: &Job,
    part: &Part,
    source: &Source,
    targets: &[pg_sys::Oid],
    until: i64,
    position: &mut Position,
) -> Result<i64> {
    let blocks = block_number(position.block)?..block_number(until)?;
    // The operators of the key's type may be a user's.
    let copied = role::as_owner(job.owner, || {
        transfer::blocks(source.relation(), blocks, targets, names::BOUND_CONSTRAINT)
    })?;
    for (n, rows) in part.targets.iter().zip(&copied) {
        position.note(part.source, *n, *rows);
    }
    Ok(copied.iter().sum())
}

fn block_number(block: i64) -> Result<u32> {
    u32::try_from(block).map_err(|_| Error::Internal(format!("block {block} cannot be")))
}

/// Copies the rows that a condition names into the targets of a part, and notes how many each got.
fn copy_rows(
    job: &Job,
    part: &Part,
    source: &Source,
    condition: &str,
    position: &mut Position,
) -> Result<i64> {
    let columns = job.writable_columns()?;
    let mut copied = 0;
    for (n, target) in job.rebuilt_targets() {
        if !part.targets.contains(&n) {
            continue;
        }
        let sql = format!(
            "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM ONLY {}
              WHERE {condition} AND {}",
            job.target_name(n),
            source.qualified(),
            job.belongs_to(target),
        );
        let rows = role::as_owner(job.owner, || spi::execute(&sql))?;
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        position.note(part.source, n, rows);
        copied += rows;
    }
    Ok(copied)
}

/// Rows and bytes that are to be copied, or inserted in the cutover, for progress: an estimate.
pub fn totals(job: &Job) -> Result<(i64, i64)> {
    let (mut rows, mut bytes) = (0.0, 0.0);
    for part in &job.migration.position.parts {
        rows += part.rows;
        bytes += match job.migration.spec.sources.get(part.source) {
            Some(source) if !part.by_index => (blocks_of(source)? * block_size()) as f64,
            _ => part.rows * part.row_bytes,
        };
    }
    let (arriving, their_bytes) = choice::arriving(job)?;
    Ok(((rows + arriving) as i64, (bytes + their_bytes) as i64))
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
    /// Adds rows that went from a source to a target.
    pub fn note(&mut self, source: usize, target: usize, rows: i64) {
        while self.copied.len() <= source {
            self.copied.push(Vec::new());
        }
        if let Some(sums) = self.copied.get_mut(source) {
            while sums.len() <= target {
                sums.push(0);
            }
            if let Some(sum) = sums.get_mut(target) {
                *sum = sum.saturating_add(rows);
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
            (1.., rows) => rows.copied().unwrap_or(0) as f64 / all as f64,
            // An empty source: its history is spread evenly.
            _ => 1.0 / sums.len().max(1) as f64,
        }
    }
}
