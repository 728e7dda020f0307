//! Names for what a table leaves behind when its name goes to the partitioned table.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::spi;

/// PostgreSQL's limit of a name, in bytes.
const MAX_NAME: usize = 63;

/// How many names are tried before giving up.
const MAX_ATTEMPTS: usize = 1_000;

/// A name for the shard that holds a plain table's rows, not taken in the schema. (Shards made by
/// migrations are named `<table>_<migration>_<n>`.)
pub fn shard(schema: &str, table: &str) -> Result<String> {
    free(schema, &joined(table, "_0"))
}

/// A name for an index or a sequence of the table, once the table is named `shard`: as it was, with the
/// table's name replaced.
pub fn dependent(schema: &str, table: &str, name: &str, shard: &str) -> Result<String> {
    let wanted = match name.strip_prefix(table) {
        Some(rest) if shard.len() + rest.len() <= MAX_NAME => format!("{shard}{rest}"),
        _ => joined(name, "_0"),
    };
    free(schema, &wanted)
}

/// The name, or one like it, that no relation and no type of the schema has.
fn free(schema: &str, wanted: &str) -> Result<String> {
    for attempt in 0..MAX_ATTEMPTS {
        let name = if attempt == 0 {
            wanted.to_owned()
        } else {
            joined(wanted, &format!("_{attempt}"))
        };
        if !is_taken(schema, &name)? {
            return Ok(name);
        }
    }
    Err(Error::Internal(format!(
        "no free name like \"{wanted}\" in schema \"{schema}\""
    )))
}

fn is_taken(schema: &str, name: &str) -> Result<bool> {
    let taken = spi::query_value::<pg_sys::Oid>(
        "SELECT n.oid FROM pg_namespace n WHERE n.nspname = $1::name
            AND (EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid AND relname = $2::name)
              OR EXISTS (SELECT FROM pg_type WHERE typnamespace = n.oid AND typname = $2::name))",
        &[schema.into(), name.into()],
    )?;
    Ok(taken.is_some())
}

/// `name` followed by `suffix`, with `name` cut so that both fit.
fn joined(name: &str, suffix: &str) -> String {
    let mut end = name.len().min(MAX_NAME.saturating_sub(suffix.len()));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_characters_and_keeps_its_suffix() {
        let name = joined(&"ü".repeat(31), "_0");
        assert_eq!(name, format!("{}_0", "ü".repeat(30)));
        assert_eq!(joined("orders", "_0"), "orders_0");
    }
}
