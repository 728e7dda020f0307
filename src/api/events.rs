//! `repart_add_event` and `repart_drop_event`.

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::api::regclass::{Regclass, require_superuser};
use crate::catalog::{events, tables};
use crate::error::{Error, Result, SqlResult};
use crate::pg::{relation, time};

/// Tells forecasts of an occurrence that changes the load of a table, or of all: a holiday, a sale, a batch job.
/// Occurrences with the same name are expected to do the same; what they do is learnt from those that lie in the
/// history. One of the same name and beginning is replaced.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_add_event(
    name: Option<&str>,
    starts: Option<TimestampWithTimeZone>,
    ends: Option<TimestampWithTimeZone>,
    relation: default!(Option<Regclass>, "NULL"),
) -> SqlResult<()> {
    let name = named(name)?;
    let starts = starts.ok_or(Error::NullArgument("starts"))?;
    let ends = ends.ok_or(Error::NullArgument("ends"))?;
    if time::from_sql(ends) <= time::from_sql(starts) {
        return Err(Error::InvalidParameter {
            what: format!("event \"{name}\" must end after it starts"),
            hint: "Give the time from which on the load is as usual again.".to_owned(),
        }
        .into());
    }
    let table = permitted(relation, "repart_add_event() for all tables")?;
    Ok(events::add(name, starts, ends, table)?)
}

/// Forgets the occurrences of an event, or the one that begins at a time; of a table, or those for all. Returns how
/// many there were.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_drop_event(
    name: Option<&str>,
    starts: default!(Option<TimestampWithTimeZone>, "NULL"),
    relation: default!(Option<Regclass>, "NULL"),
) -> SqlResult<i64> {
    let name = named(name)?;
    let table = permitted(relation, "repart_drop_event() for all tables")?;
    let dropped = events::drop(name, starts, table)?;
    Ok(i64::try_from(dropped).unwrap_or(i64::MAX))
}

fn named(name: Option<&str>) -> Result<&str> {
    match name {
        None => Err(Error::NullArgument("name")),
        Some(name) if name.trim().is_empty() => Err(Error::InvalidParameter {
            what: "an event must have a name".to_owned(),
            hint: "Name it by what it is, such as \"holiday\".".to_owned(),
        }),
        Some(name) => Ok(name),
    }
}

/// The table that is meant, if it is managed and the caller's; none for all of them, if the caller is a superuser.
fn permitted(relation: Option<Regclass>, what: &str) -> Result<Option<pg_sys::Oid>> {
    let Some(table) = relation.map(Regclass::oid) else {
        require_superuser(what)?;
        return Ok(None);
    };
    relation::require_owner(table)?;
    tables::require(table)?;
    Ok(Some(table))
}
