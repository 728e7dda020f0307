//! Short forms for SQL: values are bound, never pasted into the text.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::ManuallyDrop;

use pgrx::datum::{DatumWithOid, FromDatum, IntoDatum};
use pgrx::pg_sys::PgOid;
use pgrx::spi::{OwnedPreparedStatement, Spi, SpiHeapTupleData};

use crate::error::{Error, Result};
use crate::pg::guc;

pub use pgrx::spi::{quote_identifier, quote_literal, quote_qualified_identifier};

/// One row of a result; columns count from 1.
pub struct Row<'a>(SpiHeapTupleData<'a>);

impl Row<'_> {
    /// A column that may be NULL.
    pub fn optional<T: IntoDatum + FromDatum>(&self, column: usize) -> Result<Option<T>> {
        Ok(self.0.get::<T>(column)?)
    }

    /// A column that is never NULL.
    pub fn get<T: IntoDatum + FromDatum>(&self, column: usize) -> Result<T> {
        self.optional(column)?
            .ok_or_else(|| Error::Internal(format!("column {column} of a result is null")))
    }
}

/// Runs a command that may change something; returns the number of rows it processed.
pub fn run(sql: &str, args: &[DatumWithOid]) -> Result<u64> {
    Spi::connect_mut(|client| {
        client.update(sql, None, args)?;
        Ok(processed())
    })
}

/// Runs a statement without arguments, such as DDL.
pub fn execute(sql: &str) -> Result<u64> {
    run(sql, &[])
}

/// The rows of a query that changes nothing.
pub fn select<T>(
    sql: &str,
    args: &[DatumWithOid],
    each: impl FnMut(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    Spi::connect(|client| collect(client.select(sql, None, args)?, each))
}

/// The rows of a query that changes something (`INSERT … RETURNING`) or that must see what this
/// transaction changed.
pub fn query<T>(
    sql: &str,
    args: &[DatumWithOid],
    each: impl FnMut(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    // On a hot standby nothing can be changed, and `update` would ask for a transaction id.
    if in_recovery() {
        return select(sql, args, each);
    }
    Spi::connect_mut(|client| collect(client.update(sql, None, args)?, each))
}

fn in_recovery() -> bool {
    // SAFETY: reads shared state.
    unsafe { pgrx::pg_sys::RecoveryInProgress() }
}

thread_local! {
    /// The plans of [`query_kept`], by their text. Never freed: at the end of the process PostgreSQL is gone first.
    static KEPT: RefCell<HashMap<String, ManuallyDrop<OwnedPreparedStatement>>> = RefCell::new(HashMap::new());
}

/// As [`query`], with a plan that is made once and kept for the session: for what is asked while others wait, and
/// takes longer to plan than to do.
pub fn query_kept<T>(
    sql: &str,
    args: &[DatumWithOid],
    each: impl FnMut(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    // Else PostgreSQL would plan it anew for each of its first calls.
    guc::with_settings(&[("plan_cache_mode", "force_generic_plan")], || {
        Spi::connect_mut(|client| {
            KEPT.with_borrow_mut(|kept| {
                if !kept.contains_key(sql) {
                    let types: Vec<PgOid> = args.iter().map(|arg| PgOid::from(arg.oid())).collect();
                    kept.insert(
                        sql.to_owned(),
                        ManuallyDrop::new(client.prepare_mut(sql, &types)?.keep()),
                    );
                }
                let plan = kept
                    .get(sql)
                    .ok_or_else(|| Error::Internal("a plan vanished".to_owned()))?;
                collect(client.update(&**plan, None, args)?, each)
            })
        })
    })
}

/// The first row of [`select`], if any.
pub fn select_first<T>(
    sql: &str,
    args: &[DatumWithOid],
    each: impl FnMut(&Row) -> Result<T>,
) -> Result<Option<T>> {
    Ok(select(sql, args, each)?.into_iter().next())
}

/// The single value of [`select`]: `None` for no row and for NULL.
pub fn value<T: IntoDatum + FromDatum>(sql: &str, args: &[DatumWithOid]) -> Result<Option<T>> {
    Ok(select_first(sql, args, |row| row.optional(1))?.flatten())
}

/// The single value of [`query`]: `None` for no row and for NULL.
pub fn query_value<T: IntoDatum + FromDatum>(
    sql: &str,
    args: &[DatumWithOid],
) -> Result<Option<T>> {
    Ok(query(sql, args, |row| row.optional(1))?
        .into_iter()
        .next()
        .flatten())
}

fn collect<T>(
    table: pgrx::spi::SpiTupleTable,
    mut each: impl FnMut(&Row) -> Result<T>,
) -> Result<Vec<T>> {
    table.map(|row| each(&Row(row))).collect()
}

fn processed() -> u64 {
    // SAFETY: a global that the SPI call just before has set.
    unsafe { pgrx::pg_sys::SPI_processed }
}
