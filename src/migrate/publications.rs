//! Logical replication of a sharded table. Its shards come and go, and subscribers know nothing of them: so their
//! changes must be published as the table's own (`publish_via_partition_root`), and the private tables of a
//! migration must not be published at all. A subscriber stops at the first change of a table that it has not.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::spi;

/// A kind of publication that a migration would break. `$1` of the query, which lists them, is the table.
struct Refusal {
    publications: &'static str,
    what: &'static str,
    why: &'static str,
    hint: &'static str,
}

const REFUSALS: &[Refusal] = &[
    Refusal {
        publications: "SELECT pubname::text FROM pg_catalog.pg_publication WHERE puballtables AND $1 <> 0::oid",
        what: "cannot be migrated while there is a publication FOR ALL TABLES",
        why: "It would also publish the private tables of a migration, at which subscribers stop.",
        hint: "Replace it by one FOR TABLE or FOR TABLES IN SCHEMA, WITH (publish_via_partition_root = true).",
    },
    Refusal {
        publications: "SELECT p.pubname::text FROM pg_catalog.pg_publication p
                         JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid
                        WHERE s.pnnspid = 'repart'::regnamespace AND $1 <> 0::oid",
        what: "cannot be migrated while schema \"repart\" is published",
        why: "The private tables of a migration are there, at which subscribers stop.",
        hint: "Take the schema out with ALTER PUBLICATION … DROP TABLES IN SCHEMA repart.",
    },
    Refusal {
        publications: "SELECT p.pubname::text FROM pg_catalog.pg_publication p
                        WHERE NOT p.pubviaroot
                          AND (EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = $1)
                               OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s
                                            JOIN pg_catalog.pg_class c ON c.relnamespace = s.pnnspid
                                           WHERE s.pnpubid = p.oid
                                             AND (c.oid = $1 OR c.oid IN (SELECT i.inhrelid FROM pg_catalog.pg_inherits i
                                                                           WHERE i.inhparent = $1))))",
        what: "is published shard by shard",
        why: "New shards have names that subscribers do not have, at which they stop.",
        hint: "Run ALTER PUBLICATION … SET (publish_via_partition_root = true), and ALTER SUBSCRIPTION … REFRESH PUBLICATION on the subscribers.",
    },
    Refusal {
        publications: "SELECT DISTINCT p.pubname::text FROM pg_catalog.pg_publication p
                         JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid
                         JOIN pg_catalog.pg_class c ON c.relnamespace = s.pnnspid
                         JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = $1
                        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = $1)
                          AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_namespace o JOIN pg_catalog.pg_class t
                                                   ON t.relnamespace = o.pnnspid
                                           WHERE o.pnpubid = p.oid AND t.oid = $1)",
        what: "has shards in a published schema, without being published itself",
        why: "New shards have names that subscribers do not have, at which they stop.",
        hint: "Publish the table too, in the same publication.",
    },
];

/// Shards that are published by name.
const SHARDS: Refusal = Refusal {
    publications: "SELECT DISTINCT p.pubname::text FROM pg_catalog.pg_publication p
                     JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
                     JOIN pg_catalog.pg_inherits i ON i.inhrelid = r.prrelid AND i.inhparent = $1",
    what: "has shards that are published by name",
    why: "A shard that is replaced takes its place in the publication along.",
    hint: "Publish the table instead, WITH (publish_via_partition_root = true).",
};

/// Any publication of a table.
const ANY: Refusal = Refusal {
    publications: "SELECT p.pubname::text FROM pg_catalog.pg_publication p
                    WHERE p.puballtables
                       OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = $1)
                       OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_class c
                                           ON c.relnamespace = s.pnnspid
                                   WHERE s.pnpubid = p.oid AND c.oid = $1)",
    what: "is published",
    why: "It would become a shard, which subscribers do not have.",
    hint: "Take it out of the publication; once it is managed, add it again, WITH (publish_via_partition_root = true).",
};

/// Refuses publications that a migration of this table would break.
pub fn check(table: pg_sys::Oid, name: &str) -> Result<()> {
    REFUSALS
        .iter()
        .try_for_each(|refusal| refuse(refusal, table, name))
}

/// Refuses a table of which some shards are published by name. (A migration asks only for those it replaces.)
pub fn refuse_shards(table: pg_sys::Oid, name: &str) -> Result<()> {
    refuse(&SHARDS, table, name)
}

/// Refuses a table that is published in any way.
pub fn refuse_any(table: pg_sys::Oid, name: &str) -> Result<()> {
    refuse(&ANY, table, name)
}

/// A publication of the schema of a shard from which rows leave, or in which they arrive, while it is no partition.
const MOVES: Refusal = Refusal {
    publications: "SELECT p.pubname::text FROM pg_catalog.pg_publication p
                     JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid
                     JOIN pg_catalog.pg_class c ON c.relnamespace = s.pnnspid AND c.oid = $1",
    what: "is in a schema that is published since the migration began",
    why: "It keeps its place, and rows that are moved would be published as changes of a table that subscribers do not have.",
    hint: "Start the migration again: then the shard is rebuilt.",
};

/// Refuses to move rows of a shard that keeps its place, where somebody has published its schema meanwhile.
pub fn refuse_moves(shard: pg_sys::Oid, name: &str) -> Result<()> {
    refuse(&MOVES, shard, name)
}

fn refuse(refusal: &Refusal, table: pg_sys::Oid, name: &str) -> Result<()> {
    let mut publications = spi::query_kept(refusal.publications, &[table.into()], |row| {
        row.get::<String>(1)
    })?;
    if publications.is_empty() {
        return Ok(());
    }
    publications.sort();
    Err(Error::Unsupported {
        what: format!("table \"{name}\" {}", refusal.what),
        detail: format!("Publications: {}. {}", publications.join(", "), refusal.why),
        hint: refusal.hint.to_owned(),
    })
}
