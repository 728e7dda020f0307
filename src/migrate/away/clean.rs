//! Leaving nothing behind on nodes. What a migration may have made there is in `repart.node_objects` until it is known
//! to be dropped; a node that is away is asked again by the janitor.

use std::time::Instant;

use crate::catalog::journal::Migration;
use crate::catalog::node_objects::{self, Made, Role};
use crate::error::Result;
use crate::migrate::away::ends::{SCHEMA, private};
use crate::migrate::away::link::Link;
use crate::migrate::locks;
use crate::pg::{spi, txn};
use crate::settings;

/// The statements that drop what a migration made on a node, in one transaction. A table that it made is dropped only
/// together with the note of its progress, which was made with it and outlives no migration that has ended well.
pub fn script(made: &Made) -> String {
    // Clients of the node may be at its tables: nobody is to queue behind us for long.
    let limit = locks::limit().as_millis().max(1);
    format!(
        "BEGIN; SET LOCAL lock_timeout = {limit}; {}; COMMIT",
        drops(made)
    )
}

fn drops(made: &Made) -> String {
    let progress = private("move", &made.tag);
    let log = private("log", &made.tag);
    let function = private("capture", &made.tag);
    match (made.role, made.switched) {
        (Role::Target, false) => format!(
            "DO $repart$ BEGIN
                 IF pg_catalog.to_regclass({}) IS NOT NULL THEN
                     DROP TABLE IF EXISTS {}; DROP TABLE {progress};
                 END IF;
             END $repart$",
            spi::quote_literal(&progress),
            made.relation
        ),
        (Role::Target, true) => format!("DROP TABLE IF EXISTS {progress}"),
        (Role::Source, false) => {
            format!("DROP FUNCTION IF EXISTS {function}() CASCADE; DROP TABLE IF EXISTS {log}")
        }
        (Role::Source, true) => format!(
            "DO $repart$ DECLARE t regclass; BEGIN
                 FOR t IN SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                           WHERE n.nspname = '{SCHEMA}' AND c.relkind = 'r' AND c.relname ~ {} LOOP
                     EXECUTE pg_catalog.format('DROP TABLE %s', t);
                 END LOOP;
             END $repart$;
             DROP FUNCTION IF EXISTS {function}() CASCADE; DROP TABLE IF EXISTS {log}",
            spi::quote_literal(format!("^old_{}_[0-9]+$", made.tag))
        ),
    }
}

/// Drops what is left on a node. Outside of a transaction.
pub fn drop_there(made: &Made) -> Result<()> {
    txn::run(|| {
        let mut link = Link::open(&made.node, made.migration, made.role)?;
        link.wait_until(Some(Instant::now() + settings::node_timeout()));
        link.ask(&script(made))?;
        node_objects::forget(made)
    })
}

/// Drops what a migration that has ended left on nodes, as far as they answer; the janitor sees to the others.
pub fn after_end(migration: &Migration) -> Result<()> {
    if !migration.spec.is_away() {
        return Ok(());
    }
    for made in txn::run(|| node_objects::of(migration.id))? {
        if let Err(error) = drop_there(&made) {
            pgrx::log!(
                "repart mover: what migration {} left on node \"{}\" is dropped later: {error}",
                migration.id,
                made.node
            );
        }
    }
    Ok(())
}
