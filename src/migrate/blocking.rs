//! Migrating without a key that identifies a row: changes cannot be captured, so that writers have to wait while
//! all rows are copied. Only on request (`repart.allow_blocking`), said beforehand, and in one transaction: see
//! `cutover/blocking.rs`.

use pgrx::pg_sys;

use crate::catalog::journal::{Migration, Spec};
use crate::error::{Error, Result};
use crate::migrate::definition;
use crate::pg::{guc, relation, spi, txn};
use crate::settings;

/// Rows per second that are copied, indexed and compared: a cautious guess for the words to the user.
const ROWS_PER_SECOND: f64 = 100_000.0;

/// What is to be done, with blocking where it is needed and allowed.
pub fn decide(spec: &Spec) -> Result<Spec> {
    let mut decided = spec.clone();
    decided.blocking = settings::allow_blocking()
        && !spec.is_away()
        && spec
            .sources
            .iter()
            .map(|source| definition::has_identity_key(source.relation()))
            .collect::<Result<Vec<bool>>>()?
            .contains(&false);
    Ok(decided)
}

/// Why a colocated table is not migrated in this way: writers to all of the group would wait for all of the copies.
pub fn refused_in_group(table: pg_sys::Oid) -> Result<Error> {
    Ok(Error::Unsupported {
        what: format!(
            "colocated table \"{}\" has no key that identifies a row",
            relation::display_name(table)?
        ),
        detail: "Tables of a colocation group are migrated online only; repart.allow_blocking does not concern them."
            .to_owned(),
        hint: "Add a primary key, or take the table out of its group with repart_unmanage.".to_owned(),
    })
}

/// What users of the table have to expect.
pub fn warning(table: pg_sys::Oid, spec: &Spec) -> Result<String> {
    let sources = spec.source_oids();
    // A table that was never analysed: some 100 bytes per row.
    let rows = spi::query_value::<f64>(
        "SELECT coalesce(sum(CASE WHEN reltuples > 0 THEN reltuples ELSE pg_catalog.pg_relation_size(oid) / 100 END), 0)::float8
           FROM pg_catalog.pg_class WHERE oid = ANY ($1)",
        &[sources.into()],
    )?
    .unwrap_or(0.0);
    Ok(format!(
        "writers to table \"{}\" wait while its rows are copied: some {} s for some {rows:.0} rows",
        relation::display_name(table)?,
        (rows / ROWS_PER_SECOND).ceil().max(1.0)
    ))
}

/// Gives the new shards a visibility map, which cannot be had inside a transaction. After the switch.
pub fn vacuum(migration: &Migration) -> Result<()> {
    let Some(source) = migration.spec.sources.first() else {
        return Ok(());
    };
    // As in `index::vacuum_and_analyze`.
    guc::set("track_counts", "on");
    let outcome = migration.spec.targets.iter().try_for_each(|target| {
        let name = target.name.clone().unwrap_or_default();
        let table = spi::quote_qualified_identifier(&source.schema, &name);
        txn::vacuum(&format!("VACUUM (ANALYZE, SKIP_LOCKED) {table}"))
    });
    guc::set("track_counts", "off");
    outcome
}
