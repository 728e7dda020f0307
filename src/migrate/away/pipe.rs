//! How rows go from one end to the other: COPY between two connections, nothing but a buffer between them.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::migrate::away::ends::End;
use crate::migrate::away::link::Link;
use crate::pg::rows::{self, Format};
use crate::pg::{relation, role, spi};

/// Sends the rows of a query from one end to a table with these columns (not quoted) at the other.
pub fn pipe(
    (from, query): (&mut End, &str),
    (to, table, columns): (&mut End, &str, &[String]),
    format: Format,
) -> Result<u64> {
    let list: Vec<String> = columns.iter().map(spi::quote_identifier).collect();
    let list = list.join(", ");
    match (from, to) {
        (End::Here(owner), End::There(link)) => {
            link.begin_copy_in(table, &list, format)?;
            let rows = role::as_owner(*owner, || {
                rows::of_query(query, format, &mut |bytes| link.put(bytes))
            })?;
            link.end_copy_in()?;
            Ok(rows)
        }
        (End::There(link), End::Here(owner)) => {
            let table = relation::find(table)?;
            link.begin_copy_out(query, format)?;
            let mut is_over = false;
            let mut supply = || {
                let bytes = if is_over { None } else { link.get()? };
                is_over = bytes.is_none();
                Ok(bytes)
            };
            let rows = role::as_owner(*owner, || {
                rows::into_table(table, columns, format, &mut supply)
            })?;
            while supply()?.is_some() {}
            Ok(rows)
        }
        (End::There(from), End::There(to)) => {
            from.begin_copy_out(query, format)?;
            to.begin_copy_in(table, &list, format)?;
            carry(from, to)
        }
        (End::Here(_), End::Here(_)) => Err(Error::Internal(
            "a migration between nodes without a node".to_owned(),
        )),
    }
}

/// Bytes that are collected before they are sent on.
const CHUNK: usize = 65_536;

/// From one node to another, many rows at a time.
fn carry(from: &mut Link, to: &mut Link) -> Result<u64> {
    let mut buffer = Vec::with_capacity(2 * CHUNK);
    let mut rows = 0;
    while let Some(bytes) = from.get()? {
        buffer.extend_from_slice(&bytes);
        rows += 1;
        if buffer.len() >= CHUNK {
            to.put(&buffer)?;
            buffer.clear();
        }
    }
    to.put(&buffer)?;
    to.end_copy_in()?;
    Ok(rows)
}

/// Binary, unless a column's type sends numbers that mean something on one server only: those of types (arrays and
/// rows of types that users made), or of objects (`regclass` and its like). An enumeration sends its labels.
pub fn format(table: pg_sys::Oid) -> Result<Format> {
    let binary = spi::query_value::<bool>(
        "WITH RECURSIVE used AS (
             SELECT atttypid AS type FROM pg_catalog.pg_attribute
              WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
              UNION
             SELECT t.typbasetype FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.type WHERE t.typtype = 'd')
         SELECT pg_catalog.bool_and(t.typtype IN ('d', 'e')
                                    OR t.oid < 16384 AND t.typtype <> 'c' AND t.typsend <> 0 AND t.typname !~ '^_?reg')
           FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.type",
        &[table.into()],
    )?;
    Ok(match binary {
        Some(false) => Format::Text,
        _ => Format::Binary,
    })
}
