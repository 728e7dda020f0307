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

/// The query for the parts of the shards `$1`, to be made on `$2`; by default on themselves.
fn query(kinds: &[&str]) -> String {
    format!(
        "WITH s AS (
             SELECT c.oid, c.relname, format('%I.%I', n.nspname, c.relname) AS own,
                    coalesce($2, format('%I.%I', n.nspname, c.relname)) AS name
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)),
         part (oid, phase, rank, object, statement, same) AS ({})",
        kinds.join("\nUNION ALL\n")
    )
}

/// The parts of a shard in the order in which they are made, to be made on `name`. In what must be the same, the
/// shard's own name is replaced.
pub fn parts(shard: pg_sys::Oid, name: &str) -> Result<Vec<Part>> {
    let kinds: Vec<&str> = SHARED.iter().chain(&OWN).copied().collect();
    spi::query(
        &format!(
            "{} SELECT p.phase, p.object, p.statement,
                       regexp_replace(replace(p.same, s.own, 'shard'),
                                      '\\m' || regexp_replace(s.relname, '(\\W)', '\\\\\\1', 'g') || '\\.', 'shard.', 'g')
                  FROM part p JOIN s ON s.oid = p.oid ORDER BY p.rank, p.object COLLATE \"C\"",
            query(&kinds)
        ),
        &[vec![shard].into(), name.into()],
        |row| {
            Ok(Part {
                phase: Phase::parse(&row.get::<String>(1)?)?,
                object: row.get(2)?,
                statement: row.get(3)?,
                same: row.optional(4)?,
            })
        },
    )
}

/// The statements of one phase.
pub fn statements(parts: &[Part], phase: Phase) -> impl Iterator<Item = &str> {
    parts
        .iter()
        .filter(move |part| part.phase == phase)
        .map(|part| part.statement.as_str())
}

/// A hash of everything that the targets are made from. Another one later means that somebody changed the
/// definition of the table or of a source, so that the targets no longer fit.
pub fn fingerprint(table: pg_sys::Oid, sources: &[pg_sys::Oid]) -> Result<String> {
    let hash = |kinds: &[&str], relations: Vec<pg_sys::Oid>| {
        spi::query_value::<String>(
            &format!(
                "{} SELECT md5(coalesce(string_agg(concat_ws('|', oid, phase, object, statement), E'\\n'
                                        ORDER BY oid, phase, object COLLATE \"C\", statement COLLATE \"C\"), ''))
                      FROM part",
                query(kinds)
            ),
            &[relations.into(), None::<String>.into()],
        )
    };
    let kinds: Vec<&str> = SHARED.iter().chain(&OWN).copied().collect();
    let (shared, own) = (hash(&SHARED, vec![table])?, hash(&kinds, sources.to_vec())?);
    shared
        .zip(own)
        .map(|(shared, own)| shared + &own)
        .ok_or_else(|| Error::Internal("a table without definition".to_owned()))
}
