//! Taking a finished migration back: the migration that makes the old shards of the new ones.

use repart_core::state::State;

use crate::catalog::bounds::Bound;
use crate::catalog::journal::{Migration, Source, Spec, Target};
use crate::catalog::retained::{self, Retained};
use crate::catalog::shards::{self, Shard};
use crate::error::{Error, Result};
use crate::migrate::queue::{self, Origin};
use crate::migrate::request::{self, Wanted};
use crate::pg::{relation, role, spi};

/// Queues the reverse of a migration, given with those that it was carried out with, itself first; returns the
/// number of its reverse, and what that does. The caller's rights are checked.
pub fn queue(group: &[Migration]) -> Result<(i64, Wanted)> {
    let Some(original) = group.first() else {
        return Err(Error::Internal("no migration to revert".to_owned()));
    };
    for member in group {
        if member.state != State::Done {
            return Err(not_finished(member));
        }
        relation::require_owner(member.relation)?;
    }
    require_same_group(original, group)?;
    let mut reverses = group
        .iter()
        .map(reverse)
        .collect::<Result<Vec<_>>>()?
        .into_iter();
    let Some((wanted, origin)) = reverses.next() else {
        return Err(Error::Internal("no migration to revert".to_owned()));
    };
    let (others, origins): (Vec<Wanted>, Vec<Origin>) = reverses.unzip();
    let taken_over: Vec<i64> = [&origin]
        .into_iter()
        .chain(&origins)
        .filter(|origin| origin.retained.is_some())
        .filter_map(|origin| origin.reverts)
        .collect();
    let others = others.iter().zip(origins).collect();
    let id = queue::together((&wanted, origin), others)?;
    role::as_superuser(|| taken_over.into_iter().try_for_each(retained::forget))?;
    Ok((id, wanted))
}

/// What takes one of them back.
fn reverse(original: &Migration) -> Result<(Wanted, Origin)> {
    let made = made_shards(original)?;
    let wanted = Wanted {
        kind: original.kind.reverse(),
        table: original.relation,
        spec: Spec {
            sources: made.iter().map(request::source).collect::<Result<_>>()?,
            targets: old_shards(original, &made)?,
            blocking: original.spec.blocking,
        },
    };
    let origin = Origin {
        reverts: Some(original.id),
        retained: kept_for(original, &made)?,
        ..Origin::default()
    };
    Ok((wanted, origin))
}

/// Fails where a table has joined the group since, or has left it: it would not fit any more.
fn require_same_group(original: &Migration, group: &[Migration]) -> Result<()> {
    let now = queue::hold_group(original.relation)?;
    let is_member = |table| group.iter().any(|member| member.relation == table);
    if now.len() == group.len() && now.into_iter().all(is_member) {
        return Ok(());
    }
    Err(Error::Prerequisite {
        what: format!(
            "table \"{}\" is not colocated with the same tables any more as in migration {}",
            original.relation_name, original.id
        ),
        hint: "Reshape it with repart_split, repart_merge or repart_shift.".to_owned(),
    })
}

fn not_finished(original: &Migration) -> Error {
    let id = original.id;
    Error::Prerequisite {
        what: format!(
            "migration {id} is {} and cannot be reverted",
            original.state
        ),
        hint: match original.state {
            State::Cancelled | State::Failed => "It has changed nothing.".to_owned(),
            State::Cleaning => format!("Wait for it with SELECT repart_wait({id})."),
            _ => format!("Stop it with SELECT repart_cancel({id})."),
        },
    }
}

/// The shards that a migration made, as they are now.
fn made_shards(original: &Migration) -> Result<Vec<Shard>> {
    let key = shards::key(original.relation)?;
    let current = shards::of(original.relation)?;
    let mut made = Vec::new();
    for (n, target) in original.spec.targets.iter().enumerate() {
        let mut found = None;
        for shard in current.iter().filter(|shard| !shard.is_default) {
            if key.is_same(&shard.lower, &target.lower)?
                && key.is_same(&shard.upper, &target.upper)?
            {
                found = Some(shard.clone());
            }
        }
        made.push(found.map_or_else(|| Err(changed(original, n, target)), Ok)?);
    }
    Ok(made)
}

fn changed(original: &Migration, n: usize, target: &Target) -> Error {
    let end = |bound: &Bound, open: &str| bound.clone().unwrap_or_else(|| open.to_owned());
    let shard = format!(
        "the shard from {} to {} that migration {} made",
        end(&target.lower, "MINVALUE"),
        end(&target.upper, "MAXVALUE"),
        original.id
    );
    match role::as_superuser(|| retained::changed_by(original, n)) {
        Err(error) => error,
        Ok(Some((later, kind))) => Error::Prerequisite {
            what: format!("{shard} was changed by migration {later}, a {kind}"),
            hint: format!("Revert that one first, with SELECT repart_revert({later})."),
        },
        Ok(None) => Error::Prerequisite {
            what: format!("{shard} does not exist any more"),
            hint: "See SELECT * FROM repart.shards.".to_owned(),
        },
    }
}

/// The old shards, to be made again: with their names where those are free, and where they were.
fn old_shards(original: &Migration, made: &[Shard]) -> Result<Vec<Target>> {
    let default = request::default_tablespace()?;
    let place = |tablespace: &Option<String>| tablespace.clone().unwrap_or_else(|| default.clone());
    let now = made.first().map(|shard| place(&shard.tablespace));
    let mut targets = Vec::new();
    for source in &original.spec.sources {
        let then = place(&source.tablespace);
        let mut target = target(source);
        if !is_free(source, made)? {
            target.name = None;
        }
        // Without a tablespace of its own a target follows the first of the shards that it replaces.
        if Some(&then) != now.as_ref() {
            request::require_create_privilege(&then, &default)?;
            target.tablespace = Some(then);
        }
        targets.push(target);
    }
    Ok(targets)
}

/// An old shard as a target.
pub fn target(source: &Source) -> Target {
    Target {
        name: Some(source.name.clone()),
        lower: source.lower.clone(),
        upper: source.upper.clone(),
        tablespace: None,
        keeps: None,
        outgrown: false,
        node: source.remote.as_ref().map(|remote| remote.node.clone()),
        remote: None,
    }
}

/// Whether the old shard's name can be had: nobody has it, or a shard that is about to go.
fn is_free(source: &Source, made: &[Shard]) -> Result<bool> {
    let schema = made.first().map(|shard| shard.schema.clone());
    let holder = spi::query_value::<pgrx::pg_sys::Oid>(
        "SELECT pg_catalog.to_regclass(pg_catalog.format('%I.%I', $1, $2))::oid",
        &[
            schema.unwrap_or_default().into(),
            source.name.as_str().into(),
        ],
    )?;
    Ok(holder.is_none_or(|oid| made.iter().any(|shard| shard.oid == oid)))
}

/// What was kept of the old shards, if it is of use for these new ones. Nobody else can take or drop it until
/// the transaction ends.
fn kept_for(original: &Migration, made: &[Shard]) -> Result<Option<Retained>> {
    let keeper = role::as_superuser(|| retained::hold(original.id))?;
    Ok(keeper
        .filter(|keeper| !keeper.is_expired)
        .map(|keeper| Retained {
            number: keeper.reverse.id,
            spec: keeper.reverse.spec,
            position: keeper.reverse.position,
        })
        .filter(|kept| {
            let sources = kept.spec.sources.iter().map(Source::relation);
            sources.eq(made.iter().map(|shard| shard.oid))
        }))
}
