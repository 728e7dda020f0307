//! What a shard may have that cannot be carried over: refused before anything is done, with the objects' names.
//! Each refusal is a query that lists these objects.

use crate::catalog::journal::Source;
use crate::error::{Error, Result};
use crate::pg::{dependents, spi};

struct Refusal {
    /// Lists the objects concerned of the shard `$1`; no row means that all is well.
    objects: &'static str,
    /// What is wrong, after `shard "…"`.
    what: &'static str,
    /// What helps.
    hint: &'static str,
}

const REFUSALS: &[Refusal] = &[
    Refusal {
        objects: "SELECT format('column %I', attname) FROM pg_attribute
                   WHERE attrelid = $1 AND attidentity <> '' AND NOT attisdropped
                     AND current_setting('server_version_num')::int < 170000 ORDER BY attnum",
        what: "has an identity column of its own",
        hint: "Drop it with ALTER TABLE … ALTER COLUMN … DROP IDENTITY; the sharded table's serves all shards.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_class'::regclass, d.objid, 0) FROM pg_depend d
                    JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
                   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                     AND d.refobjid = $1 AND d.deptype = 'a' ORDER BY 1",
        what: "owns a sequence, which would be dropped with it",
        hint: "Run ALTER SEQUENCE … OWNED BY with the column of the sharded table.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_constraint'::regclass, oid, 0) FROM pg_constraint
                   WHERE conrelid = $1 AND contype = 'c' AND 0 = ANY (conkey) ORDER BY 1",
        what: "has CHECK constraints on the whole row",
        hint: "Name the columns in them: the row type of its replacement is another one.",
    },
    Refusal {
        objects: "SELECT pg_describe_object('pg_constraint'::regclass, oid, 0) FROM pg_constraint
                   WHERE conrelid = $1 AND confrelid = $1 AND conparentid = 0 ORDER BY 1",
        what: "has foreign keys that reference the shard itself",
        hint: "Reference the sharded table: rows of its replacements may reference each other.",
    },
    Refusal {
        objects: "SELECT DISTINCT pg_describe_object('pg_constraint'::regclass, tgconstraint, 0) FROM pg_trigger
                   WHERE tgrelid = $1 AND tgisinternal AND tgconstraint <> 0 AND tgenabled <> 'O' ORDER BY 1",
        what: "has constraints whose triggers are disabled",
        hint: "Run ALTER TABLE … ENABLE TRIGGER ALL on it.",
    },
    Refusal {
        objects: "SELECT format('%s: %s', provider, label) FROM pg_seclabel
                   WHERE classoid = 'pg_class'::regclass AND objoid = $1 ORDER BY 1",
        what: "has security labels",
        hint: "Remove them, and set them again on its replacements.",
    },
    Refusal {
        objects: "SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
                   WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype IN ('e', 'x')
                     AND (d.classid = 'pg_class'::regclass
                          AND (d.objid = $1 OR d.objid IN (SELECT indexrelid FROM pg_index WHERE indrelid = $1))
                          OR d.classid = 'pg_trigger'::regclass
                             AND d.objid IN (SELECT oid FROM pg_trigger WHERE tgrelid = $1)) ORDER BY 1",
        what: "belongs to an extension, or something of it depends on one",
        hint: "Run ALTER EXTENSION … DROP, or ALTER … NO DEPENDS ON EXTENSION.",
    },
];

/// Fails where a shard has something that its replacement could not have.
pub fn check(source: &Source) -> Result<()> {
    for refusal in REFUSALS {
        let objects = spi::query_kept(refusal.objects, &[source.relation().into()], |row| {
            row.get::<String>(1)
        })?;
        refuse(
            format!("shard \"{}\" {}", source.name, refusal.what),
            "Concerned",
            &objects,
            refusal.hint,
        )?;
    }
    let objects = dependents::others(source.relation(), &[dependents::Except::Sequences])?;
    refuse(
        format!(
            "shard \"{}\" cannot be replaced because other objects depend on it",
            source.name
        ),
        "Dependent objects",
        &objects,
        "Define them on the sharded table instead of on the shard.",
    )
}

fn refuse(what: String, label: &str, objects: &[String], hint: &str) -> Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    Err(Error::Unsupported {
        what,
        detail: format!("{label}: {}.", objects.join(", ")),
        hint: hint.to_owned(),
    })
}
