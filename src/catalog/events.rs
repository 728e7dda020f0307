//! What is known in advance to change the load: `repart.calendar`.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use repart_core::forecast::events::Event;

use crate::error::Result;
use crate::pg::{role, spi, time};

/// The occurrences that concern a table: its own, and those of all tables.
pub fn of(table: pg_sys::Oid) -> Result<Vec<Event>> {
    role::as_superuser(|| {
        spi::query(
            "SELECT name, starts, ends FROM repart.calendar
              WHERE relation = $1 OR relation IS NULL ORDER BY starts, name",
            &[table.into()],
            |row| {
                Ok(Event {
                    name: row.get(1)?,
                    from: time::from_sql(row.get::<TimestampWithTimeZone>(2)?),
                    to: time::from_sql(row.get::<TimestampWithTimeZone>(3)?),
                })
            },
        )
    })
}

/// Stores an occurrence, of all tables without one. One of the same name and beginning is replaced.
pub fn add(
    name: &str,
    starts: TimestampWithTimeZone,
    ends: TimestampWithTimeZone,
    table: Option<pg_sys::Oid>,
) -> Result<()> {
    role::as_superuser(|| {
        spi::run(
            "INSERT INTO repart.calendar (name, relation, starts, ends) VALUES ($1, $2::regclass, $3, $4)
             ON CONFLICT (name, relation, starts) DO UPDATE SET ends = excluded.ends",
            &[name.into(), table.into(), starts.into(), ends.into()],
        )
    })?;
    Ok(())
}

/// Forgets the occurrences of a name, or the one that begins then; returns how many there were.
pub fn drop(
    name: &str,
    starts: Option<TimestampWithTimeZone>,
    table: Option<pg_sys::Oid>,
) -> Result<u64> {
    role::as_superuser(|| {
        spi::run(
            "DELETE FROM repart.calendar
              WHERE name = $1 AND relation IS NOT DISTINCT FROM $2::regclass AND ($3 IS NULL OR starts = $3)",
            &[name.into(), table.into(), starts.into()],
        )
    })
}
