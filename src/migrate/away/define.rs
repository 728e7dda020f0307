//! What a shard's table on the other end is made of, and the foreign table that stands for one on a node.

use crate::catalog::journal::{Remote, Target};
use crate::error::{Error, Result};
use crate::migrate::away::ends::End;
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::migrate::target::{self, Part, Phase};
use crate::pg::spi;

/// The columns of the table `$t`, as CREATE TABLE has them.
const COLUMNS: &str = "SELECT string_agg(format('%I %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
            (SELECT format(' COLLATE %I.%I', n.nspname, l.collname) FROM pg_collation l
               JOIN pg_namespace n ON n.oid = l.collnamespace JOIN pg_type t ON t.oid = a.atttypid
              WHERE l.oid = a.attcollation AND l.oid <> t.typcollation),
            CASE WHEN a.attgenerated <> ''
                 THEN format(' GENERATED ALWAYS AS (%s) %s', pg_get_expr(d.adbin, d.adrelid),
                             CASE a.attgenerated WHEN 's' THEN 'STORED' ELSE 'VIRTUAL' END) END), ', ' ORDER BY a.attnum)
       FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = $t AND a.attnum > 0 AND NOT a.attisdropped";

/// The indexes of the table `$t`: `$p` and a number as the name, then what CREATE INDEX says, the constraint, and what an
/// index of the schema `$s` and a table `$n` have besides.
const INDEXES: &str = "
SELECT x.name, x.indisunique::text, x.tail, x.contype::text, x.alone::text, x.definition, x.deferrable,
       (SELECT string_agg(format('ALTER INDEX %s.%I ALTER COLUMN %s SET STATISTICS %s', $s, x.name, a.attnum,
                                 a.attstattarget), '; ' ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = x.indexrelid AND coalesce(a.attstattarget, -1) >= 0),
       obj_description(x.indexrelid, 'pg_class'), obj_description(x.conid, 'pg_constraint'),
       x.indisclustered::text, x.indisreplident::text
  FROM (SELECT i.*, k.contype, k.oid AS conid, i.indisexclusion AND k.oid IS NOT NULL AS alone,
               pg_get_constraintdef(k.oid) AS definition,
               CASE WHEN NOT k.condeferrable THEN '' WHEN k.condeferred THEN ' DEFERRABLE INITIALLY DEFERRED'
                    ELSE ' DEFERRABLE' END AS deferrable,
               left($p, 55) || '_' || row_number() OVER (ORDER BY NOT i.indisprimary, i.indexrelid) || '_idx' AS name,
               regexp_replace(substr(pg_get_indexdef(i.indexrelid), length(format('CREATE %sINDEX %I ON %I.%I USING ',
                   CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, c.relname, n.nspname, t.relname)) + 1),
                   ' TABLESPACE (\"[^\"]+\"|\\w+)( WHERE |$)', '\\2') AS tail
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
          JOIN pg_namespace n ON n.oid = t.relnamespace
          LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
         WHERE i.indrelid = $t AND i.indisvalid) x
 ORDER BY NOT x.indisprimary, x.indexrelid";

/// The storage parameters of the table `$t`, as CREATE TABLE lists them.
const OPTIONS: &str = "SELECT concat_ws(', ', (SELECT string_agg(format('%I = %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ')
                         FROM unnest(c.reloptions) o),
                      (SELECT string_agg(format('toast.%I = %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ')
                         FROM unnest(t.reloptions) o))
  FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.oid = $t";

/// What a table is made of, read where it is.
pub struct Model {
    name: String,
    columns: String,
    options: String,
    parts: Vec<Part>,
}

/// Reads it; the statements make it on `name`.
pub fn read(end: &mut End, table: &str, name: &str) -> Result<Model> {
    let oid = format!("{}::regclass", spi::quote_literal(table));
    let columns = end.row(&COLUMNS.replace("$t", &oid), 1)?.pop().flatten();
    let options = end.row(&OPTIONS.replace("$t", &oid), 1)?.pop().flatten();
    let parts = target::parts_elsewhere(table, name, |sql, columns| end.texts(sql, columns))?;
    Ok(Model {
        name: name.to_owned(),
        options: options.unwrap_or_default(),
        columns: columns.ok_or_else(|| Error::Internal(format!("{table} has no columns")))?,
        parts,
    })
}

/// What changes when somebody changes the table, but for its private parts.
pub fn fingerprint(end: &mut End, table: &str) -> Result<String> {
    let model = read(end, table, "shard")?;
    let lines: Vec<String> = model
        .parts
        .iter()
        .map(|part| format!("{:?} {} {}", part.phase, part.object, part.statement))
        .collect();
    let all = format!("{}\n{}\n{}", model.columns, model.options, lines.join("\n"));
    let hash = spi::query_value::<String>("SELECT pg_catalog.md5($1)", &[all.into()])?;
    Ok(hash.unwrap_or_default())
}

impl Model {
    /// What tables that become one must have in common: columns, what is checked, and what is stored how.
    pub fn common(&self) -> (String, Vec<String>) {
        let phases = [Phase::Table, Phase::Owner];
        let parts = self.parts.iter();
        let parts = parts.filter(|part| phases.contains(&part.phase));
        let mut statements: Vec<String> = parts.map(|part| part.statement.clone()).collect();
        statements.sort();
        (self.columns.clone(), statements)
    }
}

/// What a shard has that its table on a node, or the foreign table that stands for it, cannot have.
pub fn cannot_be_carried(model: &Model) -> Vec<&str> {
    let parts = model.parts.iter();
    parts
        .filter(|part| {
            matches!(part.phase, Phase::Switch | Phase::Attached)
                || part.object == "row-level security"
        })
        .map(|part| part.object.as_str())
        .collect()
}

/// A default that takes numbers from a sequence: there is none on another server. Rows that come through the sharded
/// table have their values.
fn takes_from_sequence(part: &Part) -> bool {
    part.object.starts_with("default of column") && part.statement.contains("nextval(")
}

/// The statements that make the table, without indexes.
pub fn create_table(job: &Job, model: &Model, target: &Target, name: &str) -> Vec<String> {
    let mut elements = vec![model.columns.clone()];
    elements.extend(target::statements(&model.parts, Phase::Table).map(str::to_owned));
    elements.push(format!(
        "CONSTRAINT {} CHECK ({})",
        names::BOUND_CONSTRAINT,
        job.belongs_to(target)
    ));
    let mut create = format!("CREATE TABLE {name} ({})", elements.join(", "));
    if !model.options.is_empty() {
        create += &format!(" WITH ({})", model.options);
    }
    let mut statements = vec![create];
    for phase in [Phase::Prepare, Phase::Owner, Phase::Commented] {
        let parts = model.parts.iter().filter(|part| part.phase == phase);
        let kept = parts.filter(|part| !takes_from_sequence(part));
        statements.extend(kept.map(|part| part.statement.clone()));
    }
    statements
}

/// What the table on a node has by itself, and a foreign table cannot have: how rows are stored.
pub fn own_statements(model: &Model) -> Vec<String> {
    let kinds = ["storage of", "compression of"];
    let parts = model.parts.iter().filter(|part| {
        part.phase == Phase::Prepare && kinds.iter().any(|kind| part.object.starts_with(kind))
    });
    let mut statements: Vec<String> = parts.map(|part| part.statement.clone()).collect();
    if !model.options.is_empty() {
        statements.push(format!(
            "ALTER TABLE {} SET ({})",
            model.name, model.options
        ));
    }
    statements
}

/// The statements that make the foreign table `name`, which stands for a table on a node.
pub fn create_foreign_table(model: &Model, remote: &Remote, name: &str) -> Vec<String> {
    let mut elements = vec![model.columns.clone()];
    elements.extend(target::statements(&model.parts, Phase::Table).map(str::to_owned));
    let mut statements = vec![format!(
        "CREATE FOREIGN TABLE {name} ({}) SERVER {} OPTIONS (schema_name {}, table_name {})",
        elements.join(", "),
        spi::quote_identifier(&remote.node),
        spi::quote_literal(&remote.schema),
        spi::quote_literal(&remote.table)
    )];
    for part in &model.parts {
        let of_columns = ["default of", "statistics target of", "n_distinct"];
        let statement = match part.phase {
            Phase::Prepare if part.object.starts_with("comment on TABLE") => part
                .statement
                .replacen("COMMENT ON TABLE", "COMMENT ON FOREIGN TABLE", 1),
            Phase::Prepare if part.object.starts_with("comment on COLUMN") => {
                part.statement.clone()
            }
            Phase::Prepare if of_columns.iter().any(|kind| part.object.starts_with(kind)) => {
                part.statement.clone()
            }
            Phase::Owner | Phase::Commented => part.statement.clone(),
            _ => continue,
        };
        statements.push(statement);
    }
    statements
}

/// An index of a target: its name, the statements that make it, and which parts of them another server wrote.
pub struct Index {
    /// Its name.
    pub name: String,
    /// CREATE INDEX, or what makes it with its constraint.
    pub create: String,
    /// Everything else, in statements that are this server's own.
    pub rest: Vec<String>,
}

/// The indexes of the source's table, to be made on a table of this schema and name at the target.
pub fn indexes(
    end: &mut End,
    table: &str,
    (schema, name): (&str, &str),
    prefix: &str,
) -> Result<Vec<Index>> {
    let sql = INDEXES
        .replace("$t", &format!("{}::regclass", spi::quote_literal(table)))
        .replace("$s", &spi::quote_literal(spi::quote_identifier(schema)))
        .replace("$p", &spi::quote_literal(prefix));
    let rows = end.texts(&sql, 12)?;
    Ok(rows
        .into_iter()
        .map(|row| index(row, schema, name))
        .collect())
}

fn index(row: Vec<Option<String>>, schema: &str, table: &str) -> Index {
    let mut columns = row.into_iter();
    let mut next = || columns.next().flatten();
    let name = next().unwrap_or_default();
    let (is_unique, tail) = (
        next().as_deref() == Some("true"),
        next().unwrap_or_default(),
    );
    let (kind, alone) = (next(), next().as_deref() == Some("true"));
    let (definition, deferrable) = (next().unwrap_or_default(), next().unwrap_or_default());
    let quoted = spi::quote_identifier(&name);
    let qualified = spi::quote_qualified_identifier(schema, name.as_str());
    let unique = if is_unique { "UNIQUE " } else { "" };
    let mut rest = Vec::new();
    let create = if alone {
        format!("ALTER TABLE {table} ADD CONSTRAINT {quoted} {definition}")
    } else {
        if let Some(kind) = &kind {
            let kind = if kind == "p" { "PRIMARY KEY" } else { "UNIQUE" };
            let deferrable = match deferrable.as_str() {
                "" => "",
                " DEFERRABLE INITIALLY DEFERRED" => " DEFERRABLE INITIALLY DEFERRED",
                _ => " DEFERRABLE",
            };
            rest.push(format!(
                "ALTER TABLE {table} ADD CONSTRAINT {quoted} {kind} USING INDEX {quoted}{deferrable}"
            ));
        }
        format!("CREATE {unique}INDEX {quoted} ON {table} USING {tail}")
    };
    // Only numbers and names of ours.
    rest.extend(next().filter(|statistics| !statistics.is_empty()));
    if let Some(comment) = next() {
        let comment = spi::quote_literal(comment);
        rest.push(format!("COMMENT ON INDEX {qualified} IS {comment}"));
    }
    if let Some(comment) = next() {
        let comment = spi::quote_literal(comment);
        rest.push(format!(
            "COMMENT ON CONSTRAINT {quoted} ON {table} IS {comment}"
        ));
    }
    if next().as_deref() == Some("true") {
        rest.push(format!("ALTER TABLE {table} CLUSTER ON {quoted}"));
    }
    if next().as_deref() == Some("true") {
        rest.push(format!(
            "ALTER TABLE {table} REPLICA IDENTITY USING INDEX {quoted}"
        ));
    }
    Index { name, create, rest }
}
