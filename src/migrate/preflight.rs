//! Preflight: everything that would fail later fails now, with the remedy. Asked when a migration is
//! queued, and again when it begins.

use pgrx::pg_sys;

use crate::catalog::journal::{Source, Spec};
use crate::catalog::{groups, shards};
use crate::error::{Error, Result};
use crate::migrate::{definition, group_keys, target};
use crate::pg::{disk, relation, role, spi};

/// Checks what is to be done to a table.
pub fn check(table: pg_sys::Oid, spec: &Spec) -> Result<()> {
    let name = relation::display_name(table)?;
    let current = shards::of(table)?;
    refuse_default_rows(&name, &current)?;
    refuse_inbound_foreign_keys(table, &name)?;
    refuse_publication_of_everything()?;
    let mut owners = Vec::new();
    for source in &spec.sources {
        let found = current.iter().find(|shard| shard.oid == source.relation());
        let unchanged = found.is_some_and(|shard| {
            shard.schema == source.schema
                && shard.name == source.name
                && shard.lower == source.lower
                && shard.upper == source.upper
        });
        if !unchanged {
            return Err(Error::Missing {
                what: format!(
                    "shard \"{}\" of table \"{name}\" no longer exists, or was changed",
                    source.name
                ),
                hint: "See SELECT * FROM repart.shards.".to_owned(),
            });
        }
        check_source(source)?;
        owners.push(relation::owner(source.relation())?);
    }
    owners.dedup();
    if owners.len() > 1 {
        return Err(Error::Unsupported {
            what: format!("the shards of table \"{name}\" have different owners"),
            detail: String::new(),
            hint: "Give them one owner with ALTER TABLE … OWNER TO.".to_owned(),
        });
    }
    target::agreement::check(&spec.sources)?;
    if let Some(owner) = owners.first() {
        target::rights::check(table, *owner)?;
        let role = target::rights::attaching_role(table, *owner)?;
        let keys = group_keys::among(&groups::members(table)?)?;
        group_keys::check_rights(table, role, &keys)?;
    }
    for target in &spec.targets {
        target
            .tablespace
            .as_deref()
            .map_or(Ok(()), require_tablespace)?;
    }
    require_space(spec)
}

fn check_source(source: &Source) -> Result<()> {
    let relation = source.relation();
    let kind = spi::value::<String>(
        "SELECT relkind::text || relpersistence::text FROM pg_catalog.pg_class WHERE oid = $1",
        &[relation.into()],
    )?;
    if kind.as_deref() != Some("rp") {
        return Err(Error::WrongObject {
            what: format!("shard \"{}\" is not an ordinary, logged table", source.name),
            hint: "Foreign, unlogged and sub-partitioned shards cannot be migrated.".to_owned(),
        });
    }
    definition::identity_key(relation)?;
    target::refusals::check(source)
}

fn refuse_default_rows(table: &str, shards: &[shards::Shard]) -> Result<()> {
    let Some(default) = shards.iter().find(|shard| shard.is_default) else {
        return Ok(());
    };
    let partition = spi::quote_qualified_identifier(&default.schema, &default.name);
    let sql = format!("SELECT EXISTS (SELECT FROM {partition})");
    let filled = role::as_owner(relation::owner(default.oid)?, || {
        spi::query_value::<bool>(&sql, &[])
    })?;
    if filled != Some(true) {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "table \"{table}\" has rows in its DEFAULT partition \"{}\"",
            default.name
        ),
        detail: "PostgreSQL would scan them under an exclusive lock whenever a shard is attached."
            .to_owned(),
        hint: "Move them into shards of their own first.".to_owned(),
    })
}

/// All but those between tables of one group.
fn refuse_inbound_foreign_keys(table: pg_sys::Oid, name: &str) -> Result<()> {
    let group = group_keys::among(&groups::members(table)?)?;
    let group: Vec<pg_sys::Oid> = group.iter().map(|key| key.constraint).collect();
    let referencing = spi::query_value::<String>(
        "SELECT pg_catalog.string_agg(pg_catalog.format('%s on table %s', conname, conrelid::regclass), ', ')
           FROM pg_catalog.pg_constraint
          WHERE confrelid = $1 AND contype = 'f' AND conparentid = 0 AND oid <> ALL ($2)",
        &[table.into(), group.into()],
    )?;
    match referencing {
        None => Ok(()),
        Some(keys) => Err(Error::Unsupported {
            what: format!("table \"{name}\" is referenced by foreign keys"),
            detail: format!(
                "Foreign keys: {keys}. PostgreSQL refuses to detach a referenced partition."
            ),
            hint: "Drop them before a migration, or colocate the referencing tables with it."
                .to_owned(),
        }),
    }
}

fn refuse_publication_of_everything() -> Result<()> {
    let publication = spi::query_value::<String>(
        "SELECT pg_catalog.string_agg(pubname::text, ', ') FROM pg_catalog.pg_publication WHERE puballtables",
        &[],
    )?;
    match publication {
        None => Ok(()),
        Some(names) => Err(Error::Unsupported {
            what: "a publication FOR ALL TABLES would publish the private tables of a migration"
                .to_owned(),
            detail: format!("Publications: {names}."),
            hint: "Drop it; name tables that repart does not manage instead.".to_owned(),
        }),
    }
}

fn require_tablespace(name: &str) -> Result<()> {
    let found = spi::value::<bool>(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_tablespace WHERE spcname = $1)",
        &[name.into()],
    )?;
    if found == Some(true) {
        return Ok(());
    }
    Err(Error::Missing {
        what: format!("tablespace \"{name}\" does not exist"),
        hint: "Create it with CREATE TABLESPACE.".to_owned(),
    })
}

/// The new tables are about as large as the old ones, which stay until the switch. Where targets go to
/// several places, each must have room for all: an estimate on the safe side.
fn require_space(spec: &Spec) -> Result<()> {
    let sources: Vec<pg_sys::Oid> = spec.sources.iter().map(Source::relation).collect();
    let needed = spi::query_value::<i64>(
        "SELECT coalesce(sum(pg_catalog.pg_total_relation_size(oid)), 0)::int8
           FROM pg_catalog.pg_class WHERE oid = ANY ($1)",
        &[sources.clone().into()],
    )?;
    let needed = u64::try_from(needed.unwrap_or(0)).unwrap_or(0);
    let named: Vec<&str> = spec
        .targets
        .iter()
        .filter_map(|target| target.tablespace.as_deref())
        .collect();
    let places = spi::query(
        "SELECT DISTINCT t.spcname::text,
                coalesce(nullif(pg_catalog.pg_tablespace_location(t.oid), ''),
                         pg_catalog.current_setting('data_directory'))
           FROM pg_catalog.pg_tablespace t
          WHERE t.spcname = ANY ($1::text[])
             OR $2 AND t.oid IN (SELECT coalesce(nullif(c.reltablespace, 0), d.dattablespace)
                                   FROM pg_catalog.pg_class c, pg_catalog.pg_database d
                                  WHERE c.oid = ANY ($3) AND d.datname = pg_catalog.current_database())",
        &[
            named.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>().into(),
            (named.len() < spec.targets.len()).into(),
            sources.into(),
        ],
        |row| Ok((row.get::<String>(1)?, row.get::<String>(2)?)),
    )?;
    for (tablespace, directory) in places {
        require_free(&tablespace, disk::free_bytes(&directory)?, needed)?;
    }
    Ok(())
}

/// Fails unless there is room, with the sizes in words.
pub fn require_free(tablespace: &str, free: u64, needed: u64) -> Result<()> {
    if free >= needed {
        return Ok(());
    }
    let megabytes = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(Error::DiskFull {
        what: format!(
            "tablespace \"{tablespace}\" has {} MB free, but the new shards need some {} MB",
            megabytes(free),
            megabytes(needed)
        ),
        hint: "Free some space, or migrate less at a time: a migration needs room for a copy of its shards.".to_owned(),
    })
}
