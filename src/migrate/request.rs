//! What a user or a plan asks for, in terms of sources and targets.

use pgrx::pg_sys;

use crate::catalog::journal::{Kind, Remote, Source, Spec, Target};
use crate::catalog::nodes;
use crate::catalog::shards::{self, Shard, ShardKey};
use crate::catalog::tables;
use crate::error::{Error, Result};
use crate::pg::{literal, relation, role, spi};

/// A migration that was asked for.
pub struct Wanted {
    /// What it does.
    pub kind: Kind,
    /// The sharded table.
    pub table: pg_sys::Oid,
    /// Sources and targets.
    pub spec: Spec,
}

/// A shard becomes several, at the given keys.
pub fn split(shard: pg_sys::Oid, at: &[String]) -> Result<Wanted> {
    let (table, shard) = managed_shard(shard)?;
    if at.is_empty() {
        return Err(invalid(
            "at least one boundary is needed",
            "Give the keys at which to split.",
        ));
    }
    let key = shards::key(table)?;
    let at: Vec<String> = at
        .iter()
        .map(|text| literal::normalize(key.type_oid, key.type_modifier, text))
        .collect::<Result<_>>()?;
    require_inside(&key, &shard, &at)?;
    let mut edges = vec![shard.lower.clone()];
    edges.extend(at.into_iter().map(Some));
    edges.push(shard.upper.clone());
    let targets = edges
        .windows(2)
        .map(|pair| target(pair[0].clone(), pair[1].clone()))
        .collect();
    Ok(Wanted {
        kind: Kind::Split,
        table,
        spec: in_its_place(vec![source(&shard)?], targets),
    })
}

/// Adjacent shards become one.
pub fn merge(wanted: &[pg_sys::Oid]) -> Result<Wanted> {
    let Some(first) = wanted.first() else {
        return Err(invalid(
            "at least two shards are needed",
            "Give two or more neighbours.",
        ));
    };
    let (table, _) = managed_shard(*first)?;
    let mut unknown: Vec<pg_sys::Oid> = wanted.to_vec();
    let mut sources: Vec<Shard> = shards::of(table)?;
    sources.retain(|shard| !shard.is_default && wanted.contains(&shard.oid));
    unknown.retain(|oid| !sources.iter().any(|shard| shard.oid == *oid));
    if let Some(stranger) = unknown.first() {
        let (stranger, table) = (
            relation::display_name(*stranger)?,
            relation::display_name(table)?,
        );
        return Err(invalid(
            &format!("\"{stranger}\" is not a shard of table \"{table}\""),
            "Shards of one table can be merged. See SELECT * FROM repart.shards.",
        ));
    }
    if sources.len() < 2 {
        return Err(invalid(
            "at least two different shards are needed",
            "Give two or more neighbours.",
        ));
    }
    for pair in sources.windows(2) {
        require_adjacent(&pair[0], &pair[1])?;
    }
    let lower = sources.first().and_then(|shard| shard.lower.clone());
    let upper = sources.last().and_then(|shard| shard.upper.clone());
    let sources: Vec<Source> = sources.iter().map(source).collect::<Result<_>>()?;
    let spec = in_its_place(sources, vec![target(lower, upper)]);
    Ok(Wanted {
        kind: Kind::Merge,
        table,
        spec,
    })
}

/// The boundary between two neighbours moves.
pub fn shift(lower: pg_sys::Oid, upper: pg_sys::Oid, boundary: &str) -> Result<Wanted> {
    let (table, low) = managed_shard(lower)?;
    let (other, high) = managed_shard(upper)?;
    if table != other {
        return Err(invalid(
            &format!(
                "\"{}\" and \"{}\" are shards of different tables",
                low.name, high.name
            ),
            "See SELECT * FROM repart.shards.",
        ));
    }
    require_adjacent(&low, &high)?;
    let key = shards::key(table)?;
    let boundary = literal::normalize(key.type_oid, key.type_modifier, boundary)?;
    let both = Shard {
        lower: low.lower.clone(),
        upper: high.upper.clone(),
        ..low.clone()
    };
    require_inside(&key, &both, std::slice::from_ref(&boundary))?;
    if low.upper.as_ref() == Some(&boundary) {
        return Err(invalid(
            &format!(
                "the boundary between \"{}\" and \"{}\" is {boundary} already",
                low.name, high.name
            ),
            "Give another key.",
        ));
    }
    let targets = vec![
        target(low.lower.clone(), Some(boundary.clone())),
        target(Some(boundary), high.upper.clone()),
    ];
    Ok(Wanted {
        kind: Kind::Shift,
        table,
        spec: in_its_place(vec![source(&low)?, source(&high)?], targets),
    })
}

/// A shard changes its place: its tablespace, or its node.
pub fn relocate(
    shard: pg_sys::Oid,
    node: Option<&str>,
    tablespace: Option<&str>,
) -> Result<Wanted> {
    let (table, shard) = managed_shard(shard)?;
    let place = role::as_superuser(|| nodes::place(shard.oid))?;
    let from = place
        .as_ref()
        .map_or(nodes::LOCAL, |(node, _, _)| node.as_str());
    if let Some(node) = node.filter(|node| *node != from) {
        return to_node(table, &shard, node, tablespace);
    }
    if from != nodes::LOCAL {
        return Err(invalid(
            &format!("shard \"{}\" is on node \"{from}\"", shard.name),
            "Give another node: repart_move(shard, node => 'name'); its tablespace is that of the table there.",
        ));
    }
    let Some(tablespace) = tablespace else {
        return Err(invalid(
            "no place to move to is given",
            "Give a tablespace: repart_move(shard, tablespace => 'name').",
        ));
    };
    let default = default_tablespace()?;
    if shard.tablespace.as_deref().unwrap_or(&default) == tablespace {
        return Err(invalid(
            &format!(
                "shard \"{}\" is in tablespace \"{tablespace}\" already",
                shard.name
            ),
            "See SELECT * FROM repart.shards.",
        ));
    }
    require_create_privilege(tablespace, &default)?;
    let moved = Target {
        name: Some(shard.name.clone()),
        lower: shard.lower.clone(),
        upper: shard.upper.clone(),
        tablespace: Some(tablespace.to_owned()),
        ..Target::default()
    };
    let spec = Spec {
        sources: vec![source(&shard)?],
        targets: vec![moved],
        blocking: false,
    };
    Ok(Wanted {
        kind: Kind::Move,
        table,
        spec,
    })
}

/// What a plan's step `move` asks for.
pub fn planned_move(shard: pg_sys::Oid, node: &str) -> Result<Wanted> {
    relocate(shard, Some(node), None)
}

/// A shard goes to another node.
fn to_node(
    table: pg_sys::Oid,
    shard: &Shard,
    node: &str,
    tablespace: Option<&str>,
) -> Result<Wanted> {
    if role::as_superuser(|| nodes::find(node))?.is_none() && node != nodes::LOCAL {
        return Err(Error::Missing {
            what: format!("node \"{node}\" does not exist"),
            hint: format!(
                "See SELECT * FROM repart.nodes, or add it with SELECT repart_add_node({}).",
                spi::quote_literal(node)
            ),
        });
    }
    if tablespace.is_some() && node != nodes::LOCAL {
        return Err(invalid(
            "a tablespace on another node cannot be chosen",
            "Leave it out: the table goes to the default tablespace of the database there.",
        ));
    }
    let target = Target {
        name: Some(shard.name.clone()),
        lower: shard.lower.clone(),
        upper: shard.upper.clone(),
        tablespace: tablespace.map(str::to_owned),
        node: (node != nodes::LOCAL).then(|| node.to_owned()),
        ..Target::default()
    };
    let spec = Spec {
        sources: vec![source(shard)?],
        targets: vec![target],
        blocking: false,
    };
    Ok(Wanted {
        kind: Kind::Move,
        table,
        spec,
    })
}

fn managed_shard(shard: pg_sys::Oid) -> Result<(pg_sys::Oid, Shard)> {
    let (table, shard) = shards::find(shard)?;
    relation::require_owner(table)?;
    if !role::as_superuser(|| tables::is_managed(table))? {
        return Err(Error::NotManaged(relation::display_name(table)?));
    }
    if shard.is_default {
        return Err(invalid(
            &format!("\"{}\" is the DEFAULT partition, not a shard", shard.name),
            "See SELECT * FROM repart.shards.",
        ));
    }
    Ok((table, shard))
}

pub(super) fn source(shard: &Shard) -> Result<Source> {
    let place = if shard.is_foreign {
        role::as_superuser(|| nodes::place(shard.oid))?
    } else {
        None
    };
    Ok(Source {
        oid: shard.oid.to_u32(),
        schema: shard.schema.clone(),
        name: shard.name.clone(),
        lower: shard.lower.clone(),
        upper: shard.upper.clone(),
        tablespace: shard.tablespace.clone(),
        remote: place.map(|(node, schema, table)| Remote {
            node,
            schema,
            table,
        }),
    })
}

/// Targets that stay on the server of their sources.
pub(super) fn in_its_place(sources: Vec<Source>, mut targets: Vec<Target>) -> Spec {
    let node = sources
        .first()
        .and_then(|source| source.remote.as_ref())
        .map(|remote| remote.node.clone());
    for target in &mut targets {
        target.node.clone_from(&node);
    }
    Spec {
        sources,
        targets,
        blocking: false,
    }
}

fn target(lower: Option<String>, upper: Option<String>) -> Target {
    Target {
        lower,
        upper,
        ..Target::default()
    }
}

pub(super) fn invalid(what: &str, hint: &str) -> Error {
    Error::InvalidParameter {
        what: what.to_owned(),
        hint: hint.to_owned(),
    }
}

/// Boundaries must ascend and lie strictly inside the shard; PostgreSQL compares them, as the key's type does.
fn require_inside(key: &ShardKey, shard: &Shard, at: &[String]) -> Result<()> {
    let mut edges: Vec<&String> = shard.lower.iter().collect();
    edges.extend(at);
    edges.extend(&shard.upper);
    for pair in edges.windows(2) {
        let value = |literal: &str| format!("{}::{}", spi::quote_literal(literal), key.type_name);
        let sql = format!("SELECT {}", key.before(&value(pair[0]), &value(pair[1])));
        if spi::query_value::<bool>(&sql, &[])? != Some(true) {
            let end = |bound: &Option<String>, open: &str| {
                bound.clone().unwrap_or_else(|| open.to_owned())
            };
            return Err(invalid(
                &format!("boundaries {} and {} do not ascend", pair[0], pair[1]),
                &format!(
                    "Boundaries must ascend and lie inside the shard's range, from {} to {}.",
                    end(&shard.lower, "MINVALUE"),
                    end(&shard.upper, "MAXVALUE")
                ),
            ));
        }
    }
    Ok(())
}

fn require_adjacent(lower: &Shard, upper: &Shard) -> Result<()> {
    if lower.upper.is_some() && lower.upper == upper.lower {
        return Ok(());
    }
    Err(invalid(
        &format!(
            "shards \"{}\" and \"{}\" are not neighbours",
            lower.name, upper.name
        ),
        "The upper end of the first must be the lower end of the second. See SELECT * FROM repart.shards.",
    ))
}

/// The tablespace of the database.
pub fn default_tablespace() -> Result<String> {
    let name = spi::value::<String>(
        "SELECT t.spcname::text FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
          WHERE d.datname = pg_catalog.current_database()",
        &[],
    )?;
    Ok(name.unwrap_or_default())
}

pub(super) fn require_create_privilege(tablespace: &str, default: &str) -> Result<()> {
    let allowed = spi::value::<bool>(
        "SELECT pg_catalog.has_tablespace_privilege($1::oid, oid, 'CREATE') FROM pg_catalog.pg_tablespace WHERE spcname = $2",
        &[role::current().into(), tablespace.into()],
    )?;
    match allowed {
        Some(true) => Ok(()),
        // As for CREATE TABLE, the database's default needs no privilege.
        Some(false) if tablespace == default => Ok(()),
        Some(false) => Err(Error::NotOwner(tablespace.to_owned())),
        None => Err(Error::Missing {
            what: format!("tablespace \"{tablespace}\" does not exist"),
            hint: "Create it with CREATE TABLESPACE.".to_owned(),
        }),
    }
}
