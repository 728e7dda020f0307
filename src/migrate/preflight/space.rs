//! Room for the new tables.

use crate::catalog::journal::Spec;
use crate::error::{Error, Result};
use crate::pg::{disk, spi};

/// Fails where a tablespace does not exist.
pub fn require_tablespace(name: &str) -> Result<()> {
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
pub fn require_space(spec: &Spec) -> Result<()> {
    let sources = spec.source_oids();
    let needed = spi::query_value::<i64>(
        "SELECT coalesce(sum(pg_catalog.pg_total_relation_size(oid)), 0)::int8
           FROM pg_catalog.pg_class WHERE oid = ANY ($1)",
        &[sources.into()],
    )?;
    require_here(spec, u64::try_from(needed.unwrap_or(0)).unwrap_or(0))
}

/// Fails unless so many bytes fit where the targets go to.
pub fn require_here(spec: &Spec, needed: u64) -> Result<()> {
    let sources = spec.source_oids();
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
