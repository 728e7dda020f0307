//! The part of a switch that concerns a shard on a node.

use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};

use crate::catalog::journal::Migration;
use crate::catalog::node_objects;
use crate::catalog::two_phase::{self, Decision, Number};
use crate::error::{Error, Result};
use crate::migrate::away::capture;
use crate::migrate::away::ends::{End, Ends, SCHEMA, private};
use crate::migrate::away::link::Link;
use crate::migrate::job::Job;
use crate::migrate::target::rights;
use crate::migrate::{hold, names};
use crate::pg::{on_commit, relation, role, spi, txn};
use crate::settings;

/// The least time for which a node is waited for while clients wait: a round trip to another continent and some work.
const LEAST: Duration = Duration::from_millis(500);

/// From here on clients wait: a node that does not answer within the pause is waited for no longer.
pub fn hurry(ends: &mut Ends) {
    let deadline = Instant::now() + settings::max_pause().max(LEAST);
    for end in [&mut ends.source, &mut ends.target] {
        if let End::There(link) = end {
            link.wait_until(Some(deadline));
        }
    }
}

/// Fails if a session on a node is lost, before anybody waits for it, or if a source there was changed.
pub fn require_ready(job: &Job, ends: &mut Ends) -> Result<()> {
    for end in [&mut ends.source, &mut ends.target] {
        if let End::There(link) = end {
            link.ask("SELECT 1")?;
        }
    }
    if capture::fingerprint(ends)? == job.migration.position.remote_fingerprint {
        return Ok(());
    }
    Err(Error::DefinitionChanged(
        job.migration.relation_name.clone(),
    ))
}

/// Keeps everybody on the node from writing to the sources: those who write there, and what was committed through this
/// server and is still on its way. Polite, as here. Where rows do not leave their node, another session has to read them.
pub fn lock_out(ends: &mut Ends) -> Result<()> {
    ends.source.begin()?;
    let mode = if ends.is_inside {
        "EXCLUSIVE"
    } else {
        "ACCESS EXCLUSIVE"
    };
    if let End::There(link) = &mut ends.source {
        capture::be_polite(link)?;
        if let Some(copy) = &ends.handover {
            link.ask(&copy.lock)?;
        }
        for table in &ends.source_tables {
            link.ask(&format!("LOCK TABLE ONLY {table} IN {mode} MODE"))?;
        }
    }
    Ok(())
}

/// Takes the sources' tables out of everybody's sight on their node, by a transaction that is prepared there: the commit
/// of the running one decides. Last of all, since nobody can use the tables from here on until it is decided.
pub fn hand_over(job: &Job, ends: &mut Ends) -> Result<()> {
    let function = private("capture", &ends.tag);
    let mut script = match &ends.handover {
        Some(copy) => format!("{};", copy.script),
        None => String::new(),
    };
    script += &format!("DROP FUNCTION {function}() CASCADE;");
    for (n, source) in job.migration.spec.sources.iter().enumerate() {
        let Some(remote) = &source.remote else {
            return Ok(());
        };
        let old = format!("old_{}_{}", ends.tag, n + 1);
        script += &format!(
            "ALTER TABLE {} RENAME TO {};",
            remote.qualified(),
            spi::quote_identifier(&old)
        );
        if remote.schema != SCHEMA {
            script += &format!(
                "ALTER TABLE {} SET SCHEMA {SCHEMA};",
                spi::quote_qualified_identifier(&remote.schema, &old)
            );
        }
    }
    let End::There(link) = &mut ends.source else {
        return Ok(());
    };
    let number = Number::new()?;
    number.hold()?;
    let gid = number.gid(1);
    script += &format!("PREPARE TRANSACTION {}", spi::quote_literal(&gid));
    link.ask(&script)
        .map_err(|error| without_room(&link.node, error))?;
    two_phase::decide_commit(&gid, &link.node, &purpose(job.id()))?;
    on_commit::wake_workers_in_any_case();
    Ok(())
}

/// A node that has no room for one more prepared transaction has it again soon: that is no reason to give up.
pub fn without_room(node: &str, error: Error) -> Error {
    match error {
        Error::Sql {
            code: PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            ..
        } => Error::Waiting(format!(
            "waits: node \"{node}\" has as many prepared transactions as max_prepared_transactions allows there"
        )),
        other => other,
    }
}

fn purpose(migration: i64) -> String {
    format!("migration {migration}")
}

/// Tells the source's node what was decided, at once; the watcher would do so a little later. Outside of a transaction.
pub fn finish_prepared(migration: &Migration) -> Result<()> {
    for (node, gid) in txn::run(|| two_phase::of_purpose(&purpose(migration.id)))? {
        // What a node is told must not be forgotten here by a crash.
        txn::flush_log();
        txn::run(|| {
            let mut link = Link::visit(&node)?;
            let is_prepared = link.ask(&format!(
                "SELECT FROM pg_catalog.pg_prepared_xacts WHERE gid = {}",
                spi::quote_literal(&gid)
            ))?;
            if is_prepared.len() > 0 {
                link.ask(&Decision::Commit.command(&gid))?;
            }
            two_phase::forget(&gid)
        })?;
    }
    hold::inside(migration.id, "told");
    Ok(())
}

/// Gives the target its public name and place, and attaches it. A foreign table is not scanned for that.
pub fn publish(job: &Job, n: usize, oid: pg_sys::Oid) -> Result<()> {
    let source = job.migration.spec.first_source()?;
    let Some(target) = job.migration.spec.targets.get(n) else {
        return Ok(());
    };
    let public = target
        .name
        .clone()
        .ok_or_else(|| Error::Internal("a target without a name".to_owned()))?;
    let schema = spi::quote_identifier(&source.schema);
    spi::execute(&format!(
        "ALTER TABLE {} SET SCHEMA {schema}",
        job.target_name(n)
    ))?;
    spi::execute(&format!(
        "ALTER TABLE {schema}.{} RENAME TO {}",
        spi::quote_identifier(names::private_target(job.id(), n)),
        spi::quote_identifier(&public)
    ))?;
    let bound = |bound: &Option<String>, open: &str| {
        bound.as_ref().map_or(open.to_owned(), spi::quote_literal)
    };
    let statement = format!(
        "ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})",
        relation::name(job.migration.relation)?,
        relation::name(oid)?,
        bound(&target.lower, "MINVALUE"),
        bound(&target.upper, "MAXVALUE")
    );
    let role = rights::attaching_role(job.migration.relation, job.owner)?;
    role::as_owner(role, || spi::execute(&statement))?;
    if target.node.is_none() {
        spi::execute(&format!(
            "ALTER TABLE {} DROP CONSTRAINT {}",
            relation::name(oid)?,
            names::BOUND_CONSTRAINT
        ))?;
    }
    node_objects::set_switched(job.id())
}
