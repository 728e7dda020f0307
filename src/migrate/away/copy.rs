//! Copying in batches, each written exactly once: a row on the node that is written to says, in the same transaction
//! there, how far the copy is; the journal follows. What was committed there and is not in the journal is taken over
//! from that row before anything else is copied.

use std::time::{Duration, Instant};

use crate::catalog::journal::{self, Part, Position};
use crate::error::{Error, Result};
use crate::migrate::away::define;
use crate::migrate::away::ends::{End, Ends, SCHEMA};
use crate::migrate::away::link::Link;
use crate::migrate::away::{apply, capture};
use crate::migrate::copy::{Batch, Batches, next_part, throttle};
use crate::migrate::definition;
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::pg::{guc, parse, relation, role, spi, txn};

/// The source's file and its size.
struct File {
    number: u32,
    blocks: i64,
    block_size: i64,
}

fn file(ends: &mut Ends, table: &str) -> Result<File> {
    let table = spi::quote_literal(table);
    let row = ends.source.row(
        &format!(
            "SELECT pg_relation_filenode({table}::regclass)::text,
                    (pg_relation_size({table}::regclass) / current_setting('block_size')::int8)::text,
                    current_setting('block_size')"
        ),
        3,
    )?;
    let mut numbers = row
        .into_iter()
        .map(|value| value.and_then(|value| value.parse::<i64>().ok()));
    let mut next = || {
        numbers
            .next()
            .flatten()
            .ok_or_else(|| Error::Internal("a table without a file".to_owned()))
    };
    Ok(File {
        number: u32::try_from(next()?).unwrap_or(0),
        blocks: next()?,
        block_size: next()?,
    })
}

/// Rows and bytes that are to be copied, an estimate.
pub fn totals(ends: &mut Ends) -> Result<(i64, i64)> {
    let (mut rows, mut bytes) = (0, 0);
    for table in ends.source_tables.clone() {
        let name = spi::quote_literal(&table);
        let counted = ends.source.row(
            &format!("SELECT greatest(reltuples, 0)::int8::text FROM pg_class WHERE oid = {name}::regclass"),
            1,
        )?;
        let counted = counted.into_iter().flatten().next();
        rows += counted
            .and_then(|rows| rows.parse::<i64>().ok())
            .unwrap_or(0);
        let file = file(ends, &table)?;
        bytes += file.blocks * file.block_size;
    }
    Ok((rows, bytes))
}

/// What the node that is written to says: number and contents of its last batch.
struct Progress {
    batch: i64,
    position: String,
    rows: i64,
    bytes: i64,
    seconds: f64,
}

fn progress(ends: &mut Ends) -> Result<Option<Progress>> {
    if !ends.target.is_there() {
        return Ok(None);
    }
    let sql = format!(
        "SELECT batch::text, position, rows::text, bytes::text, seconds::text FROM {} FOR UPDATE",
        ends.progress
    );
    let row = ends.target.row(&sql, 5)?;
    let [
        Some(batch),
        Some(position),
        Some(rows),
        Some(bytes),
        Some(seconds),
    ] = row.as_slice()
    else {
        return Err(unreadable(ends));
    };
    let number = |text: &str| text.parse::<i64>().map_err(|_| unreadable(ends));
    Ok(Some(Progress {
        batch: number(batch)?,
        position: position.clone(),
        rows: number(rows)?,
        bytes: number(bytes)?,
        seconds: seconds.parse().map_err(|_| unreadable(ends))?,
    }))
}

fn unreadable(ends: &Ends) -> Error {
    Error::Internal(format!("{} cannot be read", ends.progress))
}

/// Copies one batch. One transaction here; the caller commits it.
pub fn batch(job: &Job, ends: &mut Ends, batches: &mut Batches) -> Result<Batch> {
    let mut position = job.migration.position.clone();
    let Some(part) = position.parts.get(position.part).cloned() else {
        return Ok(Batch::Finished);
    };
    let table = ends.source_tables.get(part.source).cloned();
    let table = table.ok_or_else(|| Error::Internal("a part without source".to_owned()))?;
    ends.source.begin()?;
    ends.target.begin()?;
    if let Some(there) = progress(ends)?
        && there.batch != position.batch
    {
        let adopted = adopt(job, &there);
        ends.target.commit()?;
        ends.source.commit()?;
        return adopted;
    }
    ends.source
        .run(&format!("LOCK TABLE ONLY {table} IN ACCESS SHARE MODE"))?;
    let file = file(ends, &table)?;
    if position.blocks.is_some() && position.file != file.number {
        return restart(job, ends);
    }
    let blocks = position.blocks.unwrap_or(file.blocks);
    position.blocks = Some(blocks);
    position.file = file.number;
    let until = blocks.min(position.block + batches.next_blocks());
    let begun = Instant::now();
    let rows = send_blocks(job, ends, &part, &table, until, &mut position)?;
    ends.write_back(&part.targets)?;
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = (until - position.block) * file.block_size;
    position.block = until;
    if until >= blocks {
        position = next_part(position);
    }
    commit(job, ends, position, (rows, bytes, seconds))?;
    batches.adapt_blocks(seconds);
    Ok(Batch::Copied(throttle(bytes, seconds)))
}

/// Sends the rows from where the copy is to the given block to the targets of a part, and notes how many each got.
fn send_blocks(
    job: &Job,
    ends: &mut Ends,
    part: &Part,
    table: &str,
    until: i64,
    position: &mut Position,
) -> Result<i64> {
    let columns = definition::writable_columns(job.migration.relation)?.join(", ");
    let names = job.column_names()?;
    let mut sent = 0;
    for (n, target) in job.targets().filter(|(n, _)| part.targets.contains(n)) {
        let mut query = format!(
            "SELECT {columns} FROM ONLY {table} WHERE ctid >= '({},0)'::tid AND ctid < '({until},0)'::tid",
            position.block
        );
        if part.targets.len() > 1 {
            query += &format!(" AND {}", job.belongs_to(target));
        }
        let rows = ends.send_rows(n, &names, &query)?;
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        position.note(part.source, n, rows);
        sent += rows;
    }
    Ok(sent)
}

/// Commits a batch on the node and writes it to the journal, whose transaction the caller commits next.
fn commit(
    job: &Job,
    ends: &mut Ends,
    mut position: Position,
    (rows, bytes, seconds): (i64, i64, f64),
) -> Result<()> {
    if ends.target.is_there() {
        position.batch += 1;
        let json = spi::quote_literal(serde_json::to_string(&position)?);
        ends.target.run(&format!(
            "UPDATE {} SET batch = {}, position = {json}, rows = {rows}, bytes = {bytes}, seconds = {seconds}",
            ends.progress, position.batch
        ))?;
        ends.target.commit()?;
    }
    ends.source.commit()?;
    journal::advance(&job.migration, &position, rows, bytes, seconds)
}

/// Takes over what is committed on the node and was not written to the journal any more.
fn adopt(job: &Job, there: &Progress) -> Result<Batch> {
    if there.batch != job.migration.position.batch + 1 {
        return Err(Error::VerificationFailed(format!(
            "the node has {} batches of table \"{}\", but {} were copied: it has lost what it had committed",
            there.batch, job.migration.relation_name, job.migration.position.batch
        )));
    }
    let position: Position = serde_json::from_str(&there.position)?;
    journal::advance(
        &job.migration,
        &position,
        there.rows,
        there.bytes,
        there.seconds,
    )?;
    Ok(Batch::Copied(Duration::ZERO))
}

/// Somebody rewrote the source: block numbers mean nothing any more.
fn restart(job: &Job, ends: &mut Ends) -> Result<Batch> {
    let tables = ends.target_tables.join(", ");
    ends.target.run(&format!("TRUNCATE ONLY {tables}"))?;
    let before = &job.migration.position;
    let position = Position {
        fingerprint: before.fingerprint.clone(),
        triggers: before.triggers.clone(),
        remote_fingerprint: before.remote_fingerprint.clone(),
        identity: before.identity.clone(),
        timelines: before.timelines.clone(),
        parts: before.parts.clone(),
        batch: before.batch,
        ..Position::default()
    };
    commit(job, ends, position, (0, 0, 0.0))?;
    journal::event(
        "notice",
        Some(&job.migration),
        "a source was rewritten; the copy starts again",
    )?;
    Ok(Batch::Copied(Duration::ZERO))
}

/// Takes all logged keys out of the target, before unique indexes are built. The log is kept: catch-up brings the rows
/// back. Repeating it is harmless.
pub fn deduplicate(job: &Job, ends: &mut Ends) -> Result<()> {
    ends.begin_snapshots()?;
    apply::empty_truncated(job, ends)?;
    let query = capture::logged_keys(job, ends);
    let keys = ends.send_keys(job, &query)?;
    apply::delete_keys(job, ends, &keys)?;
    ends.target.commit()?;
    ends.source.commit()?;
    ends.keep_keys();
    let position = Position {
        deduplicated: true,
        ..job.migration.position.clone()
    };
    journal::advance(&job.migration, &position, 0, 0, 0.0)
}

/// Builds the next missing index of the target; when all are there, gathers statistics and returns `false`. Outside of
/// a transaction. With `alone`, no more than one process works at it.
pub fn build_next(job: &Job, ends: &mut Ends, alone: bool) -> Result<bool> {
    let workers = if alone {
        "SET LOCAL max_parallel_maintenance_workers = 0; "
    } else {
        ""
    };
    let next = txn::run(|| next_index(job, ends))?;
    let analyze = format!("ANALYZE {}", ends.target_tables.join(", "));
    match (&mut ends.target, next) {
        (End::There(link), Some(index)) => {
            let mut statements = vec![format!("{workers}{}", index.create)];
            statements.extend(index.rest);
            txn::outside(|| link.ask(&format!("BEGIN; {}; COMMIT", statements.join("; "))))?;
            Ok(true)
        }
        (End::There(link), None) => {
            txn::outside(|| link.ask(&analyze))?;
            txn::run(|| take_over_sizes(job, link, &ends.target_tables))?;
            Ok(false)
        }
        (End::Here(owner), Some(index)) => {
            // What comes from a node is one statement of the right kind; PostgreSQL evaluates it as the table's owner.
            txn::run(|| {
                parse::require(&index.create, &[parse::CREATE_INDEX, parse::ALTER_TABLE])?;
                if alone {
                    guc::set_for_transaction("max_parallel_maintenance_workers", "0");
                }
                spi::execute(&index.create)?;
                index.rest.iter().try_for_each(|statement| {
                    role::as_owner(*owner, || spi::execute(statement)).map(|_| ())
                })
            })?;
            Ok(true)
        }
        (End::Here(_), None) => {
            txn::run(|| spi::execute(&analyze))?;
            Ok(false)
        }
    }
}

/// Has the foreign tables know how many rows and pages the tables on the node have, as ANALYZE of them would find out by
/// fetching every row: for plans of queries, and for whoever looks at the shards.
fn take_over_sizes(job: &Job, link: &mut Link, tables: &[String]) -> Result<()> {
    for ((n, _), table) in job.targets().zip(tables) {
        let size = link.ask(&format!(
            "SELECT reltuples, relpages FROM pg_catalog.pg_class WHERE oid = {}::pg_catalog.regclass",
            spi::quote_literal(table)
        ))?;
        let (rows, pages) = (size.require::<f64>(0, 0)?, size.require::<i32>(0, 1)?);
        spi::run(
            "UPDATE pg_catalog.pg_class SET reltuples = $2, relpages = $3 WHERE oid = $1 AND relkind = 'f'",
            &[
                relation::find(&job.target_name(n))?.into(),
                rows.into(),
                pages.into(),
            ],
        )?;
    }
    Ok(())
}

/// Those of a table on a node are named like it; of one here, like what it will be called.
fn next_index(job: &Job, ends: &mut Ends) -> Result<Option<define::Index>> {
    let source = ends.source_tables.first().cloned().unwrap_or_default();
    for ((_, target), table) in job.targets().zip(ends.target_tables.clone()) {
        let (schema, prefix) = match &target.remote {
            Some(remote) => (SCHEMA, remote.table.clone()),
            None => {
                let name = target.name.clone().unwrap_or_default();
                (names::SCHEMA, format!("{name}_{}", job.id()))
            }
        };
        let wanted = define::indexes(&mut ends.source, &source, (schema, &table), &prefix)?;
        let sql = format!(
            "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = {}::regclass",
            spi::quote_literal(&table)
        );
        let found = ends.target.texts(&sql, 1)?;
        let found: Vec<String> = found
            .into_iter()
            .filter_map(|mut row| row.pop().flatten())
            .collect();
        let missing = wanted
            .into_iter()
            .find(|index| !found.contains(&index.name));
        if missing.is_some() {
            return Ok(missing);
        }
    }
    Ok(None)
}
