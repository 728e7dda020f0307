//! What repart cannot carry over, or could not migrate later: refused when a table is to be managed, with
//! the objects concerned and the remedy. Each refusal is a query that lists these objects.

use crate::catalog::nodes;
use crate::error::{Error, Result};
use crate::manage::key::Key;
use crate::manage::table::Table;
use crate::pg::dependents::{self, Except};
use crate::pg::{role, spi};

/// One thing that is refused. `$1` of the query is the table; each row is the description of an object.
struct Refusal {
    /// Lists the objects concerned; no row means that all is well.
    objects: &'static str,
    /// What is wrong, after `table "…"`.
    what: &'static str,
    /// What helps.
    hint: &'static str,
}

/// Refused for every table.
const ALWAYS: &[Refusal] = &[
    Refusal {
        objects: "SELECT pg_describe_object('pg_subscription'::regclass, srsubid, 0) FROM pg_subscription_rel
                   WHERE srrelid = $1 OR srrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = $1) ORDER BY 1",
        what: "is filled by a subscription",
        hint: "Take it out of the publication that is subscribed to, and refresh the subscription.",
    },
];

/// Refused for a table that is partitioned already.
const PARTITIONED: &[Refusal] = &[
    Refusal {
        objects: "SELECT pg_describe_object('pg_class'::regclass, c.oid, 0)
                    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                   WHERE i.inhparent = $1 AND c.relkind = 'p' ORDER BY 1",
        what: "has partitions that are partitioned themselves",
        hint: "repart manages tables whose partitions are all leaves.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_class'::regclass, c.oid, 0)
                    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                   WHERE i.inhparent = $1 AND c.relpersistence <> 'p' ORDER BY 1",
        what: "has partitions that are unlogged",
        hint: "An unlogged table is emptied after a crash. Run ALTER TABLE ... SET LOGGED on these partitions first.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_class'::regclass, inhrelid, 0) FROM pg_inherits
                   WHERE inhparent = $1 AND inhdetachpending ORDER BY 1",
        what: "has a partition whose DETACH CONCURRENTLY was interrupted",
        hint: "Run ALTER TABLE ... DETACH PARTITION ... FINALIZE first.",
    },
];

/// Refused for a plain table, which a partitioned table has to replace under its name.
const PLAIN: &[Refusal] = &[
    Refusal {
        objects: "SELECT format_type(reloftype, NULL) FROM pg_class WHERE oid = $1 AND reloftype <> 0",
        what: "is a typed table",
        hint: "Run ALTER TABLE ... NOT OF first.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_class'::regclass, CASE inhrelid WHEN $1 THEN inhparent ELSE inhrelid END, 0)
                    FROM pg_inherits WHERE $1 IN (inhrelid, inhparent) ORDER BY 1",
        what: "takes part in inheritance",
        hint: "Run ALTER TABLE ... NO INHERIT first: a partitioned table can neither inherit nor be inherited from.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_rewrite'::regclass, oid, 0) FROM pg_rewrite WHERE ev_class = $1 ORDER BY 1",
        what: "has rules",
        hint: "Drop them, or replace them by triggers.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_constraint'::regclass, oid, 0) FROM pg_constraint
                   WHERE conrelid = $1 AND contype = 'x' ORDER BY 1",
        what: "has exclusion constraints",
        hint: "Drop them: an exclusion constraint cannot compare rows of different shards.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_constraint'::regclass, c.oid, 0)
                    FROM pg_constraint c JOIN pg_index i ON i.indexrelid = c.conindid
                   WHERE c.conrelid = $1 AND c.contype IN ('p', 'u') AND i.indisexclusion ORDER BY 1",
        what: "has keys WITHOUT OVERLAPS",
        hint: "Drop them: such a key cannot compare rows of different shards.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_constraint'::regclass, oid, 0) FROM pg_constraint
                   WHERE conrelid = $1 AND NOT convalidated AND conparentid = 0 ORDER BY 1",
        what: "has constraints that are not valid",
        hint: "Run ALTER TABLE ... VALIDATE CONSTRAINT first, or drop them.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_constraint'::regclass, oid, 0) FROM pg_constraint
                   WHERE conrelid = $1 AND contype IN ('c', 'n') AND connoinherit ORDER BY 1",
        what: "has constraints with NO INHERIT",
        hint: "Drop them and add them without NO INHERIT: shards inherit from the table.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_class'::regclass, indexrelid, 0) FROM pg_index
                   WHERE indrelid = $1 AND NOT (indisvalid AND indisready AND indislive) ORDER BY 1",
        what: "has indexes that are not valid",
        hint: "Run REINDEX, or drop them.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_trigger'::regclass, oid, 0) FROM pg_trigger
                   WHERE tgrelid = $1 AND NOT tgisinternal AND tgconstraint <> 0 ORDER BY 1",
        what: "has constraint triggers",
        hint: "Drop them, or replace them by ordinary triggers.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_trigger'::regclass, oid, 0) FROM pg_trigger
                   WHERE tgrelid = $1 AND NOT tgisinternal AND tgtype & 1 = 1
                     AND (tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL) ORDER BY 1",
        what: "has row-level triggers with transition tables",
        hint: "PostgreSQL does not allow them on partitioned tables: make them FOR EACH STATEMENT.",
    },
    Refusal {
        objects: "SELECT provider || ' ' || label FROM pg_seclabel
                   WHERE classoid = 'pg_class'::regclass AND objoid = $1 ORDER BY 1",
        what: "has security labels",
        hint: "Remove them, and set them again once the table is managed.",
    },
    Refusal {
        objects: "SELECT DISTINCT pg_describe_object('pg_class'::regclass, v.oid, 0)
                    FROM pg_depend d
                    JOIN pg_rewrite r ON r.oid = d.objid AND r.rulename = '_RETURN'
                    JOIN pg_class v ON v.oid = r.ev_class AND v.relkind = 'v'
                   WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
                     AND (NOT pg_has_role(v.relowner, 'USAGE') OR pg_is_other_temp_schema(v.relnamespace))
                   ORDER BY 1",
        what: "is read by views that you do not own",
        hint: "Run it as a superuser or as a member of the roles that own these views: they have to be changed too.",
    },
    Refusal {
        objects: "SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid)
                    FROM pg_depend s
                    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = s.objid
                   WHERE s.refclassid = 'pg_class'::regclass AND s.refobjid = $1 AND s.deptype = 'i'
                     AND s.classid = 'pg_class'::regclass AND s.refobjsubid > 0 ORDER BY 1",
        what: "has an identity column whose sequence other objects use",
        hint: "Drop or change them: the identity's sequence has to be made anew.",
    },
];

/// Unique indexes without the shard key, whose number is `$2`, as a plain column.
const KEYLESS: &str = "SELECT pg_describe_object('pg_class'::regclass, i.indexrelid, 0) FROM pg_index i
     WHERE i.indrelid = $1 AND i.indisunique AND NOT i.indisexclusion
       AND NOT EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) n WHERE i.indkey[n] = $2) ORDER BY 1";

/// Refuses what is refused for every table.
pub fn check_any(table: &Table) -> Result<()> {
    check(ALWAYS, table)
}

/// Refuses what is refused for partitioned tables.
pub fn check_partitioned(table: &Table) -> Result<()> {
    check(PARTITIONED, table)?;
    check_foreign(table)
}

/// Foreign partitions must be on nodes: of other servers, nothing would be known of their load.
fn check_foreign(table: &Table) -> Result<()> {
    let strangers = role::as_superuser(|| nodes::strangers(table.oid))?;
    let Some((_, server)) = strangers.first() else {
        return Ok(());
    };
    let shards: Vec<String> = strangers
        .iter()
        .map(|(shard, server)| format!("{shard} on server {server}"))
        .collect();
    Err(refused(
        &format!(
            "table \"{}\" has foreign tables as partitions on servers that are no nodes",
            table.name
        ),
        &shards,
        &format!(
            "Run SELECT repart_add_node({}) first.",
            spi::quote_literal(server)
        ),
    ))
}

/// Refuses what is refused for plain tables.
pub fn check_plain(table: &Table, key: &Key) -> Result<()> {
    check(PLAIN, table)?;
    let keyless = objects(KEYLESS, &[table.oid.into(), key.attnum.into()])?;
    if !keyless.is_empty() {
        return Err(refused(
            &format!(
                "table \"{}\" has unique indexes without the shard key \"{}\"",
                table.name, key.column
            ),
            &keyless,
            "Add the shard key to them, drop them, or choose another shard key: a unique index of a partitioned \
             table must contain its partition key.",
        ));
    }
    let dependents = dependents::others(
        table.oid,
        &[Except::Views, Except::Sequences, Except::References],
    )?;
    if !dependents.is_empty() {
        return Err(refused(
            &format!(
                "other objects depend on table \"{}\" or its row type",
                table.name
            ),
            &dependents,
            "Drop them, and create them again once the table is managed: they would stay bound to its first shard.",
        ));
    }
    Ok(())
}

fn check(refusals: &[Refusal], table: &Table) -> Result<()> {
    for refusal in refusals {
        let objects = objects(refusal.objects, &[table.oid.into()])?;
        if !objects.is_empty() {
            return Err(refused(
                &format!("table \"{}\" {}", table.name, refusal.what),
                &objects,
                refusal.hint,
            ));
        }
    }
    Ok(())
}

fn objects(sql: &str, args: &[pgrx::datum::DatumWithOid]) -> Result<Vec<String>> {
    spi::query(sql, args, |row| row.get(1))
}

fn refused(what: &str, objects: &[String], hint: &str) -> Error {
    let objects = objects.join(", ");
    Error::Unsupported {
        what: what.to_owned(),
        detail: format!("Concerned: {objects}."),
        hint: hint.to_owned(),
    }
}
