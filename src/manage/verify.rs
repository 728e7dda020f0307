//! Whether a conversion did what it promises. A violation is an error, which undoes it.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::dependents::{self, Except};
use crate::pg::spi;

/// What must be the same before and after: where the rows and the indexes are.
#[derive(Debug, PartialEq, Eq)]
pub struct Storage {
    table: pg_sys::Oid,
    indexes: Vec<(pg_sys::Oid, pg_sys::Oid)>,
}

impl Storage {
    /// The files of a table and its indexes.
    pub fn read(table: pg_sys::Oid) -> Result<Self> {
        let file = spi::query_value("SELECT pg_relation_filenode($1::oid)", &[table.into()])?
            .ok_or_else(|| Error::Internal("a table has no file".to_owned()))?;
        let indexes = spi::query(
            "SELECT indexrelid, pg_relation_filenode(indexrelid) FROM pg_index WHERE indrelid = $1 ORDER BY indexrelid",
            &[table.into()],
            |row| Ok((row.get(1)?, row.get(2)?)),
        )?;
        Ok(Self {
            table: file,
            indexes,
        })
    }
}

/// Fails unless the shard holds the rows and indexes as they were, all of its indexes, foreign keys and
/// triggers belong to the partitioned table, and nothing outside depends on it.
pub fn check(shard: pg_sys::Oid, before: &Storage) -> Result<()> {
    if Storage::read(shard)? != *before {
        return Err(broken("an index would have been built", &[]));
    }
    let loose = spi::query(
        "SELECT pg_describe_object('pg_class'::regclass, i.indexrelid, 0) FROM pg_index i
          WHERE i.indrelid = $1 AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = i.indexrelid)
          UNION ALL
         SELECT pg_describe_object('pg_constraint'::regclass, oid, 0) FROM pg_constraint
          WHERE conrelid = $1 AND contype IN ('p', 'u', 'f') AND conparentid = 0
          UNION ALL
         SELECT pg_describe_object('pg_trigger'::regclass, oid, 0) FROM pg_trigger
          WHERE tgrelid = $1 AND NOT tgisinternal AND tgparentid = 0",
        &[shard.into()],
        |row| row.get::<String>(1),
    )?;
    if !loose.is_empty() {
        return Err(broken(
            "parts of it would not belong to the partitioned table",
            &loose,
        ));
    }
    let dependents = dependents::others(shard, &[Except::Sequences])?;
    if !dependents.is_empty() {
        return Err(broken(
            "other objects would stay bound to its first shard",
            &dependents,
        ));
    }
    Ok(())
}

fn broken(what: &str, objects: &[String]) -> Error {
    Error::Unsupported {
        what: format!("the table cannot be converted: {what}"),
        detail: if objects.is_empty() {
            String::new()
        } else {
            format!("Concerned: {}.", objects.join(", "))
        },
        hint: "Nothing was changed. Please report this with the definition of the table."
            .to_owned(),
    }
}
