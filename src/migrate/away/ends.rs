//! The two ends of a migration: this server or a node. What is said to either is the same SQL, so that it is written
//! once; how it gets there, and as whom it runs, is known here only.

use crate::catalog::journal::{KeyColumn, Migration, Source, Target};
use crate::catalog::node_objects::Role;
use crate::catalog::two_phase;
use crate::error::{Error, Result};
use crate::migrate::away::link::Link;
use crate::migrate::away::pipe::{format, pipe};
use crate::migrate::job::Job;
use crate::migrate::names;
use crate::migrate::routing::Handover;
use crate::nodes::usage::Usage;
use crate::pg::rows::Format;
use crate::pg::writeback::Length;
use crate::pg::{guc, relation, role, spi};
use pgrx::pg_sys;

/// The schema on nodes.
pub const SCHEMA: &str = "repart_shards";

/// One end.
pub enum End {
    /// This server; what could run a user's code runs as this role. The transaction is the caller's.
    Here(pg_sys::Oid),
    /// A node, which has transactions of its own.
    There(Box<Link>),
}

impl End {
    /// Whether it is a node.
    pub fn is_there(&self) -> bool {
        matches!(self, Self::There(_))
    }

    /// Carries statements out.
    pub fn run(&mut self, sql: &str) -> Result<()> {
        match self {
            Self::Here(owner) => role::as_owner(*owner, || spi::execute(sql).map(|_| ())),
            Self::There(link) => link.ask(sql).map(|_| ()),
        }
    }

    /// The rows of a query of so many columns, all of type text.
    pub fn texts(&mut self, sql: &str, columns: usize) -> Result<Vec<Vec<Option<String>>>> {
        match self {
            Self::Here(owner) => role::as_owner(*owner, || {
                spi::query(sql, &[], |row| {
                    (1..=columns).map(|column| row.optional(column)).collect()
                })
            }),
            Self::There(link) => {
                let answer = link.ask(sql)?;
                let row = |row| (0..columns).map(|column| answer.get(row, column)).collect();
                Ok((0..answer.len()).map(row).collect())
            }
        }
    }

    /// The only row of a query.
    pub fn row(&mut self, sql: &str, columns: usize) -> Result<Vec<Option<String>>> {
        let rows = self.texts(sql, columns)?;
        rows.into_iter()
            .next()
            .ok_or_else(|| Error::Internal("a query without a row".to_owned()))
    }

    /// Changes a setting until the end of the transaction.
    pub fn set_local(&mut self, name: &str, value: &str) -> Result<()> {
        match self {
            Self::Here(_) => {
                guc::set_for_transaction(name, value);
                Ok(())
            }
            Self::There(link) => link
                .ask(&format!("SET LOCAL {name} = {}", spi::quote_literal(value)))
                .map(|_| ()),
        }
    }

    /// Begins a transaction on a node.
    pub fn begin(&mut self) -> Result<()> {
        self.say("BEGIN")
    }

    /// Begins one whose statements all see the same. (Here the caller has done that.)
    pub fn begin_snapshot(&mut self) -> Result<()> {
        self.say("BEGIN ISOLATION LEVEL REPEATABLE READ")
    }

    /// Commits it.
    pub fn commit(&mut self) -> Result<()> {
        self.say("COMMIT")
    }

    fn say(&mut self, sql: &str) -> Result<()> {
        match self {
            Self::Here(_) => Ok(()),
            Self::There(link) => link.ask(sql).map(|_| ()),
        }
    }
}

/// Both ends, with what their tables are called there.
pub struct Ends {
    /// Where the rows are.
    pub source: End,
    /// Where they are to be.
    pub target: End,
    /// The tables with the rows, in the order of the sources.
    pub source_tables: Vec<String>,
    /// The tables that they go to, in the order of the targets.
    pub target_tables: Vec<String>,
    /// Whether both are on one node: there are two sessions then, and rows do not leave the node.
    pub is_inside: bool,
    /// The log of captured changes, at the source.
    pub log: String,
    /// On a node, what notes how far the copy is.
    pub progress: String,
    /// In what form rows go from one end to the other.
    pub format: Format,
    /// What tells objects of this migration from those of others, and of other coordinators.
    pub tag: String,
    /// Which servers these are; see [`Ends::require_same_servers`].
    pub timelines: String,
    /// What is to be done with a routing copy on the source's node, in the source's session.
    pub handover: Option<Handover>,
}

/// What tells objects on a node apart: whose they are, and of which migration.
pub fn tag(migration: i64) -> Result<String> {
    let prefix = two_phase::prefix()?;
    let coordinator = prefix.trim_start_matches("repart_").get(..16);
    Ok(format!("{}_{migration}", coordinator.unwrap_or_default()))
}

/// An object in repart's schema on nodes, as SQL writes it.
pub fn private(kind: &str, tag: &str) -> String {
    spi::quote_qualified_identifier(SCHEMA, format!("{kind}_{tag}").as_str())
}

/// The log of captured changes, at the source.
pub fn log(migration: &Migration) -> Result<String> {
    Ok(match &migration.spec.first_source()?.remote {
        Some(_) => private("log", &tag(migration.id)?),
        None => names::log(migration.id),
    })
}

impl Ends {
    /// Connects to what has a part in a migration. Inside a transaction.
    pub fn open(job: &Job) -> Result<Self> {
        let spec = &job.migration.spec;
        let (Some(source), Some(target)) = (spec.sources.first(), spec.targets.first()) else {
            return Err(Error::Internal("a migration without shards".to_owned()));
        };
        let tag = tag(job.id())?;
        let there = |node: &str, role| {
            Link::open(node, job.id(), role).map(|link| End::There(Box::new(link)))
        };
        let is_inside = source
            .remote
            .as_ref()
            .is_some_and(|remote| Some(&remote.node) == target.node.as_ref());
        let of_source = |source: &Source| match &source.remote {
            Some(remote) => remote.qualified(),
            None => source.qualified(),
        };
        let of_target = |(n, target): (usize, &Target)| match &target.remote {
            Some(remote) => remote.qualified(),
            None => job.target_name(n),
        };
        let mut ends = Self {
            timelines: String::new(),
            handover: None,
            source: match &source.remote {
                Some(remote) => there(&remote.node, Role::Source)?,
                None => End::Here(job.owner),
            },
            target: match &target.node {
                Some(node) => there(node, Role::Target)?,
                None => End::Here(job.owner),
            },
            source_tables: spec.sources.iter().map(of_source).collect(),
            target_tables: job.targets().map(of_target).collect(),
            is_inside,
            log: log(&job.migration)?,
            progress: private("move", &tag),
            format: format(job.migration.relation)?,
            tag,
        };
        ends.timelines = ends.require_same_servers(job)?;
        Ok(ends)
    }

    /// Fails if a standby has taken the place of one of the servers since the migration began: what was the last that was
    /// committed there may be lost, and nobody could tell at the other end.
    fn require_same_servers(&mut self, job: &Job) -> Result<String> {
        const TIMELINE: &str = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)";
        let mut timelines = spi::query_value::<String>(TIMELINE, &[])?.unwrap_or_default();
        for end in [&mut self.source, &mut self.target] {
            if let End::There(link) = end {
                timelines += &format!(" {}", link.value(TIMELINE)?.unwrap_or_default());
            }
        }
        let before = &job.migration.position.timelines;
        if before.is_empty() || *before == timelines {
            return Ok(timelines);
        }
        Err(Error::Prerequisite {
            what: "a standby has taken the place of a server since the migration began".to_owned(),
            hint: "What was committed last may be lost there: start the migration again."
                .to_owned(),
        })
    }

    /// The table for keys at the target, which is empty at the beginning of every transaction.
    pub fn keys(&mut self, job: &Job) -> Result<String> {
        let name = format!("pg_temp.repart_keys_{}", job.id());
        let columns = key_columns(&job.identity).join(", ");
        let create = format!(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {name} ({columns}) ON COMMIT DELETE ROWS"
        );
        match &mut self.target {
            End::Here(owner) => {
                spi::execute(&create)?;
                let owner = relation::role_name(*owner)?;
                spi::execute(&format!(
                    "GRANT SELECT, INSERT ON {name} TO {}",
                    spi::quote_identifier(owner)
                ))?;
            }
            End::There(link) => link.make_keys(&create)?,
        }
        Ok(name)
    }

    /// Remembers that the table for keys is there, once that is committed.
    pub fn keep_keys(&mut self) {
        if let End::There(link) = &mut self.target {
            link.keep_keys();
        }
    }

    /// Sends the keys of a query to the table for keys.
    pub fn send_keys(&mut self, job: &Job, query: &str) -> Result<String> {
        let keys = self.keys(job)?;
        let names: Vec<String> = (0..job.identity.len()).map(key_name).collect();
        pipe(
            (&mut self.source, query),
            (&mut self.target, &keys, &names),
            Format::Text,
        )?;
        Ok(keys)
    }

    /// Sends the rows of a query to a target; returns how many there were.
    pub fn send_rows(&mut self, target: usize, columns: &[String], query: &str) -> Result<u64> {
        let table = self
            .target_tables
            .get(target)
            .ok_or_else(|| Error::Internal("a target without a table".to_owned()))?;
        if let (true, End::There(link)) = (self.is_inside, &mut self.target) {
            let list: Vec<String> = columns.iter().map(spi::quote_identifier).collect();
            let insert = format!("INSERT INTO {table} ({}) {query}", list.join(", "));
            return Ok(link.ask(&insert)?.affected());
        }
        pipe(
            (&mut self.source, query),
            (&mut self.target, table, columns),
            self.format,
        )
    }

    /// Has the disk keep up with what was copied: see [`crate::pg::writeback`]. Inside the copy's transaction. On a node
    /// without repart, the kernel writes it all at once, half a minute later.
    pub fn write_back(&mut self, targets: &[usize]) -> Result<()> {
        let names: Vec<&String> = targets
            .iter()
            .filter_map(|n| self.target_tables.get(*n))
            .collect();
        match &mut self.target {
            End::Here(_) => {
                let tables: Vec<_> = names
                    .into_iter()
                    .map(|name| relation::find(name))
                    .collect::<Result<_>>()?;
                Length::none_of(&tables).write_back_growth();
                Ok(())
            }
            End::There(link) => link.write_back(&names),
        }
    }

    /// What the machine of a node does, and how many seconds of a processor the sessions there have used; `None` where
    /// repart there does not tell, or nobody is connected. Outside of transactions.
    pub fn usage_of(&mut self, node: &str) -> Result<Option<(Usage, f64)>> {
        let mut found: Option<(Usage, f64)> = None;
        for end in [&mut self.source, &mut self.target] {
            let End::There(link) = end else { continue };
            if link.node != node {
                continue;
            }
            let Some((usage, own)) = link.usage()? else {
                return Ok(None);
            };
            let before = found.map_or(0.0, |(_, before)| before);
            found = Some((usage, before + own));
        }
        Ok(found)
    }

    /// Begins a transaction at each end; at the source, all statements of it see the same. Rows that do not leave their
    /// node are read by the session of the target, in the same snapshot.
    pub fn begin_snapshots(&mut self) -> Result<()> {
        self.source.begin_snapshot()?;
        let (true, End::There(source), End::There(target)) =
            (self.is_inside, &mut self.source, &mut self.target)
        else {
            return self.target.begin();
        };
        let snapshot = source.value("SELECT pg_catalog.pg_export_snapshot()")?;
        let snapshot = spi::quote_literal(snapshot.unwrap_or_default());
        let begin =
            format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT {snapshot}");
        target.ask(&begin).map(|_| ())
    }
}

/// The name of the so-many-th column of a key in logs and tables for keys.
pub fn key_name(n: usize) -> String {
    format!("repart_key_{n}")
}

/// The columns of a key, as a table of keys has them.
pub fn key_columns(key: &[KeyColumn]) -> Vec<String> {
    key.iter()
        .enumerate()
        .map(|(n, column)| format!("{} {}", key_name(n), column.type_name))
        .collect()
}
