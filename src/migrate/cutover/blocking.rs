//! The switch of a table without a key: copy, indexes, comparison and exchange in one transaction, during which
//! writers wait and readers go on until the exchange itself. A crash anywhere rolls all of it back.

use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};
use repart_core::state::State;

use crate::catalog::control;
use crate::catalog::journal::{self, Position};
use crate::error::{Error, Result};
use crate::migrate::away::Links;
use crate::migrate::job::Job;
use crate::migrate::{hold, index, locks, preflight, prepare, routing, verify};
use crate::pg::{background, guc, role, spi, txn};

use super::{Attempt, lock_out_maintenance, lock_public, obstacle, read_model, record, switch};

/// How long readers may keep the exchange off once all rows are copied: as long, writers wait for nothing.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The first and the longest pause between two requests for the locks of the exchange.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Who waits while rows are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Writers; readers only for the exchange. A transaction that reads and then writes is in the way of that.
    Writers,
    /// Everybody, so that nothing is in the way once the copy is begun.
    Everybody,
}

/// What is known of an attempt, also after an error.
#[derive(Debug, Default)]
pub struct Progress {
    /// Since when others wait for it.
    pub begun: Option<Instant>,
    /// How long the copy took.
    pub copy: Option<Duration>,
}

/// One attempt. The caller commits it; it has changed nothing unless [`Attempt::Switched`]. `hold` is called at its
/// end, for tests.
pub fn attempt_blocking(
    job: &Job,
    waiting: Waiting,
    progress: &mut Progress,
    links: &mut Links,
    hold: impl FnOnce(),
) -> Result<Attempt> {
    let relations = job.public_relations()?;
    if let Some(obstacle) = obstacle::find(&relations)? {
        return Ok(Attempt::Waiting(obstacle));
    }
    // From here on no copy is added.
    lock_out_maintenance(&[job.migration.relation])?;
    if let Some(reason) = routing::switch::begin(std::slice::from_ref(job), links)? {
        return Ok(Attempt::Waiting(reason));
    }
    // Their writers would hold the copies while they wait for a shard, and the exchange would wait for them. Nothing is
    // said there while rows are copied here, so that only TCP can tell whether this server is there.
    links.copies.lock(job.id(), None)?;
    match waiting {
        Waiting::Writers => lock_writers_out(job)?,
        Waiting::Everybody => {
            lock_out_maintenance(&relations)?;
            lock_public(&relations)?;
        }
    }
    let begun = Instant::now();
    progress.begun = Some(begun);
    hold::inside(job.id(), "blocking");
    preflight::check_here(job.migration.relation, &job.migration.spec)?;
    let (mut position, seconds) = copy(job)?;
    progress.copy = Some(begun.elapsed());
    lock_exchange(job)?;
    control::require_wanted(job.id())?;
    let rows = position.copied.iter().flatten().sum();
    journal::advance(&job.migration, &position, rows, bytes(job)?, seconds)?;
    let mut job = Job::load(job.migration.clone())?;
    position.fingerprint = job.definition()?.fingerprint;
    job.migration.position = position;
    let model = read_model(&job)?;
    let changed = switch(std::slice::from_ref(&job), std::slice::from_ref(&model))?;
    journal::transition(&job.migration, State::Cleaning)?;
    journal::set_pause(job.id(), begun.elapsed().as_secs_f64() * 1000.0)?;
    record(&changed)?;
    links.copies.prepare(job.id())?;
    hold();
    Ok(Attempt::Switched)
}

fn lock_writers_out(job: &Job) -> Result<()> {
    // Of the table too: a writer that waits for a shard would hold a lock on the table, which the exchange needs.
    let mut blocked = vec![job.migration.relation];
    blocked.extend(job.source_oids());
    lock_out_maintenance(&blocked)?;
    locks::be_polite();
    locks::lock_all(&blocked, "SHARE")
}

/// Makes the targets with everything that they have, and compares them with the sources; returns what was copied,
/// and in how many seconds.
fn copy(job: &Job) -> Result<(Position, f64)> {
    let begun = Instant::now();
    prepare::create_targets(job)?;
    let columns = job.writable_columns()?;
    let mut position = Position::default();
    for source in &job.migration.spec.sources {
        let mut copied = Vec::new();
        for (n, target) in job.targets() {
            let sql = format!(
                "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM ONLY {} WHERE {}",
                job.target_name(n),
                source.qualified(),
                job.belongs_to(target)
            );
            let rows = role::as_owner(job.owner, || spi::execute(&sql))?;
            copied.push(i64::try_from(rows).unwrap_or(i64::MAX));
        }
        position.copied.push(copied);
    }
    let seconds = begun.elapsed().as_secs_f64();
    while index::build_next(job, false)? {}
    guc::set_for_transaction("default_tablespace", "");
    verify::compare_locked(job)?;
    for (n, _) in job.targets() {
        let analyze = format!("ANALYZE {}", job.target_name(n));
        role::as_owner(job.owner, || spi::execute(&analyze))?;
    }
    Ok((position, seconds))
}

fn bytes(job: &Job) -> Result<i64> {
    let bytes = spi::query_value::<i64>(
        "SELECT coalesce(sum(pg_catalog.pg_relation_size(oid)), 0)::int8 FROM pg_catalog.pg_class WHERE oid = ANY ($1)",
        &[job.source_oids().into()],
    )?;
    Ok(bytes.unwrap_or(0))
}

/// Gets the locks of the exchange: each request is short, so that no reader queues for long, and the copy is not
/// lost when one fails.
fn lock_exchange(job: &Job) -> Result<()> {
    let deadline = Instant::now() + EXCHANGE_TIMEOUT;
    let mut pause = PAUSE.0;
    loop {
        let relations = job.public_relations()?;
        let attempt = txn::attempt(|| {
            lock_out_maintenance(&relations)?;
            lock_public(&relations)
        });
        let error = match attempt {
            Ok(()) if job.public_relations()? == relations => return Ok(()),
            Ok(()) => continue,
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error),
        };
        if let Some(reason) = deadlock(&relations)? {
            return Err(in_the_way(reason));
        }
        if Instant::now() >= deadline {
            return Err(obstacle::find(&relations)?.map_or(error, in_the_way));
        }
        background::wait(pause);
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Transient, so that the whole attempt is undone and made again later.
fn in_the_way(reason: String) -> Error {
    Error::Sql {
        code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        message: reason,
        detail: None,
        hint: None,
    }
}

/// A transaction that has read the table and now waits to write to it: it waits for this one, and this one for it.
fn deadlock(relations: &[pg_sys::Oid]) -> Result<Option<String>> {
    spi::query_value(
        "SELECT pg_catalog.format('process %s has read the table and waits to write to it', a.pid)
           FROM pg_catalog.pg_stat_activity a
          WHERE a.datid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
            AND a.wait_event_type = 'Lock' AND pg_catalog.pg_backend_pid() = ANY (pg_catalog.pg_blocking_pids(a.pid))
            AND EXISTS (SELECT FROM pg_catalog.pg_locks l
                         WHERE l.pid = a.pid AND l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1))
          LIMIT 1",
        &[relations.to_vec().into()],
    )
}
