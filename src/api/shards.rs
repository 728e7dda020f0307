//! Functions behind the view `repart.shards`, and the version.

use pgrx::prelude::*;

use crate::catalog::bounds;
use crate::error::SqlResult;

/// One end of a partition bound as PostgreSQL prints it: a literal of the key type, MINVALUE or MAXVALUE;
/// NULL for DEFAULT.
#[pg_extern(immutable, parallel_safe, strict)]
#[search_path(pg_catalog, pg_temp)]
fn repart_bound(bound: &str, upper: bool) -> SqlResult<Option<String>> {
    Ok(bounds::parse(bound)?.map(|range| match upper {
        false => range.lower.unwrap_or_else(|| "MINVALUE".to_owned()),
        true => range.upper.unwrap_or_else(|| "MAXVALUE".to_owned()),
    }))
}

/// The version of the loaded library.
#[pg_extern(immutable, parallel_safe)]
#[search_path(pg_catalog, pg_temp)]
fn repart_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Wakes the workers of this database; CREATE EXTENSION calls it.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn repart_wake() {
    crate::pg::on_commit::wake_workers();
}
