//! Shards as the catalogs of PostgreSQL have them: nothing about boundaries is stored elsewhere.

use std::cmp::Ordering;

use pgrx::pg_sys;

use crate::catalog::bounds::{self, Bound};
use crate::error::{Error, Result};
use crate::pg::{guc, partition, relation, spi};

/// One leaf partition of a sharded table.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Its relation.
    pub oid: pg_sys::Oid,
    /// Its schema's name.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The lowest key; `None` for MINVALUE (and for a DEFAULT partition).
    pub lower: Bound,
    /// The first key above; `None` for MAXVALUE (and for a DEFAULT partition).
    pub upper: Bound,
    /// Whether it is the DEFAULT partition, which is no shard: repart never touches it.
    pub is_default: bool,
    /// Whether it is a foreign table.
    pub is_foreign: bool,
    /// Its tablespace; `None` for the database's default.
    pub tablespace: Option<String>,
    /// Estimated number of rows; 0 where never analysed.
    pub rows: f64,
    /// Bytes on disk, with indexes and TOAST.
    pub bytes: i64,
}

/// The column that a sharded table is partitioned by.
#[derive(Clone, Debug)]
pub struct ShardKey {
    /// Its name.
    pub column: String,
    /// Its type.
    pub type_oid: pg_sys::Oid,
    /// Its type's modifier; -1 for none.
    pub type_modifier: i32,
    /// Its type as SQL writes it, with modifiers.
    pub type_name: String,
    /// ` COLLATE …` as SQL writes it; empty for a type without collations.
    pub collate: String,
    /// The operator by which keys ascend, such as `OPERATOR(pg_catalog.<)`: that of the partition key.
    pub less: String,
    /// Its counterpart, such as `OPERATOR(pg_catalog.>=)`.
    pub at_least: String,
    /// The type that these operators compare, where it is not the column's own: `text` for `varchar`, and the base
    /// type of a domain.
    pub compared_as: Option<String>,
}

/// The key's own order in SQL.
impl ShardKey {
    /// A comparison of two SQL expressions.
    pub fn before(&self, left: &str, right: &str) -> String {
        format!("({left}){} {} ({right})", self.collate, self.less)
    }

    /// A comparison of the key column with a literal, in the form that PostgreSQL itself gives it in the constraint
    /// of a partition.
    pub fn bounded(&self, operator: &str, literal: &str) -> String {
        let column = spi::quote_identifier(&self.column);
        let literal = spi::quote_literal(literal);
        match &self.compared_as {
            None => format!(
                "({column}){} {operator} {literal}::{}",
                self.collate, self.type_name
            ),
            Some(other) => format!(
                "({column}::{other}){} {operator} {literal}::{other}",
                self.collate
            ),
        }
    }

    /// What comes after `ORDER BY`.
    pub fn by(&self, expression: &str) -> String {
        format!("{expression}{} USING {}", self.collate, self.less)
    }

    /// The order of two literals; equal keys may be written differently, as `1.5` and `1.50`.
    pub fn compare(&self, one: &str, other: &str) -> Result<Ordering> {
        if one == other {
            return Ok(Ordering::Equal);
        }
        let value = |literal: &str| format!("{}::{}", spi::quote_literal(literal), self.type_name);
        let (one, other) = (value(one), value(other));
        let sql = format!(
            "SELECT CASE WHEN {} THEN -1 WHEN {} THEN 1 ELSE 0 END",
            self.before(&one, &other),
            self.before(&other, &one)
        );
        Ok(spi::query_value::<i32>(&sql, &[])?.unwrap_or(0).cmp(&0))
    }

    /// Whether two lower ends, or two upper ends, are the same.
    pub fn is_same(&self, one: &Bound, other: &Bound) -> Result<bool> {
        match (one, other) {
            (Some(one), Some(other)) => Ok(self.compare(one, other)? == Ordering::Equal),
            _ => Ok(one == other),
        }
    }

    /// A condition: the expression lies in the shard, whose bounds are $1 and $2.
    pub fn inside(&self, expression: &str) -> String {
        let bound = |number: u8| format!("${number}::text::{}", self.type_name);
        format!(
            "($1::text IS NULL OR NOT {}) AND ($2::text IS NULL OR {})",
            self.before(expression, &bound(1)),
            self.before(expression, &bound(2)),
        )
    }
}

const SHARD_COLUMNS: &str = "c.oid, n.nspname::text, c.relname::text,
       pg_catalog.pg_get_expr(c.relpartbound, c.oid), c.relkind = 'f', t.spcname::text,
       greatest(c.reltuples, 0)::float8, coalesce(pg_catalog.pg_total_relation_size(c.oid), 0)
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_tablespace t ON t.oid = c.reltablespace";

/// The shards of a table in ascending order of their ranges; a DEFAULT partition comes last.
pub fn of(table: pg_sys::Oid) -> Result<Vec<Shard>> {
    let mut shards = guc::with_transmission_modes(|| {
        spi::query(
            &format!("SELECT {SHARD_COLUMNS} WHERE i.inhparent = $1"),
            &[table.into()],
            read,
        )
    })?;
    let order = partition::bound_order(table)?;
    shards.sort_by_key(|shard| {
        order
            .iter()
            .position(|oid| *oid == shard.oid)
            .unwrap_or(usize::MAX)
    });
    Ok(shards)
}

/// The table that a shard belongs to, and the shard.
pub fn find(shard: pg_sys::Oid) -> Result<(pg_sys::Oid, Shard)> {
    let table = spi::value::<pg_sys::Oid>(
        "SELECT inhparent FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
          WHERE inhrelid = $1 AND c.relispartition",
        &[shard.into()],
    )?;
    let Some(table) = table else {
        return Err(Error::WrongObject {
            what: format!(
                "\"{}\" is not a shard of a sharded table",
                relation::display_name(shard)?
            ),
            hint: "See SELECT * FROM repart.shards.".to_owned(),
        });
    };
    let found = guc::with_transmission_modes(|| {
        spi::query(
            &format!("SELECT {SHARD_COLUMNS} WHERE i.inhrelid = $1"),
            &[shard.into()],
            read,
        )
    })?;
    let shard = found
        .into_iter()
        .next()
        .ok_or_else(|| Error::Internal("a shard vanished".to_owned()))?;
    Ok((table, shard))
}

fn read(row: &spi::Row) -> Result<Shard> {
    let range = bounds::parse(&row.get::<String>(4)?)?;
    let is_default = range.is_none();
    let (lower, upper) = range.map_or((None, None), |range| (range.lower, range.upper));
    Ok(Shard {
        oid: row.get(1)?,
        schema: row.get(2)?,
        name: row.get(3)?,
        lower,
        upper,
        is_default,
        is_foreign: row.get(5)?,
        tablespace: row.optional(6)?,
        rows: row.get(7)?,
        bytes: row.get(8)?,
    })
}

/// The key of a RANGE-partitioned table with one key column.
pub fn key(table: pg_sys::Oid) -> Result<ShardKey> {
    let found = spi::select_first(
        "SELECT a.attname::text, a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod),
                coalesce((SELECT pg_catalog.format(' COLLATE %I.%I', n.nspname, l.collname)
                            FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
                           WHERE l.oid = p.partcollation[0]), ''),
                pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname),
                pg_catalog.format('OPERATOR(%I.%s)', gn.nspname, g.oprname),
                CASE WHEN c.opcintype <> a.atttypid AND t.typtype <> 'p' THEN pg_catalog.format_type(c.opcintype, NULL) END,
                a.atttypmod
           FROM pg_catalog.pg_partitioned_table p
           JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
           JOIN pg_catalog.pg_opclass c ON c.oid = p.partclass[0]
           JOIN pg_catalog.pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 1
                AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
           JOIN pg_catalog.pg_operator o ON o.oid = m.amopopr
           JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
           JOIN pg_catalog.pg_amop gm ON gm.amopfamily = c.opcfamily AND gm.amopstrategy = 4
                AND gm.amoplefttype = c.opcintype AND gm.amoprighttype = c.opcintype
           JOIN pg_catalog.pg_operator g ON g.oid = gm.amopopr
           JOIN pg_catalog.pg_namespace gn ON gn.oid = g.oprnamespace
           JOIN pg_catalog.pg_type t ON t.oid = c.opcintype
          WHERE p.partrelid = $1 AND p.partstrat = 'r' AND p.partnatts = 1",
        &[table.into()],
        |row| {
            Ok(ShardKey {
                column: row.get(1)?,
                type_oid: row.get(2)?,
                type_name: row.get(3)?,
                collate: row.get(4)?,
                less: row.get(5)?,
                at_least: row.get(6)?,
                compared_as: row.optional(7)?,
                type_modifier: row.get(8)?,
            })
        },
    )?;
    found.ok_or(Error::NotManaged(relation::display_name(table)?))
}
