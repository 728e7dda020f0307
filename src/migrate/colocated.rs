//! Colocated tables are reshaped together: what is asked for one is asked for all of its group.

use std::cmp::Ordering;

use pgrx::pg_sys;

use crate::catalog::journal::{Kind, Spec, Target};
use crate::catalog::shards::{self, Shard, ShardKey};
use crate::catalog::{bounds::Bound, tables};
use crate::error::{Error, Result};
use crate::migrate::request::{Wanted, in_its_place, source};
use crate::pg::{relation, spi};

/// The shards of a table in ascending order, without DEFAULT.
pub fn shards_of(table: pg_sys::Oid) -> Result<Vec<Shard>> {
    let mut found = shards::of(table)?;
    found.retain(|shard| !shard.is_default);
    Ok(found)
}

/// The same for another table of the group: the same sources, which have the same bounds, and the same targets.
pub fn same_for(wanted: &Wanted, other: pg_sys::Oid) -> Result<Wanted> {
    let own = shards_of(wanted.table)?;
    let others = shards_of(other)?;
    let key = shards::key(wanted.table)?;
    require_equal_bounds(&key, (wanted.table, &own), (other, &others))?;
    let pairs: Vec<(&Shard, &Shard)> = own
        .iter()
        .zip(&others)
        .filter(|(shard, _)| wanted.spec.source_oids().contains(&shard.oid))
        .collect();
    // Equal keys may be written differently (1.0 and 1.00): each table keeps its own way.
    let written = |bound: &Bound| {
        let ends = pairs
            .iter()
            .flat_map(|(own, other)| [(&own.lower, &other.lower), (&own.upper, &other.upper)]);
        ends.into_iter()
            .find(|(own, _)| *own == bound)
            .map_or_else(|| bound.clone(), |(_, other)| other.clone())
    };
    let targets = wanted.spec.targets.iter().enumerate().map(|(n, target)| {
        let keeps_name = target.name.is_some();
        Target {
            // A move keeps the names of its shards.
            name: pairs
                .get(n)
                .filter(|_| keeps_name)
                .map(|(_, other)| other.name.clone()),
            lower: written(&target.lower),
            upper: written(&target.upper),
            tablespace: target.tablespace.clone(),
            node: target.node.clone(),
            ..Target::default()
        }
    });
    let sources = pairs
        .iter()
        .map(|(_, other)| source(other))
        .collect::<Result<Vec<_>>>()?;
    let spec = if wanted.kind == Kind::Move {
        Spec {
            sources,
            targets: targets.collect(),
            blocking: false,
        }
    } else {
        in_its_place(sources, targets.collect())
    };
    Ok(Wanted {
        kind: wanted.kind,
        table: other,
        spec,
    })
}

/// Fails unless two tables have the same shards, naming the first difference.
fn require_equal_bounds(
    key: &ShardKey,
    (one, ones): (pg_sys::Oid, &[Shard]),
    (other, others): (pg_sys::Oid, &[Shard]),
) -> Result<()> {
    let Some(difference) = first_difference(key, ones, others)? else {
        return Ok(());
    };
    let (one_name, other_name) = (relation::display_name(one)?, relation::display_name(other)?);
    for table in [one, other] {
        if let Some(migration) = tables::unfinished_migration(table)? {
            return Err(Error::InUse {
                what: format!(
                    "migration {migration} is giving tables \"{one_name}\" and \"{other_name}\" the same shards"
                ),
                hint: format!("Wait for it with SELECT repart_wait({migration})."),
            });
        }
    }
    let side = |shard: Option<&Shard>| shard.map_or("none".to_owned(), range);
    Err(Error::Prerequisite {
        what: format!(
            "colocated tables \"{one_name}\" and \"{other_name}\" do not have the same shards any more: {} and {}",
            side(ones.get(difference)),
            side(others.get(difference)),
        ),
        hint: format!(
            "Run SELECT repart_manage({other}, colocate_with => {one}) to give table \"{other_name}\" the shards \
             of table \"{one_name}\", or SELECT repart_unmanage({other}) to take it out of the group.",
            other = spi::quote_literal(relation::name(other)?),
            one = spi::quote_literal(relation::name(one)?),
        ),
    })
}

/// The position of the first shard that differs.
pub fn first_difference(key: &ShardKey, ones: &[Shard], others: &[Shard]) -> Result<Option<usize>> {
    for n in 0..ones.len().max(others.len()) {
        let (Some(one), Some(other)) = (ones.get(n), others.get(n)) else {
            return Ok(Some(n));
        };
        if !key.is_same(&one.lower, &other.lower)? || !key.is_same(&one.upper, &other.upper)? {
            return Ok(Some(n));
        }
    }
    Ok(None)
}

/// The order of two upper ends.
fn compare_ends(key: &ShardKey, one: &Bound, other: &Bound) -> Result<Ordering> {
    match (one, other) {
        (Some(one), Some(other)) => key.compare(one, other),
        _ => Ok(one.is_none().cmp(&other.is_none())),
    }
}

fn range(shard: &Shard) -> String {
    let end = |bound: &Bound, open: &str| bound.clone().unwrap_or_else(|| open.to_owned());
    format!(
        "\"{}\" from {} to {}",
        shard.name,
        end(&shard.lower, "MINVALUE"),
        end(&shard.upper, "MAXVALUE")
    )
}

/// The migrations that give `table` the shards of `like`; none where it has them. Fails where they do not cover
/// the same keys.
pub fn alignment(table: pg_sys::Oid, like: pg_sys::Oid) -> Result<Vec<Wanted>> {
    let key = shards::key(like)?;
    let (own, others) = (shards_of(table)?, shards_of(like)?);
    let mut wanted = Vec::new();
    let (mut from, mut other_from) = (0, 0);
    while from < own.len() || other_from < others.len() {
        let Some((to, other_to)) = next_common_end(&key, &own, &others, from, other_from)? else {
            return Err(different_keys(table, like)?);
        };
        let (sources, targets) = (&own[from..to], &others[other_from..other_to]);
        if sources.len() > 1 || targets.len() > 1 {
            wanted.push(reshaping(table, sources, targets)?);
        }
        (from, other_from) = (to, other_to);
    }
    Ok(wanted)
}

/// Behind which shards from the given ones on both tables reach the same key without a gap; `None` if they do not
/// begin at the same key, or never do.
fn next_common_end(
    key: &ShardKey,
    own: &[Shard],
    others: &[Shard],
    from: usize,
    other_from: usize,
) -> Result<Option<(usize, usize)>> {
    let (Some(first), Some(other_first)) = (own.get(from), others.get(other_from)) else {
        return Ok(None);
    };
    if !key.is_same(&first.lower, &other_first.lower)? {
        return Ok(None);
    }
    let (end, other_end) = (contiguous(own, from), contiguous(others, other_from));
    let (mut to, mut other_to) = (from + 1, other_from + 1);
    while to <= end && other_to <= other_end {
        match compare_ends(key, &own[to - 1].upper, &others[other_to - 1].upper)? {
            Ordering::Equal => return Ok(Some((to, other_to))),
            Ordering::Less => to += 1,
            Ordering::Greater => other_to += 1,
        }
    }
    Ok(None)
}

/// Behind which shard the first gap after `from` is.
fn contiguous(shards: &[Shard], from: usize) -> usize {
    let mut to = from + 1;
    while to < shards.len()
        && shards[to].lower.is_some()
        && shards[to].lower == shards[to - 1].upper
    {
        to += 1;
    }
    to
}

fn reshaping(table: pg_sys::Oid, sources: &[Shard], like: &[Shard]) -> Result<Wanted> {
    let ends = (
        sources.first().and_then(|shard| shard.lower.clone()),
        sources.last().and_then(|shard| shard.upper.clone()),
    );
    let last = like.len().saturating_sub(1);
    let targets = like.iter().enumerate().map(|(n, shard)| Target {
        name: None,
        lower: if n == 0 {
            ends.0.clone()
        } else {
            shard.lower.clone()
        },
        upper: if n == last {
            ends.1.clone()
        } else {
            shard.upper.clone()
        },
        ..Target::default()
    });
    Ok(Wanted {
        kind: match (sources.len(), like.len()) {
            (1, _) => Kind::Split,
            (_, 1) => Kind::Merge,
            _ => Kind::Shift,
        },
        table,
        spec: in_its_place(
            sources.iter().map(source).collect::<Result<_>>()?,
            targets.collect(),
        ),
    })
}

fn different_keys(table: pg_sys::Oid, like: pg_sys::Oid) -> Result<Error> {
    let (table, like) = (
        relation::display_name(table)?,
        relation::display_name(like)?,
    );
    Ok(Error::Prerequisite {
        what: format!("the shards of tables \"{table}\" and \"{like}\" do not cover the same keys"),
        hint: "Attach partitions to the one, or detach some from the other, so that both have the same lowest and \
               highest key and the same gaps."
            .to_owned(),
    })
}
