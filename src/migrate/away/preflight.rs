//! What would keep a shard from being on a node: asked when the migration is queued, and again when it begins.

use std::collections::BTreeSet;

use pgrx::pg_sys;

use crate::catalog::journal::{Remote, Source, Spec};
use crate::catalog::nodes;
use crate::error::{Error, Result};
use crate::manage::leaf_keys;
use crate::migrate::away::ends::End;
use crate::migrate::away::link::Visits;
use crate::migrate::away::{capture, define, receiver};
use crate::migrate::definition::KEY_COLUMNS;
use crate::migrate::preflight::space;
use crate::pg::{relation, spi};

/// Fails unless a whole shard changes its place, or shards of one node are reshaped there.
pub fn require_possible(table: pg_sys::Oid, spec: &Spec) -> Result<()> {
    let is_move = spec.sources.len() == 1 && spec.targets.len() == 1;
    if is_move || is_inside(spec) {
        return Ok(());
    }
    let name = relation::display_name(table)?;
    let place = |source: &Source| {
        let node = source.remote.as_ref().map(|remote| remote.node.as_str());
        format!("\"{}\" on {}", source.name, node.unwrap_or(nodes::LOCAL))
    };
    let places: Vec<String> = spec.sources.iter().map(place).collect();
    Err(Error::Unsupported {
        what: format!("shards of table \"{name}\" are on different servers"),
        detail: format!("They are: {}.", places.join(", ")),
        hint: "Move them to one node with repart_move first.".to_owned(),
    })
}

/// Whether all of it happens on one node.
fn is_inside(spec: &Spec) -> bool {
    let Some(node) = spec.targets.first().and_then(|target| target.node.as_ref()) else {
        return false;
    };
    let of_sources = |source: &Source| source.remote.as_ref().is_some_and(|r| r.node == *node);
    spec.sources.iter().all(of_sources)
        && spec
            .targets
            .iter()
            .all(|target| target.node.as_ref() == Some(node))
}

/// Fails where a migration of a table with a part for a node could not be carried out.
pub fn check(table: pg_sys::Oid, spec: &Spec) -> Result<()> {
    let name = relation::display_name(table)?;
    // However much is asked: each look is a connection.
    let mut visits = Visits::default();
    let mut models = Vec::new();
    for source in &spec.sources {
        if let Some(remote) = &source.remote {
            let there = visits.to(&remote.node)?;
            models.push(require_sender(source, remote, spec, there)?);
        }
    }
    if models.iter().any(|model| Some(model) != models.first()) {
        return Err(Error::Unsupported {
            what: format!("the tables behind shards of table \"{name}\" differ on their node"),
            detail: String::new(),
            hint: "Give them the same columns, constraints, storage parameters and keys there."
                .to_owned(),
        });
    }
    let receivers: BTreeSet<&String> = spec
        .targets
        .iter()
        .filter_map(|t| t.node.as_ref())
        .collect();
    if receivers.is_empty() {
        receiver::require_here()?;
    }
    for node in receivers {
        for source in &spec.sources {
            require_portable(table, source)?;
        }
        if !is_inside(spec) {
            receiver::require(node)?;
        }
        for source in &spec.sources {
            require_mappings(node, source.relation(), &name)?;
            if source.remote.is_none() {
                require_space(node, source.relation())?;
            }
        }
        nodes::share(node)?;
        receiver::ask(node, table, visits.to(node)?)?;
    }
    Ok(())
}

/// Fails unless the table behind a foreign shard can be replaced; returns what all of them must have in common.
fn require_sender(
    source: &Source,
    remote: &Remote,
    spec: &Spec,
    there: &mut End,
) -> Result<(Common, Vec<KeyName>)> {
    let (shard, node) = (&source.name, &remote.node);
    nodes::share(node)?;
    let table = spi::quote_literal(remote.qualified());
    let facts = there.texts(
        &format!(
            "SELECT c.relkind::text || c.relpersistence::text, pg_has_role(c.relowner, 'USAGE')::text,
                    pg_total_relation_size(c.oid)::text, current_setting('max_prepared_transactions')
               FROM pg_class c WHERE c.oid = to_regclass({table})"
        ),
        4,
    )?;
    let mut facts = facts.into_iter().next().unwrap_or_default().into_iter();
    let mut next = || facts.next().flatten();
    let (kind, owned, bytes, prepared) = (next(), next(), next(), next());
    if kind.as_deref() != Some("rp") {
        return Err(Error::WrongObject {
            what: format!(
                "shard \"{shard}\" stands for {table} on node \"{node}\", which is not an ordinary, logged table"
            ),
            hint: "Foreign, unlogged and partitioned tables cannot be migrated.".to_owned(),
        });
    }
    if owned.as_deref() != Some("true") {
        return Err(Error::Prerequisite {
            what: format!("the role that repart is on node \"{node}\" does not own {table} there"),
            hint: "Run ALTER TABLE … OWNER TO there, or GRANT it the owner's role.".to_owned(),
        });
    }
    if prepared.as_deref() == Some("0") {
        return Err(Error::Prerequisite {
            what: format!("max_prepared_transactions is 0 on node \"{node}\""),
            hint:
                "Run ALTER SYSTEM SET max_prepared_transactions = 20 there, and restart the server."
                    .to_owned(),
        });
    }
    require_same_columns(source, there, &table)?;
    let sql = KEY_COLUMNS.replace("$1", &format!("{table}::regclass"));
    let keys = there.texts(&sql, 2)?;
    if keys.is_empty() {
        return Err(capture::no_key(shard));
    }
    let model = define::read(there, &remote.qualified(), "shard")?;
    let concerned = define::cannot_be_carried(&model);
    if !concerned.is_empty() {
        return Err(Error::Unsupported {
            what: format!("{table} on node \"{node}\" cannot be moved because of what it has"),
            detail: format!("Concerned: {}.", concerned.join(", ")),
            hint: "Drop it there.".to_owned(),
        });
    }
    let bytes = bytes
        .and_then(|bytes| bytes.parse::<u64>().ok())
        .unwrap_or(0);
    match spec.targets.first().and_then(|target| target.node.as_ref()) {
        None => space::require_here(spec, bytes)?,
        Some(node) => require_free(node, i64::try_from(bytes).unwrap_or(i64::MAX))?,
    }
    Ok((model.common(), keys))
}

/// Definition of a table, as far as tables that become one must agree.
type Common = (String, Vec<String>);

/// A column of a key: name and type.
type KeyName = Vec<Option<String>>;

/// A foreign table need not have the names and types of the table that it stands for: rows that are copied would not
/// mean the same.
fn require_same_columns(source: &Source, there: &mut End, table: &str) -> Result<()> {
    let columns = |table: &str| {
        format!(
            "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attname COLLATE \"C\")
               FROM pg_attribute WHERE attrelid = {table}::regclass AND attnum > 0 AND NOT attisdropped"
        )
    };
    let mut here = End::Here(relation::owner(source.relation())?);
    let here = here.row(&columns(&spi::quote_literal(source.qualified())), 1)?;
    let there = there.row(&columns(table), 1)?;
    if here == there {
        return Ok(());
    }
    let list = |row: Vec<Option<String>>| row.into_iter().flatten().collect::<String>();
    Err(Error::Unsupported {
        what: format!(
            "shard \"{}\" and the table that it stands for have different columns",
            source.name
        ),
        detail: format!("Here: {}. There: {}.", list(here), list(there)),
        hint: "Give both the same names and types.".to_owned(),
    })
}

/// Fails if the table cannot have a foreign partition, or the shard has something that a foreign table cannot have.
fn require_portable(table: pg_sys::Oid, source: &Source) -> Result<()> {
    let name = relation::display_name(table)?;
    let keys = leaf_keys::obstacles(table)?;
    if !keys.is_empty() {
        return Err(Error::Prerequisite {
            what: format!(
                "table \"{name}\" has unique indexes ({}), with which PostgreSQL admits no shards on other servers",
                keys.join(", ")
            ),
            hint: format!(
                "Run SELECT repart_manage({}, leaf_keys => true), which moves them to the shards.",
                spi::quote_literal(relation::name(table)?)
            ),
        });
    }
    let mut concerned = of_table(table)?;
    if source.remote.is_none() {
        let mut here = End::Here(relation::owner(source.relation())?);
        let model = define::read(&mut here, &source.qualified(), "shard")?;
        let parts = define::cannot_be_carried(&model);
        concerned.extend(parts.into_iter().map(str::to_owned));
    }
    if concerned.is_empty() {
        return Ok(());
    }
    concerned.sort();
    concerned.dedup();
    Err(Error::Unsupported {
        what: format!(
            "shard \"{}\" of table \"{name}\" cannot be moved to another server because of what only a table of this \
             server can have",
            source.name
        ),
        detail: format!("Concerned: {}.", concerned.join(", ")),
        hint: "Drop it, or keep the shards of this table here.".to_owned(),
    })
}

/// What a sharded table has that PostgreSQL, or repart, cannot give a foreign partition.
fn of_table(table: pg_sys::Oid) -> Result<Vec<String>> {
    spi::query(
        "SELECT pg_catalog.format('trigger \"%s\"', tgname) FROM pg_catalog.pg_trigger
          WHERE tgrelid = $1 AND NOT tgisinternal AND tgtype & 1 = 1
          UNION ALL
         SELECT pg_catalog.format('foreign key \"%s\"', conname) FROM pg_catalog.pg_constraint
          WHERE contype = 'f' AND (conrelid = $1 OR confrelid = $1)
          UNION ALL
         SELECT pg_catalog.format('publication \"%s\"', p.pubname)
           FROM pg_catalog.pg_publication p LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
          WHERE r.prrelid = $1
          UNION ALL
         SELECT pg_catalog.format('publication \"%s\"', p.pubname)
           FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid
           JOIN pg_catalog.pg_class c ON c.relnamespace = s.pnnspid AND c.oid = $1",
        &[table.into()],
        |row| row.get(1),
    )
}

/// Fails unless everybody who uses the table by a right of his own can use it on the node: postgres_fdw looks for a user
/// mapping of each.
fn require_mappings(node: &str, shard: pg_sys::Oid, table: &str) -> Result<()> {
    let missing = spi::query::<String>(
        "SELECT DISTINCT r.rolname::text
           FROM pg_catalog.pg_class c
          CROSS JOIN LATERAL (SELECT c.relowner AS role
                               UNION SELECT a.grantee FROM pg_catalog.aclexplode(c.relacl) a
                               UNION SELECT a.grantee FROM pg_catalog.pg_class p
                                       JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid AND i.inhrelid = c.oid,
                                            pg_catalog.aclexplode(p.relacl) a) g
           JOIN pg_catalog.pg_roles r ON r.oid = g.role AND (r.rolcanlogin OR r.oid = c.relowner)
          WHERE c.oid = $1
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_user_mappings m
                             WHERE m.srvname = $2::name AND m.umuser IN (0, r.oid))
          ORDER BY 1",
        &[shard.into(), node.into()],
        |row| row.get(1),
    )?;
    let Some(first) = missing.first() else {
        return Ok(());
    };
    Err(Error::Prerequisite {
        what: format!(
            "users of table \"{table}\" have no user mapping for node \"{node}\": {}",
            missing.join(", ")
        ),
        hint: format!(
            "Run CREATE USER MAPPING FOR {} SERVER {} OPTIONS (user '...', password '...') for each.",
            spi::quote_identifier(first),
            spi::quote_identifier(node)
        ),
    })
}

/// Fails if the node is known to be too full; where repart is not installed there, nobody knows.
fn require_space(node: &str, shard: pg_sys::Oid) -> Result<()> {
    let needed = spi::query_value::<i64>(
        "SELECT pg_catalog.pg_total_relation_size($1::oid)",
        &[shard.into()],
    )?
    .unwrap_or(0);
    require_free(node, needed)
}

/// As [`require_space`], of so many bytes.
fn require_free(node: &str, needed: i64) -> Result<()> {
    let free = nodes::disk_free(node)?;
    let Some(free) = free.filter(|free| *free < needed) else {
        return Ok(());
    };
    Err(Error::DiskFull {
        what: format!(
            "node \"{node}\" has {} MB free, but the new shard needs some {} MB",
            free >> 20,
            (needed + (1 << 20) - 1) >> 20
        ),
        hint: "Free some space there, or move the shard elsewhere.".to_owned(),
    })
}
