//! Keeping the old shards after a switch, for `repart.retain_source`, so that a revert need not copy.
//!
//! Inside the switch the old shards become what the reverse migration would make: its targets, private and
//! complete, with its log and its triggers on the new shards. Only its row in the journal is missing. The
//! janitor keeps the log short; `repart_revert` adds the row; whatever makes the old shards useless drops them.

use pgrx::pg_sys;
use repart_core::state::State;

use crate::catalog::journal::{self, Position, Source};
use crate::catalog::migration::Migration;
use crate::catalog::retained::{self, Keeper, Retained};
use crate::catalog::{samples, tables};
use crate::error::{Error, Result};
use crate::migrate::clean::{self, How};
use crate::migrate::definition::{self, Index};
use crate::migrate::job::Job;
use crate::migrate::{capture, catch_up, names, preflight, prepare, revert, target};
use crate::pg::txn::{self, Isolation};
use crate::pg::{guc, relation, spi};
use crate::settings;

/// Keeps the sources of a migration that is being switched, if `repart.retain_source` says so and they can be
/// followed. To be called inside the switch, once sources are detached and targets (`made`) attached.
pub fn keep(job: &Job, made: &[pg_sys::Oid]) -> Result<()> {
    let seconds = settings::retain_source().as_secs_f64();
    // A table that stays is no old shard.
    if seconds == 0.0 || job.is_away() || job.kept().next().is_some() {
        return Ok(());
    }
    let sources = job.source_oids();
    drop_capture(job)?;
    let why = if job.identity.is_empty() {
        Some("missing key".to_owned())
    } else {
        cannot_be_followed(&sources)?
    };
    if let Some(why) = why {
        return journal::event(
            "notice",
            Some(&job.migration),
            &format!(
                "the old shards of migration {} are not kept, because of their {why}",
                job.id()
            ),
        );
    }
    let number = retained::reserve_number()?;
    for (n, source) in job.migration.spec.sources.iter().enumerate() {
        become_target(job, n, source, number)?;
    }
    let mut reverse = reverse_of(job, number, made)?;
    let owner = spi::value::<String>(
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = $1",
        &[job.owner.into()],
    )?;
    let reverse_job = Job {
        migration: reverse.clone(),
        key: job.key.clone(),
        identity: job.identity.clone(),
        owner: job.owner,
    };
    capture::create(&reverse_job, &owner.unwrap_or_default())?;
    capture::start(&reverse_job)?;
    reverse.position.triggers = capture::triggers(&reverse)?;
    reverse.position.fingerprint = target::definition(job.migration.relation, made)?.fingerprint;
    // When they come back their counters will have stood still.
    samples::forget_counters(&sources)?;
    let retained = Retained {
        number,
        spec: reverse.spec,
        position: reverse.position,
    };
    retained::store(job.id(), &retained, seconds)
}

/// The reverse of a migration, beginning with everything copied.
fn reverse_of(job: &Job, number: i64, made: &[pg_sys::Oid]) -> Result<Migration> {
    let original = &job.migration;
    let schema = original.spec.sources.first().map(|source| &source.schema);
    let sources = job
        .targets()
        .zip(made)
        .map(|((_, target), oid)| Source {
            oid: oid.to_u32(),
            schema: schema.cloned().unwrap_or_default(),
            name: target.name.clone().unwrap_or_default(),
            lower: target.lower.clone(),
            upper: target.upper.clone(),
            tablespace: None,
            remote: None,
        })
        .collect();
    let copied = &original.position.copied;
    let from_target = |n: usize| {
        let to_source = |row: &Vec<i64>| row.get(n).copied().unwrap_or(0);
        copied.iter().map(to_source).collect()
    };
    Ok(Migration {
        id: number,
        kind: original.kind.reverse(),
        spec: journal::Spec {
            sources,
            targets: original.spec.sources.iter().map(revert::target).collect(),
            blocking: false,
        },
        position: Position {
            deduplicated: true,
            copied: (0..made.len()).map(from_target).collect(),
            retained: true,
            ..Position::default()
        },
        ..original.clone()
    })
}

/// The migration's own triggers, whose log ends with it, and those of older ones, which do nothing any more and could
/// not be dropped yet because somebody used the shard.
fn drop_capture(job: &Job) -> Result<()> {
    let drops: Vec<String> = spi::query(
        "SELECT pg_catalog.format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass)
           FROM pg_catalog.pg_trigger
          WHERE tgrelid = ANY ($1) AND NOT tgisinternal AND tgname LIKE 'repart\\_capture\\_%'",
        &[job.source_oids().into()],
        |row| row.get(1),
    )?;
    drops
        .iter()
        .try_for_each(|drop| spi::execute(drop).map(|_| ()))
}

/// What old shards have that would notice what is written to them behind the users' backs, or that their way
/// back into the table would have to put on them again: such ones are not kept.
fn cannot_be_followed(sources: &[pg_sys::Oid]) -> Result<Option<String>> {
    spi::query_value(
        "SELECT pg_catalog.string_agg(what, ', ') FROM (
            SELECT pg_catalog.format('trigger %I', tgname) AS what FROM pg_catalog.pg_trigger
             WHERE tgrelid = ANY ($1) AND NOT tgisinternal
             UNION ALL
            SELECT pg_catalog.format('rule %I', rulename) FROM pg_catalog.pg_rewrite WHERE ev_class = ANY ($1)
             UNION ALL
            SELECT pg_catalog.format('policy %I', polname) FROM pg_catalog.pg_policy WHERE polrelid = ANY ($1)
             UNION ALL
            SELECT pg_catalog.format('statistics %I', stxname) FROM pg_catalog.pg_statistic_ext WHERE stxrelid = ANY ($1)
             UNION ALL
            SELECT pg_catalog.format('constraint %I, which is not valid', conname) FROM pg_catalog.pg_constraint
             WHERE conrelid = ANY ($1) AND contype <> 'f' AND NOT convalidated
             UNION ALL
            SELECT pg_catalog.format('publication %I', p.pubname)
              FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
             WHERE r.prrelid = ANY ($1)) x",
        &[sources.to_vec().into()],
    )
}

/// Makes an old shard, which has just left the table, a target of the reverse migration.
fn become_target(job: &Job, n: usize, source: &Source, number: i64) -> Result<()> {
    let table = names::retired(job.id(), n);
    spi::execute(&format!(
        "ALTER TABLE {table} ADD CONSTRAINT {} CHECK ({}) NOT VALID",
        names::BOUND_CONSTRAINT,
        definition::range_condition(&job.key, source.lower.as_deref(), source.upper.as_deref())
    ))?;
    // Sound without a scan: the same condition was the partition constraint until this transaction detached
    // the table, under a lock that it still holds, so that every row satisfies it; every later one is checked.
    spi::run(
        "UPDATE pg_catalog.pg_constraint SET convalidated = true
          WHERE conrelid = $1 AND contype = 'c' AND conname = $2",
        &[source.relation().into(), names::BOUND_CONSTRAINT.into()],
    )?;
    // Also lets every process read the constraint anew.
    spi::execute(&format!(
        "ALTER TABLE {table} RENAME TO {}",
        spi::quote_identifier(names::private_target(number, n))
    ))?;
    Ok(())
}

/// Applies what was captured since the last time, outside of a transaction; an error that is not transient
/// says why the old shards cannot be kept any longer.
pub fn follow(keeper: &Keeper) -> Result<()> {
    let pending = txn::run(|| {
        require_usable(&keeper.reverse)?;
        capture::pending(&keeper.reverse)
    })?;
    if pending > settings::max_backlog() {
        return Err(Error::Backlog(pending, settings::max_backlog()));
    }
    if pending == 0 {
        return Ok(());
    }
    let applied = txn::run_at(Isolation::RepeatableRead, || {
        // Not while a revert takes them over, nor after.
        if retained::hold(keeper.id)?.is_none() {
            return Ok(());
        }
        let job = Job::load(keeper.reverse.clone())?;
        guc::without_counting(|| catch_up::round(&job)).map(|_| ())
    });
    if applied.is_err() {
        // A change of the definition since the first look shows as some error; this says what it is.
        txn::run(|| require_usable(&keeper.reverse))?;
    }
    applied
}

/// Fails unless everything is still as it was when the old shards were kept.
fn require_usable(reverse: &Migration) -> Result<()> {
    let table = &reverse.relation_name;
    let sources = reverse.spec.source_oids();
    // First, so that what explains another one is looked for after it.
    let definition = target::definition(reverse.relation, &sources);
    if !relation::exists(reverse.relation)? {
        return Err(useless(format!("table \"{table}\" was dropped")));
    }
    if tables::find(reverse.relation)?.is_none() {
        return Err(Error::NotManaged(table.clone()));
    }
    if definition?.fingerprint != reverse.position.fingerprint {
        return Err(useless(format!(
            "the definition of table \"{table}\" has changed"
        )));
    }
    let targets: Vec<String> = (0..reverse.spec.targets.len())
        .map(|n| names::target(reverse.id, n))
        .chain([names::log(reverse.id)])
        .collect();
    let complete = spi::query_value::<bool>(
        "SELECT pg_catalog.bool_and(pg_catalog.to_regclass(t) IS NOT NULL) FROM pg_catalog.unnest($1::text[]) t",
        &[targets.into()],
    )?;
    if complete == Some(true) && capture::triggers(reverse)? == reverse.position.triggers {
        return Ok(());
    }
    Err(useless(
        "somebody has dropped or disabled a part of them".to_owned(),
    ))
}

fn useless(what: String) -> Error {
    Error::Prerequisite {
        what,
        hint: String::new(),
    }
}

/// Why old shards are not kept for ever.
pub const EXPIRED: &str = "the time for which they were kept is over";

/// Drops what a migration keeps, outside of a transaction, and says why.
pub fn give_up(id: i64, why: &str) -> Result<()> {
    let with = |how: How| {
        txn::run(|| {
            let Some(keeper) = retained::hold(id)? else {
                return Ok(());
            };
            // The time may have been ended since the reason was found, which is then none of its own.
            let why = if keeper.is_expired { EXPIRED } else { why };
            clean::drop_private(keeper.number(), how)?;
            retained::forget(id)?;
            let message =
                format!("the old shards of migration {id} are not kept any longer: {why}");
            journal::event("notice", journal::find(id)?.as_ref(), &message)
        })
    };
    match with(How::Thoroughly) {
        // The triggers must wait for somebody; the rest need not.
        Err(error) if error.is_transient() => with(How::InPart),
        outcome => outcome,
    }
}

/// Begins a migration whose targets are old shards that were kept; `false` if they are of no use any more, so
/// that it must begin as any other.
pub fn adopt(migration: &Migration) -> Result<bool> {
    preflight::check(migration.relation, &migration.spec)?;
    let why = match require_usable(migration) {
        Ok(()) if adopt_indexes(migration)? => {
            // Somebody may have taken the name of an old shard.
            prepare::choose_names(&mut migration.clone())?;
            journal::transition(migration, State::CatchingUp)?;
            return Ok(true);
        }
        Ok(()) => "its indexes differ".to_owned(),
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => error.to_string(),
    };
    journal::restart_copy(migration, &Position::default())?;
    let message =
        format!("the old shards that were kept cannot be used, so they are copied anew: {why}");
    journal::event("notice", Some(migration), &message)?;
    Ok(false)
}

/// Gives the indexes of the kept shards the names that a migration gives those that it builds; `false` if they
/// are not the same as those of the shards that they replace.
fn adopt_indexes(migration: &Migration) -> Result<bool> {
    let Some(first) = migration.spec.sources.first() else {
        return Ok(false);
    };
    let wanted = definition::indexes(first.relation())?;
    let mut renames = Vec::new();
    for n in 0..migration.spec.targets.len() {
        let table = relation::find(&names::target(migration.id, n))?;
        let mut found = definition::indexes(table)?;
        for (k, index) in wanted.iter().enumerate() {
            let Some(at) = found.iter().position(|other| is_alike(index, other)) else {
                return Ok(false);
            };
            renames.push((
                found.swap_remove(at).name,
                names::private_index(migration.id, n, k),
            ));
        }
        if !found.is_empty() {
            return Ok(false);
        }
    }
    for (from, to) in renames {
        if from != to {
            spi::execute(&format!(
                "ALTER INDEX {} RENAME TO {}",
                spi::quote_qualified_identifier(names::SCHEMA, from.as_str()),
                spi::quote_identifier(to)
            ))?;
        }
    }
    Ok(true)
}

fn is_alike(one: &Index, other: &Index) -> bool {
    let constraint = |index: &Index| {
        index
            .constraint
            .as_ref()
            .map(|found| (found.definition.clone(), found.deferrable.clone()))
    };
    one.unique == other.unique && one.tail == other.tail && constraint(one) == constraint(other)
}
