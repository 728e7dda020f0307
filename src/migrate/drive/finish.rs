//! After the switch: the old shards go, and what the migration cost is noted.

use repart_core::feedback::Moved;

use super::{Next, way};
use crate::catalog::journal::{self, Migration};
use crate::catalog::outcomes::{self, NewOutcome};
use crate::error::Result;
use crate::migrate::{blocking, clean, hold, locks};
use crate::pg::txn;

/// Drops the old shards; with the last of a group, notes what the migration cost, in one transaction.
pub(super) fn finish(migration: &Migration, group: &[Migration]) -> Result<Next> {
    if migration.spec.blocking {
        blocking::vacuum(migration)?;
    }
    way::of(migration).tell(migration)?;
    txn::run(|| {
        // Dropping a table with foreign keys locks the tables that they reference.
        locks::be_polite();
        if migration.leader.is_none() {
            record_outcome(migration, group)?;
        }
        clean::finish(migration)?;
        hold::inside(migration.leader.unwrap_or(migration.id), "cleaned");
        Ok(())
    })?;
    Ok(Next::Continue)
}

/// Of a group as one: it was planned as one.
fn record_outcome(leader: &Migration, group: &[Migration]) -> Result<()> {
    let sources: Vec<_> = group
        .iter()
        .flat_map(|member| member.spec.source_oids())
        .collect();
    let number = |key: &str| {
        let predicted = leader.predicted.as_ref();
        predicted.and_then(|predicted| predicted.get(key)?.as_f64())
    };
    outcomes::record(&NewOutcome {
        migration: leader.id,
        kind: leader.kind.as_str().to_owned(),
        relation: leader.relation,
        relation_name: leader.relation_name.clone(),
        rows: group.iter().map(|member| member.rows_done).sum(),
        bytes: group.iter().map(|member| member.bytes_done).sum(),
        copy_seconds: group.iter().map(|member| member.copy_seconds).sum(),
        duration: leader.running_seconds,
        pause_ms: leader.pause_ms.unwrap_or(0.0),
        predicted: leader.predicted.clone(),
        load_before: number("load_before"),
        moved: moved(group),
        shards: journal::descendants(&sources)?,
    })
}

/// What was moved inside the cutover, in all tables.
fn moved(group: &[Migration]) -> Moved {
    let mut sum = Moved::default();
    for member in group {
        sum += member.position.moved;
    }
    sum
}
