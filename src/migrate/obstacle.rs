//! Who is in the way of a lock, found out without asking for it: a lock request makes others queue.

use pgrx::pg_sys;

use crate::catalog::journal::Migration;
use crate::error::Result;
use crate::migrate::inbound;
use crate::pg::spi;

/// A transaction that has been open for this long is waited for without asking for a lock.
const LONG_TRANSACTION: &str = "500 ms";

/// What a switch locks, in this order: tables that reference the table, since their clients come from there; the
/// table, its sources, and the DEFAULT partition, whose bound changes with theirs; what the table references, on
/// which there are triggers of its foreign keys.
pub fn concerned(migration: &Migration) -> Result<Vec<pg_sys::Oid>> {
    let table = migration.relation;
    let sources = migration.spec.source_oids();
    let mut relations = inbound::referencing_tables(table)?;
    relations.push(table);
    relations.extend(spi::query_kept(
        "SELECT i.inhrelid FROM pg_catalog.pg_inherits i
               JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = i.inhparent
               JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
              WHERE i.inhparent = $1
                AND (i.inhrelid = ANY ($2) OR i.inhrelid = p.partdefid AND c.relkind <> 'f')
              ORDER BY i.inhrelid",
        &[table.into(), sources.clone().into()],
        |row| row.get::<pg_sys::Oid>(1),
    )?);
    let referenced = spi::query_kept(
            "SELECT DISTINCT t.relid::oid FROM pg_catalog.pg_constraint k
               JOIN pg_catalog.pg_class r ON r.oid = k.confrelid,
                    LATERAL (SELECT relid FROM pg_catalog.pg_partition_tree(r.oid) WHERE r.relkind = 'p'
                             UNION SELECT r.oid::regclass) t
               JOIN pg_catalog.pg_class c ON c.oid = t.relid AND c.relkind <> 'f'
              WHERE k.contype = 'f' AND (k.conrelid = $1 OR k.conrelid = ANY ($2)) AND NOT t.relid = ANY ($3)
              ORDER BY 1",
            &[table.into(), sources.clone().into(), relations.clone().into()],
            |row| row.get::<pg_sys::Oid>(1),
        )?;
    relations.extend(referenced);
    Ok(relations)
}

/// What is in the way of locking these relations for long, as a reason to show; `None` if nothing is known to
/// be.
pub fn find(relations: &[pg_sys::Oid]) -> Result<Option<String>> {
    here(relations, LONG_TRANSACTION)
}

/// Whoever holds a lock on one of these relations now, for however short a time.
pub fn holder(relations: &[pg_sys::Oid]) -> Result<Option<String>> {
    match find(relations)? {
        Some(found) => Ok(Some(found)),
        None => here(relations, "0"),
    }
}

/// The question behind [`find`], to be asked on a node; `relations` is an array of OIDs there, as SQL writes it.
pub fn question_on(node: &str, relations: &str) -> String {
    question(relations, LONG_TRANSACTION, &format!(" on node \"{node}\""))
}

fn here(relations: &[pg_sys::Oid], least: &str) -> Result<Option<String>> {
    spi::query_value(&question("$1", least, ""), &[relations.to_vec().into()])
}

/// Asks, in one text or NULL, for the oldest transaction of others that has been open for `least` and holds a lock on one
/// of the relations, but no autovacuum, which PostgreSQL cancels for whoever waits for it; or else for a prepared
/// transaction with such a lock, which only its owner can end. That one has no process, and its virtual number may be that
/// of the session that prepared it: its own number tells.
fn question(relations: &str, least: &str, place: &str) -> String {
    let place = spi::quote_literal(place);
    format!(
        r#"SELECT coalesce(
            (SELECT pg_catalog.format('waits for process %s (%s)%s, whose transaction has been open for %s s', a.pid,
                        pg_catalog.concat_ws(', ', 'application "' || nullif(a.application_name, '') || '"',
                                             'user "' || a.usename || '"',
                                             coalesce(a.state, a.backend_type)), {place},
                        pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::numeric, 1))
               FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
              WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY ({relations})
                AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type <> 'autovacuum worker'
                AND a.xact_start <= pg_catalog.clock_timestamp() - interval '{least}'
              ORDER BY a.xact_start LIMIT 1),
            (SELECT pg_catalog.format('waits for prepared transaction "%s" of user "%s"%s, which was prepared %s s ago',
                        p.gid, p.owner, {place},
                        pg_catalog.round(extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::numeric, 1))
               FROM pg_catalog.pg_locks l
               JOIN pg_catalog.pg_locks x ON x.virtualtransaction = l.virtualtransaction
                    AND x.locktype = 'transactionid' AND x.pid IS NULL
               JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
              WHERE l.locktype = 'relation' AND l.pid IS NULL AND l.relation = ANY ({relations})
                AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
              ORDER BY p.prepared LIMIT 1))"#
    )
}
