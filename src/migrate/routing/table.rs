//! The table on a copy's node: what it must have in common with the one here.

use pgrx::pg_sys;

use crate::catalog::routes::{self, Partition, RoutingCopy};
use crate::error::{Error, Result};
use crate::migrate::away::link::Link;
use crate::migrate::routing::map::Route;
use crate::pg::{guc, relation, spi};

/// Columns and partition key of the table `$t`, its unique indexes, which of it and its partitions are not the role's own,
/// and which foreign partitions have options that would make them lead elsewhere than their names say; all of type text.
const FACTS: &str = "
SELECT (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname),
                   pg_catalog.format_type(a.atttypid, a.atttypmod), nullif(l.collname, 'default'),
                   CASE WHEN a.attgenerated <> '' THEN 'generated' END), ', ' ORDER BY a.attname COLLATE \"C\")
          FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
       pg_catalog.pg_get_partkeydef(c.oid),
       (SELECT pg_catalog.string_agg(i.indexrelid::regclass::text, ', ') FROM pg_catalog.pg_index i
         WHERE i.indrelid = c.oid AND i.indisunique),
       (SELECT pg_catalog.string_agg(r.oid::regclass::text, ', ') FROM pg_catalog.pg_class r
         WHERE NOT pg_catalog.pg_has_role(r.relowner, 'USAGE')
           AND (r.oid = c.oid OR r.oid IN (SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid))),
       (SELECT pg_catalog.string_agg(f.ftrelid::regclass::text, ', ')
          FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_foreign_table f ON f.ftrelid = i.inhrelid
         WHERE i.inhparent = c.oid
           AND (EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = f.ftrelid AND a.attfdwoptions IS NOT NULL)
                OR EXISTS (SELECT FROM pg_catalog.pg_options_to_table(f.ftoptions)
                            WHERE option_name NOT IN ('schema_name', 'table_name', 'fetch_size', 'batch_size', 'async_capable',
                                                      'fdw_startup_cost', 'fdw_tuple_cost', 'analyze_sampling'))))
  FROM pg_catalog.pg_class c WHERE c.oid = $t";

/// The columns of the table `$t`, as CREATE TABLE has them, with what is given to those that an INSERT leaves out; and
/// those that take it from a sequence, which is not the same on another server.
const DEFINITION: &str = "
SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname),
           pg_catalog.format_type(a.atttypid, a.atttypmod),
           (SELECT pg_catalog.format('COLLATE %I.%I', n.nspname, l.collname) FROM pg_catalog.pg_collation l
              JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
             WHERE l.oid = a.attcollation AND l.oid <> t.typcollation),
           CASE WHEN a.attgenerated = 's' THEN pg_catalog.format('GENERATED ALWAYS AS (%s) STORED', x.text)
                WHEN a.attgenerated = 'v' THEN pg_catalog.format('GENERATED ALWAYS AS (%s) VIRTUAL', x.text)
                WHEN x.text IS NOT NULL AND x.text !~ 'nextval\\(' THEN 'DEFAULT ' || x.text END,
           CASE WHEN a.attnotnull THEN 'NOT NULL' END), ', ' ORDER BY a.attnum),
       pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
           FILTER (WHERE a.attidentity <> '' OR x.text ~ 'nextval\\(')
  FROM pg_catalog.pg_attribute a
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid)) x (text)
 WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped";

/// Schema and name of a table here.
pub fn names(table: pg_sys::Oid) -> Result<(String, String)> {
    let names = spi::select_first(
        "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
        &[table.into()],
        |row| Ok((row.get::<String>(1)?, row.get::<String>(2)?)),
    )?;
    names.ok_or_else(|| Error::Internal("a table of a routing copy vanished".to_owned()))
}

/// Whether there is such a table on the node.
pub fn exists(link: &mut Link, name: &str) -> Result<bool> {
    let sql = format!(
        "SELECT pg_catalog.to_regclass({}) IS NOT NULL",
        spi::quote_literal(name)
    );
    Ok(link.value(&sql)?.as_deref() == Some("t"))
}

/// Makes it, without partitions; returns the columns that take their values from a sequence here.
pub fn create(link: &mut Link, copy: &RoutingCopy) -> Result<Option<String>> {
    let (table, name) = (copy.relation, copy.name());
    let definition = spi::select_first(DEFINITION, &[table.into()], |row| {
        Ok((row.get::<String>(1)?, row.optional::<String>(2)?))
    })?;
    let (columns, sequences) = definition.unwrap_or_default();
    let key = spi::value::<String>("SELECT pg_catalog.pg_get_partkeydef($1)", &[table.into()])?;
    link.ask(&format!(
        "CREATE TABLE {name} ({columns}) PARTITION BY {}",
        key.unwrap_or_default()
    ))?;
    Ok(sequences)
}

/// Fails unless the table there can be a copy of the one here.
pub fn require_alike(link: &mut Link, copy: &RoutingCopy) -> Result<()> {
    let (node, name) = (&copy.node, copy.name());
    if !exists(link, &name)? {
        return Err(Error::Missing {
            what: format!(
                "table {name} does not exist on node \"{node}\", which has a routing copy of it"
            ),
            hint: format!(
                "If it was renamed there, give it that name again; if it was dropped, run SELECT \
                 repart_add_routing_copy({}, {}), which makes it.",
                spi::quote_literal(relation::name(copy.relation)?),
                spi::quote_literal(node)
            ),
        });
    }
    let of = |oid: String| FACTS.replace("$t", &oid);
    let here = guc::with_transmission_modes(|| {
        spi::query(&of(copy.relation.to_u32().to_string()), &[], |row| {
            Ok([row.optional::<String>(1)?, row.optional::<String>(2)?])
        })
    })?;
    let here = here.into_iter().next().unwrap_or_default();
    let answer = link.ask(&of(format!("{}::regclass", spi::quote_literal(&name))))?;
    let there = |column| answer.get::<String>(0, column);
    require_same_facts(copy, &here, &[there(0), there(1)])?;
    let shown = relation::display_name(copy.relation)?;
    if let Some(indexes) = there(2) {
        return Err(Error::Unsupported {
            what: format!(
                "the routing copy of table \"{shown}\" on node \"{node}\" has unique indexes"
            ),
            detail: format!(
                "They are: {indexes}. PostgreSQL admits no foreign partitions beside them."
            ),
            hint: "Drop them there: rows are unique by the indexes of their shards.".to_owned(),
        });
    }
    if let Some(tables) = there(3) {
        return Err(Error::Prerequisite {
            what: format!(
                "the role that repart is on node \"{node}\" does not own table {name} there, or partitions of it"
            ),
            hint: format!(
                "Run ALTER TABLE … OWNER TO there, or GRANT it the owner's role. Concerned: {tables}."
            ),
        });
    }
    if let Some(tables) = there(4) {
        return Err(Error::Unsupported {
            what: format!(
                "partitions of the routing copy of table \"{shown}\" on node \"{node}\" have options of their own"
            ),
            detail: format!("Concerned: {tables}. A switch would lose them, or clients read what they do not expect."),
            hint: "Drop options of columns and others that change what is read with ALTER FOREIGN TABLE there."
                .to_owned(),
        });
    }
    Ok(())
}

/// Fails unless both have the same columns and partition key.
fn require_same_facts(
    copy: &RoutingCopy,
    here: &[Option<String>; 2],
    there: &[Option<String>; 2],
) -> Result<()> {
    for ((what, here), there) in ["columns", "partition key"].iter().zip(here).zip(there) {
        if here != there {
            let show = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
            return Err(Error::Unsupported {
                what: format!(
                    "table \"{}\" and its routing copy on node \"{}\" have different {what}",
                    relation::display_name(copy.relation)?,
                    copy.node
                ),
                detail: format!("Here: {}. There: {}.", show(here), show(there)),
                hint: "Make them alike with ALTER TABLE there, or drop the table there and run repart_add_routing_copy()."
                    .to_owned(),
            });
        }
    }
    Ok(())
}

/// The partitions of the table there.
pub fn routes(link: &mut Link, copy: &RoutingCopy) -> Result<Vec<Route>> {
    let oid = format!("{}::regclass", spi::quote_literal(copy.name()));
    let answer = link.ask(&routes::PARTITIONS.replace("$t", &oid))?;
    let row = |row| {
        (0..routes::COLUMNS)
            .map(|column| answer.get(row, column))
            .collect()
    };
    let partitions = (0..answer.len()).filter_map(|n| Partition::read(row(n)));
    Ok(partitions.map(Route::there).collect())
}
