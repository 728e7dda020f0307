//! What a shard is made of, read from the catalogs: everything that its replacement must have too.

use pgrx::pg_sys;

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
}

/// A constraint that an index carries.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// `PRIMARY KEY`, `UNIQUE`, or the whole definition of an exclusion constraint.
    pub definition: String,
    /// Whether it is an exclusion constraint, which makes its own index.
    pub exclusion: bool,
    /// ` DEFERRABLE …`, or empty.
    pub deferrable: String,
}

/// The indexes of a table, primary key first.
pub fn indexes(table: pg_sys::Oid) -> Result<Vec<Index>> {
    spi::query(
        "SELECT x.relname::text, i.indisunique, pg_catalog.pg_get_indexdef(i.indexrelid),
                pg_catalog.format('CREATE %sINDEX %I ON %I.%I USING ',
                    CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname, n.nspname, c.relname),
                coalesce(s.spcname::text, ''), k.contype::text, pg_catalog.pg_get_constraintdef(k.oid),
                CASE WHEN NOT k.condeferrable THEN '' WHEN k.condeferred THEN ' DEFERRABLE INITIALLY DEFERRED'
                     ELSE ' DEFERRABLE' END,
                i.indisclustered, i.indisreplident
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
    let constraint = match row.optional::<String>(6)?.as_deref() {
        None => None,
        Some(kind) => Some(Constraint {
            definition: match kind {
                "p" => "PRIMARY KEY".to_owned(),
                "u" => "UNIQUE".to_owned(),
                _ => row.get(7)?,
            },
            exclusion: kind == "x",
            deferrable: row.get(8)?,
        }),
    };
    Ok(Index {
        name,
        unique: row.get(2)?,
        tail,
        tablespace: row.get(5)?,
        constraint,
        clustered: row.get(9)?,
        replica_identity: row.get(10)?,
    })
}

/// A column of the key by which captured changes are noted.
#[derive(Clone, Debug)]
pub struct KeyColumn {
    /// Its name.
    pub name: String,
    /// Its type, as SQL writes it.
    pub type_name: String,
}

/// The columns that identify a row: those of the primary key, of the replica identity index, or of
/// another unique index that is immediate, complete and without NULLs.
pub fn identity_key(table: pg_sys::Oid) -> Result<Vec<KeyColumn>> {
    let columns = spi::query(
        "SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod)
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
          ORDER BY k.n",
        &[table.into()],
        |row| Ok(KeyColumn { name: row.get(1)?, type_name: row.get(2)? }),
    )?;
    if !columns.is_empty() {
        return Ok(columns);
    }
    let name = relation::display_name(table)?;
    Err(Error::Prerequisite {
        what: format!("shard \"{name}\" has no key that identifies its rows"),
        hint:
            "Add a PRIMARY KEY, or a UNIQUE constraint on NOT NULL columns, to the sharded table."
                .to_owned(),
    })
}

/// The columns of a table that can be written, quoted, in order: all but dropped and generated ones.
pub fn writable_columns(table: pg_sys::Oid) -> Result<Vec<String>> {
    columns(table, "AND attgenerated = ''")
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

/// Foreign keys of a table to others: name and definition. Where the other is partitioned, PostgreSQL adds one
/// for each of its partitions, which comes with the first.
pub fn foreign_keys(table: pg_sys::Oid) -> Result<Vec<(String, String)>> {
    spi::query(
        "SELECT pg_catalog.quote_ident(k.conname), pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k
          WHERE k.conrelid = $1 AND k.contype = 'f' AND k.convalidated
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint p WHERE p.oid = k.conparentid AND p.conrelid = k.conrelid)
          ORDER BY k.oid",
        &[table.into()],
        |row| Ok((row.get(1)?, row.get(2)?)),
    )
}

/// A hash of everything that the targets were made from. Another one later means that somebody changed
/// the definition of the table or of a source, so that the targets no longer fit.
pub fn fingerprint(table: pg_sys::Oid, sources: &[pg_sys::Oid]) -> Result<String> {
    spi::query_value(FINGERPRINT, &[table.into(), sources.to_vec().into()])?
        .ok_or_else(|| Error::Internal("a table without definition".to_owned()))
}

/// Columns, defaults, constraints, indexes and triggers of table and sources; of the sources also names,
/// owner, grants, options and bound. Grants on the parent concern no target.
const FINGERPRINT: &str = "
WITH every AS (SELECT $1 AS oid UNION ALL SELECT unnest($2)), part AS (
    SELECT pg_catalog.concat_ws('|', 'column', attrelid, attnum, attname, atttypid, atttypmod, attnotnull, attidentity,
                     attgenerated, attcollation, attisdropped, attstorage, attcompression, attstattarget,
                     attacl::text,
                     (SELECT pg_catalog.string_agg(o, ',') FROM pg_catalog.unnest(attoptions) o WHERE o LIKE 'n_distinct%')) AS line
      FROM pg_catalog.pg_attribute JOIN every ON attrelid = every.oid WHERE attnum > 0
    UNION ALL
    SELECT pg_catalog.concat_ws('|', 'default', adrelid, adnum, pg_catalog.pg_get_expr(adbin, adrelid))
      FROM pg_catalog.pg_attrdef JOIN every ON adrelid = every.oid
    UNION ALL
    SELECT pg_catalog.concat_ws('|', 'constraint', conrelid, conname, pg_catalog.pg_get_constraintdef(c.oid), convalidated)
      FROM pg_catalog.pg_constraint c JOIN every ON conrelid = every.oid
    UNION ALL
    SELECT pg_catalog.concat_ws('|', 'index', indrelid, indexrelid, pg_catalog.pg_get_indexdef(indexrelid), indisvalid,
                     indisreplident, indisclustered)
      FROM pg_catalog.pg_index JOIN every ON indrelid = every.oid
    UNION ALL
    SELECT pg_catalog.concat_ws('|', 'trigger', tgrelid, tgname, tgenabled, pg_catalog.pg_get_triggerdef(t.oid))
      FROM pg_catalog.pg_trigger t JOIN every ON tgrelid = every.oid
     WHERE NOT tgisinternal AND tgname NOT LIKE 'repart\\_capture\\_%'
    UNION ALL
    SELECT pg_catalog.concat_ws('|', 'class', c.oid, relname, relnamespace, relowner, relacl::text, reloptions::text,
                     reltablespace, relrowsecurity, relforcerowsecurity, relreplident, relispartition,
                     pg_catalog.pg_get_expr(relpartbound, c.oid), relpersistence)
      FROM pg_catalog.pg_class c WHERE c.oid = ANY ($2)
    UNION ALL
    SELECT pg_catalog.concat_ws('|', 'policy', polrelid, pol.oid) FROM pg_catalog.pg_policy pol WHERE polrelid = ANY ($2)
    UNION ALL
    SELECT pg_catalog.concat_ws('|', 'rule', ev_class, r.oid) FROM pg_catalog.pg_rewrite r WHERE ev_class = ANY ($2))
SELECT pg_catalog.md5(pg_catalog.string_agg(line, E'\\n' ORDER BY line COLLATE \"C\")) FROM part";

/// The conditions that a key lies in `[lower, upper)`, in the form that PostgreSQL gives the constraint of
/// a partition, so that it recognises the one as proof of the other.
pub fn range_condition(
    key: &crate::catalog::shards::ShardKey,
    lower: Option<&str>,
    upper: Option<&str>,
) -> String {
    let column = spi::quote_identifier(&key.column);
    let value = |literal: &str| format!("{}::{}", spi::quote_literal(literal), key.type_name);
    let mut conditions = vec![format!("{column} IS NOT NULL")];
    conditions.extend(lower.map(|lower| format!("{column} >= {}", value(lower))));
    conditions.extend(upper.map(|upper| format!("{column} < {}", value(upper))));
    conditions.join(" AND ")
}
