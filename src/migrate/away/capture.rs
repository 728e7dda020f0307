//! Change capture at the source: here as for any migration; on a node by a trigger function in plpgsql, so that it works
//! where repart is not installed.

use crate::catalog::journal::{KeyColumn, Position};
use crate::error::{Error, Result};
use crate::migrate;
use crate::migrate::away::define;
use crate::migrate::away::ends::{End, Ends, key_columns, key_name, private};
use crate::migrate::away::link::Link;
use crate::migrate::definition::KEY_COLUMNS;
use crate::migrate::job::Job;
use crate::migrate::locks;
use crate::pg::{relation, spi};

/// Creates the log and the trigger function; returns the job with the key by which rows are told apart.
pub fn create(job: &Job, ends: &mut Ends) -> Result<Job> {
    match &mut ends.source {
        End::Here(owner) => {
            migrate::capture::create(job, &relation::role_name(*owner)?)?;
            Job::load(job.migration.clone())
        }
        End::There(_) => {
            let mut migration = job.migration.clone();
            migration.position = Position {
                identity: key_there(job, ends)?,
                ..Position::default()
            };
            let job = Job::load(migration)?;
            create_there(&job, ends)?;
            Ok(job)
        }
    }
}

/// The columns that identify a row of a table on a node.
fn key_there(job: &Job, ends: &mut Ends) -> Result<Vec<KeyColumn>> {
    let table = ends.source_tables.first().cloned().unwrap_or_default();
    let table_oid = format!("{}::regclass", spi::quote_literal(table));
    let rows = ends
        .source
        .texts(&KEY_COLUMNS.replace("$1", &table_oid), 2)?;
    let columns: Vec<KeyColumn> = rows
        .into_iter()
        .filter_map(|row| {
            let mut row = row.into_iter().flatten();
            Some(KeyColumn {
                name: row.next()?,
                type_name: row.next()?,
            })
        })
        .collect();
    if !columns.is_empty() {
        return Ok(columns);
    }
    Err(no_key(job.migration.spec.first_source()?.name.as_str()))
}

/// Why a shard on a node cannot be moved.
pub fn no_key(shard: &str) -> Error {
    Error::Prerequisite {
        what: format!("shard \"{shard}\" has no key that identifies its rows"),
        hint: "Add a PRIMARY KEY, or a UNIQUE constraint on NOT NULL columns, to its table on the node."
            .to_owned(),
    }
}

/// Log and function, in one transaction with what they belong to.
fn create_there(job: &Job, ends: &mut Ends) -> Result<()> {
    let (log, function) = (ends.log.clone(), private("capture", &ends.tag));
    let row = |record: &str| {
        let columns: Vec<String> = job
            .identity
            .iter()
            .map(|column| format!("{record}.{}", spi::quote_identifier(&column.name)))
            .collect();
        columns.join(", ")
    };
    let (old, new) = (row("OLD"), row("NEW"));
    // `*=` compares images, so that no operator of a user's type is looked up.
    let body = format!(
        "BEGIN
             IF TG_OP = 'TRUNCATE' THEN
                 INSERT INTO {log} (op, source) VALUES ('t', TG_RELID);
                 RETURN NULL;
             END IF;
             IF TG_OP <> 'INSERT' THEN
                 INSERT INTO {log} VALUES ('k', NULL, {old});
                 IF TG_OP = 'DELETE' OR ROW({old})::record *= ROW({new})::record THEN
                     RETURN NULL;
                 END IF;
             END IF;
             INSERT INTO {log} VALUES ('k', NULL, {new});
             RETURN NULL;
         END"
    );
    let script = format!(
        "CREATE TABLE {log} (op \"char\" NOT NULL, source oid, {});
         CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
             SET search_path = pg_catalog, pg_temp AS {};
         REVOKE ALL ON FUNCTION {function}() FROM PUBLIC",
        key_columns(&job.identity).join(", "),
        spi::quote_literal(body)
    );
    let End::There(link) = &mut ends.source else {
        return Ok(());
    };
    super::prepare::create_schema(link)?;
    link.ask(&script).map(|_| ())
}

/// The names of the triggers on a table of a node.
fn triggers(tag: &str) -> [String; 2] {
    ["", "_truncate"].map(|event| spi::quote_identifier(format!("repart_capture_{tag}{event}")))
}

/// Puts the triggers on the source. From the commit on, every change is captured.
pub fn start(job: &Job, ends: &mut Ends) -> Result<()> {
    let function = private("capture", &ends.tag);
    match &mut ends.source {
        End::Here(_) => migrate::capture::start(job),
        End::There(link) => {
            be_polite(link)?;
            let events = [
                "AFTER INSERT OR UPDATE OR DELETE ON $t FOR EACH ROW",
                "AFTER TRUNCATE ON $t FOR EACH STATEMENT",
            ];
            for table in &ends.source_tables {
                for (trigger, event) in triggers(&ends.tag).iter().zip(events) {
                    let event = event.replace("$t", table);
                    link.ask(&format!(
                        "CREATE TRIGGER {trigger} {event} EXECUTE FUNCTION {function}();
                         ALTER TABLE ONLY {table} ENABLE ALWAYS TRIGGER {trigger}"
                    ))?;
                }
            }
            Ok(())
        }
    }
}

/// Lets no client of a node wait for us for long.
pub fn be_polite(link: &mut Link) -> Result<()> {
    let limit = locks::limit().as_millis().max(1);
    link.ask(&format!("SET LOCAL lock_timeout = {limit}"))
        .map(|_| ())
}

/// What must not change at a source on a node, its triggers included; empty for one here.
pub fn fingerprint(ends: &mut Ends) -> Result<String> {
    if !ends.source.is_there() {
        return Ok(String::new());
    }
    let mut definition = String::new();
    for table in &ends.source_tables {
        definition += &define::fingerprint(&mut ends.source, table)?;
    }
    let sql = format!(
        "SELECT string_agg(concat_ws('|', tgrelid, tgname, tgenabled, xmin), ' ' ORDER BY tgrelid, tgname COLLATE \"C\")
           FROM pg_trigger WHERE tgfoid = to_regproc({})::oid",
        spi::quote_literal(private("capture", &ends.tag))
    );
    let triggers = ends.source.row(&sql, 1)?.pop().flatten();
    Ok(format!("{definition} {}", triggers.unwrap_or_default()))
}

/// Number of captured changes that wait. Fails when one could not be captured.
pub fn pending(job: &Job, ends: &mut Ends) -> Result<i64> {
    count(&job.migration.relation_name, &mut ends.source, &ends.log)
}

/// As [`pending`], of the log of a table where only its source is connected to.
pub fn count(table: &str, source: &mut End, log: &str) -> Result<i64> {
    let sql = format!("SELECT count(*)::text, count(*) FILTER (WHERE op = '?')::text FROM {log}");
    let row = source.row(&sql, 2)?;
    let mut counts = row
        .into_iter()
        .map(|count| count.and_then(|count| count.parse::<i64>().ok()));
    match (counts.next().flatten(), counts.next().flatten()) {
        (Some(pending), Some(0)) => Ok(pending),
        (Some(_), Some(_)) => Err(Error::DefinitionChanged(table.to_owned())),
        _ => Err(Error::Internal("a count without a number".to_owned())),
    }
}

/// Whether an entry says that a source, or this one, was truncated.
pub fn is_truncated(ends: &mut Ends, source: Option<&str>) -> Result<bool> {
    let of_source = source.map_or_else(String::new, |table| {
        format!(" AND source = {}::regclass", spi::quote_literal(table))
    });
    let sql = format!(
        "SELECT EXISTS (SELECT FROM {} WHERE op = 't'{of_source})::text",
        ends.log
    );
    Ok(ends.source.row(&sql, 1)?.pop().flatten().as_deref() == Some("true"))
}

/// The distinct keys of the log, as a query.
pub fn logged_keys(job: &Job, ends: &Ends) -> String {
    let columns: Vec<String> = (0..job.identity.len()).map(key_name).collect();
    format!(
        "SELECT DISTINCT {} FROM {} WHERE op = 'k'",
        columns.join(", "),
        ends.log
    )
}
