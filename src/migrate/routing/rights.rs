//! What the role that repart is on a copy's node may do there, and who else must be able to use the copy: asked before
//! anything is made or moved.

use crate::catalog::routes::RoutingCopy;
use crate::error::{Error, Result};
use crate::migrate::away::link::Link;
use crate::pg::{relation, spi};

/// Fails unless the role may make tables in the schema of the copy.
pub fn require_schema(link: &mut Link, copy: &RoutingCopy) -> Result<()> {
    let (node, schema) = (&copy.node, spi::quote_identifier(&copy.schema));
    let answer = link.ask(&format!(
        "SELECT pg_catalog.has_schema_privilege(oid, 'USAGE') AND pg_catalog.has_schema_privilege(oid, 'CREATE'),
                pg_catalog.quote_ident(current_user)
           FROM pg_catalog.pg_namespace WHERE nspname = {}",
        spi::quote_literal(&copy.schema)
    ))?;
    if answer.len() == 0 {
        return Err(Error::Missing {
            what: format!("schema {schema} does not exist on node \"{node}\""),
            hint: format!(
                "Run CREATE SCHEMA {schema} there: a routing copy has the schema of its table."
            ),
        });
    }
    if answer.get::<String>(0, 0).as_deref() == Some("t") {
        return Ok(());
    }
    let role = answer.get::<String>(0, 1).unwrap_or_default();
    Err(Error::Prerequisite {
        what: format!(
            "role {role}, which repart is on node \"{node}\", may not make tables in schema {schema} there"
        ),
        hint: format!(
            "Run GRANT USAGE, CREATE ON SCHEMA {schema} TO {role} there: each switch makes partitions of the routing copy."
        ),
    })
}

/// Fails unless everybody who may use the copy has a user mapping for the server, by which shards are reached.
pub fn require_mappings(link: &mut Link, copy: &RoutingCopy, server: &str) -> Result<()> {
    let table = format!(
        "pg_catalog.to_regclass({})",
        spi::quote_literal(copy.name())
    );
    let answer = link.ask(&format!(
        "SELECT DISTINCT pg_catalog.quote_ident(r.rolname)
           FROM pg_catalog.pg_class c
          CROSS JOIN LATERAL (SELECT c.relowner UNION SELECT a.grantee FROM pg_catalog.aclexplode(c.relacl) a) g (role)
           JOIN pg_catalog.pg_roles r ON r.oid = g.role AND r.rolcanlogin
          WHERE c.oid = {table}
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_user_mappings m
                             WHERE m.srvname = {} AND m.umuser IN (0, r.oid))
          ORDER BY 1",
        spi::quote_literal(server)
    ))?;
    let missing: Vec<String> = (0..answer.len())
        .filter_map(|row| answer.get(row, 0))
        .collect();
    let Some(first) = missing.first() else {
        return Ok(());
    };
    Err(Error::Prerequisite {
        what: format!(
            "users of the routing copy of table \"{}\" have no user mapping for server \"{server}\" on node \"{}\": {}",
            relation::display_name(copy.relation)?,
            copy.node,
            missing.join(", ")
        ),
        hint: format!(
            "Run CREATE USER MAPPING FOR {first} SERVER {} OPTIONS (user '...', password '...') for each there.",
            spi::quote_identifier(server)
        ),
    })
}

/// Fails where another partitioned table of the node leads to shards of the same table by the same server: nobody would
/// switch it, and rows would be hidden from its clients. So does one that was a copy and was renamed.
pub fn require_no_other(link: &mut Link, copy: &RoutingCopy) -> Result<()> {
    let (schema, names) = local_shards(copy)?;
    if names.is_empty() {
        return Ok(());
    }
    let option = |name: &str, or: &str| {
        format!(
            "coalesce((SELECT option_value FROM pg_catalog.pg_options_to_table(f.ftoptions) WHERE option_name = '{name}'), {or})"
        )
    };
    let other = link.value(&format!(
        "SELECT pg_catalog.min(i.inhparent::regclass::text)
           FROM pg_catalog.pg_foreign_table f
           JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver AND s.srvname = {server}
           JOIN pg_catalog.pg_inherits i ON i.inhrelid = f.ftrelid
           JOIN pg_catalog.pg_class c ON c.oid = f.ftrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE i.inhparent IS DISTINCT FROM pg_catalog.to_regclass({own})
            AND ({schema_name}, {table_name}) IN (SELECT * FROM ROWS FROM (
                    pg_catalog.unnest(ARRAY[{schema}]::text[]), pg_catalog.unnest(ARRAY[{names}]::text[])) AS x)",
        server = spi::quote_literal(&copy.coordinator),
        own = spi::quote_literal(copy.name()),
        schema_name = option("schema_name", "n.nspname::text"),
        table_name = option("table_name", "c.relname::text"),
        schema = schema.join(", "),
        names = names.join(", "),
    ))?;
    let Some(other) = other else {
        return Ok(());
    };
    Err(Error::InUse {
        what: format!(
            "table {other} on node \"{}\" leads to shards of table \"{}\" already",
            copy.node,
            relation::display_name(copy.relation)?
        ),
        hint: format!(
            "Drop it there: only {} would be switched. If it was renamed there, give it that name again.",
            copy.name()
        ),
    })
}

/// Schemas and names of the shards that are here, as literals.
fn local_shards(copy: &RoutingCopy) -> Result<(Vec<String>, Vec<String>)> {
    let shards = crate::catalog::routes::partitions(copy.relation)?;
    Ok(shards
        .iter()
        .filter(|shard| shard.foreign.is_none())
        .map(|shard| {
            (
                spi::quote_literal(&shard.schema),
                spi::quote_literal(&shard.name),
            )
        })
        .unzip())
}
