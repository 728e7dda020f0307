//! The shard key of a table: which column it is, and whether it can be one.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::manage::table::Table;
use crate::pg::{opclass, spi};

/// The column to partition a plain table by.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub column: String,
    /// Its number in the table.
    pub attnum: i16,
}

/// A column that was asked for, or found.
struct Column {
    attnum: i16,
    type_oid: pg_sys::Oid,
    type_name: String,
    is_not_null: bool,
    is_generated: bool,
}

/// The key for a plain table: the given column, or that of its primary key.
pub fn choose(table: &Table, given: Option<&str>) -> Result<Key> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => primary_key(table)?,
    };
    let column = find(table, &name)?;
    require_order(table, &name, &column)?;
    require_comparable(table, &name)?;
    if column.is_generated {
        return Err(Error::Unsupported {
            what: format!(
                "generated column \"{name}\" of table \"{}\" cannot be a shard key",
                table.name
            ),
            detail: String::new(),
            hint: "Choose another column: PostgreSQL does not partition by generated columns."
                .to_owned(),
        });
    }
    if !column.is_not_null {
        return Err(Error::Prerequisite {
            what: format!(
                "column \"{name}\" of table \"{}\" can be null, so that it cannot be a shard key",
                table.name
            ),
            hint: format!(
                "Run ALTER TABLE {} ALTER COLUMN {} SET NOT NULL first.",
                table.qualified(),
                spi::quote_identifier(&name)
            ),
        });
    }
    Ok(Key {
        column: name,
        attnum: column.attnum,
    })
}

fn find(table: &Table, name: &str) -> Result<Column> {
    let found = spi::query(
        "SELECT attnum, atttypid, format_type(atttypid, atttypmod), attnotnull, attgenerated <> ''
           FROM pg_attribute WHERE attrelid = $1 AND attname = $2::name AND attnum > 0 AND NOT attisdropped",
        &[table.oid.into(), name.into()],
        |row| {
            Ok(Column {
                attnum: row.get(1)?,
                type_oid: row.get(2)?,
                type_name: row.get(3)?,
                is_not_null: row.get(4)?,
                is_generated: row.get(5)?,
            })
        },
    )?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| Error::MissingColumn {
            column: name.to_owned(),
            table: table.name.clone(),
        })
}

/// The only column of the table's primary key.
fn primary_key(table: &Table) -> Result<String> {
    let columns = spi::query(
        "SELECT a.attname::text FROM pg_index i
           JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
          WHERE i.indrelid = $1 AND i.indisprimary AND i.indnkeyatts = 1",
        &[table.oid.into()],
        |row| row.get::<String>(1),
    )?;
    columns.into_iter().next().ok_or_else(|| Error::InvalidParameter {
        what: format!("a shard key must be given for table \"{}\"", table.name),
        hint: format!(
            "The table has no primary key of one column: run SELECT repart_manage({}, 'column').",
            spi::quote_literal(table.qualified())
        ),
    })
}

fn require_order(table: &Table, name: &str, column: &Column) -> Result<()> {
    if opclass::default_btree(column.type_oid).is_some() {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "column \"{name}\" of table \"{}\" cannot be a shard key",
            table.name
        ),
        detail: format!("Type {} has no btree order.", column.type_name),
        hint: "Choose a column of a type that can be sorted.".to_owned(),
    })
}

/// Fails for a domain over a type whose order is that of all enums, arrays or ranges: SQL compares such a domain as
/// its base type, a partition's constraint as it is, so that PostgreSQL would not recognise any CHECK as proof of
/// the constraint, and scan each new shard while clients wait.
fn require_comparable(table: &Table, column: &str) -> Result<()> {
    let base = spi::query_value::<String>(
        "WITH RECURSIVE base AS (
             SELECT t.oid, t.typtype, t.typbasetype, t.typcategory FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
              WHERE a.attrelid = $1 AND a.attname = $2::name AND t.typtype = 'd'
              UNION ALL
             SELECT t.oid, t.typtype, t.typbasetype, t.typcategory FROM base b JOIN pg_type t ON t.oid = b.typbasetype
              WHERE b.typtype = 'd')
         SELECT format_type(oid, NULL) FROM base WHERE typtype <> 'd' AND (typtype IN ('e', 'r', 'm', 'c') OR typcategory = 'A')",
        &[table.oid.into(), column.into()],
    )?;
    match base {
        None => Ok(()),
        Some(base) => Err(Error::Unsupported {
            what: format!(
                "column \"{column}\" of table \"{}\" cannot be a shard key",
                table.name
            ),
            detail: format!("Its type is a domain over {base}."),
            hint: format!("Choose a column of type {base}."),
        }),
    }
}

/// The key of a table that is partitioned already, if repart can work with it.
pub fn of_partitioned(table: &Table, given: Option<&str>) -> Result<String> {
    let (strategy, columns, attnum) = partition_key(table)?;
    let refuse = |what: String| {
        let hint = "repart manages tables that are partitioned by RANGE on one column.".to_owned();
        Err(Error::Unsupported {
            what,
            detail: String::new(),
            hint,
        })
    };
    let name = &table.name;
    match strategy.as_str() {
        "r" => {}
        "h" => return refuse(format!("table \"{name}\" is partitioned by HASH")),
        "l" => return refuse(format!("table \"{name}\" is partitioned by LIST")),
        _ => {
            return refuse(format!(
                "table \"{name}\" is partitioned by an unknown strategy"
            ));
        }
    }
    if columns > 1 {
        return refuse(format!(
            "table \"{name}\" is partitioned by several columns"
        ));
    }
    if attnum == 0 {
        return refuse(format!("table \"{name}\" is partitioned by an expression"));
    }
    let column = column_of(table, attnum)?;
    require_comparable(table, &column)?;
    match given {
        Some(given) if given != column => Err(Error::InvalidParameter {
            what: format!(
                "table \"{name}\" is partitioned by column \"{column}\", not by \"{given}\""
            ),
            hint: "Leave shard_key out: the shard key of a partitioned table is its partition key."
                .to_owned(),
        }),
        _ => Ok(column),
    }
}

/// Strategy, number of columns, first column (0 for an expression).
fn partition_key(table: &Table) -> Result<(String, i16, i16)> {
    let found = spi::query(
        "SELECT partstrat::text, partnatts, partattrs[0] FROM pg_partitioned_table WHERE partrelid = $1",
        &[table.oid.into()],
        |row| Ok((row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| Error::Internal("a partition key vanished".to_owned()))
}

fn column_of(table: &Table, attnum: i16) -> Result<String> {
    let found = spi::query(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum = $2",
        &[table.oid.into(), attnum.into()],
        |row| row.get(1),
    )?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| Error::Internal("a key column vanished".to_owned()))
}
