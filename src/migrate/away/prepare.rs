//! Preparing: names, which are written down before anything has them; the tables at both ends; change capture.

use std::fmt::Write;

use crate::catalog::journal::{self, Migration, Part, Position, Remote, Target};
use crate::catalog::node_objects::{self, Role};
use crate::error::{Error, Result};
use crate::migrate::away::define::Model;
use crate::migrate::away::ends::{self, End, Ends, SCHEMA};
use crate::migrate::away::{capture, define};
use crate::migrate::job::Job;
use crate::migrate::{self, clean, flows, preflight};
use crate::pg::{grants, parse, relation, role, spi};

/// Bytes of a table's name on a node, of which names of indexes are made.
const MAX_NAME: usize = 50;

/// Checks, chooses names, and writes down where something will be made. One transaction, which must be committed before
/// anything else is done.
pub fn begin(migration: &Migration) -> Result<()> {
    preflight::check(migration.relation, &migration.spec)?;
    let mut migration = migration.clone();
    let tag = ends::tag(migration.id)?;
    let first = migration.spec.first_source()?.clone();
    let (table, id) = (migration.relation_name.clone(), migration.id);
    for (n, target) in migration.spec.targets.iter_mut().enumerate() {
        let name = match &target.name {
            Some(name) => name.clone(),
            None => migrate::prepare::free_name(&first.schema, &table, id, n)?,
        };
        target.remote = target.node.as_ref().map(|node| Remote {
            node: node.clone(),
            schema: SCHEMA.to_owned(),
            table: remote_name(&name, &format!("{tag}_{}", n + 1)),
        });
        target.name = Some(name);
    }
    let spec = &migration.spec;
    let sources = spec.sources.iter().filter_map(|s| s.remote.as_ref());
    let targets = spec.targets.iter().filter_map(|t| t.remote.as_ref());
    note(id, Role::Source, &tag, sources)?;
    note(id, Role::Target, &tag, targets)?;
    journal::set_spec(&migration)
}

/// Notes the tables that a migration has, or will have, on a node.
fn note<'a>(
    id: i64,
    role: Role,
    tag: &str,
    tables: impl Iterator<Item = &'a Remote>,
) -> Result<()> {
    let tables: Vec<&Remote> = tables.collect();
    let Some(first) = tables.first() else {
        return Ok(());
    };
    let names: Vec<String> = tables.iter().map(|table| table.qualified()).collect();
    node_objects::note(id, &first.node, role, tag, &names.join(", "))
}

fn remote_name(shard: &str, tag: &str) -> String {
    let mut end = shard.len().min(MAX_NAME.saturating_sub(tag.len() + 1));
    while !shard.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{tag}", &shard[..end])
}

/// Drops what an earlier attempt left at either end, and makes the tables. One transaction here, and one on each node,
/// which is committed first: what it made is found by its name.
pub fn create(job: &Job, ends: &mut Ends) -> Result<()> {
    clean::drop_private(job.id(), clean::How::Thoroughly)?;
    for made in node_objects::of(job.id())? {
        let end = match made.role {
            Role::Source => &mut ends.source,
            Role::Target => &mut ends.target,
        };
        end.run(&super::clean::script(&made))?;
    }
    make_tables(job, ends)?;
    let job = capture::create(job, ends)?;
    let position = Position {
        fingerprint: job.definition()?.fingerprint,
        identity: job.identity.clone(),
        timelines: ends.timelines.clone(),
        parts: parts(&job)?,
        ..Position::default()
    };
    journal::restart_copy(&job.migration, &position)
}

/// Each source is read once, for all targets that get something of it.
fn parts(job: &Job) -> Result<Vec<Part>> {
    let overlaps = flows::overlaps(job)?;
    let of_source = |source| Part {
        source,
        targets: overlaps
            .iter()
            .filter(|overlap| overlap.source == source)
            .map(|overlap| overlap.target)
            .collect(),
        ..Part::default()
    };
    Ok((0..job.migration.spec.sources.len())
        .map(of_source)
        .collect())
}

fn make_tables(job: &Job, ends: &mut Ends) -> Result<()> {
    let source = ends.source_tables.first().cloned().unwrap_or_default();
    let progress = &ends.progress;
    let mut script = format!(
        "BEGIN; CREATE TABLE {progress} (batch bigint NOT NULL, position text NOT NULL, rows bigint NOT NULL,
             bytes bigint NOT NULL, seconds double precision NOT NULL);
         INSERT INTO {progress} VALUES (0, '', 0, 0, 0);"
    );
    for ((n, target), table) in job.targets().zip(&ends.target_tables) {
        let model = define::read(&mut ends.source, &source, table)?;
        if !ends.target.is_there() {
            return create_here(job, &model, target);
        }
        for statement in define::create_table(job, &model, target, table) {
            let _ = write!(script, "{statement};");
        }
        create_foreign(job, n, target)?;
    }
    script.push_str("COMMIT");
    if let End::There(link) = &mut ends.target {
        create_schema(link)?;
        link.ask(&script)?;
    }
    Ok(())
}

/// Of two that make it at the same time, one is told that it is there.
pub fn create_schema(link: &mut super::link::Link) -> Result<()> {
    let create = format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}");
    match link.ask(&create) {
        Err(Error::Sql { .. }) => link.ask(&create).map(|_| ()),
        outcome => outcome.map(|_| ()),
    }
}

/// The foreign table that stands for the one on the node: private, and of the source's owner.
fn create_foreign(job: &Job, n: usize, target: &Target) -> Result<()> {
    let Some(remote) = &target.remote else {
        return Ok(());
    };
    let name = job.target_name(n);
    let model = here(job, &name)?;
    for statement in define::create_foreign_table(&model, remote, &name) {
        spi::execute(&statement)?;
    }
    settle(job, n)
}

/// What the shard is made of as this server has it.
fn here(job: &Job, name: &str) -> Result<Model> {
    let mut here = End::Here(job.owner);
    let table = job.migration.spec.first_source()?.qualified();
    define::read(&mut here, &table, name)
}

/// The table here that replaces one on a node. Its columns and constraints are those of the foreign table; what else the
/// table there has is made as its owner, and only if it is what it should be: a node must not get anything else done
/// here.
fn create_here(job: &Job, there: &Model, target: &Target) -> Result<()> {
    let name = job.target_name(0);
    let model = here(job, &name)?;
    let create = define::create_table(job, &model, target, &name);
    let (create, rest) = create
        .split_first()
        .ok_or_else(|| Error::Internal("a table without definition".to_owned()))?;
    let tablespace = target.tablespace.as_ref().map_or_else(String::new, |name| {
        format!(" TABLESPACE {}", spi::quote_identifier(name))
    });
    spi::execute(&format!("{create}{tablespace}"))?;
    settle(job, 0)?;
    for statement in rest {
        role::as_owner(job.owner, || spi::execute(statement))?;
    }
    for statement in define::own_statements(there) {
        parse::require(&statement, &[parse::ALTER_TABLE])?;
        role::as_owner(job.owner, || spi::execute(&statement))?;
    }
    Ok(())
}

/// Owner and grants of what users will see.
fn settle(job: &Job, n: usize) -> Result<()> {
    let name = job.target_name(n);
    let owner = relation::role_name(job.owner)?;
    spi::execute(&format!(
        "ALTER TABLE {name} OWNER TO {}",
        spi::quote_identifier(owner)
    ))?;
    grants::copy(job.first_source()?, relation::find(&name)?)
}

/// Starts change capture; short locks on the source only.
pub fn start_capture(job: &Job, ends: &mut Ends) -> Result<()> {
    ends.source.begin()?;
    capture::start(job, ends)?;
    // Nobody can have changed the definition unnoticed: the triggers' locks are held.
    job.require_unchanged()?;
    let position = Position {
        triggers: if ends.source.is_there() {
            String::new()
        } else {
            migrate::capture::triggers(&job.migration)?
        },
        remote_fingerprint: capture::fingerprint(ends)?,
        ..job.migration.position.clone()
    };
    ends.source.commit()?;
    journal::restart_copy(&job.migration, &position)?;
    let (rows, bytes) = super::copy::totals(ends)?;
    journal::set_totals(job.id(), rows, bytes)
}
