//! What a target is made of: everything that belongs to a shard must be on its replacement.
//!
//! One file for each kind of object. Its `PARTS` is a query of the shards `s` (`oid`; `own`, their name; `name`,
//! under which to make them again) for rows `(oid, phase, rank, object, statement, same)`: the statement that makes
//! the object again, and what must be equal on all shards that become one (NULL where the first shard decides). The
//! same rows are the definition's fingerprint, so that whatever is carried is also watched.

pub mod agreement;
mod columns;
mod comments;
pub mod constraints;
pub mod create;
mod indexes;
mod policies;
pub mod refusals;
pub mod rights;
mod rules;
pub mod statistics;
mod table;
mod triggers;

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::migrate::names;
use crate::pg::spi;

/// When a part is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is carried in another way, or only compared.
    Fact,
    /// In CREATE TABLE.
    Table,
    /// On the empty target, as superuser: nothing of it evaluates a user's expression.
    Prepare,
    /// On the empty target, as the owner: PostgreSQL looks for a proof among the CHECK constraints, and calls
    /// functions in them for that.
    Owner,
    /// After [`Phase::Owner`].
    Commented,
    /// Inside the switch, when the target has the source's name for a moment, which is in the statement.
    Switch,
    /// As [`Phase::Switch`], once the target is attached.
    Attached,
}

impl Phase {
    fn parse(text: &str) -> Result<Self> {
        match text {
            "fact" => Ok(Self::Fact),
            "table" => Ok(Self::Table),
            "prepare" => Ok(Self::Prepare),
            "owner" => Ok(Self::Owner),
            "commented" => Ok(Self::Commented),
            "switch" => Ok(Self::Switch),
            "attached" => Ok(Self::Attached),
            _ => Err(Error::Internal(format!("unknown phase \"{text}\""))),
        }
    }
}

/// One object, or one property, of a shard.
#[derive(Clone, Debug)]
pub struct Part {
    /// When it is made.
    pub phase: Phase,
    /// What it is called in messages, such as `trigger "x"`.
    pub object: String,
    /// What makes it.
    pub statement: String,
    /// What must be equal on all shards that become one.
    pub same: Option<String>,
}

/// Parts of which the sharded table's own concern every shard: they are in the fingerprint.
const SHARED: [&str; 4] = [
    columns::PARTS,
    constraints::PARTS,
    indexes::PARTS,
    triggers::PARTS,
];

/// Parts that only a shard's own replacement has.
const OWN: [&str; 5] = [
    table::PARTS,
    policies::PARTS,
    rules::PARTS,
    statistics::PARTS,
    comments::PARTS,
];

/// The query for the parts of the relations `$1`, to be made on `$2`; by default on themselves. Of the sharded
/// table, only what concerns every shard. In what must be the same, the shard's own name is replaced.
fn query() -> String {
    format!(
        "WITH s AS (
             SELECT c.oid, c.relkind, c.relname, format('%I.%I', n.nspname, c.relname) AS own,
                    coalesce($2, format('%I.%I', n.nspname, c.relname)) AS name
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)),
         shared (oid, phase, rank, object, statement, same) AS ({}),
         own (oid, phase, rank, object, statement, same) AS ({})
         SELECT p.oid, p.phase, p.object, p.statement,
                regexp_replace(replace(p.same, s.own, 'shard'),
                               '\\m' || regexp_replace(s.relname, '(\\W)', '\\\\\\1', 'g') || '\\.', 'shard.', 'g')
           FROM (SELECT * FROM shared UNION ALL SELECT own.* FROM own JOIN s USING (oid) WHERE s.relkind <> 'p') p
           JOIN s ON s.oid = p.oid
          ORDER BY p.oid, p.rank, p.object COLLATE \"C\", p.statement COLLATE \"C\"",
        SHARED.join("\nUNION ALL\n"),
        OWN.join("\nUNION ALL\n")
    )
}

fn read(relations: Vec<pg_sys::Oid>, name: Option<&str>) -> Result<Vec<(pg_sys::Oid, Part)>> {
    spi::query_kept(&query(), &[relations.into(), name.into()], |row| {
        let part = Part {
            phase: Phase::parse(&row.get::<String>(2)?)?,
            object: row.get(3)?,
            statement: row.get(4)?,
            same: row.optional(5)?,
        };
        Ok((row.get(1)?, part))
    })
}

/// The parts of a shard in the order in which they are made, to be made on `name`.
pub fn parts(shard: pg_sys::Oid, name: &str) -> Result<Vec<Part>> {
    let parts = read(vec![shard], Some(name))?;
    Ok(parts.into_iter().map(|(_, part)| part).collect())
}

/// As [`parts`], of a table of another server: `ask` gets a query there of so many columns, all of type text. Without
/// the CHECK constraint on the bound, which every shard on a node has and its replacement gets anew.
pub fn parts_elsewhere(
    table: &str,
    name: &str,
    ask: impl FnOnce(&str, usize) -> Result<Vec<Vec<Option<String>>>>,
) -> Result<Vec<Part>> {
    let sql = query()
        .replace(
            "$1",
            &format!("ARRAY[{}::regclass::oid]", spi::quote_literal(table)),
        )
        .replace("$2", &spi::quote_literal(name))
        .replace(
            "= 'repart'::regnamespace",
            "IN (SELECT oid FROM pg_namespace WHERE nspname IN ('repart', 'repart_shards'))",
        );
    let sql = format!("SELECT phase, object, statement FROM ({sql}) x");
    let mut parts = Vec::new();
    for row in ask(&sql, 3)? {
        let mut row = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || row.next().unwrap_or_default();
        parts.push(Part {
            phase: Phase::parse(&next())?,
            object: next(),
            statement: next(),
            same: None,
        });
    }
    let bound = format!("constraint \"{}\"", names::BOUND_CONSTRAINT);
    parts.retain(|part| !part.object.ends_with(&bound));
    Ok(parts)
}

/// The statements of one phase.
pub fn statements(parts: &[Part], phase: Phase) -> impl Iterator<Item = &str> {
    parts
        .iter()
        .filter(move |part| part.phase == phase)
        .map(|part| part.statement.as_str())
}

/// Everything that the targets of a migration are made from, at one time.
pub struct Definition {
    /// A hash of it. Another one later means that somebody changed the definition of the table or of a source, so
    /// that the targets no longer fit.
    pub fingerprint: String,
    /// The parts of the first source, with its own name in all statements.
    pub parts: Vec<Part>,
}

/// Reads the definition of a table and of the sources.
pub fn definition(table: pg_sys::Oid, sources: &[pg_sys::Oid]) -> Result<Definition> {
    let mut relations = sources.to_vec();
    relations.push(table);
    let parts = read(relations, None)?;
    let lines: Vec<String> = parts
        .iter()
        .map(|(oid, part)| format!("{oid} {:?} {} {}", part.phase, part.object, part.statement))
        .collect();
    let fingerprint = spi::query_kept("SELECT md5($1)", &[lines.join("\n").into()], |row| {
        row.get(1)
    })?
    .pop()
    .ok_or_else(|| Error::Internal("a query without a row".to_owned()))?;
    let first = sources.first().copied();
    Ok(Definition {
        fingerprint,
        parts: parts
            .into_iter()
            .filter(|(oid, _)| Some(*oid) == first)
            .map(|(_, part)| part)
            .collect(),
    })
}
