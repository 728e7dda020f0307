//! What a shard must be to be replaced.

use crate::catalog::journal::Source;
use crate::error::{Error, Result};
use crate::migrate::definition;
use crate::pg::spi;

/// Fails where a shard's replacement could not be all that the shard is.
pub fn check(source: &Source, blocking: bool) -> Result<()> {
    let relation = source.relation();
    let kind = spi::value::<String>(
        "SELECT relkind::text || relpersistence::text FROM pg_catalog.pg_class WHERE oid = $1",
        &[relation.into()],
    )?;
    if kind.as_deref() != Some("rp") {
        return Err(Error::WrongObject {
            what: format!("shard \"{}\" is not an ordinary, logged table", source.name),
            hint: "Foreign, unlogged and sub-partitioned shards cannot be migrated.".to_owned(),
        });
    }
    if !blocking {
        definition::identity_key(relation)?;
    }
    refuse_dependents(source)?;
    refuse_leaf_identity(source)
}

/// Objects that hang on the shard itself would be lost with it, or keep it from being dropped.
pub fn refuse_dependents(source: &Source) -> Result<()> {
    let dependents = spi::query_value::<String>(DEPENDENTS, &[source.relation().into()])?;
    match dependents {
        None => Ok(()),
        Some(detail) => Err(Error::Unsupported {
            what: format!(
                "shard \"{}\" cannot be replaced because other objects depend on it",
                source.name
            ),
            detail: format!("Dependent objects: {detail}."),
            hint: "Define them on the sharded table instead of on the shard.".to_owned(),
        }),
    }
}

/// Objects that depend on a table or its row type, other than those that its replacement gets too.
const DEPENDENTS: &str = "
SELECT pg_catalog.string_agg(DISTINCT pg_catalog.pg_describe_object(classid, objid, objsubid), ', ')
  FROM pg_catalog.pg_depend d
 WHERE deptype IN ('n', 'a')
   AND (refclassid = 'pg_catalog.pg_class'::regclass AND refobjid = $1
        OR refclassid = 'pg_catalog.pg_type'::regclass
           AND refobjid IN (SELECT t.oid FROM pg_catalog.pg_type t WHERE t.typrelid = $1
                            UNION ALL SELECT t.typarray FROM pg_catalog.pg_type t WHERE t.typrelid = $1))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_class x
                    WHERE classid = 'pg_catalog.pg_class'::regclass AND x.oid = objid AND x.relkind IN ('i', 't'))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
                    WHERE classid = 'pg_catalog.pg_constraint'::regclass AND k.oid = objid
                      AND (k.conrelid = $1 OR k.confrelid = $1 AND k.conparentid <> 0))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                    WHERE classid = 'pg_catalog.pg_trigger'::regclass AND t.oid = objid AND t.tgrelid = $1
                      AND (t.tgparentid <> 0 OR t.tgisinternal OR t.tgname LIKE 'repart\\_capture\\_%'))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_attrdef a
                    WHERE classid = 'pg_catalog.pg_attrdef'::regclass AND a.oid = objid AND a.adrelid = $1)";

/// Before PostgreSQL 17 a partition may have an identity column of its own, with its own sequence.
fn refuse_leaf_identity(source: &Source) -> Result<()> {
    let own = spi::query_value::<bool>(
        "SELECT pg_catalog.current_setting('server_version_num')::int < 170000
            AND EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attidentity <> '' AND NOT attisdropped)",
        &[source.relation().into()],
    )?;
    if own != Some(true) {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("shard \"{}\" has an identity column of its own", source.name),
        detail: String::new(),
        hint: "Drop it with ALTER TABLE … ALTER COLUMN … DROP IDENTITY; the sharded table's serves all shards.".to_owned(),
    })
}
