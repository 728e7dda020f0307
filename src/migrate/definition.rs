//! What a shard is made of, read from the catalogs: everything that its replacement must have too.

use pgrx::pg_sys;

pub use crate::catalog::journal::KeyColumn;
use crate::catalog::shards::ShardKey;
use crate::error::{Error, Result};
use crate::pg::{relation, spi};

/// One index of a shard.
#[derive(Clone, Debug)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Whether it is unique.
    pub unique: bool,
    /// What follows `USING` in its definition.
    pub tail: String,
    /// Its tablespace; empty for the database's default.
    pub tablespace: String,
    /// The constraint it carries.
    pub constraint: Option<Constraint>,
    /// Whether the table is marked as clustered on it.
    pub clustered: bool,
    /// Whether it is the table's replica identity.
    pub replica_identity: bool,
    /// Storage parameters as `SET` lists them; empty for none.
    pub options: String,
    /// Its comment.
    pub comment: Option<String>,
    /// Statistics targets of its columns, as `column number, target`.
    pub statistics: Vec<(i32, i32)>,
}

/// A constraint that an index carries.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// `PRIMARY KEY`, `UNIQUE`, or the whole definition of one that makes its own index.
    pub definition: String,
    /// Whether it is an exclusion constraint or a key WITHOUT OVERLAPS, which makes its own index.
    pub exclusion: bool,
    /// ` DEFERRABLE …`, or empty.
    pub deferrable: String,
    /// Its comment.
    pub comment: Option<String>,
}

/// The indexes of a table, primary key first.
pub fn indexes(table: pg_sys::Oid) -> Result<Vec<Index>> {
    spi::query_kept(
        "SELECT x.relname::text, i.indisunique, pg_catalog.pg_get_indexdef(i.indexrelid),
                pg_catalog.format('CREATE %sINDEX %I ON %I.%I USING ',
                    CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname, n.nspname, c.relname),
                coalesce(s.spcname::text, ''), k.contype::text, pg_catalog.pg_get_constraintdef(k.oid),
                CASE WHEN NOT k.condeferrable THEN '' WHEN k.condeferred THEN ' DEFERRABLE INITIALLY DEFERRED'
                     ELSE ' DEFERRABLE' END,
                i.indisclustered, i.indisreplident, i.indisexclusion,
                coalesce((SELECT pg_catalog.string_agg(pg_catalog.format('%I = %L', pg_catalog.split_part(o, '=', 1),
                                                       substr(o, strpos(o, '=') + 1)), ', ')
                            FROM pg_catalog.unnest(x.reloptions) o), ''),
                pg_catalog.obj_description(x.oid, 'pg_class'), pg_catalog.obj_description(k.oid, 'pg_constraint'),
                (SELECT pg_catalog.array_agg(a.attnum::int4 ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = x.oid AND coalesce(a.attstattarget, -1) >= 0),
                (SELECT pg_catalog.array_agg(a.attstattarget::int4 ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = x.oid AND coalesce(a.attstattarget, -1) >= 0)
           FROM pg_catalog.pg_index i
           JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
           JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = x.reltablespace
           LEFT JOIN pg_catalog.pg_constraint k
                  ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
          WHERE i.indrelid = $1 AND i.indisvalid
          ORDER BY NOT i.indisprimary, i.indexrelid",
        &[table.into()],
        read_index,
    )
}

fn read_index(row: &spi::Row) -> Result<Index> {
    let name: String = row.get(1)?;
    let definition: String = row.get(3)?;
    let tail = definition
        .strip_prefix(&row.get::<String>(4)?)
        .ok_or_else(|| {
            Error::Internal(format!(
                "unexpected definition of index \"{name}\": {definition}"
            ))
        })?
        .to_owned();
    let exclusion: bool = row.get(11)?;
    let constraint = match row.optional::<String>(6)?.as_deref() {
        None => None,
        Some(kind) => Some(Constraint {
            definition: match kind {
                "p" if !exclusion => "PRIMARY KEY".to_owned(),
                "u" if !exclusion => "UNIQUE".to_owned(),
                _ => row.get(7)?,
            },
            exclusion,
            deferrable: row.get(8)?,
            comment: row.optional(14)?,
        }),
    };
    let columns: Vec<i32> = row.optional(15)?.unwrap_or_default();
    let targets: Vec<i32> = row.optional(16)?.unwrap_or_default();
    Ok(Index {
        name,
        unique: row.get(2)?,
        tail,
        tablespace: row.get(5)?,
        constraint,
        clustered: row.get(9)?,
        replica_identity: row.get(10)?,
        options: row.get(12)?,
        comment: row.optional(13)?,
        statistics: columns.into_iter().zip(targets).collect(),
    })
}

/// The query behind [`identity_key`], of the table `$1`.
pub const KEY_COLUMNS: &str = "SELECT a.attname::text,
                pg_catalog.format_type(a.atttypid, a.atttypmod)
                || coalesce((SELECT pg_catalog.format(' COLLATE %I.%I', n.nspname, l.collname)
                               FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
                              WHERE l.oid = a.attcollation), '')
           FROM (SELECT i.indexrelid, i.indrelid, i.indkey, i.indnkeyatts FROM pg_catalog.pg_index i
                  WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid
                    AND i.indpred IS NULL AND i.indexprs IS NULL
                    AND NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, n)
                                     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                                    WHERE k.n <= i.indnkeyatts AND NOT a.attnotnull)
                  ORDER BY NOT i.indisprimary, NOT i.indisreplident, i.indnkeyatts, i.indexrelid LIMIT 1) i,
                pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, n)
           JOIN pg_catalog.pg_attribute a ON a.attnum = k.attnum
          WHERE a.attrelid = i.indrelid AND k.n <= i.indnkeyatts
          ORDER BY k.n";

/// The columns of the primary key, of the replica identity index, or of another unique index that is immediate,
/// complete and without NULLs; none if there is no such index.
fn key_columns(table: pg_sys::Oid) -> Result<Vec<KeyColumn>> {
    spi::query(KEY_COLUMNS, &[table.into()], |row| {
        Ok(KeyColumn {
            name: row.get(1)?,
            type_name: row.get(2)?,
        })
    })
}

/// Whether rows of a table can be told apart by a key.
pub fn has_identity_key(table: pg_sys::Oid) -> Result<bool> {
    Ok(!key_columns(table)?.is_empty())
}

/// The columns that identify a row.
pub fn identity_key(table: pg_sys::Oid) -> Result<Vec<KeyColumn>> {
    let columns = key_columns(table)?;
    if !columns.is_empty() {
        return Ok(columns);
    }
    let name = relation::display_name(table)?;
    Err(Error::Prerequisite {
        what: format!("shard \"{name}\" has no key that identifies its rows"),
        hint: "Add a PRIMARY KEY, or a UNIQUE constraint on NOT NULL columns, to the sharded table. Or SET \
               repart.allow_blocking = on: then all writers to the table wait while its rows are copied."
            .to_owned(),
    })
}

/// The columns of a table that can be written, quoted, in order: all but dropped and generated ones.
pub fn writable_columns(table: pg_sys::Oid) -> Result<Vec<String>> {
    columns(table, "AND attgenerated = ''")
}

/// The names of [`writable_columns`].
pub fn writable_names(table: pg_sys::Oid) -> Result<Vec<String>> {
    spi::query(
        "SELECT attname::text FROM pg_catalog.pg_attribute
          WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        &[table.into()],
        |row| row.get(1),
    )
}

/// All columns of a table, quoted, in order.
pub fn all_columns(table: pg_sys::Oid) -> Result<Vec<String>> {
    columns(table, "")
}

fn columns(table: pg_sys::Oid, condition: &str) -> Result<Vec<String>> {
    spi::query(
        &format!(
            "SELECT pg_catalog.quote_ident(attname) FROM pg_catalog.pg_attribute
              WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped {condition} ORDER BY attnum"
        ),
        &[table.into()],
        |row| row.get(1),
    )
}

/// The condition that a key lies in `[lower, upper)`, in the form that PostgreSQL gives the constraint of a
/// partition, so that it recognises the one as proof of the other.
pub fn range_condition(key: &ShardKey, lower: Option<&str>, upper: Option<&str>) -> String {
    let mut conditions = vec![format!(
        "{} IS NOT NULL",
        spi::quote_identifier(&key.column)
    )];
    conditions.extend(lower.map(|lower| key.bounded(&key.at_least, lower)));
    conditions.extend(upper.map(|upper| key.bounded(&key.less, upper)));
    conditions.join(" AND ")
}
